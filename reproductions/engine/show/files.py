"""The committed verdicts: `reproductions/verdicts/<paper>.json` is a paper's view as data, computed and never typed.

A file says of which claims and results it was made; where these are others now, the view is made again for whoever
asks, and `kd check` says that the file is stale. A file that was edited (its own digest tells) counts as stale.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from catalog import cache
from reproductions.engine.show import gather
from reproductions.engine.show.view import PaperView, Tally, from_dict

FOLDER = gather.ROOT / "reproductions" / "verdicts"
SCHEMA = 2


def view(paper_id: str) -> PaperView | None:
    """What is shown of a paper: the committed view where it is current, else made now; None without experiment."""
    if not gather.has_experiment(paper_id):
        return None
    kept = read(paper_id)
    return kept if kept is not None and _current(kept) else gather.gather(paper_id)


def views(paper_ids: Iterable[str]) -> dict[str, PaperView]:
    """The view of every paper that has an experiment."""
    found = {paper_id: view(paper_id) for paper_id in gather.runnable(paper_ids)}
    return {paper_id: shown for paper_id, shown in found.items() if shown is not None}


def stale(paper_ids: Iterable[str]) -> list[str]:
    """The papers whose committed file is missing, altered, or made of other claims or results than today's."""
    found = []
    for paper_id in gather.runnable(paper_ids):
        kept = read(paper_id)
        if kept is None or not _current(kept):
            found.append(paper_id)
    return found


def orphans(paper_ids: Iterable[str]) -> list[Path]:
    """Committed files of papers that have no experiment (any more)."""
    known = set(gather.runnable(paper_ids))
    return [path for path in sorted(FOLDER.glob("*.json")) if path.stem not in known]


def path_of(paper_id: str) -> Path:
    """Where a paper's verdicts are committed."""
    return FOLDER / f"{paper_id}.json"


def read(paper_id: str) -> PaperView | None:
    """The committed view, current or not; None where there is none that this code wrote."""
    try:
        head, _, body = path_of(paper_id).read_bytes().partition(b"\n")
        if json.loads(head) != _head(body):
            return None
        shown = from_dict(json.loads(body))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return shown if shown.paper == paper_id else None


def text(shown: PaperView) -> str:
    """What the committed file of a view holds: a line about it, then one claim, arm or scale a line."""
    body = f"{{\n{_lines(shown.as_dict())}\n}}\n"
    return f"{json.dumps(_head(body.encode()))}\n{body}"


def write(shown: PaperView) -> bool:
    """Commit a view to its file, all of it or nothing; whether anything changed."""
    path, new = path_of(shown.paper), text(shown)
    if path.is_file() and path.read_text(encoding="utf-8") == new:
        return False
    from reproductions.engine.files import write_atomic

    write_atomic(path, new)
    return True


def tallies(paper_ids: Iterable[str]) -> dict[str, Tally]:
    """Scale -> verdict -> count of each judged paper, from the committed files as they are (`kd browse` must be quick).

    Empty for a paper that only an earlier attempt judged. What an unchanged file said is remembered in the cache, so
    that hundreds of them need not be parsed.
    """
    try:
        names = set(os.listdir(FOLDER))  # noqa: PTH208 - names only, and fast
    except OSError:
        return {}
    path, key = cache.file_for("verdicts", FOLDER), cache.source_key([Path(__file__)])
    kept = cache.read(path, key)
    entries: dict[str, Any] = kept if isinstance(kept, dict) else {}
    found: dict[str, Tally] = {}
    changed = False
    for paper_id in paper_ids:
        if f"{paper_id}.json" not in names:
            continue
        status = path_of(paper_id).stat()
        signature = cache.signature(status)
        entry = entries.get(paper_id)
        if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == signature):
            shown = read(paper_id)
            entry = [signature, shown.tally() if shown and shown.judged else None]
            if cache.settled(status):
                entries[paper_id], changed = entry, True
        if entry[1] is not None:
            found[paper_id] = entry[1]
    if changed:
        cache.write(path, key, entries)
    return found


def _current(shown: PaperView) -> bool:
    results = [name for scale in shown.scales for name in scale.results]
    return (shown.claims_digest, shown.results_digest) == gather.digests(shown.paper, results)


def _head(body: bytes) -> dict[str, Any]:
    """What the first line says of the rest: a hand edit changes the digest."""
    return {"schema": SCHEMA, "digest": hashlib.sha256(body).hexdigest()[:16]}


def _lines(body: dict[str, Any]) -> str:
    parts = []
    for name, value in body.items():
        if isinstance(value, tuple) and value:
            items = ",\n  ".join(
                _scale_lines(item) if name == "scales" else json.dumps(item) for item in value
            )
            parts.append(f" {json.dumps(name)}: [\n  {items}\n ]")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return ",\n".join(parts)


def _scale_lines(scale: dict[str, Any]) -> str:
    """A scale over several lines: its own facts, then an arm a line."""
    arms = ",\n    ".join(json.dumps(arm) for arm in scale["arms"])
    own = json.dumps({name: value for name, value in scale.items() if name != "arms"})
    return f'{own[:-1]}, "arms": [\n    {arms}\n  ]}}' if scale["arms"] else json.dumps(scale)
