import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from reproductions.engine import files
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.engine.store.arm import arm_of, digest_of, run_digest, same_figures
from reproductions.engine.store.joined import elsewhere
from reproductions.engine.store.pair import add_runs, arm_path, read_arm, write_arm

from .made import METRICS, levels, made_arm, made_run

CURVE = [{"step": 0, "train_seconds": 0.25, "metrics": {"error": 2.5, "accuracy": 0}}]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "line").mkdir()
    return tmp_path / "line"


@pytest.fixture
def recorded(folder):
    arm = made_arm(levels(0.98, 1.1), curve=CURVE, claims={"toy/tiny": {"better": "ab12"}})
    path = arm_path(folder, arm.key)
    write_arm(path, arm)
    return path


def test_what_is_written_is_read_back_exactly(folder):
    odd = [[0.1, 1 / 3, 2.0, 1e-7, 1e6, -0.0], [33.3, 5, 4, 3, 2, 1]]
    shared = {"teacher-1": {"kind": "teacher", "seconds": 3.5}, "start-0": {"kind": "start"}}
    runs = [
        made_run(7, odd[0], curve=CURVE, shared=shared, started="then", finished="later"),
        made_run(
            2, odd[1], made_for={"paper": "toy", "scale": "tiny"}, shared={"teacher-1": shared["teacher-1"]}
        ),
    ]
    arm = arm_of("0123456789abcdef", {"recipe": {"terms": [1, 2.5]}}, "line", runs)
    path = arm_path(folder, arm.key)
    write_arm(path, arm)
    back = read_arm(path)
    assert (back.key, back.spec, back.testbed, back.data_revision) == (
        arm.key,
        arm.spec,
        "line",
        "revision-1",
    )
    assert back.metrics == METRICS and list(back.runs) == [7, 2]
    for seed, run in back.runs.items():
        one = arm.runs[seed]
        assert same_figures(run, one) and run.digest == one.digest == digest_of(run)
        assert all(np.array_equal(run.columns[name], one.columns[name]) for name in one.columns)
        assert (run.curve, run.seconds, run.made_with, run.shared) == (
            one.curve,
            one.seconds,
            one.made_with,
            one.shared,
        )
        assert (run.started, run.finished, run.made_for) == (one.started, one.finished, one.made_for)
        assert run.definitions == METRICS and run.fingerprints == {"divergence/forward-kl": "ab12"}


def test_a_dear_metric_of_the_first_examples_only_is_read_back_so(folder):
    whole = made_run(0, [0.5, 1.5, 0.25, 3.0])
    columns = {**whole.columns, "error": whole.columns["error"][:2]}
    figures = {name: getattr(whole, name) for name in ("curve", "seconds", "tokens", "rollouts")}
    figures |= {"metrics": values(METRICS, columns)}
    short = replace(
        whole, columns=columns, metrics=figures["metrics"], digest=run_digest(0, columns=columns, **figures)
    )
    arm = arm_of("0123456789abcdef", {"recipe": "x"}, "line", [short, made_run(1, [0.5, 1.5, 0.25])])
    path = arm_path(folder, arm.key)
    write_arm(path, arm)
    back = read_arm(path)
    assert [len(run.columns["error"]) for run in back.runs.values()] == [2, 3]
    assert [len(run.columns["correct"]) for run in back.runs.values()] == [4, 3]
    assert all(
        np.array_equal(back.runs[seed].columns[name], column)
        for seed, run in arm.runs.items()
        for name, column in run.columns.items()
    )
    table = pyarrow.parquet.read_table(path.with_suffix(".parquet"))
    gap = pyarrow.array([0.5, None, 1.5, None, 0.5, 1.5, 0.25])
    place = table.column_names.index("error")
    pyarrow.parquet.write_table(table.set_column(place, "error", gap), path.with_suffix(".parquet"))
    with pytest.raises(KDError, match='column "error" of seed 0 has gaps'):
        read_arm(path)


def test_the_parquet_is_a_plain_table_of_small_numbers(recorded):
    table = pyarrow.parquet.read_table(recorded.with_suffix(".parquet"))
    assert table.column_names == ["seed", "example", "correct", "error", "sure"] and table.num_rows == 40
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types == {
        "seed": "int8",
        "example": "int8",
        "correct": "int8",
        "error": "double",
        "sure": "double",
    }


def test_the_json_has_a_line_for_each_run(recorded):
    lines = recorded.read_text().splitlines()
    assert sum(line.startswith('  {"seed":') for line in lines) == 2
    assert len(json.loads(recorded.read_text())["made_with"]) == 1


def test_a_key_is_never_rewritten(recorded):
    before = recorded.read_bytes(), recorded.with_suffix(".parquet").read_bytes()
    with pytest.raises(KDError, match="seed 1 was recorded with other figures; a key is never rewritten"):
        add_runs(recorded, made_arm({2: levels(1)[0], 1: levels(1, 1.2)[1]}, curve=CURVE))
    other = {"spec": {"recipe": "x"}, "data_revision": "revision-2"}
    for field, value in other.items():
        with pytest.raises(KDError, match=f"recorded with another {field.replace('_', ' ')}; a key is never"):
            add_runs(recorded, replace(made_arm(levels(0.98), curve=CURVE), **{field: value}))
    turned = {"error": replace(METRICS["error"], higher_is_better=True)}
    with pytest.raises(KDError, match='metric "error" was recorded with another meaning'):
        add_runs(recorded, made_arm({5: levels(1)[0]}, metrics=turned))
    assert (recorded.read_bytes(), recorded.with_suffix(".parquet").read_bytes()) == before


def test_equal_runs_are_left_alone_and_new_ones_are_added(recorded):
    before, folder = recorded.read_bytes(), recorded.with_suffix("")
    again = made_arm(levels(0.98, 1.1), curve=CURVE, claims={"other/tiny": {"x": "cd34"}})
    later = {seed: replace(run, finished="later") for seed, run in again.runs.items()}
    assert add_runs(recorded, replace(again, runs=later)) == []
    assert recorded.read_bytes() == before and not folder.exists(), "a paper that adds no run writes nothing"
    more = made_arm(
        levels(0.98, 1.1, 1.2),
        curve=CURVE,
        claims={"other/tiny": {"x": "cd34"}, "toy/tiny": {"better": "ff"}},
    )
    assert add_runs(recorded, more) == [2]
    back = read_arm(recorded)
    assert list(back.runs) == [0, 1, 2] and back.runs[0].finished is None
    assert back.claims == {"toy/tiny": {"better": "ab12"}, "other/tiny": {"x": "cd34"}}


def test_measures_that_a_recorded_run_lacks_are_added(folder):
    few = {"error": METRICS["error"]}
    path = arm_path(folder, "0123456789abcdef")
    assert add_runs(path, made_arm(levels(0.98, 1.1), metrics=few)) == [0, 1]
    assert add_runs(path, made_arm({1: levels(0.98, 1.1)[1], 5: levels(3)[0]})) == [5]
    back = read_arm(path)
    assert set(back.runs[0].metrics) == {"error"} and set(back.runs[1].metrics) == set(METRICS) == set(
        back.metrics
    )
    assert list(back.runs[0].columns) == ["error"] and set(back.runs[1].columns) == {
        "error",
        "correct",
        "sure",
    }
    assert add_runs(path, made_arm(levels(0.98, 1.1), metrics=few)) == []


def interrupted(monkeypatch, after):
    """From now on the process ends after so many files."""
    real, written = files.write_atomic, []

    def killed(path, data):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        real(path, data)

    monkeypatch.setattr("reproductions.engine.store.pair.write_atomic", killed)


@pytest.mark.parametrize("after", [0, 1])
def test_an_interrupted_write_leaves_nothing_that_is_read(folder, monkeypatch, after):
    path = arm_path(folder, "0123456789abcdef")
    first, second = made_arm(levels(0.98, 1.1)), made_arm(levels(0.98, 1.1, 1.2))
    interrupted(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        add_runs(path, first)
    monkeypatch.undo()
    assert not path.exists() and add_runs(path, first) == [0, 1]
    interrupted(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        add_runs(path, second)
    monkeypatch.undo()
    assert list(read_arm(path).runs) == [0, 1] and not (folder / path.stem / "1.json").exists()
    assert add_runs(path, second) == [2] and list(read_arm(path).runs) == [0, 1, 2]
    assert not (folder / path.stem / "2.parquet").exists(), "what an interrupted write left takes no number"


def test_what_is_written_once_is_not_written_again(recorded):
    before = recorded.read_bytes(), recorded.with_suffix(".parquet").read_bytes()
    with pytest.raises(KDError, match="cdef.json: is recorded; a file of results is never written again"):
        write_arm(recorded, made_arm(levels(0.98, 1.1), curve=CURVE))
    assert add_runs(recorded, made_arm(levels(0.98, 1.1, 1.2), curve=CURVE)) == [2]
    assert (recorded.read_bytes(), recorded.with_suffix(".parquet").read_bytes()) == before


def test_processes_that_add_at_once_lose_nothing(recorded):
    """Each adds seeds of its own, and one that all of them bring."""
    root = Path(__file__).resolve().parents[4]
    program = (
        "import os, sys; from pathlib import Path; from reproductions.engine.store.pair import add_runs\n"
        "from tests.reproductions.engine.store.made import levels, made_arm\n"
        "path, own = Path(sys.argv[1]), int(sys.argv[2])\n"
        "sys.stdin.readline()\n"
        "for seed in (own, own + 1, 99): add_runs(path, made_arm({seed: levels(1)[0]}))\n"
        "os._exit(0)\n"  # all is written; threads of a library have aborted a process that ended just then
    )
    words = [sys.executable, "-c", program, str(recorded)]
    here = {"cwd": root, "env": {**os.environ, "PYTHONPATH": "."}, "stdin": subprocess.PIPE}
    started = [subprocess.Popen([*words, str(own)], **here) for own in (10, 20, 30)]
    for one in started:
        one.stdin.write(b"\n")
        one.stdin.close()
    assert [one.wait() for one in started] == [0, 0, 0]
    assert sorted(read_arm(recorded).runs) == [0, 1, 10, 11, 20, 21, 30, 31, 99]
    assert len(list((recorded.parent / recorded.stem).glob("*.json"))) == 7


STUDENT = "5" * 64
ELSEWHERE = {"data_revision": "revision-1", "python": "3.12"}


def part(names, date, environment=ELSEWHERE):
    return {
        "metrics": dict.fromkeys(names, "ab12cd34"),
        "environment": environment,
        "date": date,
        "student": STUDENT,
    }


def known(errors, names, date, student=STUDENT, **more):
    """A run whose student is known, with these metrics of METRICS."""
    metrics = {name: METRICS[name] for name in names}
    run = made_run(0, errors, metrics=metrics, student=student, made=[part(names, date)], **more)
    return replace(run, digest=digest_of(run))


def arm_with(run):
    return replace(made_arm({0: [1.0]}, metrics=run.definitions), runs={0: run})


def test_a_metric_measured_later_is_added_with_who_measured_it(folder):
    path, row = arm_path(folder, "0123456789abcdef"), levels(0.98)[0]
    add_runs(path, arm_with(known(row, ["error"], "then", curve=CURVE)))
    before = read_arm(path).runs[0]
    assert add_runs(path, arm_with(known(row, ["accuracy"], "later"))) == []
    after = read_arm(path).runs[0]
    assert set(after.metrics) == {"error", "accuracy"} and after.student == STUDENT
    assert after.made == [part(["error"], "then"), part(["accuracy"], "later")]
    assert after.how == {"error": "ab12cd34", "accuracy": "ab12cd34"} and after.made_with == before.made_with
    assert np.array_equal(after.columns["error"], before.columns["error"]) and after.curve == CURVE
    there = sorted(folder.rglob("*"))
    add_runs(path, arm_with(known(row, ["error"], "much later")))
    assert sorted(folder.rglob("*")) == there, "what is there is not measured anew"


def test_the_same_metric_with_other_figures_or_of_another_student_is_refused(folder):
    path, row = arm_path(folder, "0123456789abcdef"), levels(0.98)[0]
    add_runs(path, arm_with(known(row, ["error"], "then")))
    before = path.read_bytes()
    other = [row[0] + 0.5, *row[1:]]
    for run in (
        known(other, ["error"], "later"),
        known(other, ["error", "accuracy"], "later"),
        known(row, ["accuracy"], "later", student="6" * 64),
        replace(known(row, ["accuracy"], "later"), student=None, made=None),
    ):
        with pytest.raises(KDError, match="seed 0 was recorded with other figures; a key is never rewritten"):
            add_runs(path, arm_with(replace(run, digest=digest_of(run))))
    assert path.read_bytes() == before and not (folder / path.stem).exists()


def test_a_second_training_on_another_processor_gives_the_measures_that_are_lacking(folder):
    path, row = arm_path(folder, "0123456789abcdef"), levels(0.98)[0]
    add_runs(path, arm_with(known(row, ["error"], "then", curve=CURVE)))
    before = read_arm(path).runs[0]
    elsewhere = {**before.made_with, "cpu": "another"}

    def second(names, made_with=elsewhere):
        other = [figure + 0.5 for figure in row]
        run = known(other, names, "later", student="6" * 64, made_with=made_with)
        return arm_with(replace(run, made=[part(names, "later", made_with) | {"student": "6" * 64}]))

    for made_with in (
        {**elsewhere, "torch": "2.0.0"},
        {**elsewhere, "fingerprints": {}},
        {name: value for name, value in elsewhere.items() if name != "cpu"},
        before.made_with,
    ):
        with pytest.raises(KDError, match="seed 0 was recorded with other figures; a key is never rewritten"):
            add_runs(path, second(["error", "accuracy"], made_with))
    assert add_runs(path, second(["error", "accuracy"])) == []
    after = read_arm(path).runs[0]
    assert after.metrics == {**before.metrics, "accuracy": 0.0} and after.curve == CURVE
    assert (after.student, after.made_with) == (STUDENT, before.made_with)
    assert np.array_equal(after.columns["error"], before.columns["error"]), "what was recorded stands"
    first, more = after.made
    assert first == part(["error"], "then")
    assert more == part(["accuracy"], "later", elsewhere) | {"student": "6" * 64, "retrained": True}
    with pytest.raises(
        KDError,
        match='column "correct" is recorded of a training on some, family 1, model 2; no measure may read',
    ):
        add_runs(path, second(["error", "ece"]))  # it reads `sure` and `correct`


@pytest.mark.parametrize(("cpu", "another"), [("AMD EPYC", True), ("AMD EPYC, family 25, model 17", False)])
def test_a_name_without_a_model_stands_for_several_kinds_of_processor(cpu, another):
    made_with = {"cpu": cpu, "python": "3.11"}
    assert elsewhere(made_with, dict(made_with)) is another
    assert elsewhere(made_with, {**made_with, "cpu": "AMD EPYC, family 26, model 2"})
    assert not elsewhere(made_with, {**made_with, "python": "3.12"})


def test_a_column_that_was_changed_and_a_student_that_was_changed_are_found(folder):
    path = arm_path(folder, "0123456789abcdef")
    add_runs(path, arm_with(known(levels(0.98)[0], ["error"], "then")))
    made = json.loads(path.read_text())
    made["runs"][0]["student"] = "7" * 64
    path.write_text(json.dumps(made))
    with pytest.raises(KDError, match="seed 0: its figures do not give its digest"):
        read_arm(path)
    made["runs"][0]["student"] = STUDENT
    made["runs"][0]["made"][0]["environment"] = "nowhere"
    path.write_text(json.dumps(made))
    with pytest.raises(KDError, match='seed 0: made with "nowhere", which stands nowhere'):
        read_arm(path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda made: made.pop("metrics"), "metrics is missing"),
        (lambda made: made.update(schema=1), "schema 1; this version reads schema 2"),
        (lambda made: made.update(verdict="reproduced"), "unknown field verdict"),
        (lambda made: made.update(runs={}), "runs must be list, not dict"),
        (lambda made: made.update(runs=[]), "no runs"),
        (lambda made: made.update(key="other"), "holds results of other on testbed line"),
        (lambda made: made.update(testbed="other"), "on testbed other"),
        (lambda made: made["runs"][1].pop("seed"), "runs[1].seed is missing"),
        (lambda made: made["runs"][1].update(sed=1), 'unknown field runs[1].sed (did you mean "seed"?)'),
        (lambda made: made["runs"].append(made["runs"][0]), "seed 0 stands twice"),
        (lambda made: made["runs"][1].update(seed=8), "no examples of seed 8"),
        (lambda made: made["runs"][0]["metrics"].update(error=0.1), "seed 0: metrics.error is 0.1, its examples give"),
        (lambda made: made["runs"][0]["metrics"].update(eror=0.1), 'seed 0: metric "eror" has no definition'),
        (lambda made: made["runs"][0]["metrics"].pop("error"), 'seed 0: no metric reads the column "error"'),
        (lambda made: made["runs"][1]["curve"][0].update(train_seconds=9), "seed 1: its figures do not give its"),
        (lambda made: made["runs"][1]["curve"][0].pop("step"), "seed 1: a point of the curve must hold"),
        (lambda made: made["runs"][1]["seconds"].update(train=9), "seed 1: its figures do not give its"),
        (lambda made: made["runs"][0].update(shared=["teacher"]), 'seed 0: shared "teacher" stands nowhere'),
        (lambda made: made["runs"][0].update(made_with="x"), 'seed 0: made_with "x" stands nowhere'),
        (lambda made: made["metrics"]["error"].update(kind="median"), 'unknown metric kind "median"'),
    ],
)  # fmt: skip
def test_a_json_that_was_edited_is_an_error_that_names_file_and_run(recorded, damage, message):
    made = json.loads(recorded.read_text())
    damage(made)
    recorded.write_text(json.dumps(made))
    with pytest.raises(KDError) as error:
        read_arm(recorded)
    assert recorded.stem in str(error.value) and message in str(error.value)


def rewritten(recorded, change):
    path = recorded.with_suffix(".parquet")
    columns = {name: column.to_numpy().copy() for name, column in zip(*_columns(path), strict=True)}
    pyarrow.parquet.write_table(pyarrow.table(change(columns) or columns), path)


def _columns(path):
    table = pyarrow.parquet.read_table(path)
    return table.column_names, table.columns


def test_a_parquet_that_was_edited_is_an_error_that_names_file_and_run(recorded):
    def one_answer(columns):
        columns["error"][3] += 0.5

    rewritten(recorded, one_answer)
    with pytest.raises(
        KDError, match=r"0123456789abcdef.json: seed 0: metrics.error is .*, its examples give"
    ):
        read_arm(recorded)


def test_two_edits_that_leave_the_mean_alone_change_the_digest(recorded):
    def swapped(columns):
        columns["error"][[0, 1]] = columns["error"][[1, 0]]

    rewritten(recorded, swapped)
    with pytest.raises(KDError, match="seed 0: its figures do not give its digest"):
        read_arm(recorded)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda columns: columns.pop("seed") is None, 'needs a column "seed"'),
        (lambda columns: columns.update(example=columns["example"] * 0.5), 'needs a column "example" of whole numbers'),
        (lambda columns: columns.update(example=columns["example"][::-1].copy()), "examples of seed 0 are not 0, 1, 2"),
        (lambda columns: {name: column[:30] for name, column in columns.items()}, "seed 1: its figures"),
        (lambda columns: {name: column[:20] for name, column in columns.items()}, "no examples of seed 1"),
        (lambda columns: columns.update(other=columns["error"]), 'no metric reads the column "other"'),
    ],
)  # fmt: skip
def test_a_parquet_of_another_form_is_an_error(recorded, change, message):
    rewritten(recorded, lambda columns: found if isinstance(found := change(columns), dict) else None)
    with pytest.raises(KDError) as error:
        read_arm(recorded)
    assert recorded.stem in str(error.value) and message in str(error.value)


def test_a_parquet_that_is_gone_or_no_parquet_is_an_error(recorded):
    recorded.with_suffix(".parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(KDError, match=r"\.parquet: not Parquet"):
        read_arm(recorded)
    recorded.with_suffix(".parquet").unlink()
    with pytest.raises(KDError, match=r"\.parquet: cannot be read: No such file"):
        read_arm(recorded)


def test_nothing_wrong_is_written(folder):
    path = arm_path(folder, "0123456789abcdef")
    arm = made_arm(levels(0.98))
    broken = replace(arm, runs={0: replace(arm.runs[0], metrics={**arm.runs[0].metrics, "error": 7.0})})
    with pytest.raises(KDError, match="metrics.error is 7"):
        write_arm(path, broken)
    with pytest.raises(KDError, match="cannot hold 1 runs of 0123456789abcdef on testbed elsewhere"):
        write_arm(path, replace(arm, testbed="elsewhere"))
    assert list(folder.iterdir()) == []


def test_runs_made_on_different_data_are_no_arm():
    one = made_run(0, levels(1)[0])
    other = made_run(1, levels(1)[0], made_with={**one.made_with, "data_revision": "revision-2"})
    with pytest.raises(KDError, match="made on different data: revision-1, revision-2"):
        arm_of("k", {}, "line", [one, other])
    assert arm_of("k", {}, "line", []) is None
    arm = arm_of("k", {}, "line", [one], made_for=("toy", "tiny"), claims={"better": "ab12"})
    assert arm.claims == {"toy/tiny": {"better": "ab12"}} and arm.runs[0].made_for == {
        "paper": "toy",
        "scale": "tiny",
    }
