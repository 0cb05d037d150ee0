"""`kd new PAPER --arxiv ID`: begins a record; every line that its author must fill in says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from catalog import fields
from catalog.errors import CatalogError, cut
from catalog.model import BASES, Catalog

MARK = "# fill in"  # no record with this comment lands: a test looks for it, `kd check` lists it
UNFILLED = "to be filled in"


def marked(path: Path) -> list[tuple[int, str]]:
    """(line, what to write there) of every line that still waits for its author."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        before, mark, what = line.partition(MARK)
        if mark or UNFILLED in line:
            name = before.strip().removeprefix("- ").partition(":")[0]
            found.append((number, f"{name or 'comment'}: {what.strip(': ') or UNFILLED}"))
    return found


def arxiv_of(text: str) -> str:
    """The arXiv id in an id or address, without version; CatalogError otherwise."""
    bare = re.sub(
        r"^(https?://)?(www\.|export\.)?arxiv\.org/(abs|pdf|html)/|^arxiv:", "", text.strip(), flags=re.I
    )
    bare = re.sub(r"(v\d+)?(\.pdf)?/?$", "", bare)
    return _valid(fields.arxiv_id, bare)


def record(
    catalog: Catalog, paper_id: str, arxiv: str | None, url: str | None, method: str | None = None
) -> str:
    """A record that the schema reads; what is not known of the paper is marked. Refuses what is there already."""
    _valid(fields.identifier, paper_id)
    if paper_id in catalog.papers:
        raise CatalogError(f'there is a record "{paper_id}": catalog/papers/{paper_id}.yaml')
    if arxiv is None and url is None:
        raise CatalogError("--arxiv ID, or --url ADDRESS for a paper that is not on arXiv")
    for paper in catalog.papers.values():
        if arxiv is not None and paper.arxiv == arxiv:
            raise CatalogError(f'arXiv {arxiv} is "{paper.id}" already: catalog/papers/{paper.id}.yaml')
        if url is not None and paper.url == url:
            raise CatalogError(f'{cut(url)} is "{paper.id}" already: catalog/papers/{paper.id}.yaml')
    date = f'"20{arxiv[:2]}-{arxiv[2:4]}"' if arxiv else f'"1900-01"  {MARK}: month of the first version'
    axes = {axis.id: ", ".join(axis.values) for axis in catalog.taxonomy.values()}
    owed = "basis" if method else "basis, claims, method"
    sure = "`listed` where the survey or its list has it, `judged` where it is your reading"
    lines = [
        f"id: {paper_id}",
        f"title: {UNFILLED}  {MARK}: as published; in quotes if it holds a colon",
        *([f'arxiv: "{arxiv}"'] if arxiv else []),
        *([f"url: {_valid(fields.link, url)}"] if url else []),
        f"authors: [{UNFILLED}]  {MARK}: [First Last, First Last]",
        f"venue: arXiv  {MARK}: where it was published, short and without the year; arXiv if nowhere else",
        f"date: {date}",
        f"code: []  {MARK}: addresses of the authors' code, or delete the line",
        "taxonomy:",
        f"  elicitation: {{labeling: judged}}  {MARK}: some of {axes['elicitation']}; {sure}",
        f"  algorithm: {{sft: judged}}  {MARK}: some of {axes['algorithm']}",
        f"  skill: {{}}  {MARK}: some of {axes['skill']}; or delete the line",
        f"  vertical: {{}}  {MARK}: some of {axes['vertical']}; or delete the line",
        f"teacher: {UNFILLED}  {MARK}: the models that teach, or delete the line",
        f"student: {UNFILLED}  {MARK}: the models that learn, or delete the line",
        f"seed_knowledge: {UNFILLED}  {MARK}: the data it starts from, or delete the line",
        f"basis: recalled  {MARK}: where you saw teacher, student and seed: {', '.join(BASES)}",
        f"teacher_terms: []  {MARK}: whose terms of use apply, some of {', '.join(catalog.teachers)}",
        f"adds: {UNFILLED}  {MARK}: one line of your own on what the paper adds, never a sentence of its abstract",
        *([f"method: {method}"] if method else []),
        f"sources: []  {MARK}: addresses at which you saw the facts above",
        f"owes: [{owed}]  {MARK}: `kd check --owes --write` writes what is true when you are done",
    ]
    return "\n".join(lines) + "\n"


def experiment(paper_id: str, arxiv: str | None) -> str:
    """The beginning of reproductions/papers/<id>.yaml: it can be read, and says what to write where."""
    seen = f'{{arxiv: "{arxiv or UNFILLED}", version: 1, where: {UNFILLED}}}'
    lines = [
        f"paper: {paper_id}",
        f"about: {UNFILLED}  {MARK}: what the paper does and says, in two sentences of your own",
        "",
        "# What the paper states, written down and committed before anything runs.",
        "claims:",
        f"  source: {seen}  {MARK}: version, table and row that you saw",
        f"  metric: rouge_l  {MARK}: a metric of the testbed",
        "  scales: [tiny]",
        "  # smallest_effect: 0.5       what size matters, in the metric's unit, where the common rule will not do",
        "  # needs: [long-answers]      what a testbed must have shown before it may judge these, beside headroom",
        "  orderings:",
        f"    beats-sft:  {MARK}: a short name; then as many claims as the paper makes",
        f"      says: {UNFILLED}  {MARK}: the ordering in one sentence of your own",
        f"      better: {paper_id}  {MARK}: an arm",
        f"      worse: sft  {MARK}: an arm",
        f"      paper: [2.0, 1.0]  {MARK}: the paper's numbers for both arms, or delete the line",
        "",
        "arms:",
        "  sft: {title: SFT, method: sft}",
        f"  {paper_id}: {{role: method, method: {paper_id}}}  {MARK}: then baselines, and ablations by `like:`",
        "",
        "scales:",
        f"  tiny: {{testbed: pronunciation, seeds: 5, learning_rate: swept, minutes: 10}}  {MARK}: a testbed that",
        "  # shows what the claims are about; minutes on two cores",
        "",
        f"headline: [rouge_l]  {MARK}: the metrics of the tables, in order",
    ]
    return "\n".join(lines) + "\n"


def recipe(paper_id: str, arxiv: str | None) -> str:
    """The beginning of methods/recipes/<id>.yaml: a method that can be run, and what to put in its place."""
    return "\n".join(
        [
            f"{MARK}: authors, arXiv {arxiv or 'or address'}, what it does; the symbol behind each setting",
            f"title: {UNFILLED}  {MARK}: the method's name in the paper",
            f"settings: {{temperature: 1.0}}  {MARK}: what a user may set, with the paper's defaults",
            f"terms:  {MARK}: the loss, of the components in methods/GALLERY.md; sampler, data, teacher beside it",
            "  - {divergence: forward-kl, temperature: $temperature}",
            "",
        ]
    )


def _valid(check: Callable[[object], str], value: str | None) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise CatalogError(str(error)) from None
