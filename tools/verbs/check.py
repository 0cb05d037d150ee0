"""`kd check PAPER`: what is missing of a paper, from its record to its results, each with the line to edit."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from catalog.schema import load_catalog
from tools.checks.missing import RATCHET, Missing, counts, missing, slack
from tools.checks.references import broken
from tools.commands import json_option
from tools.paths import ROOT, relative
from tools.terminal import grid, style, visible, wrap

SUMMARY = "what is missing of a paper, from record to results, and where"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", nargs="?", help="id of the paper; a summary over all without it")
    parser.add_argument("--ratchet", action="store_true", help="compare the counts that may only shrink")
    parser.add_argument("--write", action="store_true", help="with --ratchet: write counts that shrank")
    parser.add_argument("--grow", action="store_true", help="with --write: write counts that grew, too")
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print what is missing; 1 where something is, 0 where nothing is."""
    if args.ratchet or args.write or args.grow:
        return _ratchet(write=args.write, grow=args.grow)
    catalog = load_catalog()
    if args.paper:
        found = [*missing(catalog, catalog.paper(args.paper)), *_readme()]
    else:
        found = [item for paper in catalog.papers.values() for item in missing(catalog, paper)]
        found += [*_documents(), *_readme()]
    if args.json:
        print(json.dumps([asdict(item) for item in found], indent=1, ensure_ascii=False))
    elif not found:
        print(f"nothing is missing of {args.paper or 'any paper'}")
    elif args.paper:
        print("\n".join(visible(str(item)) for item in found))
    else:
        print("\n".join(_summary(found)))
    return 1 if found else 0


def _readme() -> Iterator[Missing]:
    from tools.pages import readme

    if not readme.README.is_file() or readme.README.read_text(encoding="utf-8") != readme.render():
        yield Missing(
            "readme", "README.md", 1, "is not what the catalog and the results say now: make readme"
        )


def _documents() -> Iterator[Missing]:
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


def _ratchet(*, write: bool, grow: bool) -> int:
    catalog = load_catalog()
    now, found = counts(catalog), slack(catalog)
    print("\n".join(grid([[name, f"{count:,}"] for name, count in now.items()], right=(1,))))
    print("\n".join(found) or "as the ratchet says")
    if not write:
        return 1 if found else 0
    if RATCHET.is_file() and not grow and any(" grew " in text for text in found):
        print("not written: a count grew (--grow writes it all the same; say why in the commit)")
        return 1
    head = (
        "# How many records still lack something. Written by `kd check --ratchet --write`; may only shrink.\n"
    )
    RATCHET.write_text(head + "".join(f"{name}: {count}\n" for name, count in now.items()), encoding="utf-8")
    print(f"{relative(RATCHET)}: written")
    return 0
