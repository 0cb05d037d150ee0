"""Arms that no training made, for the atlas: an arm is its method, its figures are drawn around a level."""

from __future__ import annotations

import numpy as np

from reproductions.engine.atlas.entrants import Names, leagues
from reproductions.engine.metrics import Metric, values
from reproductions.engine.store.arm import ArmResults, RunResults

METRICS = {
    "greedy_exact_match": Metric("mean", ("greedy_exact_match",), True, "exact match, greedy", "%"),
    "exact_match": Metric("mean", ("exact_match",), True, "exact match, sampled", "%"),
    "ece": Metric("ece", ("confidence", "correct"), False, "calibration"),
}
NOBODY = Names({}, {})


def method(terms=({"term": "next-token"},), **more):
    """A canonical method."""
    return {
        "trainer": {"name": "distillation"},
        "data": "train",
        "teachers": [],
        "terms": list(terms),
        **more,
    }


def spec(how, *, rate=0.004, steps=100, batch=32, start=400, student=None, bed=None, teachers=None):
    """What an arm computes, as far as the atlas reads it."""
    return {
        "version": 3,
        "testbed": {
            "task": {"name": "toy"},
            "revision": "r",
            "students": {"main": {"shape": 1}},
            "teachers": teachers or {},
            **(bed or {}),
        },
        "method": how,
        "start": "sft",
        "sft_start": {"max_steps": start},
        "training": {"max_steps": steps, "per_device_train_batch_size": batch, "learning_rate": rate},
        **({"student": student} if student else {}),
    }


def arm(
    key,
    how,
    level,
    *,
    seeds=range(5),
    examples=40,
    noise=1.0,
    shift=0.0,
    claims=(),
    metrics=METRICS,
    testbed="toy",
    **more,
):
    """An arm whose runs are right about as often as `level` says; seed and example effects are every arm's alike."""
    runs = {}
    for seed in seeds:
        common = np.random.default_rng([7, seed]).normal(0, 3, examples)
        own = np.random.default_rng([*map(ord, key), seed]).normal(0, noise, examples)
        columns = {"greedy_exact_match": level + common + own}
        columns["exact_match"] = columns["greedy_exact_match"] - 10 + shift
        columns["confidence"] = np.full(examples, 0.5 + shift / 100)
        columns["correct"] = np.ones(examples)
        used = {name for metric in metrics.values() for name in metric.columns}
        columns = {name: column for name, column in columns.items() if name in used}
        runs[seed] = RunResults(
            seed, values(metrics, columns), columns, [], {}, {}, {}, "", definitions=metrics
        )
    frozen = {f"{paper}/tiny": {} for paper in claims}
    return ArmResults(key, spec(how, **more), testbed, "r", metrics, runs, frozen)


def league(*arms, names=NOBODY):
    """The one league of these arms."""
    (found,) = leagues(arms, names)
    return found


def arms_at(*levels, **more):
    """An arm of another loss for each level: a0, a1 ..."""
    kinds = ("forward-kl", "reverse-kl", "jensen-shannon", "total-variation", "skew-forward-kl")
    return [
        arm(f"a{place}", method([{"divergence": kind}]), level, **more)
        for place, (kind, level) in enumerate(zip(kinds, levels, strict=False))
    ]
