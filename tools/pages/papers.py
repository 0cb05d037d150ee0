"""A page a paper, reproductions/papers/<id>.md: claims beside the paper's numbers, arms, budgets, how to run it."""

from __future__ import annotations

from collections.abc import Iterator

from catalog.schema import Paper
from reproductions.engine.show import gather
from reproductions.engine.show.view import (
    PERCENT,
    STANDS_IN,
    ArmRow,
    ClaimRow,
    Figure,
    Interval,
    Outcome,
    PaperView,
    ScaleRow,
)
from reproductions.engine.store.layout import additions, arm_path
from tools.pages.atlas import MARKS, Atlas, Question, places, question_places
from tools.pages.cite import bibtex
from tools.pages.figures.dials import drawn as turned
from tools.pages.figures.dials import tables
from tools.pages.figures.forest import drawn
from tools.pages.markdown import code, link, links, md, table
from tools.terminal import interval, number, thousands

HARD = "\u00a0"  # a space at which no line ends
UP = "../../"  # from reproductions/papers/ to the root
HEAD = (
    *("verdict", "claim", "the paper", "ours", f"difference, {PERCENT}", "matters from", "matched decoding"),
    *("at equal seconds", "seeds"),
)


def page(atlas: Atlas, paper: Paper, view: PaperView) -> str:
    """The page of one paper, as Markdown."""
    lines = [
        f"# {md(paper.title)}",
        "",
        f"<!-- Written by `make readme` from reproductions/verdicts/{paper.id}.json; a hand edit fails the tests. -->",
        "",
        *_about(atlas, paper),
        "",
    ]
    if drawn(view):
        lines += [f"![Differences with their intervals](figures/{paper.id}.svg)", ""]
    lines += ["## Claims", "", *_claims(view), ""]
    lines += _values(view)
    lines += _external(paper)
    lines += _attempts(view)
    lines += _dials(paper.id, view)
    for scale in view.scales:
        lines += [f"## Scale {md(scale.name)}", "", *_scale(scale), ""]
    lines += ["## Run it", "", "```sh", *commands(paper.id, view), "```", ""]
    lines += [
        "## Where it is",
        "",
        *(f"- {md(name)}: {_place(path)}" for name, path in places(paper, view)),
        "",
    ]
    lines += ["## Cite it", "", "```bibtex", bibtex(paper), "```"]
    return "\n".join(lines) + "\n"


def question_page(question: Question) -> str:
    """The page of a question of our own: no paper, so no numbers of one and nothing to cite."""
    name, view = question.name, question.view
    others = [text for text in question.about.strip().splitlines()[1:] if text.strip()]
    lines = [
        f"# {md(question.asks)}",
        "",
        f"<!-- Written by `make readme` from reproductions/verdicts/{name}.json; a hand edit fails the tests. -->",
        "",
        f"A question of our own, which no paper states · [experiment]({name}.yaml) · "
        f"[components]({UP}methods/GALLERY.md) · [all papers]({UP}README.md)",
        "",
    ]
    lines += [line for text in others for line in (md(text), "")]
    lines += [f"**{question.badge or 'nothing judged yet'}**", ""]
    if drawn(view):
        lines += [f"![Differences with their intervals](figures/{name}.svg)", ""]
    lines += ["## Claims", "", *_claims(view, ours=True), "", *_attempts(view), *_dials(name, view)]
    for scale in view.scales:
        lines += [f"## Scale {md(scale.name)}", "", *_scale(scale), ""]
    lines += ["## Run it", "", "```sh", *commands(name, view), "```", "", "## Where it is", ""]
    lines += [f"- {md(what)}: {_place(path)}" for what, path in question_places(question)]
    return "\n".join(lines) + "\n"


def commands(paper_id: str, view: PaperView) -> Iterator[str]:
    """What to type, with the time it takes where that is known."""
    for scale in view.scales:
        time = f"   # about {number(scale.minutes)} minutes on 2 cores" if scale.minutes else ""
        yield f"make reproduce PAPER={paper_id} SCALE={scale.name}{time}"
    if view.recorded:
        yield f"make verify PAPER={paper_id}   # judges what was recorded again"


def _about(atlas: Atlas, paper: Paper) -> Iterator[str]:
    authors = f"{md(', '.join(paper.authors))}. " if paper.authors else ""
    found = [f"[paper]({link(paper.url)})", links(paper.code, "code"), links(paper.data, "data")]
    found += [f"[record]({UP}catalog/papers/{paper.id}.yaml)", f"[experiment]({paper.id}.yaml)"]
    if paper.method:
        found.append(f"[recipe]({UP}methods/recipes/{paper.method}.yaml)")
    found += [f"[components]({UP}methods/GALLERY.md)", f"[all papers]({UP}README.md)"]
    yield f"{authors}{md(paper.venue)}, {paper.date} · {' · '.join(filter(None, found))}"
    yield ""
    yield md(paper.adds)
    if paper.objective:
        yield ""
        yield f"Objective: {code(paper.objective)}"
    yield ""
    yield f"**{atlas.badge(paper) or 'nothing judged yet'}**"
    leaves = [
        f"[{md(axis.values[value].title)}]({UP}catalog/lists/{axis.id}-{value}.md)"
        for axis in atlas.catalog.taxonomy.values()
        for value in paper.taxonomy[axis.id]
    ]
    if leaves:
        yield ""
        yield " · ".join(leaves)


def _claims(view: PaperView, *, ours: bool = False) -> Iterator[str]:
    if not view.claims:
        yield "No claim is written down yet."
        return
    yield from (_statement(claim) for claim in view.claims)
    yield ""
    numbers = (
        "" if ours else "The paper's numbers are for its own models and data; ours are for the scale named. "
    )
    yield f"{numbers}A positive difference speaks for the claim."
    for name in _scales_of(view):
        yield ""
        yield f"### Judged at scale {md(name)}"
        yield ""
        if view.stands_in(name):
            yield f"{_teacher(view.stands_in(name))}."
            yield ""
        rows = [
            _outcome(view, claim, outcome)
            for claim in view.claims
            for outcome in claim.outcomes
            if outcome.scale == name
        ]
        yield from table(HEAD, rows)
    findings = [
        (claim, outcome) for claim in view.claims for outcome in claim.outcomes if outcome.explanation
    ]
    if findings:
        yield ""
        yield "### Findings"
        yield ""
        for claim, outcome in findings:
            yield f"- **{md(claim.id)}**, {md(outcome.scale)}, {outcome.verdict}: {md(outcome.explanation)}"


def _scales_of(view: PaperView) -> list[str]:
    """The scales at which something was judged, smallest first."""
    return list(view.tally())


def _statement(claim: ClaimRow) -> str:
    source = f"[{md(claim.source)}]({link(claim.source_url)})" if claim.source_url else md(claim.source)
    others = [
        f", at {md(outcome.scale)} on {code(outcome.metric)}"
        for outcome in claim.outcomes
        if outcome.metric not in ("", claim.metric)
    ]
    compared = f" {code(claim.formula)} on {code(claim.metric)}{''.join(others)}." if claim.formula else ""
    setting = f"; {md(claim.paper_setting)}" if claim.paper_setting else ""
    waiting = "" if claim.outcomes else f" {MARKS['not run']} not run."
    return f"- **{md(claim.id)}**: {md(claim.statement)}{compared}{waiting} <sub>{source}{setting}</sub>"


def _teacher(word: str) -> str:
    """What plays the teacher, in words."""
    return f"The teacher ({code(word)}) is {md(STANDS_IN.get(word, word))}"


def _outcome(view: PaperView, claim: ClaimRow, outcome: Outcome) -> list[str]:
    equal, matched, word = outcome.equal_seconds, outcome.matched, view.stands_in(outcome.scale)
    where = f"{md(outcome.scale)}, {md(word)}" if word else md(outcome.scale)
    return [
        f"{MARKS[outcome.kind]} {where}: {outcome.told}".replace(" ", HARD),
        md(claim.id),
        "ordering only" if claim.paper_better is None else _pair(claim.paper_better, claim.paper_worse),
        "" if outcome.better_mean is None else _pair(outcome.better_mean, outcome.worse_mean),
        f"{number(outcome.difference)} {_bounds(outcome.interval)}",
        number(outcome.effect),
        ""
        if matched is None
        else f"{matched.verdict} {number(matched.difference)} {_bounds(matched.interval)}",
        "" if equal is None else f"{number(equal.difference)} {_bounds(equal.interval)}",
        str(outcome.seeds) + (f", {outcome.groups} teachers" if outcome.groups else ""),
    ]


def _pair(better: float | None, worse: float | None) -> str:
    """Two numbers that no line break parts."""
    return f"{number(better)} vs {number(worse)}".replace(" ", HARD)


def _bounds(bounds: Interval | None) -> str:
    return md(interval(bounds)).replace(" ", HARD)


def _values(view: PaperView) -> list[str]:
    if not view.values:
        return []
    rows = [
        [
            md(value.id),
            f"{number(value.paper)} ± {number(value.tolerance)}",
            f"{number(value.mean)} {_bounds(value.interval)}",
            str(value.seeds),
            f"{MARKS[value.verdict]} paper: {value.verdict}",
        ]
        for value in view.values
    ]
    head = ("value", "the paper", "ours", "seeds", "verdict")
    return ["## The paper's own numbers", "", *table(head, rows), ""]


def _external(paper: Paper) -> list[str]:
    """What others found; it stands beside our verdicts and decides none."""
    if not paper.external:
        return []
    about = "Runs and statements that are not ours, in our words. They decide no verdict here."
    found = [
        f"- **[{md(entry.kind)}, {md(entry.date)}]({link(entry.url)})**, {entry.stance}: {md(entry.says)} "
        f"<sub>seen {md(entry.seen)}</sub>"
        for entry in paper.external
    ]
    return ["## What others found", "", about, "", *found, ""]


def _attempts(view: PaperView) -> list[str]:
    """Every configuration under which the paper was judged before, with what came out; then claim by claim."""
    if not view.attempts:
        return []
    number_now, changed = view.attempt
    rows = []
    for attempt in view.attempts:
        counts = ", ".join(f"{count} {word}" for word, count in attempt.verdicts)
        raw = f"<br>raw figures: {code(attempt.raw)} at {code(attempt.commit)}" if attempt.raw else ""
        where = f"{md(attempt.scale)}, {code(attempt.testbed)}"
        rows.append([str(attempt.number), attempt.date, where, f"{md(attempt.changed)}{raw}", counts])
    lines = [
        "## Attempts",
        "",
        "Every configuration under which this paper was judged before; none is ever dropped.",
    ]
    if number_now:
        lines.append(f"What is judged above is attempt {number_now}: {md(changed.removesuffix('.'))}.")
    lines += ["", *table(("attempt", "date", "testbed", "what changed", "verdicts then"), rows)]
    lines += ["", "<details><summary>Claim by claim</summary>", ""]
    lines += [
        "Verdict and 95 % interval are those of the engine that judged (1: the first edition's bootstrap, whose "
        f"intervals are about one and a half times too wide); beside them today's {PERCENT} interval over the same "
        "figures, with its word where a smallest effect is known.",
        "",
    ]
    details = [
        [
            str(attempt.number),
            md(claim.claim),
            f"{claim.verdict} (engine {attempt.engine})",
            f"{number(claim.difference)} {_bounds(claim.interval)}",
            f"{_bounds(claim.now)} {claim.now_verdict}".strip() if claim.now else "",
        ]
        for attempt in view.attempts
        for claim in attempt.claims
    ]
    lines += table(("attempt", "claim", "verdict then", "difference, 95 % then", f"{PERCENT} now"), details)
    return [*lines, "", "</details>", ""]


def _dials(name: str, view: PaperView) -> list[str]:
    """The same claims at other values of a setting of the testbed's task."""
    if not turned(view):
        return []
    lines = [
        "## Elsewhere",
        "",
        "The same arms where a setting of the task is another, each at the rate that was swept at the testbed's own "
        "value (bold, from as many seeds). Nothing is judged there: no gate was passed.",
        "",
        f"![Differences over settings of the task](figures/{name}-dials.svg)",
    ]
    for scale in view.scales:
        lines += tables(scale)
    return [*lines, ""]


def _scale(scale: ScaleRow) -> Iterator[str]:
    bed = f"[{code(scale.testbed)}]({UP}reproductions/testbeds/{link(scale.testbed)}.md)"
    stands = f", teacher: {code(scale.stands_in)}" if scale.stands_in else ""
    yield f"Testbed {bed}{stands}, {scale.seeds} seeds.{'' if scale.recorded else ' Not run yet.'}"
    if scale.made:
        yield f"Made on {md(scale.made)}."
    yield ""
    raw = "; its name leads to its raw figures" if scale.recorded else ""
    yield f"What each arm computes, in the words of its [components]({UP}methods/GALLERY.md){raw}:"
    yield ""
    by_name = {metric.name: metric for metric in scale.metrics}
    shown = [by_name[name] for name in scale.headline if name in by_name]
    for arm in scale.arms:
        computes = f"<br>{code(arm.recipe)}" if arm.recipe else ""
        yield f"- {_arm(scale, arm)} ({md(arm.role)}): {md(arm.title)}{computes}"
    yield ""
    if shown:
        head = ["arm", *(f"{md(metric.title)} {'↑' if metric.higher_is_better else '↓'}" for metric in shown)]
        rows = [[md(arm.name), *(_figure(arm, metric.name) for metric in shown)] for arm in scale.arms]
        yield from table(head, rows, right=range(1, len(head)))
    rest = [metric for metric in scale.metrics if metric not in shown]
    if rest:
        yield ""
        yield "<details><summary>Further metrics</summary>"
        yield ""
        head = ["arm", *(f"{md(metric.title)} {'↑' if metric.higher_is_better else '↓'}" for metric in rest)]
        rows = [[md(arm.name), *(_figure(arm, metric.name) for metric in rest)] for arm in scale.arms]
        yield from table(head, rows, right=range(1, len(head)))
        yield ""
        yield "</details>"
    yield from _curves(scale)
    yield from _budgets(scale)


def _arm(scale: ScaleRow, arm: ArmRow) -> str:
    """An arm's name, which leads to the file of its first results; what was added to them stands in a folder beside."""
    if not arm.seeds or not arm.key:
        return f"**{md(arm.name)}**"
    folder = f"reproductions/results/{link(scale.testbed)}"
    name = f"**[{md(arm.name)}]({UP}{folder}/{link(arm.key)}.json)**"
    more = len(additions(arm_path(gather.RESULTS / scale.testbed, arm.key)))
    return f"{name} [+ {more}]({UP}{folder}/{link(arm.key)}/)" if more else name


def _figure(arm: ArmRow, metric: str) -> str:
    found: Figure | None = next((figure for figure in arm.figures if figure.metric == metric), None)
    if found is None:
        return "-"
    paper = "" if found.paper is None else f"<br><sub>paper {number(found.paper)}</sub>"
    return f"{number(found.mean)} {_bounds(found.interval)}{paper}"


def _curves(scale: ScaleRow) -> Iterator[str]:
    """The first headline metric while the arms trained."""
    found = [(arm.name, curve) for arm in scale.arms for curve in arm.curves[:1] if len(curve.points) > 1]
    steps = {tuple(point[0] for point in curve.points) for _, curve in found}
    if len(steps) != 1:  # arms that measure at other steps have no common table
        return
    yield ""
    yield f"<details><summary>{code(found[0][1].metric)} while training, after so many steps</summary>"
    yield ""
    head = ["arm", *(number(step) for step in steps.pop())]
    rows = [[md(name), *(number(value) for _, _, value in curve.points)] for name, curve in found]
    yield from table(head, rows, right=range(1, len(head)))
    yield ""
    yield "</details>"


def _budgets(scale: ScaleRow) -> Iterator[str]:
    rows = []
    for arm in scale.arms:
        budget = arm.budget
        if budget is not None:
            tokens = (budget.student_tokens, budget.teacher_tokens, budget.generated_tokens)
            shares = (budget.truncated, budget.empty)
            rows.append(
                [
                    md(arm.name),
                    *(thousands(count) for count in tokens),
                    f"{budget.train_seconds:.1f}",
                    f"{budget.evaluate_seconds:.1f}",
                    *("-" if share is None else f"{100 * share:.1f} %" for share in shares),
                ]
            )
    if rows:
        head = [
            "budget, mean of a run",
            "student tokens",
            "teacher tokens",
            "generated",
            "train s",
            "evaluate s",
        ]
        head += ["cut off", "empty"]
        yield ""
        yield from table(head, rows, right=range(1, len(head)))


def _place(path: str) -> str:
    return f"[{code(path)}]({UP}{link(path)})" if "/" in path else code(path)
