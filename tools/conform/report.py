"""What a report on a loss says: lines for a terminal, plain data for a program, a row beside other libraries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from catalog.errors import nearest
from methods.losses.conformance.check import Match, Outcome, Report
from methods.losses.conformance.vectors import AXES, Convention
from tools.commands import UsageError
from tools.terminal import grid, style, width, wrap

NAN = "not a number"


def expectation(names: list[str]) -> dict[str, str]:
    """Axis -> the name that is expected there; UsageError for a name that no axis has, or two of one axis."""
    found: dict[str, str] = {}
    known = {name: axis for axis, choices in AXES.items() for name in choices}
    for name in names:
        if name not in known:
            raise UsageError(
                f'kd conform: no convention "{name}"{nearest(name, known)}; known: {", ".join(known)}'
            )
        if known[name] in found:
            raise UsageError(f'kd conform: "{found[known[name]]}" and "{name}" are both a {known[name]}')
        found[known[name]] = name
    return found


def wrong(report: Report, expected: Mapping[str, str]) -> list[str]:
    """A sentence for each expectation that does not hold."""
    found = report.conventions or ([report.likeliest] if report.likeliest else [])
    said = []
    for axis, name in expected.items():
        if axis in report.unseen:
            said.append(f"{name} cannot be seen: the function takes no temperature")
        elif not any(getattr(one, axis) == name for one in found):
            got = getattr(found[0], axis) if found else "nothing known"
            meaning = AXES[axis].get(got)
            said.append(f"{got} where {name} was expected" + (f": {meaning}" if meaning else ""))
    return said


def broken(report: Report) -> list[str]:
    """A sentence for each run on which the likeliest convention is not kept."""
    said = []
    for outcome in report.outcomes:
        if outcome.refused or report.convention or report.likeliest in outcome.conventions:
            continue
        where = ", where the teacher's logit is minus infinity" if outcome.run.edge == "masked" else ""
        said.append(f"on {outcome.run.name}{where}: {_told(outcome)}")
    return said


def lines(report: Report, title: str, expected: Mapping[str, str]) -> list[str]:
    """The table of vectors, the convention with what it means, and what is wrong."""
    took = ", ".join(f"{setting} as {name}" for setting, name in report.settings.items()) or "two logits only"
    kept = report.convention or report.likeliest
    rows = [["vectors", "matches", "value", "gradient"]]
    for outcome in report.outcomes:
        match = _shown(outcome, report)
        errors = ["-", "-"] if match is None else [_error(match.value_error), _error(match.gradient_error)]
        rows.append([outcome.run.name, _told(outcome, kept), *errors])
    room = width() - max(len(row[0]) for row in rows) - 8 - 8 - 6
    table = grid([_cut(row, room) for row in rows], right=(2, 3))
    found = [style(title, "bold"), wrap(f"takes {took}"), "", style(table[0], "bold"), *table[1:], ""]
    if report.convention is None:
        found.append(style("no one convention matches everywhere", "red"))
    else:
        found.append(style("one convention matches everywhere", "green"))
    if kept:
        found += _meaning(kept, report, "" if report.convention else "likeliest ")
    bad = [*broken(report), *wrong(report, expected)]
    found += ["", *(style(wrap(sentence, "  "), "red") for sentence in bad)] if bad else []
    if report.left_out:
        needs = sorted(set(report.left_out.values()))
        found += ["", wrap(f"not asked, as the function has no such setting: {', '.join(needs)}")]
    return found


def data(report: Report, expected: Mapping[str, str]) -> dict[str, Any]:
    """The report as plain data."""
    kept = report.convention

    def run(outcome: Outcome) -> dict[str, Any]:
        match = _shown(outcome, report)
        return {
            "vectors": outcome.run.name,
            "matches": bool(outcome.matches),
            "told": seen(outcome),
            "edge": edges(outcome),
            "refused": outcome.refused or None,
            "value": _finite(outcome.value),
            "value_error": None if match is None else _finite(match.value_error),
            "gradient_error": None if match is None else _finite(match.gradient_error),
        }

    return {
        "convention": None if kept is None else kept._asdict(),
        "likeliest": None if report.likeliest is None else report.likeliest._asdict(),
        "unseen": list(report.unseen),
        "takes": dict(report.settings),
        "expected": dict(expected),
        "wrong": [*broken(report), *wrong(report, expected)],
        "vectors": [run(outcome) for outcome in report.outcomes],
        "left_out": dict(report.left_out),
    }


def seen(outcome: Outcome) -> dict[str, str]:
    """Axis -> name, where all conventions that match have the same: what these vectors can tell."""
    found = {}
    for axis in AXES:
        names = {getattr(convention, axis) for convention in outcome.conventions}
        if len(names) == 1:
            found[axis] = names.pop()
    return found


def edges(outcome: Outcome) -> str:
    """What becomes of unequal heads, masked ids, a top-k's rest; "" where the run is about none."""
    if outcome.run.edge is None or outcome.run.edge == "empty":
        return ""
    if outcome.refused:
        return "refused"
    if outcome.value is not None and math.isnan(outcome.value):
        return NAN
    if not outcome.matches:
        return "something else"
    if outcome.run.edge == "masked":
        return "infinite" if outcome.value is not None and math.isinf(outcome.value) else "finite"
    return " or ".join(dict.fromkeys(match.edge for match in outcome.matches))


def row(report: Report) -> dict[str, Any]:
    """One line of the table of libraries: the convention, the edges, what it is not kept on."""
    kept = report.convention or report.likeliest
    found: dict[str, Any] = {"convention": None if kept is None else kept._asdict()}
    found["edges"] = {}
    for outcome in report.outcomes:
        edge = outcome.run.edge
        if edge and edge != "empty":
            found["edges"][outcome.run.name] = edges(outcome)
    found["unseen"] = list(report.unseen)
    found["broken"] = [
        one.run.name for one in report.outcomes if not one.refused and kept not in one.conventions
    ]
    errors = [
        match.error
        for one in report.outcomes
        if (match := _shown(one, report)) is not None and kept in one.conventions
    ]
    found["single_precision"] = max(errors, default=0.0) > 1e-10
    return found


def _told(outcome: Outcome, kept: Convention | None = None) -> str:
    """What a run says in a few words; of divergences that it cannot tell apart, the one that is kept elsewhere."""
    if outcome.refused:
        return f"refused: {outcome.refused}"
    if outcome.value is not None and math.isnan(outcome.value):
        return NAN
    if not outcome.matches:
        near = outcome.nearest
        if near is None:
            return "the gradient is not a number"
        names = ", ".join(_worth_saying(near.convention))
        return f"nothing; nearest {names}, off by {_error(near.error)}"
    told, edge = seen(outcome), edges(outcome)
    first = kept if kept in outcome.conventions else outcome.matches[0].convention
    assert first is not None
    words = [first.divergence, *(name for axis, name in told.items() if axis != "divergence")]
    return ", ".join([*words, *([edge] if edge else [])])


def _worth_saying(convention: Convention) -> list[str]:
    return [name for name in convention if name not in ("both", "T^0")]


def _shown(outcome: Outcome, report: Report) -> Match | None:
    """The match whose errors are shown: the convention's own, else the closest."""
    wanted = report.convention or report.likeliest
    own = [match for match in outcome.matches if match.convention == wanted] or outcome.matches
    return min(own, key=lambda match: match.error, default=outcome.nearest)


def _meaning(convention: Convention, report: Report, before: str) -> list[str]:
    rows = []
    for axis, choices in AXES.items():
        name = getattr(convention, axis)
        if axis in report.unseen:
            name, meaning = "not seen", "the function takes no temperature"
        else:
            meaning = choices[name]
        rows.append([f"  {before}{axis}", name, meaning])
    room = [max(len(one[place]) for one in rows) for place in (0, 1)]
    indent = " " * (sum(room) + 4)
    return [wrap(one[2], indent, f"{one[0]:<{room[0]}}  {one[1]:<{room[1]}}  ") for one in rows]


def _cut(cells: list[str], room: int) -> list[str]:
    from tools.terminal import fit

    return [cells[0], fit(cells[1], room), *cells[2:]]


def _error(value: float) -> str:
    return NAN if math.isnan(value) else "inf" if math.isinf(value) else f"{value:.0e}" if value else "0"


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
