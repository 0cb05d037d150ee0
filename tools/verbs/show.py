"""`kd show PAPER`: everything known about one paper, and where its code is."""

from __future__ import annotations

import argparse
import json
from itertools import takewhile

from catalog.queries import reproducible, status
from catalog.schema import Catalog, Paper, load_catalog
from reproductions.engine.show import files
from reproductions.engine.show.view import STANDS_IN, PaperView
from tools.commands import json_option
from tools.experiments import experiment_id
from tools.pages.atlas import BASIS, Question, ours, places, question_places
from tools.pages.cite import bibtex
from tools.paths import ROOT
from tools.terminal import interval, number, style, verdict, width, wrap
from tools.verbs.browse import SCOPES, record

SUMMARY = "one paper: what it is, its claims and verdicts, how to run it"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", help="id of the paper, e.g. minillm")
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print one paper; CatalogError with the nearest id where there is none."""
    catalog = load_catalog()
    if args.paper not in catalog.papers and experiment_id(args.paper) not in catalog.papers:
        (question,) = ours(catalog, [args.paper]).values()
        if args.json:
            plain = {"id": question.name, "asks": question.asks, "about": question.about}
            print(json.dumps(plain | _figures(question.view), indent=1, ensure_ascii=False))
        else:
            print("\n".join(_question(question)))
        return 0
    paper = catalog.paper(args.paper)
    view = files.view(paper.id)
    if args.json:
        print(json.dumps(_as_json(catalog, paper, view), indent=1, ensure_ascii=False))
    else:
        print("\n".join(_page(catalog, paper, view)))
    return 0


def _question(question: Question) -> list[str]:
    """An experiment of our own: what it asks, where it is, what it says."""
    view, name = question.view, question.name
    found = [*question_places(question), ("page", f"reproductions/papers/{name}.md")]
    lines = [style(wrap(question.asks), "bold"), "A question of our own, which no paper states.", ""]
    lines += [line for text in question.about.splitlines()[1:] if text.strip() for line in (wrap(text), "")]
    lines += [style("code in this repository", "bold"), *(_entry(*place) for place in found), *_arms(view)]
    lines += ["", style("claims", "bold"), *_claims(view)]
    return [*lines, "", style("run it", "bold"), *_commands(name, view)]


def _figures(view: PaperView | None) -> dict[str, object]:
    """What was judged, as JSON has it."""
    plain = view.as_dict() if view else {}
    return {name: plain.get(name, []) for name in ("scales", "claims", "values", "attempts")}


def _status(paper: Paper, view: PaperView | None) -> str:
    return status(paper, [paper.id] if view and view.judged else [])


def _places(paper: Paper, view: PaperView | None) -> list[tuple[str, str]]:
    """Where everything about a paper is."""
    return places(paper, view) + ([("page", f"reproductions/papers/{paper.id}.md")] if view else [])


def _page(catalog: Catalog, paper: Paper, view: PaperView | None) -> list[str]:
    state = _status(paper, view)
    lines = [style(wrap(paper.title), "bold"), wrap(f"{paper.venue}, {paper.date}  {paper.url}")]
    lines += [wrap(", ".join(paper.authors))] if paper.authors else []
    lines += ["", wrap(paper.adds)]
    if paper.scope != "llm":
        lines.append(wrap(f"scope: {SCOPES[paper.scope]}"))
    if not paper.distils:
        why = f"listed because: {paper.note}" if paper.note else "listed by a source of the catalog"
        lines.append(wrap(f"no distillation; {why}"))
    elif paper.note:
        lines.append(wrap(f"note: {paper.note}"))
    lines += [wrap(text) for text in _succession(catalog, paper)]
    labelled = [axis for axis in catalog.taxonomy.values() if paper.taxonomy[axis.id]]
    if labelled:
        lines += ["", style("taxonomy", "bold") + "  (* our judgement, not the survey's)"]
    for axis in labelled:
        labels = paper.taxonomy[axis.id].items()
        named = [axis.values[value].title + ("" if how == "listed" else "*") for value, how in labels]
        lines.append(_entry(axis.id, ", ".join(named)))
    if paper.objective:
        lines += ["", style("objective", "bold"), wrap(paper.objective, "  ")]
    for part in (_models(catalog, paper), _links(paper), _provenance(paper)):
        lines += ["", *part] if part else []
    lines += ["", f"{style('code in this repository', 'bold')}  ({state})"]
    lines += [_entry(name, place) for name, place in _places(paper, view)]
    if paper.method:
        lines += ["", f"{style('recipe', 'bold')}  ({_recipe_path(paper)})", *_recipe(paper)]
    if view:
        lines += _arms(view)
    if view and view.claims:
        lines += ["", style("claims", "bold"), *_claims(view)]
    lines += _external(paper)
    if view and view.attempts:
        lines += ["", style("earlier attempts", "bold"), *_attempts(view)]
    lines += ["", style("run it", "bold"), *_commands_of(paper, view)]
    return [*lines, "", style("cite it", "bold"), *_cite(paper)]


def _succession(catalog: Catalog, paper: Paper) -> list[str]:
    """Who replaced this paper, and whom it replaced."""
    lines = []
    if paper.superseded_by:
        lines.append(f"superseded by {paper.superseded_by}: kd show {paper.superseded_by}")
    earlier = [other.id for other in catalog.papers.values() if other.superseded_by == paper.id]
    if earlier:
        lines.append(f"supersedes {', '.join(earlier)}: kd show {earlier[0]}")
    return lines


def _entry(name: str, text: str) -> str:
    return wrap(text, " " * 16, f"  {name:<14}")


def _models(catalog: Catalog, paper: Paper) -> list[str]:
    named = [("teacher", paper.teacher), ("student", paper.student), ("seed", paper.seed_knowledge)]
    lines = [_entry(name, text) for name, text in named if text]
    head = style("models", "bold") + (f"  ({BASIS[paper.basis]})" if paper.basis else "")
    for name in paper.teacher_terms:
        terms = catalog.teachers[name]
        unread = "" if terms.verified else "; terms not read by us"
        lines.append(_entry("terms", f"{terms.title}: training on outputs: {terms.allows_training}{unread}"))
    return [head, *lines] if lines else []


def _links(paper: Paper) -> list[str]:
    links = [("code", link) for link in paper.code] + [("data", link) for link in paper.data]
    if paper.code:
        links.insert(len(paper.code), ("code licence", _licence(paper.code_licence)))
    return [style("links", "bold"), *(_entry(name, link) for name, link in links)] if links else []


def _licence(name: str | None) -> str:
    return {None: "not looked up", "none": "the repository has none"}.get(name, name or "")


def _provenance(paper: Paper) -> list[str]:
    """Where the record's facts were seen, and where it departs from the list it was taken from."""
    entries = [("source", link) for link in paper.sources] + [
        ("corrected", text) for text in paper.corrections
    ]
    return [style("this record", "bold"), *(_entry(*entry) for entry in entries)] if entries else []


def _recipe_path(paper: Paper) -> str:
    return f"methods/recipes/{paper.method}.yaml"


def _recipe_text(paper: Paper) -> str:
    return (ROOT / _recipe_path(paper)).read_text(encoding="utf-8")


def _recipe(paper: Paper) -> list[str]:
    """The file of the paper's method; long lines go on, further in, and stay YAML."""
    texts = _recipe_text(paper).splitlines()
    about = [text.removeprefix("#") for text in takewhile(lambda text: text.startswith("#"), texts)]
    lines = [wrap(" ".join(about), "  # ", "  # ")] if about else []
    for text in texts[len(about) :]:
        inside = text[: len(text) - len(text.lstrip())]
        lines.append(wrap(text, f"  {inside}    ", f"  {inside}"))
    return lines


def _arms(view: PaperView) -> list[str]:
    """What each arm computes, at the smallest scale that was run, else at the first."""
    scale = next(iter(view.recorded), view.scales[0] if view.scales else None)
    if scale is None:
        return []
    head = f"{style('arms', 'bold')}  ({scale.name} scale, testbed {scale.testbed})"
    lines = [wrap(f"{arm.name}: {arm.recipe}", "      ", "  ") for arm in scale.arms]
    if scale.stands_in:
        lines.append(wrap(f"the teacher is {STANDS_IN.get(scale.stands_in, scale.stands_in)}", "  ", "  "))
    return ["", head, *lines]


def _claims(view: PaperView) -> list[str]:
    lines = []
    for claim in view.claims:
        lines.append(wrap(f"{claim.id}: {claim.statement}", "    ", "  "))
        lines.append(wrap(f"source: {claim.source}", "      ", "    "))
        if claim.paper_better is not None:
            told = f"paper: {number(claim.paper_better)} against {number(claim.paper_worse)}"
            lines.append(wrap(f"{told} ({claim.paper_setting})", "      ", "    "))
        for outcome in claim.outcomes:
            means = f"{number(outcome.better_mean)} against {number(outcome.worse_mean)}, "
            ours = (
                f"{outcome.scale}: {means if outcome.better_mean is not None else ''}"
                f"difference {number(outcome.difference)} {interval(outcome.interval)}, {outcome.seeds} seeds"
            )
            lines.append(wrap(ours, "      ", "    "))
            word = view.stands_in(outcome.scale)
            where = f"{outcome.scale}, {word}" if word else outcome.scale
            lines.append(f"      {verdict(outcome.verdict, f'{where}: {outcome.told}')}")
            if outcome.effect is not None:
                lines.append(f"      matters from {number(outcome.effect)} ({outcome.effect_from})")
            if outcome.matched is not None:
                matched = f"{number(outcome.matched.difference)} {interval(outcome.matched.interval)}"
                lines.append(wrap(f"at matched decoding: {outcome.matched.verdict}, {matched}", "      "))
            if outcome.explanation:
                lines.append(wrap(outcome.explanation, "      "))
        if not claim.outcomes:
            lines.append("    " + verdict("not run"))
    return lines


def _external(paper: Paper) -> list[str]:
    """What others found when they ran the paper or looked closely."""
    lines = (
        ["", style("what others found", "bold") + "  (it decides no verdict here)"] if paper.external else []
    )
    for entry in paper.external:
        lines.append(wrap(f"{entry.kind}, {entry.date}, {entry.stance}:", "  ", "  "))
        lines += [wrap(entry.says, "      "), wrap(f"{entry.url} (seen {entry.seen})", "      ")]
    return lines


def _attempts(view: PaperView) -> list[str]:
    """Every configuration under which the paper was judged before."""
    lines = []
    for attempt in view.attempts:
        counts = ", ".join(f"{count} {word}" for word, count in attempt.verdicts)
        which = f"{attempt.number}: {attempt.date}, {attempt.scale}, {attempt.testbed}: {attempt.changed}"
        lines.append(wrap(f"{which}; then {counts} (engine {attempt.engine})", "     ", "  "))
    if view.attempt[0]:
        lines.append(wrap(f"{view.attempt[0]}: today's: {view.attempt[1]}", "     ", "  "))
    return lines


def _commands_of(paper: Paper, view: PaperView | None) -> list[str]:
    if view is None and not reproducible(paper):
        return ["  nothing: no method for language models to reproduce"]
    if view is None:
        return [wrap(f"nothing to run yet; `kd check {paper.id}` lists what is missing", "  ")]
    return _commands(paper.id, view)


def _commands(name: str, view: PaperView) -> list[str]:
    commands = [f"make reproduce PAPER={name} SCALE={scale.name}" for scale in view.scales]
    times = [
        f"about {number(scale.minutes)} minutes on 2 cores" if scale.minutes else "" for scale in view.scales
    ]
    if view.recorded:
        commands.append(f"make verify PAPER={name}")
        times.append("judges what was recorded again")
    size = max(map(len, commands))
    lines = []
    for command, time in zip(commands, times, strict=True):
        line = f"  {command:<{size}}  # {time}" if time else f"  {command}"
        lines += [line] if len(line) <= width() else [f"  {command}", f"    # {time}"]
    return lines


def _cite(paper: Paper) -> list[str]:
    """The entry with long fields over several lines."""
    return [wrap(line, "    ", "  ") if line.startswith(" ") else line for line in bibtex(paper).split("\n")]


def _as_json(catalog: Catalog, paper: Paper, view: PaperView | None) -> dict[str, object]:
    state = _status(paper, view)
    earlier = [other.id for other in catalog.papers.values() if other.superseded_by == paper.id]
    return {
        **record(paper, state),
        "authors": list(paper.authors),
        "objective": paper.objective,
        "verified": paper.models_verified,
        "teacher_terms": {name: catalog.teachers[name].allows_training for name in paper.teacher_terms},
        "supersedes": earlier,
        "note": paper.note,
        "corrections": list(paper.corrections),
        "sources": list(paper.sources),
        "recipe": _recipe_text(paper) if paper.method else None,
        "places": [list(place) for place in _places(paper, view)],
        **_figures(view),
        "bibtex": bibtex(paper),
    }
