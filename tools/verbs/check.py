"""`kd check PAPER`: what is missing of a paper, from its record to its results, each with the line to edit."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from catalog.schema import Catalog, Paper, load_catalog
from tools.commands import json_option
from tools.paths import ROOT, relative
from tools.terminal import grid, style, visible, wrap

if TYPE_CHECKING:
    from tools.checks.missing import Missing

SUMMARY = "what is missing of a paper, from record to results, and where"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", nargs="?", help="id of the paper; a summary over all without it")
    parser.add_argument("--owes", action="store_true", help="only whether records say exactly what they owe")
    parser.add_argument(
        "--write", action="store_true", help="with --owes: write the right flags into the records"
    )
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print what is missing; 1 where something is, 0 where nothing is."""
    from tools.checks.missing import missing

    catalog = load_catalog()
    papers = [catalog.paper(args.paper)] if args.paper else list(catalog.papers.values())
    if args.owes or args.write:
        return _owes(catalog, papers, write=args.write)
    found = [item for paper in papers for item in missing(catalog, paper)]
    found += _pages(catalog, papers)
    if not args.paper:
        found += _documents()
    if args.json:
        print(json.dumps([asdict(item) for item in found], indent=1, ensure_ascii=False))
    elif not found:
        print(f"nothing is missing of {args.paper or 'any paper'}")
    elif args.paper:
        print("\n".join(visible(str(item)) for item in found))
    else:
        print("\n".join(_summary(found)))
    return 1 if found else 0


def _owes(catalog: Catalog, papers: Sequence[Paper], *, write: bool) -> int:
    """Whether the records say what they owe; with `write`, make them."""
    from tools.checks import owes

    if write:
        changed = owes.write(papers)
        print("\n".join(f"catalog/papers/{paper}.yaml: written" for paper in changed) or "nothing to change")
        return 0
    found = [f"catalog/papers/{paper.id}.yaml:{line}: {what}" for paper, line, what in owes.wrong(papers)]
    print("\n".join(visible(text) for text in found) or "every record says what it owes")
    if not found:
        rows = [[name, f"{count:,}"] for name, count in owes.counts(catalog).items()]
        print("\n".join(grid([["OWED", "RECORDS"], *rows], right=(1,))))
    return 1 if found else 0


def _pages(catalog: Catalog, papers: Sequence[Paper]) -> Iterator[Missing]:
    """Generated files that are not what they would be now: of one paper its own, of all of them everything."""
    from reproductions.engine.show import files
    from tools.checks.missing import Missing
    from tools.pages import documents
    from tools.pages.atlas import atlas

    shown = atlas(catalog, None if len(papers) > 1 else files.views([papers[0].id]))
    texts = documents.documents(shown) if len(papers) > 1 else documents.own(shown)
    for path in documents.differing(texts):
        if len(papers) > 1 or path in texts:  # of one paper, what is not made here is another's
            yield Missing("pages", path, 1, "is not what the catalog and the results say now: make readme")


def _documents() -> Iterator[Missing]:
    from tools.checks.missing import Missing
    from tools.checks.references import broken

    for path in sorted(ROOT.glob("*.md")):
        for line, what in broken(path):
            yield Missing("names", relative(path), line, what)


def _summary(found: list[Missing]) -> list[str]:
    """A line for each kind of thing that is missing: how often, and the first place."""
    kinds = dict.fromkeys(item.kind for item in found)
    rows = [["MISSING", "PLACES", "FIRST"]]
    for kind in kinds:
        items = [item for item in found if item.kind == kind]
        rows.append([kind, str(len(items)), f"{items[0].path}:{items[0].line}"])
    head, *lines = grid(rows, right=(1,))
    return [style(head, "bold"), *lines, "", wrap("`kd check PAPER` says what to do, line by line")]
