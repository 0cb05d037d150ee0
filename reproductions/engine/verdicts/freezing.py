"""Freezing what today's configuration of a paper said, before its experiment is changed."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import write_atomic
from reproductions.engine.verdicts.attempts import read_attempts

if TYPE_CHECKING:
    from reproductions.engine.show.view import PaperView, ScaleRow

ENGINE = 2
WIDTH = 116  # of the lines that are written into an experiment
_BLOCK = re.compile(r"^attempt:.*\n(?:[ \t]+.*\n|\n(?=[ \t]))*\n*", re.MULTILINE)
_CLAIMS = re.compile(r"^(?:#.*\n)*claims:", re.MULTILINE)


def freeze(view: PaperView, scale: str, *, date: str, commit: str, folder: Path) -> Path:
    """Writes what the recorded figures of a scale say as the paper's next attempt and returns the file.

    Claims without a figure are left out. Raises KDError where nothing is judged there, or where it was frozen before.
    """
    row = next((row for row in view.recorded if row.name == scale), None)
    claims = [] if row is None else _claims(view, row)
    if row is None or not claims:
        raise KDError(f"{view.paper}: nothing is judged at scale {scale}, so there is nothing to freeze")
    earlier = read_attempts(view.paper, folder)
    number, changed = view.attempt if view.attempt[0] else (1, "the first configuration")
    if number != len(earlier) + 1:
        raise KDError(f"{view.paper}: attempt {number} is frozen already, in {folder.name}")
    counted: dict[str, int] = {}
    for claim in claims:
        counted[claim["verdict"]] = counted.get(claim["verdict"], 0) + 1
    body = {
        **{"paper": view.paper, "number": number, "date": date, "engine": ENGINE, "scale": scale},
        **{"testbed": row.testbed, "changed": changed, "commit": commit, "raw": None},
        "seeds": list(range(max(claim["seeds"] for claim in claims))),
        "verdicts": counted,
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in body.items()]
    told = ",\n".join(f"  {json.dumps(claim, ensure_ascii=False)}" for claim in claims)
    path = folder / f"{view.paper}.{number}.json"
    write_atomic(path, "{\n" + ",\n".join(lines) + f',\n "claims": [\n{told}\n ]\n}}\n')
    return path


def renumber(text: str, number: int, changed: str) -> str:
    """An experiment's text as attempt `number`, with what changed: the block `attempt` replaced or put before `claims`.

    Raises KDError where the text has no section `claims`.
    """
    told = textwrap.fill(changed.strip(), WIDTH, initial_indent="    ", subsequent_indent="    ")
    block = f"attempt:\n  number: {number}\n  changed: >-\n{told}\n\n"
    if _BLOCK.search(text):
        return _BLOCK.sub(lambda _: block, text, count=1)
    if not _CLAIMS.search(text):
        raise KDError("the experiment has no section of claims")
    return _CLAIMS.sub(lambda found: block + found[0], text, count=1)


def _claims(view: PaperView, row: ScaleRow) -> list[dict[str, Any]]:
    """The judged claims as an attempt's file has them."""
    keys = {arm.name: arm.key for arm in row.arms if arm.key}
    found = []
    for claim in view.claims:
        for outcome in claim.outcomes:
            if outcome.scale != row.name or not outcome.has_verdict or outcome.difference is None:
                continue
            both = {name: keys[name] for name in (claim.better, claim.worse) if name in keys}
            found.append(
                {
                    **{"claim": claim.id, "verdict": outcome.kind, "difference": outcome.difference},
                    "interval": None if outcome.interval is None else list(outcome.interval),
                    **{
                        "better": claim.better,
                        "worse": claim.worse,
                        "metric": outcome.metric or claim.metric,
                    },
                    "keys": both if len(both) == len({claim.better, claim.worse}) and claim.better else {},
                    "seeds": outcome.seeds,
                }
            )
    return found
