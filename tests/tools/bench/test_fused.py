"""`kd bench`: every implementation gets the same problem and gives the same gradient; the figures are complete."""

import json
from dataclasses import replace

import pytest
import torch

from tools.bench import fused as bench
from tools.bench import measure
from tools.cli import main

CASE = bench.Case(101, 32, 8, 12, "jensen_shannon", "float32", "cpu")


def test_quick_bench_prints_json_with_every_implementation(capsys):
    assert main(["bench", "--quick", "--json", "--vocab", "101", "--repeats", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["versions"]["torch"] and record["date"] and record["device"]
    assert [case["divergence"] for case in record["cases"]] == ["jensen_shannon", "forward_kl"]
    for case in record["cases"]:
        names = [result["implementation"] for result in case["results"]]
        assert names[0] == bench.FLOOR and bench.OURS in names and {*bench.PEERS} <= {*names}
        for result in case["results"]:
            measured = result["implementation"] in (bench.OURS, "TRL Distillation, chunked")
            assert not measured or (result["seconds"] > 0 and result["gradient_error"] < 1e-4)


def test_an_implementation_that_is_not_there_is_a_row_that_says_so(monkeypatch):
    def gone():
        raise ImportError

    monkeypatch.setattr(bench, "PEERS", {"Gone": (gone, "not installed")})
    results = {result.implementation: result for result in bench.measure(CASE, {}, 1, 1.0)}
    assert results["Gone"].seconds is None and results["Gone"].note == "not installed"


def test_a_wrong_gradient_fails_the_bench(monkeypatch, capsys):
    monkeypatch.setattr(bench, "PEERS", {"Wrong": (lambda: lambda problem: 2 * bench.ours(problem), "")})
    assert main(["bench", "--quick", "--vocab", "101", "--repeats", "1", "--divergence", "forward_kl"]) == 1
    assert "do not agree" in capsys.readouterr().err


def test_problems_are_the_same_every_time_and_half_completion():
    first, again = bench.make_problem(CASE), bench.make_problem(CASE)
    assert torch.equal(first.hidden, again.hidden) and torch.equal(first.teacher_weight, again.teacher_weight)
    assert first.count == CASE.positions // 2


def test_full_logits_are_cut_only_when_they_would_not_fit():
    assert bench._parts(CASE, "TRL GKD, full logits") == 1
    huge = replace(CASE, vocabulary=10**6, positions=2**14)
    assert bench._parts(huge, "TRL GKD, full logits") > 1 and bench._parts(huge, bench.OURS) == 1


@pytest.mark.parametrize("arguments", [["--rows", "1"], ["--vocab", "1"], ["--device", "cuda"]])
def test_bad_usage_exits_2_with_one_line(arguments, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_recording_writes_the_file_that_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(bench, "PEERS", {})
    assert main(["bench", "--quick", "--record", "--repeats", "1", "--divergence", "forward_kl"]) == 0
    record = json.loads((tmp_path / "fused-cpu-float32.json").read_text())
    assert record["cases"][0]["results"][0]["implementation"] == bench.FLOOR


def test_the_error_of_bf16_operands_is_held_against_fp32_and_is_small(monkeypatch):
    monkeypatch.setattr(bench, "PEERS", {})
    case = replace(CASE, dtype="bfloat16", vocabulary=300, student_width=64, teacher_width=96)
    _, ours = bench.measure(case, {}, 1, 1.0)
    assert ours.implementation == bench.OURS and 1e-5 < ours.gradient_error < 0.01
