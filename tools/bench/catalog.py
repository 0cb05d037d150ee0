"""Processor time of what a reader waits for, at a thousand records of which 440 are judged, beside its bar.

The catalog is made of the records that are there, in turn, so that every text has the length that a real one has.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.schema import Catalog, load_catalog
from reproductions.engine.atlas.record import read as read_record
from reproductions.engine.show import files
from tools.bench.measure import publish
from tools.pages.atlas import Atlas
from tools.pages.documents import documents
from tools.paths import ROOT

if TYPE_CHECKING:
    from rich.console import Console

PAPERS, JUDGED = 1000, 440
BARS = {"kd browse": 0.3, "README, lists and pages": 2.0}  # processor seconds; the others have none


@cache
def large_atlas() -> Atlas:
    """Real records and real views, again under other ids until there are enough."""
    catalog = load_catalog()
    records = sorted(catalog.papers.values(), key=lambda paper: paper.id)
    views = [view for _, view in sorted(files.views(catalog.papers).items()) if view.judged]
    papers = {}
    for number in range(PAPERS):
        record, again = records[number % len(records)], number // len(records)
        name = record.id + "-again" * again
        papers[name] = replace(record, id=name, superseded_by=None)
    judged = [name for name, paper in papers.items() if paper.scope == "llm" and paper.distils][:JUDGED]
    shown = {name: replace(view, paper=name) for name, view in zip(judged, cycle(views), strict=False)}
    return Atlas(Catalog(catalog.taxonomy, catalog.teachers, papers), shown, read_record())


def run(args: argparse.Namespace, console: Console, record: dict[str, Any]) -> int:
    """Measure, print, and record if asked; 1 where a bar is missed."""
    from rich.table import Table

    from tools.pages.site.build import build

    atlas = large_atlas()
    judged = sorted(load_catalog().papers.keys() & files.views(load_catalog().papers).keys())

    def read() -> None:
        for paper_id in islice(cycle(judged), JUDGED):
            files.view(paper_id)

    def pages() -> None:
        read()
        documents(Atlas(atlas.catalog, dict(atlas.views), atlas.record))

    with tempfile.TemporaryDirectory() as folder:
        measured: dict[str, Callable[[], float]] = {
            "kd browse": lambda: _best(_browse, args.repeats),
            "committed verdicts, read": lambda: _best(_own(read), args.repeats),
            "README, lists and pages": lambda: _best(_own(pages), args.repeats),
            "site": lambda: _best(_own(lambda: build(Path(folder) / "site", atlas)), 1),
        }
        table = Table(title=f"{PAPERS:,} records, {JUDGED} judged", title_justify="left", expand=True)
        for column in ("what", "processor seconds", "bar"):
            table.add_column(column, justify="left" if column == "what" else "right")
        missed = []
        for name, measure in measured.items():
            with console.status(name):
                seconds = measure()
            bar = BARS.get(name)
            table.add_row(name, f"{seconds:.2f}", "" if bar is None else f"{bar:g}")
            record["cases"].append({"what": name, "seconds": round(seconds, 3), "bar": bar})
            missed += [name] if bar is not None and seconds > bar else []
    console.print(table)
    console.print(f"README: {len(documents(atlas)['README.md'].encode()):,} bytes")
    publish(record, "catalog-cpu", args, console)
    if missed:
        print(f"kd bench: slower than the bar: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _best(measure: Callable[[], float], repeats: int) -> float:
    """The fastest turn: what others do on this machine only ever adds."""
    return min(measure() for _ in range(max(repeats, 1)))


def _own(work: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return measure


def _browse() -> float:
    """Of a whole process, Python's start included, on the catalog as it is."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "tools", "browse"],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
