"""What an addition holds, and that joining it gives what one file of everything would."""

import json
from dataclasses import replace

import numpy as np
import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json
from reproductions.engine.store.addition import difference, with_addition
from reproductions.engine.store.arm import digest_of
from reproductions.engine.store.layout import additions, arm_path, files_of, folder_of
from reproductions.engine.store.pair import add_runs, change_arm, merge, read_arm, write_arm

from .made import METRICS, levels, made_arm, made_run

KEY = "0123456789abcdef"
FEW = {"error": METRICS["error"]}
ROWS = levels(0.98, 1.1, 1.2)


def curve(*names):
    return [{"step": 5, "train_seconds": 0.5, "metrics": dict.fromkeys(names, 1.5)}]


def whole(arm):
    """Everything that an arm says, as text, whatever order its names stand in; seeds in theirs."""
    runs = []
    for run in arm.runs.values():
        fields = {name: value for name, value in vars(run).items() if name not in ("columns", "definitions")}
        columns = {name: column.tolist() for name, column in run.columns.items()}
        runs.append([fields, columns, {name: metric.as_dict() for name, metric in run.definitions.items()}])
    metrics = {name: metric.as_dict() for name, metric in arm.metrics.items()}
    return canonical_json([arm.key, arm.spec, arm.testbed, arm.data_revision, metrics, arm.claims, runs])


SESSIONS = (
    made_arm(ROWS[:2], metrics=FEW, curve=curve("error"), claims={"toy/tiny": {"better": "ab12"}}),
    made_arm({1: ROWS[1], 2: ROWS[2]}, curve=curve("error", "accuracy"), claims={"other/tiny": {"x": "cd"}}),
    made_arm(ROWS, curve=curve("ece"), claims={"third/tiny": {"x": "ef"}}),
)


def test_what_is_read_is_what_one_file_of_everything_would_hold(tmp_path):
    path = arm_path(tmp_path / "line", KEY)
    together = SESSIONS[0]
    added = [add_runs(path, SESSIONS[0])]
    for made in SESSIONS[1:]:
        together, _ = merge(path, together, made)
        added.append(add_runs(path, made))
    assert added == [[0, 1], [2], []]
    one = arm_path(tmp_path / "one" / "line", KEY)
    one.parent.mkdir(parents=True)
    write_arm(one, together)
    back = read_arm(path)
    assert whole(back) == whole(read_arm(one)) and list(back.runs) == [0, 1, 2]
    curves = {seed: set(run.curve[0]["metrics"]) for seed, run in back.runs.items()}
    assert curves == {0: {"error", "ece"}, 1: {"error", "accuracy"}, 2: {"error", "accuracy"}}
    assert back.claims == {"toy/tiny": {"better": "ab12"}, "other/tiny": {"x": "cd"}}


def test_no_file_is_written_twice_and_what_is_there_writes_none(tmp_path):
    path, written = arm_path(tmp_path / "line", KEY), {}
    for made in SESSIONS:
        add_runs(path, made)
        now = {file: file.read_bytes() for file in files_of(path.parent, KEY)}
        assert written.items() <= now.items() and len(now) == len(written) + 2
        written = now
    for made in reversed(SESSIONS):
        assert add_runs(path, made) == []
    assert {file: file.read_bytes() for file in files_of(path.parent, KEY)} == written


def test_an_addition_holds_what_is_new_and_nothing_else(tmp_path):
    path = arm_path(tmp_path / "line", KEY)
    for made in SESSIONS:
        add_runs(path, made)
    second, third = (json.loads(more.read_text()) for more in additions(path))
    assert [run["seed"] for run in second["runs"]] == [2] and [more["seed"] for more in second["more"]] == [1]
    assert set(second["metrics"]) == {"accuracy", "ece"} and "spec" not in second
    assert set(second["more"][0]["metrics"]) == {"accuracy", "ece"} and second["claims"] == {
        "other/tiny": {"x": "cd"}
    }
    assert second["more"][0]["curve"] == [{"step": 5, "metrics": {"accuracy": 1.5}}]
    assert [more["seed"] for more in third["more"]] == [0] and third["runs"] == [] and third["claims"] == {}


def test_additions_of_two_branches_join_in_either_order(tmp_path):
    """Each was made where the other was not; whoever merges gives one of them the next number."""
    own = made_arm({0: ROWS[0], 3: levels(5)[0]}, metrics={**FEW, "accuracy": METRICS["accuracy"]})
    theirs = made_arm({0: ROWS[0], 1: ROWS[1], 3: levels(5)[0]}, metrics=METRICS)
    found = []
    for order in ((own, theirs), (theirs, own)):
        folder = tmp_path / str(len(found))
        path = arm_path(folder / "line", KEY)
        add_runs(path, made_arm(ROWS[:1], metrics=FEW))
        for number, made in enumerate(order, 1):
            branch = arm_path(folder / f"branch{number}" / "line", KEY)
            branch.parent.mkdir(parents=True)
            for file in files_of(path.parent, KEY)[:2]:
                (branch.parent / file.name).write_bytes(file.read_bytes())
            add_runs(branch, made)
            folder_of(path).mkdir(exist_ok=True)
            for kind in ("json", "parquet"):
                (folder_of(branch) / f"1.{kind}").rename(folder_of(path) / f"{number}.{kind}")
        arm = read_arm(path)
        found.append({seed: (run.digest, sorted(run.metrics)) for seed, run in sorted(arm.runs.items())})
    assert found[0] == found[1] and set(found[0]) == {0, 1, 3} and set(found[0][0][1]) == set(METRICS)


def test_a_measure_of_recorded_columns_adds_no_column(tmp_path):
    path, own = arm_path(tmp_path / "line", KEY), {"error": METRICS["error"], "accuracy": METRICS["accuracy"]}
    turned = {**own, "right": replace(METRICS["accuracy"], title="right")}
    add_runs(path, made_arm(ROWS[:1], metrics=own))
    add_runs(path, made_arm(ROWS[:1], metrics=turned))
    (more,) = additions(path)
    assert list(json.loads(more.read_text())["more"][0]["metrics"]) == ["right"]
    run = read_arm(path).runs[0]
    assert run.metrics["right"] == run.metrics["accuracy"] and set(run.columns) == {"error", "correct"}


def test_times_of_another_session_are_an_addition_too(tmp_path):
    path = arm_path(tmp_path / "line", KEY)
    add_runs(path, made_arm(ROWS[:2], curve=curve("error")))
    before = path.read_bytes()

    def slower(arm):
        times = {"slow/tiny": {"seconds": {"train": 9.0}, "train_seconds": [8.5]}}
        run = replace(arm.runs[1], timed=times)
        return replace(arm, runs={**arm.runs, 1: replace(run, digest=digest_of(run))})

    change_arm(path, slower)
    assert path.read_bytes() == before and read_arm(path).runs[1].timed["slow/tiny"]["train_seconds"] == [8.5]


def test_what_is_no_addition_is_refused_before_anything_is_written(tmp_path):
    path = arm_path(tmp_path / "line", KEY)
    add_runs(path, made_arm(ROWS[:2]))

    def other(arm):
        run = made_run(1, ROWS[2])
        return replace(arm, runs={**arm.runs, 1: run})

    for change in (other, lambda arm: replace(arm, runs={0: arm.runs[0], 2: made_run(2, ROWS[2])})):
        with pytest.raises(KDError, match=f"{KEY}.json.*(would change|another training)"):
            change_arm(path, change)
    assert additions(path) == []


@pytest.fixture
def added(tmp_path):
    """An arm with one addition: seed 2 is new, seeds 0 and 1 got two metrics."""
    path = arm_path(tmp_path / "line", KEY)
    add_runs(path, made_arm(ROWS[:2], metrics=FEW, curve=curve("error")))
    add_runs(path, made_arm(ROWS, curve=curve("error", "accuracy")))
    return path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda made: made.update(key="f" * 16), "1.json: holds results of ffffffffffffffff on testbed line"),
        (lambda made: made.update(testbed="other"), "1.json: holds results of 0123456789abcdef on testbed other"),
        (lambda made: made.update(schema=3), "1.json: schema 3; this version reads schema 2"),
        (lambda made: made.update(spec={}), "1.json: unknown field spec"),
        (lambda made: made.pop("more"), "1.json: more is missing"),
        (lambda made: made.update(more=[], runs=[]), "1.json: adds nothing"),
        (lambda made: made.update(more=made["more"][:1]), "1.parquet: has examples of seed 1, which 1.json does not"),
        (lambda made: made.update(runs=[]), "1.parquet: has examples of seed 2, which 1.json does not list"),
        (lambda made: made["more"].append(made["more"][0]), "1.json: more[2]: seed 0 stands twice"),
        (lambda made: made["more"][0].update(seed=7), "1.json: seed 7: its figures do not give its digest"),
        (lambda made: made["more"][0].update(of="0" * 16), "1.json: seed 0: its figures do not give its digest"),
        (lambda made: made["more"][0]["metrics"].update(accuracy=1.0), "1.json: seed 0: its figures do not give"),
        (lambda made: made["more"][0]["curve"][0]["metrics"].update(accuracy=1.0), "seed 0: its figures do not give"),
        (lambda made: made["more"][0]["curve"][0].pop("step"), "1.json: seed 0: a point of a later curve must hold"),
        (lambda made: made["more"][0].pop("of"), "1.json: more[0].of is missing"),
        (lambda made: made["more"][0].update(made=[{}]), "1.json: seed 0: an entry of made holds"),
        (lambda made: made["runs"][0]["metrics"].update(error=9.0), "1.json: seed 2: metrics.error is 9.0, its"),
        (lambda made: made["metrics"].pop("ece"), '1.json: seed 2: metric "ece" has no definition'),
    ],
)  # fmt: skip
def test_an_addition_that_was_edited_is_an_error_that_names_it(added, damage, said):
    (more,) = additions(added)
    made = json.loads(more.read_text())
    damage(made)
    more.write_text(json.dumps(made))
    with pytest.raises(KDError) as error:
        read_arm(added)
    assert str(more.parent) in str(error.value) and said in str(error.value)


def test_examples_of_an_addition_that_were_edited_or_are_gone_are_named(added):
    table = additions(added)[0].with_suffix(".parquet")
    table.write_bytes(added.with_suffix(".parquet").read_bytes())
    with pytest.raises(KDError, match=rf"{KEY}/1\.(json|parquet): "):
        read_arm(added)
    table.unlink()
    with pytest.raises(KDError, match=rf"{KEY}/1\.parquet: cannot be read: No such file"):
        read_arm(added)


def test_an_addition_to_other_runs_is_refused(added, tmp_path):
    """Whole in itself, but of another training, or of a seed of which nothing is recorded."""
    other = arm_path(tmp_path / "elsewhere" / "line", KEY)
    add_runs(other, made_arm({0: levels(3)[0]}, metrics=FEW))
    read, arm = read_arm(added), read_arm(other)
    base = made_arm(ROWS[:2], metrics=FEW, curve=curve("error"))
    later = difference(base, read)
    with pytest.raises(KDError, match="it: more of seed 1, of which no run is recorded"):
        with_addition("it", replace(base, runs={0: base.runs[0]}), later)
    slower = replace(base.runs[0], seconds={"train": 9.0})
    with pytest.raises(KDError, match="it: seed 0: adds to another training than the recorded one"):
        with_addition("it", replace(base, runs={**base.runs, 0: slower}), later)
    assert not np.array_equal(arm.runs[0].columns["error"], read.runs[0].columns["error"])


@pytest.mark.parametrize("name", ["metric", "column"])
def test_an_addition_that_contradicts_what_is_recorded_is_refused(added, name):
    base, arm = made_arm(ROWS[:2], metrics=FEW, curve=curve("error")), read_arm(added)
    later = difference(base, arm)
    more = later.more[0]
    if name == "metric":
        more, said = replace(more, metrics={**more.metrics, "error": 7.0}), "metric error is recorded as"
    else:
        columns = {**more.columns, "error": np.zeros(20)}
        more, said = replace(more, columns=columns), 'column "error" is recorded with other figures'
    with pytest.raises(KDError, match=f"it: seed 0: {said}"):
        with_addition("it", base, replace(later, more={**later.more, 0: more}))
