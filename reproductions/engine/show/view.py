"""A reproduction as its readers see it: plain frozen data, filled by `gather`, kept by `files`, printed by everybody.

README, lists, paper pages, site, `kd show`, `kd verify` and every `--json` read these classes and nothing else of a
reproduction. Nothing here reads a file; whatever is empty was not recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reproductions.engine.verdicts.words import LEVEL, NEEDS, NOT_RUN, VERDICTS, kind_of

PERCENT = f"{100 * LEVEL:.4g} %"  # of every interval of a claim
SCALES = ("tiny", "small", "paper")
# What plays the teacher, by the word that a testbed has for it.
STANDS_IN = {
    "recorded": "recorded outputs of a real language model",
    "packaged": "a real small model",
    "world": "a small model taught a task from scratch, with errors of its own",
    "oracle": "a program",
    "itself": "the student itself",
    "own": "the paper's own",
}

Interval = tuple[float, float]
Tally = dict[str, dict[str, int]]  # scale -> verdict -> how many outcomes


@dataclass(frozen=True)
class EqualSeconds:
    """The same comparison where both arms stop at the training seconds of the faster one."""

    difference: float
    interval: Interval | None
    seconds: float


@dataclass(frozen=True)
class Matched:
    """The same claim where each arm is sampled at its own best temperature."""

    verdict: str
    difference: float
    interval: Interval | None
    seeds: int


@dataclass(frozen=True)
class Outcome:
    """One claim at one scale, judged from recorded figures; a positive difference speaks for the claim.

    `better_mean` and `worse_mean` are None where the claim is no ordering of two arms. `testbed` is empty where a scale
    has one testbed only. `interval` is at PERCENT, over the `seeds` of the `look` that decided (0: none is complete);
    `next_look` is None where none is left or needed. `effect` is the smallest difference that matters, and
    `effect_from` how it came about. `p` is of a difference equal to the claim's bound, `p_equal` of one as large as the
    smallest effect. `groups`: how many draws of the teacher the seeds share, 0 where each stands for itself. `metric`:
    that of this scale, '' in views of before a claim could have several.
    """

    scale: str
    verdict: str
    better_mean: float | None
    worse_mean: float | None
    difference: float | None
    interval: Interval | None
    seeds: int
    equal_seconds: EqualSeconds | None
    explanation: str
    testbed: str = ""
    look: int = 0
    next_look: int | None = None
    p: float | None = None
    p_equal: float | None = None
    effect: float | None = None
    effect_from: str = ""
    groups: int = 0
    matched: Matched | None = None
    metric: str = ""

    @property
    def kind(self) -> str:
        """The verdict's own word: "needs" of "needs a gate"."""
        return kind_of(self.verdict)

    @property
    def has_verdict(self) -> bool:
        """Whether the figures were judged, be it with `open`."""
        return self.kind not in (NEEDS, NOT_RUN)

    @property
    def told(self) -> str:
        """The verdict, and of an open one what is to come: "open, next look at 10 seeds" or "open at the cap"."""
        if self.kind != "open":
            return self.verdict
        return f"open, next look at {self.next_look} seeds" if self.next_look else "open at the cap"


@dataclass(frozen=True)
class ClaimRow:
    """One claim with the paper's numbers and ours.

    `formula` says what is compared ("akl - sft > 0"); `within` is the bound of an equivalence, None for the others.
    """

    id: str
    statement: str
    source: str
    metric: str
    better: str
    worse: str
    margin: float
    paper_better: float | None
    paper_worse: float | None
    paper_setting: str
    outcomes: tuple[Outcome, ...]
    formula: str = ""
    within: float | None = None
    source_url: str = ""


@dataclass(frozen=True)
class ValueRow:
    """A number of the paper beside ours, at its own scale."""

    id: str
    arm: str
    metric: str
    paper: float
    tolerance: float
    mean: float | None
    interval: Interval | None
    seeds: int
    verdict: str


@dataclass(frozen=True)
class Metric:
    """A measurement: its name in claims and what a heading says."""

    name: str
    title: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Figure:
    """An arm on a metric: mean and 95 % interval over seeds, each seed's own, the paper's number where it has one."""

    metric: str
    mean: float
    interval: Interval | None
    paper: float | None
    by_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A metric while an arm trained, mean over seeds: (step, training seconds, value)."""

    metric: str
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Budget:
    """What a run of an arm used, mean over seeds; shares of completions cut off or empty, None without any."""

    student_tokens: float
    teacher_tokens: float
    generated_tokens: float
    train_seconds: float
    evaluate_seconds: float
    truncated: float | None
    empty: float | None


@dataclass(frozen=True)
class ArmRow:
    """One way of training the student; `recipe` says in one line what it computes. No figures where it was not run.

    `key` names its results, reproductions/results/<testbed>/<key>.json, where there are any.
    """

    name: str
    title: str
    role: str
    seeds: int = 0
    recipe: str = ""
    figures: tuple[Figure, ...] = ()
    budget: Budget | None = None
    curves: tuple[Curve, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class DialRow:
    """A claim's figures at one value of a dial: shown, judged nowhere but at the testbed's `own` value.

    `interval` is at PERCENT, over the `seeds`; a positive difference speaks for the claim.
    """

    dial: str
    value: str
    claim: str
    better_mean: float | None
    worse_mean: float | None
    difference: float | None
    interval: Interval | None
    seeds: int
    own: bool = False


@dataclass(frozen=True)
class ScaleRow:
    """Where and how big, and what was recorded there.

    `stands_in` is what plays the teacher, a word of STANDS_IN or '', `minutes` the time on two cores (0 unknown),
    `made` how the results came about, `results` the files of the raw figures, `dials` the same claims at other values
    of a setting of the task, by dial and value, those recorded.
    """

    name: str
    testbed: str
    minutes: float
    seeds: int
    arms: tuple[ArmRow, ...]
    metrics: tuple[Metric, ...] = ()
    headline: tuple[str, ...] = ()
    stands_in: str = ""
    made: str = ""
    results: tuple[str, ...] = ()
    dials: tuple[DialRow, ...] = ()

    @property
    def recorded(self) -> bool:
        """Whether anything was run here."""
        return bool(self.results)


@dataclass(frozen=True)
class FormerRow:
    """A claim as an earlier attempt judged it, and beside it what today's interval says of the same figures.

    `now` and `now_verdict` are None and '' where the raw figures stand in the history only; `now_verdict` is '' too
    where no smallest effect is known. `agrees`: whether the raw figures give the difference.
    """

    claim: str
    verdict: str
    difference: float
    interval: Interval | None
    now: Interval | None
    now_verdict: str
    agrees: bool


@dataclass(frozen=True)
class AttemptRow:
    """An earlier configuration under which the paper was judged; `engine` 1 is the first edition's bootstrap.

    `verdicts` are in the words of that engine. `raw`: where in the history the raw figures are, '' where they stand in
    the results.
    """

    number: int
    date: str
    engine: int
    scale: str
    testbed: str
    changed: str
    commit: str
    raw: str
    verdicts: tuple[tuple[str, int], ...]
    claims: tuple[FormerRow, ...]


@dataclass(frozen=True)
class PaperView:
    """All that is shown of a reproduction. `places` are its files by name; the digests say what it was made of.

    `attempts` are the configurations under which it was judged before; `attempt` says which one today's is and what
    changed, (0, "") where its file does not say.
    """

    paper: str
    scales: tuple[ScaleRow, ...]
    claims: tuple[ClaimRow, ...]
    values: tuple[ValueRow, ...]
    places: tuple[tuple[str, str], ...]
    claims_digest: str
    results_digest: str
    attempts: tuple[AttemptRow, ...] = ()
    attempt: tuple[int, str] = (0, "")

    @property
    def judged(self) -> bool:
        """Whether any claim has a verdict, be it that of an earlier attempt."""
        now = any(outcome.has_verdict for claim in self.claims for outcome in claim.outcomes)
        return now or bool(self.attempts)

    @property
    def recorded(self) -> tuple[ScaleRow, ...]:
        """The scales with results."""
        return tuple(scale for scale in self.scales if scale.recorded)

    def stands_in(self, scale: str) -> str:
        """What plays the teacher at a scale, in a word; '' where nobody says."""
        return next((row.stands_in for row in self.scales if row.name == scale), "")

    def tally(self) -> Tally:
        """How many outcomes of each verdict there are at each scale: scales are never pooled."""
        return tally(self.claims)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json` and for the committed file."""
        return asdict(self)


def tally(claims: Iterable[ClaimRow]) -> Tally:
    """{'tiny': {'reproduced': 7, 'reversed': 1}}: smallest scale first, only what occurs."""
    found: Tally = {}
    for claim in claims:
        for outcome in claim.outcomes:
            at = found.setdefault(outcome.scale, {})
            at[outcome.kind] = at.get(outcome.kind, 0) + 1
    return {scale: ordered(found[scale]) for scale in sorted(found, key=scale_order)}


def ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of verdicts in the order in which they are always shown."""
    return {name: counts[name] for name in VERDICTS if counts.get(name)}


def scale_order(name: str) -> tuple[int, str]:
    """Smallest scale first, `tiny` before `tiny-navigate`, its second testbed; one that nobody knows comes last."""
    kind = name.partition("-")[0]
    return (SCALES.index(kind) if kind in SCALES else len(SCALES), name)


def from_dict(plain: Mapping[str, Any]) -> PaperView:
    """The view that `as_dict` gave. Raises TypeError or KeyError where it is of another shape."""
    return PaperView(
        **{
            **plain,
            "scales": tuple(map(_scale, plain["scales"])),
            "claims": tuple(map(_claim, plain["claims"])),
            "values": tuple(
                ValueRow(**{**value, "interval": _pair(value["interval"])}) for value in plain["values"]
            ),
            "places": tuple((name, path) for name, path in plain["places"]),
            "attempts": tuple(map(_attempt, plain["attempts"])),
            "attempt": (plain["attempt"][0], plain["attempt"][1]),
        }
    )


def _attempt(plain: Mapping[str, Any]) -> AttemptRow:
    claims = [
        FormerRow(**{**claim, "interval": _pair(claim["interval"]), "now": _pair(claim["now"])})
        for claim in plain["claims"]
    ]
    verdicts = tuple((word, count) for word, count in plain["verdicts"])
    return AttemptRow(**{**plain, "verdicts": verdicts, "claims": tuple(claims)})


def _claim(plain: Mapping[str, Any]) -> ClaimRow:
    return ClaimRow(**{**plain, "outcomes": tuple(map(_outcome, plain["outcomes"]))})


def _outcome(plain: Mapping[str, Any]) -> Outcome:
    equal, matched = plain["equal_seconds"], plain["matched"]
    if equal is not None:
        equal = EqualSeconds(**{**equal, "interval": _pair(equal["interval"])})
    if matched is not None:
        matched = Matched(**{**matched, "interval": _pair(matched["interval"])})
    shown = {"interval": _pair(plain["interval"]), "equal_seconds": equal, "matched": matched}
    return Outcome(**{**plain, **shown})


def _scale(plain: Mapping[str, Any]) -> ScaleRow:
    return ScaleRow(
        **{
            **plain,
            "arms": tuple(map(_arm, plain["arms"])),
            "metrics": tuple(Metric(**metric) for metric in plain["metrics"]),
            "headline": tuple(plain["headline"]),
            "results": tuple(plain["results"]),
            "dials": tuple(
                DialRow(**{**row, "interval": _pair(row["interval"])}) for row in plain.get("dials", ())
            ),
        }
    )


def _arm(plain: Mapping[str, Any]) -> ArmRow:
    return ArmRow(
        **{
            **plain,
            "figures": tuple(map(_figure, plain["figures"])),
            "budget": None if plain["budget"] is None else Budget(**plain["budget"]),
            "curves": tuple(
                Curve(
                    curve["metric"], tuple((step, seconds, value) for step, seconds, value in curve["points"])
                )
                for curve in plain["curves"]
            ),
        }
    )


def _figure(plain: Mapping[str, Any]) -> Figure:
    return Figure(**{**plain, "interval": _pair(plain["interval"]), "by_seed": tuple(plain["by_seed"])})


def _pair(bounds: Any) -> Interval | None:
    if bounds is None:
        return None
    low, high = bounds
    return (low, high)
