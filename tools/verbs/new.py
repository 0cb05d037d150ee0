"""`kd new PAPER --arxiv ID`: begins a record; every line that its author must fill in says so."""

from __future__ import annotations

import argparse

from catalog.errors import CatalogError
from catalog.schema import HERE, load_catalog
from reproductions.engine.show import gather
from tools.checks.scaffold import arxiv_of, experiment, marked, recipe, record
from tools.paths import ROOT

SUMMARY = "begin the record of a paper"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", help="id of the new record, e.g. self-instruct")
    parser.add_argument("--arxiv", help="arXiv id or address, e.g. 2212.10560")
    parser.add_argument("--url", help="where the paper is, if not on arXiv")
    parser.add_argument("--reproduction", action="store_true", help="begin its experiment and its recipe too")


def main(args: argparse.Namespace) -> int:
    """Write the record, and experiment and recipe if asked; CatalogError where one of them is there already."""
    catalog = load_catalog()
    arxiv = arxiv_of(args.arxiv) if args.arxiv else None
    method = args.paper if args.reproduction else None
    files = {HERE / "papers" / f"{args.paper}.yaml": record(catalog, args.paper, arxiv, args.url, method)}
    if args.reproduction:
        files[gather.RECIPES / f"{args.paper}.yaml"] = recipe(args.paper, arxiv)
        files[gather.experiment_file(args.paper)] = experiment(args.paper, arxiv)
    for path in files:
        if path.exists():
            raise CatalogError("is there already", path)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        print(f"{path.relative_to(ROOT)}: written")
    print(f"\nfill in what is marked, then `kd check {args.paper}` lists what is missing:")
    for path in files:
        for line, what in marked(path):
            print(f"  {path.relative_to(ROOT)}:{line}: {what}")
    return 0
