"""`kd bench --rollouts`: every loop samples the same tokens, the written-out Llama is one, the figures are complete."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tools.bench import measure
from tools.bench import rollouts as bench
from tools.cli import main


def small_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("greedy", [False, True])
def test_every_loop_gives_our_tokens(greedy):
    """Grouped heads, prompts of different length, rows that end early; only dropping rows draws other numbers."""
    problem = bench.make_problem(small_model(), [1, 2, 3, 4], 6, 9, 12, greedy)
    results = {r.implementation: r for r in bench.measure(problem, repeats=1)}
    assert all(r.tokens_per_second > 0 for r in results.values())
    for name, result in results.items():
        if greedy or name != bench.OWN:
            assert result.same == 1 and result.tokens == results[bench.OURS].tokens < 6 * 12


def test_the_written_out_llama_has_the_models_logits():
    model = small_model()
    problem = bench.make_problem(model, [1], 5, 9, 4, True)
    decoder = bench._Llama(model, 5, problem.ids.shape[1] + 1)
    positions = (problem.mask.cumsum(-1) - 1).clamp_min(0)
    step = torch.full((5, 1), 7)
    with torch.no_grad():
        first = decoder(problem.ids, positions, problem.mask.bool())
        kept = torch.tensor([0, 3, 4])
        decoder.keep(kept)
        longer = torch.cat([problem.mask, torch.ones(5, 1, dtype=torch.long)], 1)
        second = decoder(step[kept], positions[kept, -1:] + 1, longer[kept].bool())
        whole = model(
            input_ids=torch.cat([problem.ids, step], 1),
            attention_mask=longer,
            position_ids=(longer.cumsum(-1) - 1).clamp_min(0),
        ).logits
    torch.testing.assert_close(first, whole[:, -2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second, whole[kept, -1], rtol=1e-4, atol=1e-4)


def test_a_quick_bench_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "BENCHMARKS", tmp_path)
    assert main(["bench", "--rollouts", "--quick", "--json", "--record", "--repeats", "1"]) == 0
    record = json.loads((tmp_path / "rollouts-cpu.json").read_text())
    assert json.loads(capsys.readouterr().out) == record
    assert [case["greedy"] for case in record["cases"]] == [False, True]
    for case in record["cases"]:
        assert [r["implementation"] for r in case["results"]] == list(bench.SAMPLERS)


def test_other_tokens_than_ours_fail_the_bench(monkeypatch):
    wrong = {**bench.SAMPLERS, bench.BARE: lambda problem: problem.ids}
    monkeypatch.setattr(bench, "SAMPLERS", wrong)
    assert main(["bench", "--rollouts", "--quick", "--repeats", "1"]) == 1


@pytest.mark.parametrize("arguments", [["--rollouts", "--store"], ["--step", "--device", "cuda"]])
def test_one_benchmark_at_a_time(arguments, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["bench", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
