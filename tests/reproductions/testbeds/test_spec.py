"""Testbeds as files: likeness, what a run follows from, and one clear message for anything else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reproductions.engine.errors import KDError
from reproductions.testbeds import (
    changed,
    identity,
    list_testbeds,
    load_testbed,
    measured_by,
    measuring,
    metrics_of,
    read_testbed,
    teachers_measured_with,
)

PLAIN = """about: a testbed of a test
task: {name: pronunciation}
decoding: {batch: 8}
students: {main: {shape: {layers: 1, hidden: 8, heads: 1, intermediate: 8}}}
teachers:
  main: {shape: {layers: 1, hidden: 8, heads: 1, intermediate: 8}, training: {max_steps: 1}}
metrics:
  answers: {sampled: [rouge_l]}
  excess-error: {}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plain.yaml").write_text(PLAIN)
    return tmp_path


def written(folder, text, name="mine"):
    (folder / f"{name}.yaml").write_text(text)
    return read_testbed(name, folder)


def test_every_testbed_can_be_read_and_names_no_setting_twice():
    names = list_testbeds()
    assert {"pronunciation", "arithmetic", "word-problems", "instructions", "maths"} <= set(names)
    for name in names:
        spec = read_testbed(name)
        assert spec["name"] == name and metrics_of(spec)
        assert "learning_rate" not in spec["defaults"]["training"] or name in ("word-problems", "extraction")


def test_reading_and_planning_imports_no_torch():
    script = (
        "import sys; from reproductions.testbeds import *\n"
        "for name in list_testbeds(): metrics_of(read_testbed(name)); identity(read_testbed(name))\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[3],
        env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_likeness_merges_mappings_replaces_values_and_null_takes_away(folder):
    spec = written(
        folder,
        "about: like it\nlike: plain\ndecoding: {samples: 2}\n"
        "metrics: {excess-error: null, answers: {greedy: [exact_match]}}\n"
        "teachers: {large: {like: main, shape: {hidden: 16}, training: {max_steps: null, learning_rate: 1.0e-3}}}\n",
    )
    assert spec["about"] == "like it" and spec["decoding"] == {"batch": 8, "samples": 2}
    assert list(metrics_of(spec)) == ["rouge_l", "greedy_exact_match"]
    assert spec["teachers"]["large"] == {
        "shape": {"layers": 1, "hidden": 16, "heads": 1, "intermediate": 8},
        "training": {"learning_rate": 0.001},
    }
    assert "like" not in spec and spec["students"] == read_testbed("plain", folder)["students"]


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("decoding", "decodings"), 3, 'a testbed has no "decodings" .did you mean "decoding"'),
        (("batch: 8", "batches: 8"), 3, '"decoding" has no "batches" .did you mean "batch"'),
        (("pronunciation", "pronuncation"), 2, 'no task is called "pronuncation" .did you mean "pronunciation"'),
        (("name: pronunciation", "name: pronunciation, words: 3"), 2, 'has no setting "words"'),
        (("rouge_l", "rouge"), 8, 'no score "rouge" .did you mean "rouge_l"'),
        (("excess-error", "exces-error"), 9, 'no measurement is called "exces-error" .did you mean "excess-error"'),
        (("{sampled", "{smpled"), 8, 'has no setting "smpled" .did you mean "sampled"'),
        (("training: {max", "trainings: {max"), 6, '"main" has no "trainings" .did you mean "training"'),
        ((", training: {max_steps: 1}", ""), 6, 'a teacher from scratch needs a "training"'),
        (("  main: {shape", "  other: {shape"), 9, 'asks a teacher "main" that is not there'),
        (("{main: {shape: {layers: 1, ", "{main: {shape: {"), 4, "a shape is layers, hidden, heads, intermediate"),
        (("{main: {shape: {layers", "{large: {shape: {layers"), 4, '"students" needs "main"'),
        (("about: a testbed of a test\n", ""), 1, 'a testbed needs "about"'),
        (("batch: 8}", "batch: 8, keep: middle}"), 3, "start or end"),
        (("batch: 8}", "batch: 8, temperatures: [0.5, 0]}"), 3, "a list of positive numbers, each once"),
        (("batch: 8}", "batch: 8, temperatures: [1, 1.0]}"), 3, "a list of positive numbers, each once"),
        (("{sampled: [rouge_l]", "{matched: true, sampled: [rouge_l]"), 8, 'needs "temperatures", a grid'),
        (("{sampled: [rouge_l]", "{expected: [rouge_l], sampled: [rouge_l]"), 8, "no exact expectation of rouge_l"),
        (("  main: {shape", "  main: {like: big, shape"), 6, 'no other of the teachers is called "big"'),
        (("decoding:", "limits: {prompt: 1, completion: 1}\ndecoding:"), 3, "pronunciation has its own limits"),
        (("pronunciation", "maths"), 2, 'the task maths needs "tokenizer"'),
        (("decoding:", "draws: 5\ndecoding:"), 3, "the task pronunciation is no drawn one"),
        (("decoding:", "draws: 1\ndecoding:"), 3, "a whole number of 2 or more"),
    ],
)  # fmt: skip
def test_bad_input_says_file_line_and_the_nearest_name(folder, change, line, message):
    old, new = change
    assert old in PLAIN
    with pytest.raises(KDError, match=message) as error:
        written(folder, PLAIN.replace(old, new, 1))
    assert f"mine.yaml:{line}:" in str(error.value) and "\n" not in str(error.value)


def test_a_fault_in_what_a_testbed_is_like_is_told_there(folder):
    (folder / "plain.yaml").write_text(PLAIN.replace("{sampled", "{smpled"))
    with pytest.raises(KDError, match=r"plain\.yaml:8:"):
        written(folder, "about: like it\nlike: plain\n")
    with pytest.raises(KDError, match=r'mine\.yaml:2: no testbed is called "plan" .did you mean "plain"'):
        written(folder, "about: like it\nlike: plan\n")
    with pytest.raises(KDError, match="is like itself"):
        written(folder, "about: like it\nlike: mine\n")


def test_an_unknown_testbed_names_the_nearest_and_all():
    known = re.escape(", ".join(sorted(list_testbeds())))
    with pytest.raises(KDError, match=rf'did you mean "pronunciation".*{known}'):
        load_testbed("pronuncation")


def test_a_run_follows_from_what_it_asks_of_a_testbed_and_no_more():
    spec = read_testbed("pronunciation-hacking")
    whole = identity(spec, teachers=["imperfect"])
    assert set(whole["teachers"]) == {"main", "imperfect"}, "one learnt from the other"
    assert set(identity(spec, teachers=[])["teachers"]) == set(), (
        "what its distances ask is no matter of a student's"
    )
    assert set(identity(read_testbed("pronunciation"), teachers=["large"])["teachers"]) == {"large"}
    for change, same in [
        ({"about": "other words"}, True),
        ({"defaults": {"training": {"max_steps": 1}}}, True),  # a run has its own
        ({"teachers": {"another": {"like": "main"}}}, True),
        ({"students": {"another": {"shape": {}}}}, True),
        ({"teachers": {"main": {"training": {"max_steps": 1}}}}, False),
        ({"teachers": {"imperfect": {"seed": 5}}}, False),
        ({"decoding": {"samples": 3, "batch": 2}}, True),  # what is measured, and with what
        ({"metrics": {"distances": {"checkpoint": 0.5}}}, True),
        ({"decoding": {"completion": 3}}, False),
        ({"task": {"train_words": 3}}, False),
        ({"revision": "0" * 16}, False),
    ]:
        assert (identity(changed(spec, change), teachers=["imperfect"]) == whole) is same, change


def test_how_a_metric_is_measured_follows_from_its_measurement_and_its_teachers():
    spec = read_testbed("pronunciation-hacking")
    before = measuring(spec)
    assert before.keys() == metrics_of(spec).keys()
    assert measured_by(spec)["golden"] == "distances" and measured_by(spec)["rouge_l"] == "answers"
    for change, others in [
        ({"decoding": {"batch": 3}}, set()),
        ({"decoding": {"samples": 3}}, set(before)),
        ({"metrics": {"distances": {"checkpoint": 0.5}}}, {"golden", "proxy", "golden_rise", "golden_seen"}),
        ({"teachers": {"imperfect": {"seed": 5}}}, {"golden", "proxy", "golden_rise", "golden_seen"}),
        ({"teachers": {"another": {"like": "main"}}}, set()),
    ]:
        now = measuring(changed(spec, change))
        assert others <= {name for name in now if now[name] != before[name]}, change
        assert bool(others) == (now != before), change
    assert teachers_measured_with(spec, ["rouge_l"]) == set()
    assert teachers_measured_with(spec, ["golden"]) == {"main", "imperfect"}


def test_a_second_hand_teacher_brings_the_one_that_it_learnt_from():
    spec = changed(read_testbed("pronunciation-hacking"), {"metrics": None})
    spec["metrics"] = {}
    assert set(identity(spec, teachers=["imperfect"])["teachers"]) == {"main", "imperfect"}


WALK = """about: a testbed of a test
task: {name: navigate}
decoding: {batch: 8}
students: {main: {shape: {layers: 1, hidden: 8, heads: 1, intermediate: 8}, base: {rows: walks, training: {steps: 1}}}}
teachers:
  main: {oracle: {slip: 0.1}}
metrics: {exposure: {}, endings: {}}
"""


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("slip:", "slips:"), 6, 'the oracle has no "slips" .did you mean "slip"'),
        (("{slip: 0.1}}", "{slip: 0.1}, training: {}}"), 6, "it takes nothing else"),
        (("name: navigate", "name: pronunciation"), 6, "the task pronunciation has no oracle"),
        (("rows: walks", "row: walks"), 4, '"base" has no "row" .did you mean "rows"'),
        ((", training: {steps: 1}}", "}"), 4, 'a base needs "training"'),
        (("shape: {layers: 1, hidden: 8, heads: 1, intermediate: 8}", "model: gpt2"), 4, "is its own base"),
        (("exposure: {}", "exposure: {oracle: exact}"), 7, 'asks a teacher "exact" that is not there'),
        (("name: navigate", "name: navigate, sizes: 3"), 2, 'has no setting "sizes" .did you mean "size"'),
    ],
)  # fmt: skip
def test_oracles_and_bases_are_checked_like_any_model(folder, change, line, message):
    assert written(folder, WALK)["teachers"] == {"main": {"oracle": {"slip": 0.1}}}
    old, new = change
    assert old in WALK
    with pytest.raises(KDError, match=message) as error:
        written(folder, WALK.replace(old, new, 1))
    assert f"mine.yaml:{line}:" in str(error.value)
