"""The golden vectors, and what each convention makes of them.

`vectors.json` holds, for every problem, each position's divergence and its gradient in float64 (its own "about" says
how to read it; tests/methods/losses/conformance/golden.py makes it without this library). A convention is one choice
on each of the five AXES; `candidates` lists what all of them give for one call, wrong ones included: that is how a
function that computes something else is told what it computes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

FILE = Path(__file__).with_name("vectors.json")
#: The choices on each axis, the first of several that give the same standing first, and what each means.
AXES: dict[str, dict[str, str]] = {
    "divergence": {
        "forward-kl": "KL(teacher || student), mode-covering",
        "reverse-kl": "KL(student || teacher), mode-seeking",
        "cross-entropy": "forward KL without the teacher's entropy: the same gradient, not 0 at equality",
        "total-variation": "half the sum of |p - q|",
        "jsd": "w KL(teacher || m) + (1 - w) KL(student || m), w the teacher's share of m; 0 at w = 0 and 1",
        "jsd-kl-ends": "jsd, but forward KL at w = 0 and reverse KL at w = 1",
        "jsd-mirrored": "jsd with w the student's share of m",
        "jsd-mirrored-kl-ends": "jsd with w the student's share of m, but reverse KL at w = 0, forward at 1",
        "kl-blend": "w forward KL + (1 - w) reverse KL, no mixture m",
        "kl-blend-mirrored": "(1 - w) forward KL + w reverse KL, no mixture m",
        "skew-forward-kl": "KL(teacher || m), s the teacher's share of m",
        "skew-reverse-kl": "KL(student || m), s the student's share of m",
        "skew-forward-kl-mirrored": "KL(teacher || m), s the student's share of m",
        "skew-reverse-kl-mirrored": "KL(student || m), s the teacher's share of m",
    },
    "temperature": {
        "both": "the logits of student and teacher are divided by T",
        "student-only": "the student's logits alone are divided by T",
        "teacher-only": "the teacher's logits alone are divided by T",
        "unheated": "nothing is divided by T",
    },
    "factor": {
        "T^0": "not multiplied by T^2: the gradient shrinks as T grows",
        "T^1": "multiplied by T",
        "T^2": "multiplied by T^2: the gradient keeps its size as T grows",
    },
    "reduction": {
        "token-mean": "the mean over tokens",
        "sequence-mean": "the mean over sequences of their token means, one without tokens counted as 0",
        "filled-sequence-mean": "the mean of token means over the sequences that have tokens",
        "batch-mean": "the sum over tokens divided by the number of sequences",
        "element-mean": "the token mean divided by the size of the vocabulary",
        "sum": "the sum over tokens",
        "unreduced": "one value a position",
    },
    "padding": {
        "ignored": "padding adds nothing and is not counted",
        "zeroed": "padding adds nothing, but is counted in the mean",
        "included": "padding is averaged in like any token",
        "shifted": "the mask is moved by one position inside: the caller must not shift",
    },
}
FACTORS = {"T^0": 0, "T^1": 1, "T^2": 2}
HEATED = {
    "both": (True, True),
    "student-only": (True, False),
    "teacher-only": (False, True),
    "unheated": (False, False),
}
#: What a function that has no such setting is taken to have, and what one that has it gets where a run names none.
WEIGHT, SKEW = 0.5, 0.1
OFF_CENTRE = 0.9  # where a mirrored weight shows


class Convention(NamedTuple):
    """A choice on every axis."""

    divergence: str
    temperature: str
    factor: str
    reduction: str
    padding: str


@dataclass(frozen=True)
class Run:
    """One call: a problem with settings. `edge` names what it is about besides the five axes."""

    name: str
    problem: str
    temperature: float = 1.0
    weight: float | None = None
    skew: float | None = None
    top_k: int | None = None
    edge: str | None = None


@dataclass(frozen=True)
class Problem:
    """Logits `(B, T, V)` in float64, of which student and teacher may have other V, and the mask `(B, T)`."""

    student: Tensor
    teacher: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Candidates:
    """What N conventions give for a run: `values` (N,), `gradients` (N, B, T, V) in the student's logits."""

    conventions: tuple[Convention, ...]
    edges: tuple[str, ...]  # of each, the choice that the run is about, or ""
    values: Tensor
    gradients: Tensor


def runs() -> list[Run]:
    """Every call of the file."""
    return [Run(**one) for one in _file()["runs"]]


def problem(name: str) -> Problem:
    """Logits and mask of a problem; tensors of the caller's own."""
    one = _file()["problems"][name]
    return Problem(_logits(one["student"]), _logits(one["teacher"]), torch.tensor(one["mask"]).bool())


def position_values(
    name: str, divergence: str, share: float | None = None, **where: Any
) -> tuple[Tensor, Tensor]:
    """Values `(B, T)` and gradients `(B, T, V)` of a case; `where` may name `temperatures` and `support`."""
    return _cases()[
        (name, *where.get("temperatures", (1.0, 1.0)), where.get("support", "all"), divergence, share)
    ]


@cache
def candidates(run: Run, varied: str = "") -> Candidates:
    """What every convention gives; `varied` is "weight" or "skew" where the function has such a setting."""
    parts = {name: _made_of(name, run, varied) for name in AXES["divergence"]}
    ways, weights = _reductions(run.problem)
    sizes = torch.tensor([run.temperature**power for power in FACTORS.values()], dtype=torch.float64)
    conventions: list[Convention] = []
    edges: list[str] = []
    values, gradients = [], []
    for heated, (student, teacher) in HEATED.items():
        hot = run.temperature
        for support in _supports(run):
            key = (run.problem, hot if student else 1.0, hot if teacher else 1.0, support)
            for name, terms in parts.items():
                cases = [_cases().get((*key, *term)) for _, term in terms]
                if not terms or any(case is None for case in cases):
                    continue
                value, slope = _sum(terms, cases)
                # 0 x infinity is 0 here: a position that is left out adds nothing.
                sums = torch.where(weights > 0, weights * value, 0).sum((-2, -1))
                slopes = torch.where(weights[..., None] > 0, weights[..., None] * slope, 0)
                values.append((sums[:, None] * sizes).flatten())
                gradients.append((slopes[:, None] * sizes[:, None, None, None]).flatten(0, 1))
                made = [Convention(name, heated, factor, *way) for way in ways for factor in FACTORS]
                conventions += made
                edges += ["" if support == "all" else support] * len(made)
    return Candidates(tuple(conventions), tuple(edges), torch.cat(values), torch.cat(gradients))


@cache
def _reductions(name: str) -> tuple[list[tuple[str, str]], Tensor]:
    """(reduction, padding), and the coefficients of each, (R, B, T)."""
    found = {
        (reduction, padding): coefficients
        for reduction, ways in _file()["coefficients"][name].items()
        for padding, coefficients in ways.items()
    }
    return list(found), torch.tensor(list(found.values()), dtype=torch.float64)


def _made_of(name: str, run: Run, varied: str) -> list[tuple[float, tuple[str, float | None]]]:
    """A named divergence as a sum of cases, (factor, (divergence of the file, share)); none where it is no question."""
    weight = WEIGHT if varied != "weight" else OFF_CENTRE if run.weight is None else run.weight
    skew = SKEW if varied != "skew" or run.skew is None else run.skew
    base, mirrored = name.removesuffix("-kl-ends").removesuffix("-mirrored"), "-mirrored" in name
    if base.startswith("skew"):
        return [(1.0, (base, round(1 - skew, 9) if mirrored else skew))]
    if base not in ("jsd", "kl-blend"):
        return [(1.0, (base, None))]
    if name not in ("jsd", "kl-blend") and varied != "weight":
        return []  # at one half they are the same
    teachers = round(1 - weight, 9) if mirrored else weight
    if base == "kl-blend":
        return [(teachers, ("forward-kl", None)), (1 - teachers, ("reverse-kl", None))]
    if name.endswith("-kl-ends") and teachers in (0, 1):
        return [(1.0, ("reverse-kl" if teachers else "forward-kl", None))]
    return [(1.0, (base, teachers))]


def _sum(terms: list, cases: list) -> tuple[Tensor, Tensor]:
    values = sum(factor * case[0] for (factor, _), case in zip(terms, cases, strict=True) if factor)
    gradients = sum(factor * case[1] for (factor, _), case in zip(terms, cases, strict=True) if factor)
    assert isinstance(values, Tensor) and isinstance(gradients, Tensor)
    return values, gradients


@cache
def _supports(run: Run) -> tuple[str, ...]:
    """Those that a run may be about, in the file's order."""
    ours = {one["support"] for one in _file()["cases"] if one["problem"] == run.problem}
    kept = [name for name in ours if (":" in name) == (run.top_k is not None)]
    order = [one["support"] for one in _file()["cases"]]
    return tuple(sorted(kept, key=order.index))


@cache
def _file() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


@cache
def _cases() -> dict[tuple, tuple[Tensor, Tensor]]:
    return {
        (one["problem"], *one["temperatures"], one["support"], one["divergence"], one["share"]): (
            _tensor(one["values"], torch.inf),
            _tensor(one["gradients"], torch.nan),
        )
        for one in _file()["cases"]
    }


def _logits(found: list) -> Tensor:
    return _tensor(found, -torch.inf)


def _tensor(found: list, null: float) -> Tensor:
    """A nested list as float64, `null` for null."""

    def filled(part: Any) -> Any:
        return [filled(one) for one in part] if isinstance(part, list) else null if part is None else part

    return torch.tensor(filled(found), dtype=torch.float64)
