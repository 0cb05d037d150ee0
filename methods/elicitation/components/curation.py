"""Data curation: which of several good rows a student learns from, and from whose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor
from typing import Any

from methods.elicitation.components.asking import Rows, counted, draws_of, dropped, groups, teacher_of
from methods.elicitation.filters.copies import tokens
from methods.elicitation.filters.marks import text_of
from methods.elicitation.records.record import Record
from methods.errors import MethodError, NotYet
from methods.registry import component, near

ORDERS = ("first", "random", "shortest", "longest", "highest", "lowest", "distinct")
MEASURES = ("verified", "score")


@component("elicitation", "select")
def select(
    rows: Sequence[Record],
    session: Any,
    *,
    by: str = "first",
    keep: int = 1,
    of: str = "prompt",
    column: str = "completion",
) -> Rows:
    """Keeps `keep` rows of each prompt, of all (`of`: all) or of each value of a field; others drop: not selected.

    `by` first, random, shortest or longest (words of the column), highest or lowest score, or distinct: those that are
    farthest apart by edit distance in words, begun with the two farthest and grown by the one whose nearest is
    farthest. Of equals the earlier stays. "lowest" with the score of `likelihood` is the least probable to that model.
    Source: DED, arXiv 2508.09883 (distinct trajectories, by Levenshtein distance); ReST-EM, arXiv 2312.06585 (at most
    so many a problem); s1, arXiv 2501.19393 (long traces, evenly over subjects: `of` is then the subject's field).
    """
    if by not in ORDERS:
        raise MethodError(f'select: no order "{by}"{near(by, ORDERS)}; known: {", ".join(ORDERS)}')
    counted("keep", keep)
    within = groups(rows, None if of == "prompt" else lambda row: "" if of == "all" else _field(row, of))
    out: dict[int, tuple[str, str]] = {}
    for places in within.values():
        chosen = set(_chosen([rows[place] for place in places], by, keep, column, session))
        out |= {place: ("not selected", by) for n, place in enumerate(places) if n not in chosen}
    return dropped(rows, out)


def _field(row: Record, name: str) -> str:
    """A field of a row that is none of `select`'s own words. Raises MethodError where there is none."""
    try:
        return text_of(row, name)
    except MethodError as error:
        words = near(name, ("prompt", "all"))
        raise MethodError(f'select: "of" is prompt, all or a field of the rows: {error}{words}') from None


def _chosen(rows: Rows, by: str, keep: int, column: str, session: Any) -> list[int]:
    """Which of the rows stay."""
    every = list(range(len(rows)))
    if by == "distinct":
        return _distinct([tokens(text_of(row, column)) for row in rows], keep)
    if by == "random":
        draws = draws_of(session, "/".join(row.id for row in rows))
        return draws.sample(every, min(keep, len(rows)))
    if by in ("highest", "lowest"):
        return sorted(every, key=lambda n: (-1 if by == "highest" else 1) * _score(rows[n]))[:keep]
    lengths = [len(text_of(row, column).split()) for row in rows]
    order: dict[str, Callable[[int], int]] = {
        "first": lambda n: 0,
        "shortest": lambda n: lengths[n],
        "longest": lambda n: -lengths[n],
    }
    return sorted(every, key=order[by])[:keep]


def _score(row: Record) -> float:
    if row.score is None:
        raise MethodError(
            f"select: row {row.id} has no score; a component before it must give one (rate, likelihood)"
        )
    return row.score


def _distinct(texts: Sequence[Sequence[str]], keep: int) -> list[int]:
    """The farthest pair, then the text whose nearest chosen one is farthest, and so on."""
    if keep >= len(texts):
        return list(range(len(texts)))
    if keep == 1:
        return [0]
    apart = [[edit_distance(one, other) for other in texts] for one in texts]
    pairs = [(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts))]
    chosen = list(pairs[max(range(len(pairs)), key=lambda n: apart[pairs[n][0]][pairs[n][1]])])
    while len(chosen) < keep:
        rest = [n for n in range(len(texts)) if n not in chosen]
        chosen.append(max(rest, key=lambda n: min(apart[n][m] for m in chosen)))
    return chosen


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Levenshtein: how many words are put in, left out or changed."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@component("elicitation", "allocate")
def allocate(rows: Sequence[Record], session: Any, *, keep: int, least: int = 1) -> Rows:
    """Keeps of each prompt as many right rows as it is hard: in proportion to the share of wrong ones, its fail rate.

    The hardest prompt keeps `keep` of them, the others in proportion to it, rounded half up; never fewer than `least`,
    where there are so many. Wrong are rows that a check found wrong (`verified` false) or dropped as unparseable; those
    that are still data drop as wrong answers. The first rows stay; reason: not allocated.
    Source: DART-Math, arXiv 2407.13690 (Prop2Diff: right answers in proportion to the fail rate, one at least).
    """
    counted("keep", keep)
    counted("least", least)
    made = [row.drop("wrong answer") if row.verified is False else row for row in rows]
    living = groups(made)
    wrong = Counter(row.prompt for row in made if row.verified is False or row.dropped == "unparseable")
    rates = {asked: Fraction(wrong[asked], wrong[asked] + len(places)) for asked, places in living.items()}
    hardest = max(rates.values(), default=Fraction())
    out: dict[int, tuple[str, str]] = {}
    for asked, places in living.items():
        due = max(least, floor(keep * rates[asked] / hardest + Fraction(1, 2))) if hardest else least
        out |= dict.fromkeys(
            places[due:], ("not allocated", f"{due} at a fail rate of {float(rates[asked]):.3g}")
        )
    return dropped(made, out)


@component("elicitation", "pilot")
def pilot(
    rows: Sequence[Record],
    session: Any,
    *,
    prompts: int,
    measure: str = "verified",
    by: str = "teacher",
) -> Rows:
    """Tries every source on the first `prompts` prompts and keeps the rows of the best one; reason: other source.

    A source is a teacher, or the value of a field (`by`). Its measure is the share of its rows on those prompts that
    are verified, or their mean score: give them by `verify`, `rate`, or by the scores of students trained on each
    source. A row that was dropped on the way counts as not verified. Of equals the one that comes first wins.
    Source: DED, arXiv 2508.09883 (a short test chooses the teacher); "Not All Correct Answers Are Equal", arXiv
    2505.14464.
    """
    if measure not in MEASURES:
        raise MethodError(
            f'pilot: no measure "{measure}"{near(measure, MEASURES)}; known: {", ".join(MEASURES)}'
        )
    counted("prompts", prompts)
    tried = set(list(dict.fromkeys(row.prompt for row in rows))[:prompts])
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.prompt in tried and row.completion:
            worth = float(row.alive and bool(row.verified)) if measure == "verified" else row.score
            if worth is not None:
                found.setdefault(_source(row, by), []).append(worth)
    if not found:
        raise NotYet(f"pilot: no row of the first {prompts} prompts has a {measure}")
    means = {source: sum(worths) / len(worths) for source, worths in found.items()}
    best = max(means, key=lambda source: means[source])
    out = {
        place: ("other source", f"{best} is better, {means[best]:.3g}")
        for place, row in enumerate(rows)
        if row.alive and _source(row, by) != best
    }
    return dropped(rows, out)


def _source(row: Record, by: str) -> str:
    return teacher_of(row) if by == "teacher" else text_of(row, by)
