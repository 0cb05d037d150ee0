"""`kd check PAPER`: what is missing of a paper, from its record to its results, each with the line to edit."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from catalog.schema import Catalog, Paper, load_catalog
from tools.commands import UsageError, json_option, one_name
from tools.experiments import every_experiment
from tools.paths import ROOT, relative
from tools.terminal import grid, style, visible, wrap

if TYPE_CHECKING:
    from tools.checks.missing import Missing

SUMMARY = "what is missing of a paper, from record to results, and where"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument(
        "paper", nargs="?", type=one_name, help="id of the paper; a summary over all without it"
    )
    parser.add_argument("--owes", action="store_true", help="only whether records say exactly what they owe")
    parser.add_argument(
        "--fingerprints",
        action="store_true",
        help="only whether components still behave as recorded (imports torch)",
    )
    parser.add_argument(
        "--statistics",
        action="store_true",
        help="how the intervals and verdicts behave in simulated worlds whose truth is known (a few seconds)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="with --owes: the right flags into the records; with --fingerprints: the components' behaviour as it is",
    )
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print what is missing; 1 where something is, 0 where nothing is."""
    catalog = load_catalog()
    papers = [catalog.paper(args.paper)] if args.paper else list(catalog.papers.values())
    asked = [f"--{name}" for name in ("owes", "fingerprints", "statistics") if getattr(args, name)]
    if len(asked) > 1:
        raise UsageError(f"kd check: {' and '.join(asked)} are {len(asked)} questions; ask one at a time")
    if args.statistics:
        return _statistics(args)
    if args.write and not (args.owes or args.fingerprints):
        raise UsageError("kd check: --write goes with --owes or with --fingerprints")
    if args.fingerprints:
        return _fingerprints(catalog, write=args.write)
    if args.owes:
        return _owes(catalog, papers, write=args.write)
    from tools.checks.missing import missing

    found = [item for paper in papers for item in missing(catalog, paper)]
    found += [*_pages(catalog, papers), *_gates(catalog, args.paper)]
    if not args.paper:
        found += [*_results(catalog), *_documents()]
    found = list(dict.fromkeys(found))  # what papers share is said once
    if args.json:
        print(json.dumps([asdict(item) for item in found], indent=1, ensure_ascii=False))
    elif not found:
        print(f"nothing is missing of {args.paper or 'any paper'}")
    elif args.paper:
        print("\n".join(visible(str(item)) for item in found))
    else:
        print("\n".join(_summary(found)))
    return 1 if found else 0


def _statistics(args: argparse.Namespace) -> int:
    """One page on what the engine's verdicts are worth; nothing here depends on recorded results."""
    from reproductions.engine.verdicts import characteristics

    if args.paper or args.write or args.json:
        raise UsageError("kd check --statistics stands alone: it is about the engine, not about a paper")
    for line in characteristics.page():
        print(line, flush=True)
    return 0


def _fingerprints(catalog: Catalog, *, write: bool) -> int:
    """Whether every component does to the toy what is recorded; with `write`, record it, and say what is stale now."""
    from methods import fingerprints
    from methods.behaviour import measured
    from tools.checks import results

    print("a few steps of training with each component, about half a minute ...", file=sys.stderr)
    with contextlib.redirect_stdout(io.StringIO()):  # trainers print what they think of each
        now = measured()
    before = fingerprints.recorded()
    found = [f"{name}: has no recorded behaviour" for name in sorted(now.keys() - before.keys())]
    found += [
        f"{name}: is gone, its behaviour is still recorded" for name in sorted(before.keys() - now.keys())
    ]
    for name in sorted(now.keys() & before.keys()):
        if not fingerprints.same(now[name], before[name]):
            found.append(f"{name}: behaves otherwise than recorded")
    if not write:
        print("\n".join(map(wrap, found)) or f"all {len(now)} components behave as recorded")
        if found:
            print(
                wrap(
                    "`kd check --fingerprints --write` records it, and names the results that it makes stale"
                )
            )
        return 1 if found else 0
    changed = fingerprints.write(now)
    print("\n".join([*(f"{name}: written" for name in changed), *map(wrap, found)]) or "nothing to change")
    stale = [f"{path}: {what}" for path, what in results.stale(results.files())]
    print("\n".join(map(wrap, stale)) or "no recorded result is stale")
    return 0


def _owes(catalog: Catalog, papers: Sequence[Paper], *, write: bool) -> int:
    """Whether the records say what they owe; with `write`, make them say it."""
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


def _gates(catalog: Catalog, paper: str | None) -> Iterator[Missing]:
    """What is wrong with the gates of a paper's testbeds, or with any."""
    from reproductions.testbeds.spec import list_testbeds
    from tools.checks import gates
    from tools.checks.missing import Missing

    if paper:
        found = list(gates.wrong(gates.of_papers([catalog.paper(paper).id])))
    else:
        found = [*gates.wrong(list_testbeds()), *gates.orphans()]
    return (Missing("gate", path, 1, what) for path, what in found)


def _results(catalog: Catalog) -> Iterator[Missing]:
    """Result files that belong to no paper's experiment, and committed ones that are not what they were."""
    from tools.checks import results
    from tools.checks.missing import Missing

    unnamed = list(results.unnamed(every_experiment(catalog)))
    broken = results.unreadable(ROOT / path for path, _ in unnamed if path.endswith(".json"))
    found = [*unnamed, *broken, *results.changed_files(), *results.idle_reasons()]
    return (Missing("results", path, 1, what) for path, what in found)


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
