"""How many claims of each paper were judged how; judged again only where something that decides it has changed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from os import stat_result
from pathlib import Path
from typing import Any

from catalog import cache
from tools import evidence
from tools.terminal import visible

ROOMS = ("catalog", "reproductions/engine")  # whose code decides a verdict, besides the paper's own

Tally = dict[str, int]


def tallies(paper_ids: Iterable[str]) -> dict[str, Tally]:
    """Verdict -> number of outcomes over all scales, for each judged paper of `paper_ids`.

    Results that cannot be judged (made by another configuration, say) leave their paper out and say so on stderr.
    """
    path = cache.file_for("verdicts", evidence.ROOT)
    key = cache.source_key([Path(__file__), Path(evidence.__file__)])
    kept = cache.read(path, key)
    entries: dict[str, Any] = kept if isinstance(kept, dict) else {}
    judges = _signatures(_files(*(evidence.ROOT / room for room in ROOMS)))
    found: dict[str, Tally] = {}
    changed = False
    for paper_id in evidence.judged_papers(paper_ids):
        tally = _kept(entries.get(paper_id), judges, paper_id)
        if tally is None:
            tally, entry = _judge(paper_id, judges)
            if entry is not None:
                entries[paper_id], changed = entry, True
        if tally is not None:
            found[paper_id] = tally
    if changed:
        cache.write(path, key, entries)
    return found


def sources(paper_id: str) -> list[Path]:
    """The paper's own files that decide its verdicts: claims, results, and what its experiment is made of."""
    folder = evidence.folder(paper_id)
    code = [folder / "experiment.py"]
    for path in code:  # grows as it goes
        code += [other for other in _imported(path) if other not in code]
    return [folder / "claims.yaml", *evidence.result_files(paper_id), *code]


def _kept(entry: Any, judges: list[Any] | None, paper_id: str) -> Tally | None:
    """The tally of an entry whose files are all as they were, and no other results have come."""
    try:
        about, files, tally = entry
        results = [str(path) for path in evidence.result_files(paper_id)]
        same = (
            judges is not None
            and about == [judges, _signatures(Path(file) for file in files)]
            and results == [file for file in files if file.endswith(".json")]
            and all(isinstance(count, int) for count in tally.values())
        )
    except (AttributeError, TypeError, ValueError):
        return None
    return tally if same else None


def _judge(paper_id: str, judges: list[Any] | None) -> tuple[Tally | None, Any]:
    """The tally, and the entry to keep; no entry where a file is too young to tell its next change."""
    try:
        files = sources(paper_id)
        before = _signatures(files)
        rows = evidence.claims(paper_id)
    except Exception as error:  # an experiment is a module that somebody may be writing just now
        print(f"the verdicts of {paper_id} are left out: {visible(str(error))}", file=sys.stderr)
        return None, None
    tally: Tally = {}
    for row in rows:
        for outcome in row.outcomes:
            tally[outcome.verdict] = tally.get(outcome.verdict, 0) + 1
    if before is None or judges is None:
        return tally, None
    return tally, [[judges, before], [str(path) for path in files], tally]


def _files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.glob("*.py"))]


def _signatures(paths: Iterable[Path]) -> list[Any] | None:
    """What each file looks like from outside; None where one cannot be relied on to look different when it changes."""
    found = []
    for path in paths:
        try:
            status: stat_result = path.stat()
        except OSError:
            return None
        if not cache.settled(status):
            return None
        found.append([path.name, *cache.signature(status)])
    return found


def _imported(path: Path) -> list[Path]:
    """Files of this repository's reproductions that a module imports when it is imported (not inside functions)."""
    found = []
    todo: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8"), str(path)).body)
    for node in todo:
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{name}" for name in names)]
            for name in names:
                file = evidence.ROOT / (name.replace(".", "/") + ".py")
                if name.startswith("reproductions.") and file.is_file():
                    found.append(file)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += [child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)]
    return found
