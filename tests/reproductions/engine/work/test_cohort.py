"""Runs of one arm trained together: the records of runs made alone, and which arms of the papers that may be."""

import json
from pathlib import Path

import pytest
import torch

import methods.trainers.cohort as cohort_room
import reproductions
from methods.recipe import OF_CLASSES, canonical_method
from methods.trainers.cohort import Cohort
from reproductions.engine.errors import KDError
from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.plan.spec import read_testbed_of, spec_of
from reproductions.engine.work.artifacts import Artifacts
from reproductions.engine.work.cohort import can_cohort, cohorts, execute_cohort, train_together
from reproductions.engine.work.execute import execute
from reproductions.engine.work.run import Run
from reproductions.testbeds import load_testbed, read_testbed
from tests.reproductions.short import SHORT, load_short, short

PAPERS = sorted(path.stem for path in (Path(reproductions.__path__[0]) / "papers").glob("*.yaml"))
RATE = 4e-3  # whatever a sweep has found
TRAINING = {"max_steps": 4, "per_device_train_batch_size": 8}
START = {"max_steps": 30, "per_device_train_batch_size": 16, "learning_rate": 4e-3}


def test_tiny_arms_are_trained_together_but_for_named_reasons(capsys):
    arms, refused = set(), {}
    for paper in PAPERS:
        experiment = load_experiment(paper)
        if "tiny" not in experiment.scales:
            continue
        bed = read_testbed_of(experiment, experiment.scale("tiny"))
        for name in experiment.arms_at("tiny"):
            spec = spec_of(experiment, "tiny", name, bed, learning_rate=RATE)
            if spec["method"]["trainer"]["name"] == OF_CLASSES:  # published encoders, one by one
                assert can_cohort(spec["method"], spec) == f"its trainer is {OF_CLASSES}"
                continue
            arms.add(json.dumps(spec, sort_keys=True))
            why = can_cohort(spec["method"], spec)
            if why is not None:
                refused.setdefault(json.dumps(spec, sort_keys=True), f"{paper} {name}: {why}")
    share = 1 - len(refused) / len(arms)
    with capsys.disabled():
        print(
            f"\n{share:.0%} of {len(arms)} tiny arms can be trained as cohorts; not: {'; '.join(refused.values())}"
        )
    assert all(why.partition(": ")[2].startswith("its trainer is ") for why in refused.values())
    assert share >= 0.9


@pytest.fixture(scope="module")
def bed():
    return load_short("pronunciation", {"decoding": {"samples": 1}})


def short_spec(arm):
    paper, _, arm = arm.rpartition(" ")
    experiment = load_experiment(paper or "gkd")
    spec = spec_of(experiment, "tiny", arm, read_testbed("pronunciation"), learning_rate=RATE)
    return {**spec, "training": {**spec["training"], **TRAINING}, "sft_start": START}


def runs_of(arm, bed, folder, seeds=(0, 1, 2)):
    return [
        Run(
            short_spec(arm),
            seed,
            testbed=bed,
            device=torch.device("cpu"),
            artifacts=Artifacts(folder),
            arm=arm,
        )
        for seed in seeds
    ]


@pytest.mark.parametrize("arm", ["sft", "seqkd", "fkl", "jsd-mixed", "kdrl kdrl", "minillm minillm"])
def test_records_are_those_of_runs_made_alone(arm, bed, tmp_path):
    runs = runs_of(arm, bed, tmp_path)
    assert train_together(runs) is None
    together = [execute(run) for run in runs]
    alone = [execute(run) for run in runs_of(arm, bed, tmp_path)]
    for run, one, other in zip(runs, together, alone, strict=True):
        assert run.cohort == 3
        assert one.keys() == other.keys()
        assert one["seconds"].keys() == other["seconds"].keys()
        assert [point["step"] for point in one["curve"]] == [point["step"] for point in other["curve"]]
        assert set(one["shared"]) == set(other["shared"])
        for name in ("seed", "tokens", "rollouts"):
            assert one[name] == other[name]
        for name, value in other["metrics"].items():
            assert one["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-3)


def test_each_student_is_its_own_teacher(bed, tmp_path):
    to_its_start = {"divergence": "reverse-kl", "target": {"name": "teacher", "index": 1}, "weight": 5.0}
    tree = {"teacher": ["main", "student"], "terms": [{"divergence": "forward-kl"}, to_its_start]}
    together, alone = runs_of("fkl", bed, tmp_path), runs_of("fkl", bed, tmp_path)
    for run in (*together, *alone):
        run.spec = {**run.spec, "method": canonical_method(tree)}
    assert train_together(together) is None
    for one, other in zip(map(execute, together), map(execute, alone), strict=True):
        for name, value in other["metrics"].items():
            assert one["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-3)


def test_seconds_are_shared_out(bed, tmp_path):
    runs = runs_of("sft", bed, tmp_path)
    records = execute_cohort(runs)
    assert len({record["seconds"]["train"] for record in records}) == 1
    assert all(0 < record["seconds"]["train"] < record["seconds"]["total"] for record in records)
    assert all(run.ahead < records[0]["seconds"]["total"] for run in runs)


def test_starts_that_are_made_together_are_those_made_alone(bed, tmp_path):
    together, alone = runs_of("sft", bed, tmp_path / "a"), runs_of("sft", bed, tmp_path / "b")
    bed.prepare(together)
    for one, other in zip(together, alone, strict=True):
        made, expected = bed.sft_start(one).state_dict(), bed.sft_start(other).state_dict()
        for name, weight in expected.items():
            torch.testing.assert_close(made[name], weight, rtol=1e-3, atol=1e-4)
        (used,), (other_used,) = one.shared.used.values(), other.shared.used.values()
        assert used["student_tokens"] == other_used["student_tokens"]
        assert used["seconds"] > 0


def test_draws_of_a_teacher_are_made_together(tmp_path):
    drawn = load_short("pronunciation", {"teachers": {"main": {"draws": 2}}})
    together, alone = (runs_of("fkl", drawn, tmp_path / name, range(3)) for name in "ab")
    drawn.prepare(together)
    for one, other in zip(together, alone, strict=True):
        made, expected = (drawn.teacher(run).state_dict() for run in (one, other))
        for name, weight in expected.items():
            torch.testing.assert_close(made[name], weight, rtol=1e-3, atol=1e-4)
    made = [path.name for path in (tmp_path / "a" / "artifacts").glob("teacher-*")]
    assert sorted(made) == sorted(path.name for path in (tmp_path / "b" / "artifacts").glob("teacher-*"))
    assert len(made) == 2
    assert not torch.equal(*(drawn.teacher(run).model.norm.weight for run in together[:2]))


def test_groups_are_of_at_most_five(bed, tmp_path):
    def sizes(arm, count):
        return [len(group) for group in cohorts(runs_of(arm, bed, tmp_path, range(count)))]

    assert [sizes("sft", count) for count in (0, 1, 5, 6, 10, 11)] == [
        [], [1], [5], [3, 3], [5, 5], [4, 4, 3],
    ]  # fmt: skip
    spec = short_spec("sft")
    lora = [
        Run(
            {**spec, "lora": {"r": 2}},
            seed,
            testbed=bed,
            device=torch.device("cpu"),
            artifacts=Artifacts(tmp_path),
        )
        for seed in range(3)
    ]
    assert [len(group) for group in cohorts(lora)] == [1, 1, 1]


def test_a_cohort_is_of_one_arm(bed, tmp_path):
    mixed = runs_of("sft", bed, tmp_path, [0]) + runs_of("fkl", bed, tmp_path, [1])
    for runs in (mixed, runs_of("sft", bed, tmp_path, [2, 2])):
        with pytest.raises(KDError, match="one arm, each seed once"):
            train_together(runs)


def test_a_cohort_that_fails_is_made_one_by_one(bed, tmp_path, monkeypatch, capfd):
    def broken(self):
        raise RuntimeError("only together")

    monkeypatch.setattr(Cohort, "train", broken)
    runs = runs_of("sft", bed, tmp_path)
    for run in runs:
        bed.sft_start(run)
    records = execute_cohort(runs)
    assert [run.cohort for run in runs] == [1, 1, 1]
    assert [record["seed"] for record in records] == [0, 1, 2]
    assert "only together" in capfd.readouterr().err


def test_what_turns_out_to_be_unlike_is_trained_alone(bed, tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_room, "unfit", lambda members: "they are unlike")
    runs = runs_of("fkl", bed, tmp_path)
    assert train_together(runs) == "they are unlike"
    alone = [execute(run) for run in runs_of("fkl", bed, tmp_path)]
    for run, other in zip(runs, alone, strict=True):
        assert run.cohort == 1
        assert execute(run)["metrics"] == other["metrics"]


def test_seeds_on_their_own_draws_of_the_task_are_made_together_as_alone(tmp_path):
    """Bases, starts and students: each of its own maze, and no member learns another's."""
    bed = short("mazes", {"teachers": {"trained": {"training": SHORT}}})
    spec = spec_of(load_experiment("coverage-learned"), "tiny", "own-learned", bed, learning_rate=RATE)
    spec = {**spec, "training": {**spec["training"], **TRAINING}, "sft_start": START}

    def runs(folder):
        return [
            Run(
                spec,
                seed,
                testbed=load_testbed(bed).at(seed),
                device=torch.device("cpu"),
                artifacts=Artifacts(folder),
                wanted=["greedy_exact_match", "token_accuracy"],
            )
            for seed in range(3)
        ]

    together, alone = runs(tmp_path / "a"), runs(tmp_path / "b")
    assert train_together(together) is None
    for one, other in zip(map(execute, together), map(execute, alone), strict=True):
        assert {made["kind"] for made in one["shared"].values()} == {"base", "teacher", "sft-start"}
        for name, value in other["metrics"].items():
            assert one["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-3)
    for kind in ("base", "teacher", "sft-start"):
        made = [sorted(path.name for path in (tmp_path / at / "artifacts").glob(f"{kind}-*")) for at in "ab"]
        assert made[0] == made[1] and len(made[0]) == 3
    bases = [
        run.testbed.models._base(short_student(run), run.testbed.models._common, run) for run in together
    ]
    theirs = [run.testbed.models._base(short_student(run), run.testbed.models._common, run) for run in alone]
    for one, other in zip(bases, theirs, strict=True):
        for name, weight in other.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    assert not torch.equal(*(base.model.embed_tokens.weight for base in bases[:2]))


def short_student(run):
    return run.testbed.models.students["main"]
