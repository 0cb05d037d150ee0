from dataclasses import replace

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.store.arm import as_timed, digest_of
from reproductions.engine.store.pair import add_runs, arm_path, read_arm, write_arm
from reproductions.engine.store.results import gather, recorded_results, results_of

from .made import levels, made_arm

KEYS = {"method": "1" * 16, "baseline": "2" * 16}
CLAIMS = {"toy/tiny": {"better": "ab12"}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "line"


def record(folder, arm, rows, **more):
    add_runs(arm_path(folder, KEYS[arm]), made_arm(rows, key=KEYS[arm], **more))


def test_a_complete_record_is_read_arm_by_arm(folder):
    record(folder, "method", levels(1, 1), claims=CLAIMS)
    record(folder, "baseline", levels(2, 2, 2))
    found = recorded_results("toy", "tiny", KEYS, (1, 0), folder)
    assert list(found.arms) == ["method", "baseline"] and found.missing == ()
    assert list(found.runs("baseline")) == [1, 0], "declared seeds only, in their order"
    assert found.runs("elsewhere") == {} and set(found.metrics) == {"error", "accuracy", "ece"}


def test_a_record_with_runs_taken_out_is_an_error_that_lists_them(folder):
    record(folder, "method", levels(1, 1), claims=CLAIMS)
    with pytest.raises(
        KDError, match="toy at scale tiny are incomplete: method seed 2; baseline seeds 0, 1, 2$"
    ):
        recorded_results("toy", "tiny", KEYS, (0, 1, 2), folder)
    assert results_of(KEYS, (0, 1), folder).missing == (("baseline", 0), ("baseline", 1))


def test_what_other_papers_recorded_is_no_record_of_this_one(folder):
    assert recorded_results("toy", "tiny", KEYS, (0,), folder) is None
    record(folder, "baseline", levels(2, 2), claims={"other/tiny": {}})
    assert recorded_results("toy", "tiny", KEYS, (0, 1), folder) is None
    record(folder, "method", levels(1, 1), claims={"another/tiny": {}})
    whole = recorded_results("toy", "tiny", KEYS, (0, 1), folder)
    assert whole is not None and whole.missing == (), (
        "arms that are all there are evidence, whoever made them"
    )


def test_a_file_under_another_key_is_an_error(folder):
    record(folder, "method", levels(1, 1), claims=CLAIMS)
    for suffix in (".json", ".parquet"):
        (folder / (KEYS["method"] + suffix)).rename(folder / (KEYS["baseline"] + suffix))
    with pytest.raises(KDError, match=f"{KEYS['baseline']}.json: holds results of {KEYS['method']}"):
        results_of(KEYS, (0,), folder)


def test_runs_made_just_now_are_gathered_as_recorded_ones_are():
    found = gather({"method": made_arm(levels(1, 1))}, KEYS, (0, 1))
    assert list(found.arms) == ["method"] and found.missing == (("baseline", 0), ("baseline", 1))
    with pytest.raises(
        KDError, match=r'claim x: metric "eror" was not measured for arm method .did you mean "error"'
    ):
        found.metric("eror", ["method"], "claim x")


def test_seconds_are_those_of_the_papers_own_session(folder):
    curve = [{"step": 0, "train_seconds": 0.5, "metrics": {"error": 3.0}}]
    record(folder, "method", levels(1), curve=curve, claims=CLAIMS)
    record(folder, "baseline", levels(2), curve=curve)
    path = arm_path(folder, KEYS["baseline"])
    arm = read_arm(path)
    own = {"seconds": {"train": 9.0}, "train_seconds": [8.5]}
    run = replace(arm.runs[0], timed={"toy/tiny": own})
    path.unlink()
    write_arm(path, replace(arm, runs={0: replace(run, digest=digest_of(run))}))
    mine = recorded_results("toy", "tiny", KEYS, (0,), folder).runs("baseline")[0]
    assert mine.seconds == {"train": 9.0} and mine.curve[0]["train_seconds"] == 8.5
    others = recorded_results("other", "tiny", KEYS, (0,), folder).runs("baseline")[0]
    assert others.curve[0]["train_seconds"] == 0.5 and as_timed(arm.runs[0], "toy/tiny") is arm.runs[0]
    run = replace(run, timed={"toy/tiny": {**own, "train_seconds": [0.1]}})
    with pytest.raises(KDError, match="do not give its digest"):
        write_arm(path, replace(arm, runs={0: run}))
