"""`kd bench --policy`: both trainers make the same number of tokens; the figures are complete."""

import json

import pytest

from tools.bench import measure
from tools.bench.trainings import policy as bench
from tools.cli import main

CASE = bench.Case(53, 4, 2, 4, 6, (16, 1), (24, 1))


@pytest.mark.parametrize("name", bench.TRAINERS)
def test_every_completion_is_as_long_as_it_may_be(name):
    seen = []
    build = bench.TRAINERS[name]

    def spied(case, folder):
        trainer = build(case, folder)
        trainer.reward_funcs[0] = lambda completion_ids, **_: seen.extend(completion_ids) or [0.0] * 4
        return trainer

    seconds, _ = bench.seconds_of_a_step(CASE, spied)
    assert seconds > 0 and len(seen) == 4 * (bench.WARM_UP + bench.STEPS)
    assert {len(ids) for ids in seen} == {CASE.tokens}


def test_a_quick_bench_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "BENCHMARKS", tmp_path)
    assert main(["bench", "--policy", "--quick", "--json", "--record", "--repeats", "1"]) == 0
    record = json.loads((tmp_path / "policy-cpu.json").read_text())
    assert json.loads(capsys.readouterr().out) == record
    (case,) = record["cases"]
    assert [r["implementation"] for r in case["results"]] == list(bench.TRAINERS)
    assert case["results"][1]["share"] == 1.0
    from tools.pages.benchmarks import policy_benchmarks

    (table,) = policy_benchmarks(tmp_path)
    assert len(table["rows"]) == len(bench.TRAINERS)
