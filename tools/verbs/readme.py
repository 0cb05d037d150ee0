"""`kd readme`: everything that is generated for readers of the repository, written or compared."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from catalog.schema import load_catalog
from reproductions.engine.atlas import record
from reproductions.engine.show.view import PaperView
from tools.experiments import every_experiment

SUMMARY = "write README, lists, paper pages, gallery from the catalog and the results"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="judge everything again, also where claims and results are as they were",
    )


def main(args: argparse.Namespace) -> int:
    """Bring the committed verdicts and every generated file up to date, or say which are not."""
    from reproductions.engine.show import files
    from tools.pages.atlas import atlas
    from tools.pages.documents import differing, documents, write

    catalog, root = load_catalog(), files.gather.ROOT
    together, old = _record(root, fresh=args.fresh)
    shown = replace(atlas(catalog, _fresh(catalog.papers) if args.fresh else None), record=together)
    if args.fresh:
        again = _fresh(shown.questions)
        asked = {name: replace(one, view=again[name]) for name, one in shown.questions.items()}
        shown = replace(shown, questions=asked)
    texts = documents(shown)
    stale = [
        files.path_of(paper).relative_to(files.gather.ROOT).as_posix()
        for paper in files.stale(every_experiment(catalog))
    ]
    if args.check:
        stale += [record.FILE] if old else []
        found = [*stale, *differing(texts)]
        print(
            "\n".join(f"{path}: differs from what `make readme` writes" for path in found) or "all up to date"
        )
        return 1 if found else 0
    views = [*shown.views.values(), *(one.view for one in shown.questions.values())]
    written = [view.paper for view in views if files.write(view)]
    changed = [f"reproductions/verdicts/{paper}.json" for paper in written] + write(texts)
    changed += [record.FILE] if record.write(together, root) else []
    print("\n".join(f"{path}: written" for path in changed) or "nothing to change")
    return 0


def _record(root: Path, *, fresh: bool) -> tuple[record.Record, bool]:
    """What the papers say together, from the raw figures where these changed; whether the committed one is older."""
    from reproductions.engine.atlas.compute import compute

    kept = record.read(root)
    old = kept is None or kept.made_from != record.inputs(root)
    return (compute(root) if kept is None or old or fresh else kept), old


def _fresh(papers: Iterable[str]) -> dict[str, PaperView]:
    """Every view from the raw figures: after a change of the code that judges or gathers."""
    from reproductions.engine.show import gather

    return {paper: gather.gather(paper) for paper in gather.runnable(papers)}
