"""What README, page and site say alike of the disputes: which side the recorded arms speak for, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reproductions.engine.atlas.record import AnswerRow, Contrast, DisputeRow, PooledRow, Record
from reproductions.engine.show.view import PERCENT, DialRow, PaperView
from tools.pages.atlas import Atlas
from tools.pages.evidence.charts import axis
from tools.pages.evidence.charts import interval as drawn_interval
from tools.pages.evidence.told import figure, holds
from tools.pages.markdown import link, md, table
from tools.terminal import interval, number

PATH = "reproductions/disputes.md"
ABOUT = (
    "What papers and public notes answer differently, and what recorded arms say: arms of a contrast have one task, "
    "student, start, steps and examples, each its own best learning rate of one grid. A positive difference speaks "
    "for the sentence before it. Contrasts of a kind are pooled within a testbed, never over testbeds; only testbeds "
    "that have passed their gate count. Questions, sides and which arms answer were written down "
    "when words had results, and before navigate had any."
)

NEAREST = "What recorded arms say to the question next to it"


@dataclass(frozen=True)
class Told:
    """An answer on one testbed in words: whether it holds, its figure."""

    row: PooledRow
    holds: str
    figure: str


def told(answer: AnswerRow) -> list[Told]:
    """An answer on each testbed that has contrasts for it."""
    return [Told(row, holds(row), figure(row)) for row in answer.rows]


def side(bounds: tuple[float, float]) -> str:
    """'for', 'against' or 'open': where an interval lies."""
    return "for" if bounds[0] > 0 else "against" if bounds[1] < 0 else "open"


def sides(answer: AnswerRow) -> dict[str, list[str]]:
    """'for', 'against', 'open' -> the testbeds on which the answer has come out so."""
    found: dict[str, list[str]] = {}
    for row in answer.rows:
        found.setdefault(side(row.interval or row.contrasts[0].interval), []).append(row.league)
    return found


def depends(answer: AnswerRow) -> str:
    """What an answer depends on as far as that was seen: the testbed, or which arms are compared; '' without any."""
    found, contrasts = sides(answer), [one for row in answer.rows for one in row.contrasts]
    if not contrasts:
        return ""
    if {"for", "against"} <= set(found):
        return f"on the testbed: for it on {', '.join(found['for'])}, against it on {', '.join(found['against'])}"
    split: dict[str, list[Contrast]] = {}
    for one in contrasts:
        split.setdefault(side(one.interval), []).append(one)
    if {"for", "against"} <= set(split):
        pro, con = (_pair(split[word][0]) for word in ("for", "against"))
        return f"on the arms: {pro} is for it, {con} against it"
    if len(contrasts) == 1:
        return "not seen yet: one contrast on one testbed"
    where = f"{len(answer.rows)} testbeds" if len(answer.rows) > 1 else "one testbed"
    decided = {word for word in split if word != "open"}
    word = f"no contrast is {'against' if decided == {'for'} else 'for'} it" if decided else "none is decided"
    return f"nothing seen: {len(contrasts)} contrasts on {where}, {word}"


def elsewhere(atlas: Atlas, answer: AnswerRow) -> list[str]:
    """Contrasts of an answer over the values of a dial, where an experiment that has both arms was run there."""
    lines = []
    for one in (contrast for row in answer.rows for contrast in row.contrasts):
        for name in one.papers:
            view = atlas.views.get(name) or (atlas.questions[name].view if name in atlas.questions else None)
            for rows in _over_dials(view, one) if view is not None else ():
                shown = "; ".join(
                    f"{row.value}{' (judged)' if row.own else ''}: {number(row.difference)} {interval(row.interval)}"
                    for row in rows
                )
                lines.append(f"{_pair(one)} by {rows[0].dial} ({name}, {PERCENT}): {shown}")
    return lines


def _over_dials(view: PaperView, one: Contrast) -> Iterator[list[DialRow]]:
    """A contrast's rows, a dial at a time: those of the claim that weighs the same two arms the same way."""
    for scale in view.scales:
        keys = {arm.name: arm.key for arm in scale.arms}
        for claim in view.claims:
            if (keys.get(claim.better), keys.get(claim.worse)) == one.keys:
                for dial in dict.fromkeys(row.dial for row in scale.dials):
                    rows = [row for row in scale.dials if (row.dial, row.claim) == (dial, claim.id)]
                    if rows:
                        yield rows


def state(dispute: DisputeRow) -> str:
    """Whether a dispute is answered, on one line; what is told first is the decided answer with most contrasts."""
    answers = [(answer, row) for answer in dispute.answers for row in answer.rows]
    if dispute.unanswered:
        return f"Unanswered: {dispute.unanswered}"
    if not answers:
        missing = {text for answer in dispute.answers for text in answer.missing}
        return f"Unanswered: {len(missing)} {'arm is' if len(missing) == 1 else 'arms are'} missing."
    answer, row = max(answers, key=lambda found: (_decided(found[1]), len(found[1].contrasts)))
    more = sum(bool(other.rows) for other in dispute.answers) - 1
    rest = f"; {more} more" if more else ""
    says = answer.says.rstrip(".")
    return f"{says}: {holds(row)} ({row.league}, {figure(row)}){rest}."


def _decided(row: PooledRow) -> bool:
    return side(row.interval or row.contrasts[0].interval) != "open"


def short(record: Record | None) -> Iterator[str]:
    """A line a dispute, for the README."""
    for dispute in record.disputes if record is not None else ():
        yield f"- {md(dispute.asks)} {md(state(dispute))}"


def page(atlas: Atlas) -> str:
    """reproductions/disputes.md."""
    lines = [
        "# What is disputed",
        "",
        "<!-- Written by `make readme` from reproductions/atlas.json; edit reproductions/disputes.yaml. -->",
        "",
        ABOUT,
        "The arms themselves stand side by side in the [league tables](atlas.md#league-tables).",
        "",
    ]
    disputes = atlas.record.disputes if atlas.record is not None else ()
    if not disputes:
        lines.append("Nothing is computed yet.")
    for dispute in disputes:
        lines += [f"## {md(dispute.asks)}", "", f"**{md(state(dispute))}**", ""]
        lines += [f"- {md(one.says)} ({_papers(atlas, one.papers)})" for one in dispute.sides]
        lines += ["", *([f"{NEAREST}:", ""] if dispute.unanswered and dispute.answers else [])]
        lines += _answers(atlas, dispute.answers)
    return "\n".join(lines).rstrip() + "\n"


def _answers(atlas: Atlas, answers: Iterable[AnswerRow]) -> Iterator[str]:
    answers = list(answers)
    rows = [
        [
            md(answer.says),
            md(one.row.league),
            md(one.row.metric_title),
            md(one.holds),
            md(one.figure),
            md(depends(answer)),
        ]
        for answer in answers
        for one in told(answer)
    ]
    if rows:
        yield from table(["", "testbed", "measured by", "", "difference, 95 %", "depends"], rows)
        yield ""
        yield "<details><summary>Every contrast</summary>"
        yield ""
        for answer in answers:
            for row in answer.rows:
                for one in row.contrasts:
                    shown = f"{number(one.difference)} {interval(one.interval)}, {one.seeds} seeds"
                    yield f"- {md(row.league)}: {md(_pair(one))}: {md(shown)} ({_papers(atlas, one.papers)})"
        yield ""
        yield "</details>"
        yield ""
    turned = [line for answer in answers for line in elsewhere(atlas, answer)]
    if turned:
        yield "At other settings of the task, where nothing is judged:"
        yield ""
        yield from (f"- {md(line)}" for line in dict.fromkeys(turned))
        yield ""
    without = [answer for answer in answers if answer.missing]
    if without:
        yield "Missing:"
        yield ""
        yield from (f"- {md(answer.says)} {md('; '.join(answer.missing))}." for answer in without)
        yield ""


def _pair(one: Contrast) -> str:
    return f"{one.more} minus {one.less}"


def _papers(atlas: Atlas, names: Iterable[str]) -> str:
    """Each with a link to its page here where it has one, else to the paper."""
    return ", ".join(_paper(atlas, name) for name in names)


def _paper(atlas: Atlas, name: str) -> str:
    if name in atlas.views or name in atlas.questions:
        return f"[{md(name)}]({link(f'papers/{name}.md')})"
    paper = atlas.catalog.papers.get(name)
    return f"[{md(name)}]({link(paper.url)})" if paper is not None else md(name)


def values(atlas: Atlas) -> dict[str, Any]:
    """What the site's page shows: each dispute with its answers drawn on one axis a testbed and metric."""
    disputes = atlas.record.disputes if atlas.record is not None else ()
    return {
        "about": ABOUT,
        "nearest": NEAREST,
        "disputes": [
            {
                "dispute": dispute,
                "state": state(dispute),
                "answers": [
                    {
                        "answer": answer,
                        "depends": depends(answer),
                        "elsewhere": elsewhere(atlas, answer),
                        "rows": [(one, _drawing(one.row, answer.rows)) for one in told(answer)],
                    }
                    for answer in dispute.answers
                ],
            }
            for dispute in disputes
        ],
    }


def _drawing(row: PooledRow, beside: Iterable[PooledRow]) -> Markup:
    """The interval, zero in the middle; all rows of an answer on one axis."""
    ends = [abs(end) for one in beside for end in (one.interval or one.contrasts[0].interval)] + [
        abs(one.difference) for other in beside for one in other.contrasts
    ]
    reach = max(ends, default=1.0) or 1.0
    low, high, at = axis([-reach, reach], 2, 98, room=0.02)
    bounds = row.interval or row.contrasts[0].interval
    kind = {"for": "reproduced", "against": "reversed", "open": "open"}[side(bounds)]
    drawn = drawn_interval(
        at,
        kind,
        middle=row.contrasts[0].difference if row.mean is None else row.mean,
        bounds=bounds,
        dots=[one.difference for one in row.contrasts] if row.mean is not None else (),
        limits=(low, high),
    )
    return Markup(drawn)  # noqa: S704 - numbers alone
