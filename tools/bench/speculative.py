"""Seconds of real speculative decoding beside plain decoding of the target, word by word, on this machine.

The target is the teacher of the tiny drafting testbed, the drafts are arms of DistillSpec, trained here first. Both
ways take turns, so that a busy machine slows them alike. A word a call, as where speculative decoding is used.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from tools.bench.measure import publish

if TYPE_CHECKING:
    from rich.console import Console

PAPER, SCALE, ARMS, SEED = "distillspec", "tiny", ("sft", "fkl-draft"), 0
WORDS, QUICK_WORDS = 60, 8
BLOCK_LENGTH = 4  # where the testbed names none


def run(args: argparse.Namespace, console: Console, record: dict[str, Any]) -> int:
    """Train the arms, time them, print, and record if asked."""
    import torch

    torch.set_num_threads(1)
    rounds = 1 if args.quick else args.repeats
    figures = {}
    for name, found in measured(QUICK_WORDS if args.quick else WORDS, rounds, console.status):
        figures[name] = found
    console.print(_table(figures))
    del record["cases"]
    record |= {
        "what": "speculative decoding of the tiny teacher with tiny drafts, one word a call, one CPU thread",
        "block_length": block_length(),
        "words": QUICK_WORDS if args.quick else WORDS,
        "rounds": rounds,
        "seed": SEED,
        "figures": figures,
    }
    publish(record, "speculative-tiny-cpu", args, console)
    return 0


def block_length() -> int:
    """How many tokens a draft proposes at a time in the testbed."""
    from reproductions.engine.plan.plan import make_plan

    drafting = make_plan(PAPER, SCALE, arms=ARMS).testbed["metrics"]["drafting"]
    return int(drafting.get("block_length", BLOCK_LENGTH))


def measured(words: int, rounds: int, status: Callable[[str], Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each draft and way of decoding, and its figures."""
    import torch
    from transformers.utils import logging

    from reproductions.engine.plan.plan import make_plan
    from reproductions.engine.work.artifacts import Artifacts
    from reproductions.engine.work.run import Run
    from reproductions.engine.work.seeding import seed_everything
    from reproductions.engine.work.surroundings import train
    from reproductions.testbeds import load_testbed

    logging.disable_progress_bar()
    plan = make_plan(PAPER, SCALE, arms=ARMS)
    if plan.unswept:
        raise KDError(plan.unswept)
    testbed: Any = load_testbed(plan.testbed)
    tokenizer = testbed.tokenizer
    prompts = tokenizer(list(testbed.test["prompt"])[:words])["input_ids"]
    for arm in plan.arms:
        spec = {**plan.specs[arm], "curve": {"points": 0}}
        one = Run(
            spec, SEED, testbed=testbed, device=torch.device("cpu"), artifacts=Artifacts(plan.cache), arm=arm
        )
        with (
            status(f"training {arm}"),
            redirect_stdout(io.StringIO()),
        ):  # trainers print what they think of it
            seed_everything(SEED)
            student = train(one).eval()
        for greedy in (False, True):
            name = f"{arm}, {'greedy' if greedy else 'temperature 1'}"
            with status(name):
                yield (
                    name,
                    compare(
                        testbed.teacher(one),
                        student,
                        prompts,
                        rounds,
                        block_length(),
                        max_new_tokens=testbed.max_completion_tokens,
                        eos_ids=[tokenizer.eos_token_id],
                        pad_id=tokenizer.pad_token_id,
                        greedy=greedy,
                    ),
                )


def compare(
    target: Any, draft: Any, prompts: Sequence[list[int]], rounds: int, block: int, **common: Any
) -> dict[str, Any]:
    """Medians over rounds of tokens/s and of their ratio, with the block efficiency and the draft's relative cost."""
    from methods.modeling.rollouts import rollout
    from methods.modeling.speculative import expected_block_efficiency, speculate

    counts = [0, 0, 0, 0]

    def plain(prompt: list[int], model: Any = target) -> int:
        return rollout(model, [prompt], **common).tokens

    def speculative(prompt: list[int]) -> int:
        found = speculate(target, draft, [prompt], block_length=block, **common)
        for place, part in enumerate((found.tokens, found.target_calls, found.accepted, found.examined)):
            counts[place] += int(part.sum())
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
        # Seconds of a draft's token over those of a target's: c of arXiv 2211.17192.
        "draft_cost": round(cost, 3),
        "acceptance": round(acceptance, 4),
        "block_efficiency": round(counts[0] / counts[1], 3),
        # What the same figures would give if a call of the target cost as much however many tokens it reads.
        "foretold_speed_up": round(expected_block_efficiency(acceptance, block) / (block * cost + 1), 3),
    }


def tokens_per_second(decode: Callable[[list[int]], int], prompts: Sequence[list[int]]) -> float:
    """Tokens that `decode` makes of the prompts, one at a time, over the seconds it takes."""
    started = time.perf_counter()
    made = sum(decode(prompt) for prompt in prompts)
    return made / (time.perf_counter() - started)


def _table(figures: Mapping[str, Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="speculative decoding of the tiny teacher", title_justify="left", expand=True)
    for column in ("draft, decoding", "plain, tokens/s", "speculative", "speed-up", "accepted", "foretold"):
        table.add_column(column, justify="left" if column.startswith("draft") else "right")
    for name, found in figures.items():
        table.add_row(
            name,
            f"{found['plain_tokens_per_second']:,.0f}",
            f"{found['speculative_tokens_per_second']:,.0f}",
            f"{found['speed_up']:.2f}",
            f"{found['acceptance']:.1%}",
            f"{found['foretold_speed_up']:.2f}",
        )
    return table
