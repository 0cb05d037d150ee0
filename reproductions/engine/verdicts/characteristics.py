"""How the engine's intervals and verdicts behave where the truth is known: simulated worlds, fixed seeds.

A world is a table of differences, difference + seed + example + interaction, all Gaussian, and goes through the very
functions that judge recorded figures. Its unit is the standard error that the mean of such a table has at five seeds,
so that a mix says nothing but where the noise is. `kd check --statistics` prints `page`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reproductions.engine.metrics import ECE_BINS, Array
from reproductions.engine.verdicts import statistics, words
from reproductions.engine.verdicts.statistics import Estimate

EXAMPLES = 60
UNIT_SEEDS = words.LOOKS[0]
Judge = Callable[..., Estimate]


@dataclass(frozen=True)
class Mix:
    """Shares of the variance of a mean over five seeds and all examples."""

    name: str
    seeds: float
    examples: float
    interaction: float

    def table(self, rng: np.random.Generator, seeds: int, examples: int = EXAMPLES) -> Array:
        """Noise of mean zero, shape (seeds, examples)."""
        spread = np.sqrt(
            [UNIT_SEEDS * self.seeds, examples * self.examples, UNIT_SEEDS * examples * self.interaction]
        )
        return np.asarray(
            spread[0] * rng.standard_normal((seeds, 1))
            + spread[1] * rng.standard_normal(examples)
            + spread[2] * rng.standard_normal((seeds, examples))
        )


MIXES = (
    Mix("seeds", 0.90, 0.05, 0.05),
    Mix("examples", 0.05, 0.90, 0.05),
    Mix("interaction", 0.05, 0.05, 0.90),
    Mix("as recorded", 0.27, 0.14, 0.59),  # the median claim of the first edition
)
RECORDED = MIXES[-1]


def coverage(
    mix: Mix,
    seeds: int,
    *,
    worlds: int = 2_000,
    level: float = words.DESCRIBED,
    judge: Judge = statistics.estimate,
    seed: int = 0,
) -> float:
    """How often the interval of a mean holds the truth."""
    rng, held = np.random.default_rng([seed, seeds]), 0
    for _ in range(worlds):
        found = judge("mean", [mix.table(rng, seeds)[..., None]], [1.0], higher_is_better=True)
        held += _holds(found, 0.0, level)
    return held / worlds


def coverage_of_ratio(
    seeds: int, *, worlds: int = 1_000, level: float = words.DESCRIBED, judge: Judge = statistics.estimate
) -> float:
    """Of a difference of two ratios of sums, sum a / sum b, whose denominators vary from example to example."""
    rng, held = np.random.default_rng([1, seeds]), 0
    for _ in range(worlds):
        size = rng.lognormal(0.0, 0.5, EXAMPLES)
        shared = rng.standard_normal(EXAMPLES)
        arms = []
        for ratio in (0.8, 0.7):
            below = size * rng.lognormal(0.0, 0.1, (seeds, EXAMPLES))
            noise = 0.05 * rng.standard_normal((seeds, 1)) + 0.3 * rng.standard_normal((seeds, EXAMPLES))
            own = 0.2 * shared + 0.2 * rng.standard_normal(EXAMPLES)
            arms.append(np.stack([below * (ratio + noise + own), below], axis=-1))
        found = judge("ratio", arms, [1.0, -1.0], higher_is_better=True)
        held += _holds(found, 0.1, level)
    return held / worlds


def coverage_of_ece(
    seeds: int, *, worlds: int = 600, level: float = words.DESCRIBED, judge: Judge = statistics.estimate
) -> float:
    """Of a difference of two expected calibration errors, both overconfident in every bin."""
    rng, held, examples = np.random.default_rng([2, seeds]), 0, 400
    for _ in range(worlds):
        shared = rng.uniform(-0.05, 0.05, examples)
        arms = []
        for gap in (0.25, 0.15):
            sure = np.clip(
                0.7 + 0.15 * rng.uniform(-1, 1, examples) + rng.uniform(-0.05, 0.05, (seeds, examples)), 0, 1
            )
            chance = sure - gap - 0.02 * rng.standard_normal((seeds, 1)) + shared
            wrong_by = sure - (rng.uniform(size=(seeds, examples)) < chance)
            bins = np.clip(np.ceil(sure * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
            arms.append(np.where(bins[..., None] == np.arange(ECE_BINS), wrong_by[..., None], 0.0))
        found = judge("ece", arms, [1.0, -1.0], higher_is_better=True)
        held += _holds(found, 0.1, level)
    return held / worlds


@dataclass(frozen=True)
class Run:
    """What came of many claims with one truth: the share of each verdict, and the mean number of seeds."""

    shares: dict[str, float]
    seeds: float

    def share(self, *names: str) -> float:
        """Of these verdicts together."""
        return sum(self.shares.get(name, 0.0) for name in names)


def sequential(
    difference: float,
    smallest: float,
    mix: Mix = RECORDED,
    *,
    worlds: int = 1_000,
    looks: tuple[int, ...] = words.LOOKS,
    level: float = words.LEVEL,
    judge: Judge = statistics.estimate,
    seed: int = 3,
) -> Run:
    """Claims of a true `difference` with a smallest effect, looked at until decided or at the cap."""
    rng = np.random.default_rng([seed, len(looks)])
    counts: dict[str, int] = {}
    used = 0
    for _ in range(worlds):
        table = difference + mix.table(rng, looks[-1])
        verdict, look = words.OPEN, 0
        for look in looks:
            found = judge("mean", [table[:look, :, None]], [1.0], higher_is_better=True)
            verdict = statistics.decide_at(found, smallest=smallest, level=level)
            if verdict != words.OPEN:
                break
        counts[verdict] = counts.get(verdict, 0) + 1
        used += look
    return Run({name: count / worlds for name, count in counts.items()}, used / worlds)


def page() -> Iterator[str]:
    """One page, 80 columns: coverage, errors, power, what is assumed."""
    yield "HOW INTERVALS AND VERDICTS BEHAVE WHERE THE TRUTH IS KNOWN"
    yield "simulated with fixed seeds; a difference's unit: its standard error at 5 seeds"
    yield ""
    yield _row("coverage of the 95 % interval, in %", [f"{look} seeds" for look in words.LOOKS])
    for mix in MIXES:
        told = f"mean, noise {mix.seeds:.0%} / {mix.examples:.0%} / {mix.interaction:.0%}"
        yield _row(told, [_percent(coverage(mix, look, worlds=1_000)) for look in words.LOOKS])
    yield _row(
        "difference of two ratios", [_percent(coverage_of_ratio(look, worlds=400)) for look in words.LOOKS]
    )
    yield _row("difference of calibration errors", [_percent(coverage_of_ece(5, worlds=300))])
    yield "  noise: of seeds / of examples / of both together, as shares of the variance"
    yield ""
    looks = ", ".join(map(str, words.LOOKS))
    yield f"verdicts in % of claims; looks at {looks} seeds, each at {100 * words.LEVEL:.4g} %"
    names = (*words.DECIDED, words.OPEN)
    yield _row("true difference", ["repro-", "weaker", "no dif-", "re-", "open", "seeds"], 9)
    yield _row("  (in units; matters from)", ["duced", "", "ference", "versed", "", "(mean)"], 9)
    for smallest in (1.0, 2.0, 3.0):
        for share in (0.0, 0.5, 1.0, 2.0):
            run = sequential(share * smallest, smallest, worlds=400)
            cells = [_percent(run.share(name)) for name in names]
            yield _row(f"  {share * smallest:g} ({smallest:g})", [*cells, f"{run.seeds:.1f}"], 9)
    yield ""
    null = sequential(0.0, 1e-9, worlds=2_000)
    edge = sequential(1.0, 1.0, worlds=2_000)
    directed = null.share(words.REPRODUCED, words.WEAKER, words.REVERSED)
    yield f"type I error: {_percent(directed)} % of claims about equal arms get a direction where"
    yield "  nothing else stops them (at most 5 %, Bonferroni over the looks)"
    missed = edge.share(words.NO_DIFFERENCE, words.WEAKER)
    yield f"at the margin: {_percent(missed)} % are wrongly called no difference or weaker (at most 2.5 %)"
    yield ""
    yield "assumed: seeds are independent, their means nearly Gaussian; the examples are a"
    yield "sample of those that matter; the bins of a calibration error lie clear of zero."
    yield "data, split and sweep are drawn once for a testbed, and so is a teacher that is"
    yield "not declared otherwise: a verdict holds for these."


def _row(name: str, cells: Sequence[str], size: int = 10) -> str:
    return f"{name:{80 - 6 * 9 if size == 9 else 38}}" + "".join(f"{cell:>{size}}" for cell in cells)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _holds(found: Estimate, truth: float, level: float) -> bool:
    interval = found.interval(level)
    return interval is not None and interval[0] <= truth <= interval[1]
