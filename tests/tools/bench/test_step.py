"""`kd bench --step`: both trainers see the same examples and come to the same loss; the figures are complete."""

import json

import pytest

from tools.bench import measure
from tools.bench.trainings import step as bench
from tools.cli import main

CASE = bench.Case(53, "forward_kl", False, 2, 8, (8, 1), (16, 1))


@pytest.mark.parametrize("divergence", ["forward_kl", "jensen_shannon"])
def test_both_trainers_come_to_the_same_loss_on_fixed_data(divergence):
    assert bench.PEER in bench.available(), "the pinned TRL has GKDTrainer"
    case = bench.replace(CASE, divergence=divergence)
    results = bench.measure(case, {}, repeats=1)
    assert [r.implementation for r in results] == [bench.OURS, bench.PEER]
    assert all(r.seconds > 0 for r in results)
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-4) and results[0].loss > 0


def test_on_policy_steps_sample_completions(monkeypatch):
    """Not the data's: neither trainer may fall back on them unnoticed."""
    seen = {}
    for name, build in bench.available().items():

        def spied(case, folder, name=name, build=build):
            trainer = build(case, folder)
            model, generated = trainer.model, []
            model.register_forward_pre_hook(
                lambda module, args, kwargs: generated.append(bool(kwargs.get("use_cache"))), with_kwargs=True
            )
            seen[name] = generated
            return trainer

        bench.seconds_of_a_step(bench.replace(CASE, on_policy=True), spied)
        assert sum(seen[name]) >= (bench.WARM_UP + bench.STEPS) * CASE.length // 2
        bench.seconds_of_a_step(CASE, spied)
        assert not any(seen[name])


def test_a_trainer_that_is_not_there_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(bench, "available", lambda: {bench.OURS: bench.ours})
    mine, other = bench.measure(CASE, {bench.OURS: 7}, repeats=1)
    assert mine.peak_bytes == 7 and other.seconds is None and other.note == "not in this TRL"


def test_a_quick_bench_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "BENCHMARKS", tmp_path)
    arguments = ["--step", "--quick", "--json", "--record", "--repeats", "1", "--divergence", "forward_kl"]
    assert main(["bench", *arguments]) == 0
    record = json.loads((tmp_path / "step-cpu.json").read_text())
    assert json.loads(capsys.readouterr().out) == record
    assert [case["on_policy"] for case in record["cases"]] == [False, True]
    assert record["cases"][0]["results"][0]["implementation"] == bench.OURS


def test_different_losses_fail_the_bench(monkeypatch):
    def measure(case, peaks, repeats):
        return [
            bench.Result(name, 1.0, 1, loss) for name, loss in zip(bench.TRAINERS, (1.0, 1.1), strict=True)
        ]

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "peak_memory", lambda case: {})
    assert main(["bench", "--step", "--quick", "--divergence", "forward_kl"]) == 1
