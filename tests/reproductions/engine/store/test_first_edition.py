import json

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.store.first_edition import migrate, read_first_edition
from reproductions.engine.store.pair import read_arm

from .made import METRICS, levels, made_run


def first_edition(tmp_path, rows, paper="toy", train=2.0, **changes):
    """A file as the first edition wrote it: arm -> (seeds, examples)."""
    runs = []
    for arm, by_seed in rows.items():
        for seed, errors in enumerate(by_seed):
            curve = [{"step": 5, "train_seconds": train, "metrics": {"error": 1.5}}]
            run = made_run(seed, errors, curve=curve, train=train)
            runs.append(
                {
                    "arm": arm,
                    **{
                        name: getattr(run, name)
                        for name in ("seed", "metrics", "curve", "seconds", "tokens", "rollouts")
                    },
                    "examples": {name: column.tolist() for name, column in run.columns.items()},
                }
            )
    seeds = sorted({run["seed"] for run in runs})
    zeros = {"teacher_tokens": 0, "train_seconds": 4.0}
    data = {
        "schema": 1,
        "paper": paper,
        "scale": "tiny",
        "testbed": "line",
        "config_hash": "0123456789ab",
        "config": {"seeds": seeds, "arms": {arm: {"title": arm} for arm in rows}},
        "data_revision": "revision-1",
        "environment": {"torch": "2.13.0", "commit": "abc"},
        "metrics": {name: metric.as_dict() for name, metric in METRICS.items()},
        "shared": {
            **{
                f"start-{seed}": {"kind": "start", "key": {"seed": seed, "testbed": "line"}, **zeros}
                for seed in seeds
            },
            "teacher-1": {"kind": "teacher", "key": {"seed": 0, "data_revision": "revision-1"}, **zeros},
        },
        "runs": runs,
    }
    path = tmp_path / f"{paper}.json"
    path.write_text(json.dumps({**data, **changes}))
    return path


ROWS = {"method": levels(0.98, 1.1), "baseline": levels(2, 2.1)}


def test_a_file_of_the_first_edition_reads_as_arms(tmp_path):
    first = read_first_edition(first_edition(tmp_path, ROWS))
    assert (first.paper, first.scale, first.testbed, first.config_hash) == (
        "toy",
        "tiny",
        "line",
        "0123456789ab",
    )
    assert list(first.results.runs("baseline")) == [0, 1] and first.results.missing == ()
    run = first.arms["method"].runs[1]
    assert run.metrics["error"] == pytest.approx(1.123) and run.made_with["commit"] == "abc"
    assert list(run.shared) == ["start-1", "teacher-1"], "a start belongs to one seed, a teacher to all"
    assert run.shared["teacher-1"] == {"kind": "teacher", "key": {"seed": 0}, "train_seconds": 4.0}
    fewer = read_first_edition(first_edition(tmp_path, {**ROWS, "baseline": levels(2)}))
    assert fewer.results.missing == (("baseline", 1),)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda made: made.pop("metrics"), "metrics is missing"),
        (lambda made: made.update(schema=2), "schema 2; a results file of the first edition has schema 1"),
        (lambda made: made.update(verdict="reproduced"), "unknown field verdict"),
        (lambda made: made["config"].pop("seeds"), "config.seeds must be list"),
        (lambda made: made["runs"][1].pop("seed"), "runs[1].seed is missing"),
        (lambda made: made["runs"].append(made["runs"][0]), "stands twice"),
        (lambda made: made["runs"][0]["metrics"].update(error=0.1), "runs[0]: metrics.error is 0.1, its examples give"),
        (lambda made: made["runs"][0]["metrics"].pop("ece"), "runs[0].metrics.ece is missing"),
        (lambda made: made["runs"][0]["examples"]["error"].append("x"), "runs[0].examples: could not convert"),
        (lambda made: made["runs"][2]["examples"].pop("correct"), 'runs[2]: metric "accuracy" needs column "correct"'),
        (lambda made: made["metrics"]["error"].update(kind="median"), 'unknown metric kind "median"'),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_should_be_is_an_error_with_its_name(tmp_path, damage, message):
    path = first_edition(tmp_path, ROWS)
    made = json.loads(path.read_text())
    damage(made)
    path.write_text(json.dumps(made))
    with pytest.raises(KDError) as error:
        read_first_edition(path)
    assert "toy.json: " in str(error.value) and message in str(error.value)


def test_equal_runs_of_two_papers_become_one_and_unequal_ones_are_refused(tmp_path):
    keys = {"method": ("1" * 16, {"n": 1}), "baseline": ("2" * 16, {"n": 2}), "own": ("3" * 16, {"n": 3})}
    folder = tmp_path / "results" / "line"
    claims = {"method": {"better": "ab12"}, "baseline": {"better": "ab12"}}
    prints = {"method": {"divergence/forward-kl": "ab12"}}
    toy = read_first_edition(first_edition(tmp_path, ROWS))
    done = migrate(toy, keys, folder, claims=claims, fingerprints=prints)
    assert done.added == ("method seed 0", "method seed 1", "baseline seed 0", "baseline seed 1")
    other = {"own": levels(3, 3), "baseline": [levels(2)[0], levels(2, 2.5)[1]]}
    done = migrate(read_first_edition(first_edition(tmp_path, other, "other")), keys, folder)
    assert done.added == ("own seed 0", "own seed 1") and done.merged == ("baseline seed 0",)
    assert list(done.refused) == ["baseline seed 1"] and "never rewritten" in done.refused["baseline seed 1"]
    slow = read_first_edition(first_edition(tmp_path, {"baseline": levels(2)}, "slow", train=5.0))
    assert migrate(slow, keys, folder).retimed == ("baseline seed 0",)
    baseline, method = (read_arm(folder / f"{keys[arm][0]}.json") for arm in ("baseline", "method"))
    assert baseline.spec == {"n": 2} and baseline.claims == {"toy/tiny": {"better": "ab12"}}
    assert baseline.runs[0].migrated == {"paper": "toy", "scale": "tiny", "config_hash": "0123456789ab"}
    assert baseline.runs[0].timed["slow/tiny"]["train_seconds"] == [5.0]
    assert baseline.runs[0].curve[0]["train_seconds"] == 2.0
    assert method.runs[0].fingerprints == prints["method"] and baseline.runs[1].fingerprints == {}
    assert read_arm(folder / f"{keys['own'][0]}.json").claims == {"other/tiny": {}}
