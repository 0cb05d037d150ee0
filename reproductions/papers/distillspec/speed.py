"""Seconds of real speculative decoding beside plain decoding of the target, word by word, on this machine.

`python -m reproductions.papers.distillspec.speed`: trains the arms that it compares and prints and writes the ratios.
Both ways take turns, so that a busy machine slows them alike. A word a call, as where speculative decoding is used.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from methods.modeling.rollouts import rollout
from methods.modeling.speculative import expected_block_efficiency, speculate
from reproductions.engine.experiment import load_experiment
from reproductions.engine.files import write_atomic
from reproductions.engine.run import make_run
from reproductions.engine.seeding import seed_everything
from reproductions.testbeds import read_testbed

OUT = Path(__file__).resolve().parents[3] / "benchmarks" / "speculative-tiny-cpu.json"
ARMS = ("sft", "fkl-draft")
BLOCK_LENGTH = int(read_testbed("pronunciation-drafting")["metrics"]["drafting"].get("block_length", 4))


def tokens_per_second(decode: Callable[[list[int]], int], prompts: list[list[int]]) -> float:
    """Tokens that `decode` makes of the prompts, one at a time, over the seconds it takes."""
    started = time.perf_counter()
    made = sum(decode(prompt) for prompt in prompts)
    return made / (time.perf_counter() - started)


def compare(target: Any, draft: Any, prompts: list[list[int]], rounds: int, **common: Any) -> dict[str, Any]:
    """Medians over rounds of tokens/s and of their ratio, with the block efficiency and the draft's relative cost."""
    counts = [0, 0, 0, 0]

    def plain(prompt: list[int], model: Any = target) -> int:
        return rollout(model, [prompt], **common).tokens

    def speculative(prompt: list[int]) -> int:
        found = speculate(target, draft, [prompt], block_length=BLOCK_LENGTH, **common)
        for i, part in enumerate((found.tokens, found.target_calls, found.accepted, found.examined)):
            counts[i] += int(part.sum())
        return int(found.tokens.sum())

    rows = []
    for _ in range(rounds):
        fast = tokens_per_second(speculative, prompts)
        slow = tokens_per_second(plain, prompts)
        alone = tokens_per_second(lambda prompt: plain(prompt, draft), prompts)
        rows.append((fast, slow, fast / slow, slow / alone))
    fast, slow, ratio, cost = (statistics.median(column) for column in zip(*rows, strict=True))
    acceptance = counts[2] / counts[3]
    return {
        "speculative_tokens_per_second": round(fast, 1),
        "plain_tokens_per_second": round(slow, 1),
        "speed_up": round(ratio, 3),
        "speed_up_range": [round(pick(row[2] for row in rows), 3) for pick in (min, max)],
        "draft_cost": round(
            cost, 3
        ),  # seconds of a draft's token over those of a target's: c of arXiv 2211.17192
        "acceptance": round(acceptance, 4),
        "block_efficiency": round(counts[0] / counts[1], 3),
        # What the same figures would give if a call of the target cost as much however many tokens it reads.
        "foretold_speed_up": round(
            expected_block_efficiency(acceptance, BLOCK_LENGTH) / (BLOCK_LENGTH * cost + 1), 3
        ),
    }


def main() -> None:
    """Train the arms, time them, write `benchmarks/speculative-tiny-cpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    experiment = load_experiment("distillspec")
    declared = experiment.scale("tiny")
    settings = copy.deepcopy(dict(declared.settings)) | {"curve_points": 0}
    experiment = replace(experiment, scales={"tiny": replace(declared, settings=settings)})
    testbed: Any = experiment.load_testbed("tiny")
    prompts = testbed.tokenizer(list(testbed.test["prompt"])[: chosen.words])["input_ids"]
    tokenizer = testbed.tokenizer
    found = {}
    for arm in ARMS:
        run = make_run(experiment, arm, chosen.seed, "tiny", testbed=testbed)
        seed_everything(run.seed)
        student = experiment.arm(arm).train(run).eval()
        for greedy in (False, True):
            found[f"{arm}, {'greedy' if greedy else 'temperature 1'}"] = compare(
                testbed.teacher(run),
                student,
                prompts,
                chosen.rounds,
                max_new_tokens=testbed.max_completion_tokens,
                eos_ids=[tokenizer.eos_token_id],
                pad_id=tokenizer.pad_token_id,
                greedy=greedy,
            )
    record = {
        "what": "speculative decoding of the tiny teacher with tiny drafts, one word a call, one CPU thread",
        "block_length": BLOCK_LENGTH,
        "words": len(prompts),
        "rounds": chosen.rounds,
        "seed": chosen.seed,
        "figures": found,
    }
    write_atomic(OUT, json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
