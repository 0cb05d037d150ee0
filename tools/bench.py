"""`kd bench`: time and memory of the fused loss beside other implementations and beside the four-GEMM floor.

Every implementation gets the same hidden states and heads and must give the same gradient. In one process they
take turns and the fastest turn of each counts, so that a busy machine slows all alike; on the CPU time is process
time and peak memory is measured in a fork, where only that implementation has run.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 4  # sequences; the second half of each is its completion
OURS, FLOOR = "KD Atlas, fused", "four GEMMs (floor)"
# TRL's and Liger's `beta` for each of our divergences.
BETA = {"forward_kl": 0.0, "jensen_shannon": 0.5}
# GKD keeps about this many fp32 tensors of (positions, V) alive at its peak.
GKD_TENSORS = 16


@dataclass(frozen=True)
class Case:
    """What is measured: `positions` in all, half of them completion."""

    vocabulary: int
    positions: int
    student_width: int
    teacher_width: int
    divergence: str
    dtype: str
    device: str


@dataclass(frozen=True)
class Result:
    """One implementation on one case; None where it cannot be had."""

    implementation: str
    seconds: float | None
    peak_bytes: int | None
    gradient_error: float | None  # relative, against ours
    note: str = ""


@dataclass
class Problem:
    """Hidden states `(B, L, H)`, heads `(V, H)`, labels `(B, L)` that are -100 outside the completion."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor
    divergence: str

    @property
    def count(self) -> int:
        """Completion positions."""
        return int((self.labels != -100).sum())


Loss = Callable[[Problem], "Tensor"]


def ours(problem: Problem) -> Tensor:
    """The fused loss of this library."""
    from methods.fused import Head, linear_divergence

    loss = linear_divergence(
        problem.hidden, Head(problem.weight), problem.teacher_hidden, Head(problem.teacher_weight),
        problem.labels != -100, divergence=problem.divergence,
    )  # fmt: skip
    return loss.total / problem.count


def trl_full_logits() -> Loss:
    """Full logits of both models and the generalised JSD, as GKDTrainer does."""
    import torch

    gkd = importlib.import_module("trl.experimental.gkd.gkd_trainer").GKDTrainer

    def loss(problem: Problem) -> Tensor:
        logits = problem.hidden @ problem.weight.t()
        with torch.no_grad():
            teacher_logits = problem.teacher_hidden @ problem.teacher_weight.t()
        return gkd.generalized_jsd_loss(
            student_logits=logits, teacher_logits=teacher_logits, labels=problem.labels,
            beta=BETA[problem.divergence], num_items_in_batch=problem.count,
        )  # fmt: skip

    return loss


def trl_chunked() -> Loss:
    """The chunked kernel as DistillationTrainer calls it: all positions, except where Triton runs."""
    kernel = importlib.import_module("trl.kernels.chunked_divergence")

    def loss(problem: Problem) -> Tensor:
        valid = (problem.labels != -100).reshape(-1)
        hidden = problem.hidden.reshape(-1, problem.hidden.shape[-1])
        teacher_hidden = problem.teacher_hidden.reshape(-1, problem.teacher_hidden.shape[-1])
        compact = hidden.device.type == "cuda"
        if compact:
            hidden, teacher_hidden = hidden[valid], teacher_hidden[valid]
        values, _ = kernel.ChunkedDivergenceFunction.apply(
            hidden,
            problem.weight,
            None,
            teacher_hidden,
            problem.teacher_weight,
            None,
            BETA[problem.divergence],
        )
        return (values if compact else values.masked_fill(~valid, 0)).sum() / problem.count

    return loss


def liger_chunked(compiled: bool) -> Loss:
    """Liger's chunked JSD in torch; all positions, labels mask the rest."""
    losses = importlib.import_module("liger_kernel.chunked_loss")

    def loss(problem: Problem) -> Tensor:
        module = losses.LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA[problem.divergence], compiled=compiled
        )
        return module(
            problem.hidden.reshape(-1, problem.hidden.shape[-1]), problem.weight,
            problem.teacher_hidden.reshape(-1, problem.teacher_hidden.shape[-1]), problem.teacher_weight,
            problem.labels.reshape(-1),
        )  # fmt: skip

    return loss


# title -> (how to get it, what to say where it is missing)
PEERS: dict[str, tuple[Callable[[], Loss], str]] = {
    "TRL GKD, full logits": (trl_full_logits, "not in this TRL"),
    "TRL Distillation, chunked": (trl_chunked, "not in this TRL"),
    "Liger chunked, torch": (lambda: liger_chunked(False), "not installed"),
}


def make_problem(case: Case) -> Problem:
    """Seeded hidden states and heads; logits of a spread that a trained model has.

    Made in place: a temporary of a head's size would raise the peak that memory is measured from.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.empty(*shape, dtype=dtype).normal_(0, scale, generator=generator).to(case.device)

    length = case.positions // BATCH
    hidden = normal(BATCH, length, case.student_width).requires_grad_()
    weight = normal(case.vocabulary, case.student_width, scale=2 * case.student_width**-0.5).requires_grad_()
    teacher_hidden = normal(BATCH, length, case.teacher_width)
    teacher_weight = normal(case.vocabulary, case.teacher_width, scale=2 * case.teacher_width**-0.5)
    labels = torch.full((BATCH, length), -100)
    labels[:, length // 2 :] = 0
    return Problem(hidden, weight, teacher_hidden, teacher_weight, labels.to(case.device), case.divergence)


def floor(problem: Problem) -> Callable[[], None]:
    """The four matrix products no such loss can do without, into buffers that exist already."""
    import torch

    with torch.no_grad():
        rows = min(problem.count, 512)
        hidden = problem.hidden.detach().reshape(-1, problem.hidden.shape[-1])[: problem.count]
        teacher = problem.teacher_hidden.reshape(-1, problem.teacher_hidden.shape[-1])[: problem.count]
        weight, logits = problem.weight.detach(), hidden.new_empty(rows, len(problem.weight))
        gradient, hidden_gradient = torch.zeros_like(weight), hidden.new_empty(rows, hidden.shape[-1])

    def products() -> None:
        with torch.no_grad():
            for start in range(0, len(hidden), rows):
                chunk, teacher_chunk = hidden[start : start + rows], teacher[start : start + rows]
                n = len(chunk)
                torch.mm(teacher_chunk, problem.teacher_weight.t(), out=logits[:n])
                torch.mm(chunk, weight.t(), out=logits[:n])
                torch.mm(logits[:n], weight, out=hidden_gradient[:n])
                torch.mm(logits[:n].t(), chunk, out=gradient)

    return products


def gradients(problem: Problem, loss: Loss) -> tuple[Tensor, Tensor]:
    """One step: gradients of the hidden states and of the head."""
    loss(problem).backward()
    hidden, weight = problem.hidden.grad, problem.weight.grad
    problem.hidden.grad = problem.weight.grad = None
    assert hidden is not None and weight is not None
    return hidden, weight


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
    reference = {n: gradients(p, ours) for n, p in problems.items()}
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
        bytes_ = _peak_on_cuda(share, loss) if case.device == "cuda" else _peak_in_fork(share, loss)
        if bytes_ is not None:
            peaks[name] = bytes_ * parts
    return peaks


def _warm_up(case: Case, loss: Loss) -> None:
    """A step on a small problem: the libraries and workspaces that it loads are not the loss."""
    gradients(make_problem(replace(case, vocabulary=64, positions=8 * BATCH)), loss)


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


def _peak_in_fork(case: Case, loss: Loss) -> int | None:
    """None where the child was killed (out of memory). The parent must not have run a step: its heap would help."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_peak_in_child, args=(sender, case, loss))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        child.join()


def _peak_in_child(sender: Any, case: Case, loss: Loss) -> None:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    _warm_up(case, loss)
    problem = make_problem(case)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gradients(problem, loss)
    sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)


def options(parser: argparse.ArgumentParser) -> None:
    """The command line of `kd bench`."""
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds instead of minutes")
    parser.add_argument("--vocab", type=int, nargs="+", metavar="V", help="vocabulary sizes (32000 128256)")
    parser.add_argument("--rows", type=int, metavar="N", help="completion positions, half of all (1024)")
    parser.add_argument("--widths", type=int, nargs=2, metavar=("S", "T"), help="hidden sizes (256 512)")
    parser.add_argument("--divergence", nargs="+", choices=sorted(BETA), help="which (both)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of hidden states and heads")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=4, help="turns of each implementation (4)")
    parser.add_argument("--record", action="store_true", help="write benchmarks/fused-<device>-<dtype>.json")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def main(argv: Sequence[str] | argparse.Namespace | None = None) -> int:
    """Measure, print, and record if asked; 1 if two implementations disagree in gradient, 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="kd bench", description=(__doc__ or "").split("\n\n")[0])
    options(parser)
    given = argv if isinstance(argv, argparse.Namespace) else parser.parse_args(argv)
    args = parser.parse_args([], namespace=given)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        print("kd bench: --device cuda, but torch sees no CUDA device.", file=sys.stderr)
        return 2
    cases = list(_cases(args))
    if any(case.positions < 2 * BATCH or case.vocabulary < 2 for case in cases):
        print(f"kd bench: --rows must be at least {BATCH} and --vocab at least 2.", file=sys.stderr)
        return 2
    console = Console(width=80, stderr=args.json)
    record = _environment(args)
    agree = True
    torch.set_num_threads(1)
    peaks = {}
    for case in cases:  # all of them before anything is timed: see _peak_in_fork
        with console.status(f"memory: vocabulary {case.vocabulary}, {case.divergence}"):
            peaks[case] = peak_memory(case)
    for case in cases:
        with console.status(f"time: vocabulary {case.vocabulary}, {case.divergence}"):
            results = list(measure(case, peaks[case], args.repeats, budget=2.0 if args.quick else 20.0))
        console.print(_table(case, results))
        record["cases"].append({**asdict(case), "results": [asdict(result) for result in results]})
        limit = 1e-3 if case.dtype == "float32" else 0.2
        agree = agree and all((result.gradient_error or 0) < limit for result in results)
    if args.record:
        path = Path(__file__).parents[1] / "benchmarks" / f"fused-{args.device}-{cases[0].dtype}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        console.print(f"recorded in {path.relative_to(path.parents[1])}")
    if args.json:
        print(json.dumps(record))
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


def _environment(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    cuda = args.device == "cuda"
    return {
        "schema": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "threads": 1,
        "versions": {name: installed(name) for name in ("torch", "trl", "liger-kernel")},
        "python": platform.python_version(),
        "cases": [],
    }


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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


if __name__ == "__main__":
    sys.exit(main())
