"""`kd bench --evidence`: how much a CPU minute says about a contrast, in the first edition's way and in today's.

Evidence is the inverse variance of a contrast's mean over seeds and words. Both ways train and measure the same arms
from the same starts and teacher in one process, taking turns. The first edition's way: 600 words with two samples each,
every metric in every run and in its learning curve, models decode by their own forward pass, the teacher is asked anew
about rows and words that it was asked about before. Today's: all held-out words with eight samples, the metrics that
claims read, a written-out decoder, the teacher's states and answers once for all runs; making them counts.

The variance of a mean of differences D[seed, word] is that of seeds / S + words / E + both / (S E), by the moments of a
two-way table. The seeds' part is the students', whoever measures them: it is taken from today's measurement for both.
"""

from __future__ import annotations

import argparse
import gc
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any
from unittest import mock

from tools.bench.measure import publish

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

WORDS, TEACHER_STEPS, SEEDS = {"first edition": 600, "now": 3949}, 400, 4
SAMPLES = {"first edition": 2, "now": 8}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "sft": {"terms": [{"term": "next-token"}]},
    "forward KL": {"teacher": "main", "terms": [{"divergence": "forward_kl"}]},
    "reverse KL, on policy": {
        "teacher": "main",
        "sampler": "on-policy",
        "terms": [{"divergence": "reverse_kl"}],
    },
}
CONTRASTS = (("forward KL", "sft"), ("reverse KL, on policy", "forward KL"))
# What the first edition sampled and what takes its place: quality under sampling, right when sampled, right greedily.
METRICS = {
    "ROUGE-L": ("rouge_l", "rouge_l"),
    "exact match": ("exact_match", "expected_exact_match"),
    "greedy exact match": ("greedy_exact_match", "greedy_exact_match"),
}
LEAST = 1e-9  # a variance; of --quick, whose students are never right
READ_NOW = {
    "answers": {
        "sampled": ["rouge_l"],
        "greedy": ["exact_match"],
        "expected": ["exact_match"],
        "calibration": None,
    },
    "excess-error": None,
}
Table = dict[tuple[str, int], dict[str, Any]]  # (arm, seed) -> columns


def run(args: argparse.Namespace, console: Console, record: dict[str, Any]) -> int:
    """Train and measure both ways, print, and record if asked."""
    import torch

    torch.set_num_threads(1)
    seeds, steps = (2, 20) if args.quick else (SEEDS, TEACHER_STEPS)
    figures = compared(seeds, steps, console, quick=args.quick)
    console.print(_table(figures))
    del record["cases"]
    record |= {
        "what": "inverse variance of fixed contrasts on the pronunciation testbed per CPU minute, one thread",
        "teacher_steps": steps,
        "seeds": seeds,
        **figures,
    }
    publish(record, "evidence-tiny-cpu", args, console)
    return 0


def compared(seeds: int, teacher_steps: int, console: Console, *, quick: bool = False) -> dict[str, Any]:
    """Seconds a run and evidence per CPU minute of both ways, by contrast and metric; their ratio."""
    import tempfile
    from pathlib import Path

    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="kd-atlas-evidence-") as cache:
        beds = {way: _testbed(way, teacher_steps, quick=quick) for way in WORDS}
        with console.status("a teacher and the common starts"), redirect_stdout(io.StringIO()):
            for seed in range(seeds):  # both ways begin with them
                for bed in beds.values():
                    one = _run(bed, "sft", seed, Path(cache), quick=quick)
                    bed.sft_start(one), bed.teacher(one)
        measured: dict[str, Table] = {way: {} for way in WORDS}
        spent: dict[str, dict[tuple[str, int], float]] = {way: {} for way in WORDS}
        for seed in range(-1, seeds):  # the first is a warm-up, for imports and tokenised rows
            for arm in ARMS:
                for way, bed in beds.items():
                    with console.status(f"{arm}, seed {max(seed, 0)}, {way}"):
                        made = _run(bed, arm, max(seed, 0), Path(cache), quick=quick, apart=seed < 0)
                        columns, seconds = _timed(made, way)
                    if seed >= 0:
                        measured[way][arm, seed], spent[way][arm, seed] = columns, seconds
    return summary(measured, spent, seeds)


def summary(
    measured: Mapping[str, Table], spent: Mapping[str, Mapping[tuple[str, int], float]], seeds: int
) -> dict[str, Any]:
    """Both ways beside each other: CPU seconds by arm, and the evidence of each contrast."""
    import numpy as np

    seconds = {
        way: {arm: round(float(np.mean([one[arm, seed] for seed in range(seeds)])), 2) for arm in ARMS}
        for way, one in spent.items()
    }
    rows = []
    for better, worse in CONTRASTS:
        for title, names in METRICS.items():
            tables = {
                way: np.stack(
                    [
                        np.subtract(table[better, seed][name], table[worse, seed][name])
                        for seed in range(seeds)
                    ]
                )
                for (way, table), name in zip(measured.items(), names, strict=True)
            }
            of_seeds = parts(tables["now"])[0]
            row: dict[str, Any] = {"contrast": f"{better} - {worse}", "metric": title}
            for way, table in tables.items():
                minutes = sum(spent[way][arm, s] for arm in (better, worse) for s in range(seeds)) / 60
                variance = max(variance_of_mean(table, of_seeds), LEAST)
                row[way] = {
                    "difference": round(float(table.mean()), 3),
                    "standard_error": round(math.sqrt(variance), 4),
                    "evidence_per_minute": round(1 / variance / minutes, 3),
                }
            row["ratio"] = round(
                row["now"]["evidence_per_minute"] / row["first edition"]["evidence_per_minute"], 2
            )
            rows.append(row)
    ratio = math.exp(sum(math.log(row["ratio"]) for row in rows) / len(rows))
    return {"cpu_seconds_a_run": seconds, "contrasts": rows, "ratio": round(ratio, 2)}


def parts(table: np.ndarray) -> tuple[float, float, float]:
    """Variances of seeds, of words and of both together (their interaction), from differences (S, E); at least 0."""
    import numpy as np

    seeds, words = table.shape
    whole, by_seed, by_word = table.mean(), table.mean(1), table.mean(0)
    of_seeds = words * np.square(by_seed - whole).sum() / (seeds - 1)
    of_words = seeds * np.square(by_word - whole).sum() / (words - 1)
    rest = np.square(table - by_seed[:, None] - by_word[None] + whole).sum() / ((seeds - 1) * (words - 1))
    return max(0.0, (of_seeds - rest) / words), max(0.0, (of_words - rest) / seeds), float(rest)


def variance_of_mean(table: np.ndarray, of_seeds: float) -> float:
    """Of the mean of differences (S, E), where that of the seeds is known from elsewhere."""
    seeds, words = table.shape
    _, of_words, both = parts(table)
    return of_seeds / seeds + of_words / words + both / (seeds * words)


def _testbed(way: str, teacher_steps: int, *, quick: bool) -> Any:
    from reproductions.testbeds import changed, load_testbed, read_testbed

    words = WORDS[way] // 20 if quick else WORDS[way]
    spec = changed(
        read_testbed("pronunciation"),
        {"task": {"test_words": words}, "revision": None, "decoding": {"samples": SAMPLES[way]}},
    )
    spec["teachers"]["main"]["training"]["max_steps"] = teacher_steps
    if way == "now":
        spec = changed(spec, {"metrics": READ_NOW})
    return load_testbed(spec)


def _run(bed: Any, arm: str, seed: int, cache: Any, *, quick: bool, apart: bool = False) -> Any:
    import torch

    from methods.recipe import canonical_method
    from reproductions.engine.work.artifacts import Artifacts
    from reproductions.engine.work.run import Run

    defaults = dict(bed.spec["defaults"])
    training = {**defaults["training"], "learning_rate": 4.0e-3}
    if quick or apart:
        training["max_steps"] = 8
    if quick:
        defaults["sft_start"] = {**defaults["sft_start"], "max_steps": 8}
    spec = {**defaults, "training": training, "method": canonical_method(ARMS[arm])}
    return Run(spec, seed, testbed=bed, device=torch.device("cpu"), artifacts=Artifacts(cache), arm=arm)


def _timed(run: Any, way: str) -> tuple[dict[str, Any], float]:
    """Columns of a run made in one of the ways, and its CPU seconds."""
    from reproductions.engine.work.execute import execute

    with redirect_stdout(io.StringIO()), _first_edition() if way != "now" else _frozen():
        began = time.process_time()
        made = execute(run)
        seconds = time.process_time() - began
        gc.collect()
    return made["examples"], seconds


@contextmanager
def _frozen() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _first_edition() -> Iterator[None]:
    """No written-out decoder, nothing of a teacher's that was made before."""
    from methods.modeling import decoder
    from reproductions.engine.work import surroundings
    from reproductions.engine.work.shared import Shared
    from reproductions.metrics.decoding import sampling

    def anew(shared: Any, kind: str, key: Any, build: Any, limit: int) -> Any:
        return build(shared._run)

    with ExitStack() as patches:
        for module in (decoder, sampling):
            patches.enter_context(mock.patch.object(module, "is_written_out", lambda model: False))
        patches.enter_context(mock.patch.object(surroundings, "LARGEST_TABLE", 0))
        patches.enter_context(mock.patch.object(Shared, "tensors", anew))
        yield


def _table(figures: Mapping[str, Any]) -> Any:
    from rich.table import Table

    ways: Sequence[str] = tuple(WORDS)
    seconds = figures["cpu_seconds_a_run"]
    said = "; ".join(f"{way}: " + ", ".join(f"{a} {s:.1f}" for a, s in seconds[way].items()) for way in ways)
    table = Table(
        title=f"evidence per CPU minute: {figures['ratio']} times the first edition's",
        caption=f"CPU seconds a run. {said}",
        title_justify="left",
        caption_justify="left",
        expand=True,
    )
    for column in ("contrast", "metric", *(f"s.e., {way}" for way in ways), "evidence, times"):
        table.add_column(column, justify="left" if column in ("contrast", "metric") else "right")
    for row in figures["contrasts"]:
        table.add_row(
            row["contrast"],
            row["metric"],
            *(f"{row[way]['standard_error']:.3f}" for way in ways),
            f"{row['ratio']:.1f}",
        )
    return table
