"""What `kd bench` recorded becomes tables."""

from __future__ import annotations

import json

from tools.pages import benchmarks


def test_a_recorded_benchmark_becomes_a_table(tmp_path):
    def result(name, seconds, peak, note=""):
        return {"implementation": name, "seconds": seconds, "peak_bytes": peak, "note": note}

    case = {"divergence": "forward_kl", "dtype": "float32", "positions": 2048}
    case |= {"student_width": 256, "teacher_width": 512}
    results = [
        result("four GEMMs (floor)", 0.5, None),
        result("ours | fused", 0.96, 220_000_000),
        result("full logits", 6.7, -1),
        result("peer", None, None, "not installed"),
    ]
    record = {
        "device": "a processor",
        "versions": {"torch": "2.13.0", "liger-kernel": None},
        "cases": [
            {**case, "vocabulary": 32000, "results": results},
            {**case, "vocabulary": 128256, "results": results},
            {**case, "vocabulary": 32000, "divergence": "jensen_shannon", "results": results},
        ],
    }
    (tmp_path / "fused-cpu-float32.json").write_text(json.dumps(record))
    assert benchmarks.benchmarks(tmp_path / "absent") == []
    text = benchmarks.page(tmp_path)
    assert "| forward KL | vocabulary 32,000 | vocabulary 128,256 |" in text
    assert "| JSD(0.5) | vocabulary 32,000 |\n" in text
    assert r"| ours \| fused | 0.96 s, 0.22 GB | 0.96 s, 0.22 GB |" in text
    assert "6.7 s, out of memory" in text and "not installed" in text
    assert "a processor, float32, 1024 completion positions, hidden sizes 256 and 512; torch 2.13.0" in text


def test_a_recorded_store_becomes_tables(tmp_path):
    found = {
        "codec": "KD Atlas",
        "bytes": 51.12,
        "error": 0.00165,
        "worst": 0.0075,
        "encode": 60529.7,
        "decode": 1e5,
    }
    missing = {"codec": "other", "bytes": None, "note": "not installed"}
    case = {"rows": "Zipf", "vocabulary": 32000, "tokens": 1000, "results": [found, missing]}
    steps = [{"vocabulary": 32000, "seconds": {"no teacher": 0.5, "store": 0.52, "live teacher": 1.25}}]
    record = {"device": "a processor", "cases": [case], "steps": steps}
    (tmp_path / "store-cpu.json").write_text(json.dumps(record))
    assert benchmarks.store_benchmarks(tmp_path / "absent") == []
    text = benchmarks.page(tmp_path)
    assert "Zipf, 1,000 tokens, vocabulary 32,000; a processor:" in text and "not installed" not in text
    assert "| KD Atlas | 51.1 | 0.0016 | 0.0075 | 60,530 | 100,000 |" in text
    assert "| store | 1.040 |" in text and "| live teacher | 2.500 |" in text


def test_recorded_speculative_decoding_becomes_a_table(tmp_path):
    found = {
        "speculative_tokens_per_second": 812.4,
        "plain_tokens_per_second": 1000.0,
        "speed_up": 0.812,
        "speed_up_range": [0.79, 0.83],
        "draft_cost": 0.55,
        "acceptance": 0.8312,
        "block_efficiency": 2.9,
        "foretold_speed_up": 1.1,
    }
    record = {"what": "tiny drafts", "words": 60, "rounds": 5, "figures": {"sft, greedy": found}}
    (tmp_path / "speculative-tiny-cpu.json").write_text(json.dumps(record))
    assert benchmarks.speculative_benchmarks(tmp_path / "absent") == []
    text = benchmarks.page(tmp_path)
    assert "tiny drafts; 60 words, medians of 5 rounds:" in text
    assert "| sft, greedy | 1,000 | 812 | 0.81 (0.79 to 0.83) | 83.1% | 0.55 | 1.10 |" in text


def test_recorded_evidence_becomes_a_table(tmp_path):
    one = {"difference": 1.234, "standard_error": 0.456, "evidence_per_minute": 2.0}
    row = {"contrast": "b - a", "metric": "ROUGE-L", "first edition": one, "now": one, "ratio": 4.26}
    seconds = {"first edition": {"sft": 5.04}, "now": {"sft": 3.0}}
    record = {
        "device": "a processor",
        "seeds": 4,
        "ratio": 5.12,
        "contrasts": [row],
        "cpu_seconds_a_run": seconds,
    }
    (tmp_path / "evidence-tiny-cpu.json").write_text(json.dumps(record))
    assert benchmarks.evidence_benchmarks(tmp_path / "absent") == []
    text = benchmarks.page(tmp_path)
    assert "a processor, 4 seeds, 5.1 times as much evidence" in text
    assert "CPU seconds a run: first edition sft 5.0; now sft 3.0;" in text
    assert "| b - a, ROUGE-L | +1.23 ± 0.46 | +1.23 ± 0.46 | 4.3 |" in text


def test_recorded_steps_and_rollouts_become_tables(tmp_path):
    about = {"device": "a processor", "versions": {"torch": "2.13.0", "liger-kernel": None}}

    def step(vocabulary, on_policy, seconds):
        shape = {"batch": 4, "length": 240, "student": [256, 4], "teacher": [512, 8]}
        results = [
            {"implementation": "ours", "seconds": seconds, "peak_bytes": 350_000_000, "note": ""},
            {"implementation": "peer", "seconds": None, "peak_bytes": None, "note": "not in this TRL"},
        ]
        case = {"vocabulary": vocabulary, "divergence": "forward_kl", "on_policy": on_policy}
        return {**case, **shape, "results": results}

    steps = [step(32_000, False, 1.5), step(32_000, True, 4.0)]
    sampled = {"model": "some/Model", "batch": 8, "greedy": False}
    sampled["results"] = [{"implementation": "bare | loop", "tokens_per_second": 1234.5}]
    (tmp_path / "step-cpu.json").write_text(json.dumps({**about, "cases": steps}))
    (tmp_path / "rollouts-cpu.json").write_text(json.dumps({**about, "cases": [sampled]}))
    assert (
        benchmarks.step_benchmarks(tmp_path / "absent")
        == benchmarks.rollout_benchmarks(tmp_path / "absent")
        == []
    )
    text = benchmarks.page(tmp_path)
    assert "\n## A whole training step\n" in text and "\n## Sampling\n" in text
    assert "| forward KL | vocabulary 32,000, fixed data | vocabulary 32,000, on-policy |" in text
    assert "| ours | 1.5 s, 0.35 GB | 4 s, 0.35 GB |" in text
    assert "| peer | not in this TRL | not in this TRL |" in text
    assert "4 sequences of 240 tokens, 4 layers of 256 and 8 layers of 512; torch 2.13.0:" in text
    assert "| tokens a second | Model, 8 prompts, sampled |" in text
    assert r"| bare \| loop | 1,234 |" in text
