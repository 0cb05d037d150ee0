"""A testbed as code: one for each content, its data checked, figures the same as ever."""

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.testbeds import changed, load_testbed, read_testbed
from tests.reproductions.short import load_short

WITH_MEASUREMENTS_OF_THEIR_OWN = ("risks", "beams", "drafting", "fidelity", "hacking", "domains")


def test_one_testbed_for_each_content():
    spec = read_testbed("pronunciation")
    assert load_testbed("pronunciation") is load_testbed(spec)
    assert load_testbed(changed(spec, {"task": {"test_words": 5}})) is not load_testbed(spec)


def test_data_of_another_revision_are_refused():
    spec = changed(read_testbed("pronunciation"), {"revision": "0123456789abcdef"})
    with pytest.raises(
        KDError, match="have the revision 3982d039e1aefcbd, the testbed is about 0123456789abcdef"
    ):
        load_testbed(spec)


def test_a_drawn_task_is_another_for_each_seed_up_to_its_draws():
    drawn, alone = load_short("mazes", {"draws": 3}), load_short("navigate", draw=11)
    assert drawn.at(4) is drawn.at(1) is not drawn.at(0)
    assert drawn.at(1).spec["task"] == alone.spec["task"] and drawn.at(1).revision == alone.revision
    assert drawn.at(0).revision == drawn.task.revision, "the first draw"
    prompts = [tuple(drawn.at(seed).test["prompt"]) for seed in range(3)]
    assert len(set(prompts)) == 3 and alone.at(7) is alone
    more = load_short("mazes", {"draws": 4})
    assert len({drawn.revision, more.revision, *(drawn.at(seed).revision for seed in range(3))}) == 5


def test_unknown_rows_name_the_nearest():
    testbed = load_testbed("pronunciation")
    assert len(testbed.rows("all_words")) > 2 * len(testbed.rows("train"))
    with pytest.raises(KDError, match='no rows called "all_word" .did you mean "all_words"'):
        testbed.rows("all_word")
    assert testbed.pretraining is None and testbed.callbacks(None) == []


@pytest.mark.parametrize("variant", WITH_MEASUREMENTS_OF_THEIR_OWN)
def test_every_column_is_there_once_for_every_row_and_the_same_again(variant, trial, stops):
    name = f"pronunciation-{variant}"
    testbed = load_short(name)
    run = trial(testbed, training={"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3})
    model = testbed.sft_start(run)
    columns = testbed.evaluate(model, run)
    wanted = {column for metric in testbed.metrics.values() for column in metric.columns}
    assert set(columns) == wanted and {len(column) for column in columns.values()} == {8}
    assert testbed.evaluate(model, run) == columns
    assert set(values(testbed.metrics, columns)) == set(testbed.metrics)
    part = testbed.evaluate(model, run, split="validation", limit=3)
    assert {len(column) for column in part.values()} == {3}
    shared = set(columns) & {"rouge_l", "correct", "confidence", "kl_teacher_contexts"}
    plain = load_short("pronunciation") if name != "pronunciation-domains" else testbed
    same = plain.evaluate(model, trial(plain, training=run.settings["training"]))
    assert {column: columns[column] for column in shared} == {column: same[column] for column in shared}


def test_a_teacher_that_an_evaluation_makes_is_the_one_that_an_arm_makes(mirrors, trial):
    """In half precision too: a training inside the evaluation's autocast would go on with weights cast at its start."""
    found = []
    for first in ("evaluation", "arm"):
        testbed = load_short("word-problems")
        run = trial(testbed, precision="bf16-autocast")
        run.artifacts.root = run.artifacts.root / first  # neither finds the other's
        student = testbed.student(run)
        if first == "evaluation":
            testbed._sides = None
            testbed.evaluate(student, run, limit=2)
        found.append(testbed.teacher(run).state_dict())
    assert all(found[0][name].equal(found[1][name]) for name in found[0])
