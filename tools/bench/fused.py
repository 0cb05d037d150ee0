"""Time and memory of the fused loss beside other implementations and beside the four-GEMM floor.

Every implementation gets the same hidden states and heads and must give the same gradient. In one process they
take turns and the fastest turn of each counts, so that a busy machine slows all alike; on the CPU time is process
time and peak memory is measured in a fork, where only that implementation has run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tools.bench.losses import (
    BATCH,
    BETA,
    Case,
    Loss,
    floor,
    gradients,
    in_fp32,
    liger_chunked,
    make_problem,
    ours,
    trl_chunked,
    trl_full_logits,
)
from tools.bench.measure import peak_in_fork, publish

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

OURS, FLOOR = "KD Atlas, fused", "four GEMMs (floor)"
# GKD keeps about this many fp32 tensors of (positions, V) alive at its peak.
GKD_TENSORS = 16


@dataclass(frozen=True)
class Result:
    """One implementation on one case; None where it cannot be had."""

    implementation: str
    seconds: float | None
    peak_bytes: int | None
    gradient_error: float | None  # relative, against ours of the same operands in fp32
    note: str = ""


# title -> (how to get it, what to say where it is missing)
PEERS: dict[str, tuple[Callable[[], Loss], str]] = {
    "TRL GKD, full logits": (trl_full_logits, "not in this TRL"),
    "TRL Distillation, chunked": (trl_chunked, "not in this TRL"),
    "Liger chunked, torch": (lambda: liger_chunked(False), "not installed"),
}


def available(case: Case) -> tuple[dict[str, Loss], dict[str, str]]:
    """The implementations that can be had here, and why the others cannot."""
    losses: dict[str, Loss] = {OURS: ours}
    missing: dict[str, str] = {}
    for name, (get, otherwise) in _peers(case):
        try:
            losses[name] = get()
        except (ImportError, AttributeError):
            missing[name] = otherwise
    return losses, missing


def measure(case: Case, peaks: dict[str, int], repeats: int, budget: float) -> Iterator[Result]:
    """Every implementation on one case; `budget` seconds an implementation, at least one turn each."""
    losses, missing = available(case)
    parts = {name: _parts(case, name) for name in losses}
    problems = {n: make_problem(_share(case, n)) for n in set(parts.values())}
    reference = {n: gradients(in_fp32(p), ours) for n, p in problems.items()}
    steps: dict[str, Callable[[], Any]] = {FLOOR: floor(problems[parts[OURS]])}
    steps |= {name: partial(gradients, problems[parts[name]], loss) for name, loss in losses.items()}
    best, spent = dict.fromkeys(steps, float("inf")), dict.fromkeys(steps, 0.0)
    errors: dict[str, float] = {}
    for turn in range(repeats):
        for name, step in steps.items():
            if turn == 0 or spent[name] < budget:
                seconds, made = _timed(step, case.device)
                best[name], spent[name] = min(best[name], seconds), spent[name] + seconds
                if made is not None and name not in errors:
                    errors[name] = _error(made, reference[parts[name]])
                del made  # the next one's memory

    yield Result(FLOOR, best[FLOOR], None, None)
    for name in losses:
        note = "" if parts[name] == 1 else f"measured on 1/{parts[name]} of the batch, multiplied"
        yield Result(name, best[name] * parts[name], peaks.get(name), errors[name], note)
    for name, otherwise in missing.items():
        yield Result(name, None, None, None, otherwise)


def _peers(case: Case) -> Iterator[tuple[str, tuple[Callable[[], Loss], str]]]:
    yield from PEERS.items()
    if case.device == "cuda":
        yield "Liger chunked, compiled", (lambda: liger_chunked(True), "not installed")


def _parts(case: Case, name: str) -> int:
    """Into how many parts the batch must be cut for full logits to fit into half of the memory."""
    import torch

    if not name.startswith("TRL GKD"):
        return 1
    if case.device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    need, parts = GKD_TENSORS * 4 * case.positions * case.vocabulary, 1
    while need / parts > 0.5 * memory and parts < case.positions // (2 * BATCH):
        parts *= 2
    return parts


def _share(case: Case, parts: int) -> Case:
    return replace(case, positions=case.positions // parts)


def _error(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Largest relative difference in norm."""
    return max(
        float((g.double() - e.double()).norm() / e.double().norm())
        for g, e in zip(got, expected, strict=True)
    )


def _timed(step: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of one step, and what it returned."""
    import torch

    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        made = step()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000, made
    start = time.process_time()
    made = step()
    return time.process_time() - start, made


def peak_memory(case: Case) -> dict[str, int]:
    """Bytes above what the inputs take, at the highest point of one step of each implementation."""
    losses, _ = available(case)
    peaks = {}
    for name, loss in losses.items():
        parts = _parts(case, name)
        share = _share(case, parts)
        on_cuda = case.device == "cuda"
        bytes_ = _peak_on_cuda(share, loss) if on_cuda else peak_in_fork(partial(_prepared, share, loss))
        if bytes_ is not None:
            peaks[name] = bytes_ * parts
    return peaks


def _warm_up(case: Case, loss: Loss) -> None:
    """A step on a small problem: the libraries and workspaces that it loads are not the loss."""
    gradients(make_problem(replace(case, vocabulary=64, positions=8 * BATCH)), loss)


def _prepared(case: Case, loss: Loss) -> Callable[[], Any]:
    _warm_up(case, loss)
    return partial(gradients, make_problem(case), loss)


def _peak_on_cuda(case: Case, loss: Loss) -> int:
    import torch

    _warm_up(case, loss)
    problem = make_problem(case)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients(problem, loss)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def run(args: argparse.Namespace, console: Console, record: dict[str, Any]) -> int:
    """Measure, print, and record if asked; 1 where two implementations disagree in gradient, 2 on bad sizes."""
    import torch

    cases = list(_cases(args))
    if any(case.positions < 2 * BATCH or case.vocabulary < 2 for case in cases):
        print(f"kd bench: --rows must be at least {BATCH} and --vocab at least 2.", file=sys.stderr)
        return 2
    agree = True
    torch.set_num_threads(1)
    peaks = {}
    for case in cases:  # all of them before anything is timed: see peak_in_fork
        with console.status(f"memory: vocabulary {case.vocabulary}, {case.divergence}"):
            peaks[case] = peak_memory(case)
    for case in cases:
        with console.status(f"time: vocabulary {case.vocabulary}, {case.divergence}"):
            results = list(measure(case, peaks[case], args.repeats, budget=2.0 if args.quick else 20.0))
        console.print(_table(case, results))
        record["cases"].append({**asdict(case), "results": [asdict(result) for result in results]})
        limit = 1e-3 if case.dtype == "float32" else 0.2
        agree = agree and all((result.gradient_error or 0) < limit for result in results)
    publish(record, f"fused-{args.device}-{cases[0].dtype}", args, console)
    if not agree:
        print("kd bench: the implementations do not agree in gradient (see the table).", file=sys.stderr)
    return 0 if agree else 1


def _cases(args: argparse.Namespace) -> Iterator[Case]:
    cuda = args.device == "cuda"
    rows = args.rows or (32 if args.quick else 4096 if cuda else 1024)
    student, teacher = args.widths or ((16, 24) if args.quick else (2048, 4096) if cuda else (256, 512))
    dtype = args.dtype or ("bfloat16" if cuda else "float32")
    for vocabulary in args.vocab or ([997] if args.quick else [32_000, 128_256]):
        for divergence in args.divergence or sorted(BETA, reverse=True):
            yield Case(vocabulary, 2 * rows, student, teacher, divergence, dtype, args.device)


def _table(case: Case, results: list[Result]) -> Table:
    title = f"{case.divergence}, vocabulary {case.vocabulary:,}, {case.positions // 2} of {case.positions} positions"
    table = Table(title=f"{title}, {case.dtype}, {case.device}", title_justify="left", expand=True)
    for column in ("implementation", "seconds", "x ours", "peak MB", "x ours", "gradient"):
        table.add_column(column, justify="left" if column == "implementation" else "right")
    mine = next(result for result in results if result.implementation == OURS)
    for result in results:
        if result.seconds is None:
            table.add_row(result.implementation, result.note, "", "", "", "", style="dim")
            continue
        table.add_row(
            result.implementation + (" *" if result.note else ""),
            f"{result.seconds:.3f}",
            _ratio(result.seconds, mine.seconds),
            "-" if result.peak_bytes is None else f"{result.peak_bytes / 1e6:,.0f}",
            "-" if result.peak_bytes is None else _ratio(result.peak_bytes, mine.peak_bytes),
            "-" if result.gradient_error is None else f"{result.gradient_error:.0e}",
            style="bold" if result is mine else None,
        )
    notes = sorted({result.note for result in results if result.note and result.seconds is not None})
    table.caption = "* " + "; ".join(notes) if notes else None
    return table


def _ratio(value: float, ours: float | None) -> str:
    return f"{value / ours:.2f}" if ours and ours > 0 else "-"
