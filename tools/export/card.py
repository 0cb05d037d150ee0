"""The card of an export: what the hub and `datasets` read, and every column in a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tools.export.columns import Column, Table
from tools.pages.markdown import md, table

_CODE, _SPACES = re.compile(r"(`[^`]*`)"), re.compile(r"[^ ]+")
CARD = "README.md"
LICENCE = "apache-2.0"


def file_of(name: str) -> str:
    """Where the rows of a table stand, inside the export."""
    return f"data/{name}.parquet"


def card(tables: Sequence[Table], counts: Mapping[str, int], commit: str | None, *, dirty: bool) -> str:
    """The README.md of an export; `commit` is of the checkout that it was made from, None where there is none."""
    head = {
        "license": LICENCE,
        "pretty_name": "KD Atlas",
        "language": ["en"],
        "tags": ["knowledge-distillation", "reproducibility", "kd-atlas"],
        "configs": [
            {
                "config_name": one.name,
                "data_files": [{"split": "train", "path": file_of(one.name)}],
                **({"default": True} if one is tables[0] else {}),
            }
            for one in tables
        ],
        "dataset_info": [
            {
                "config_name": one.name,
                "features": [_feature(column.name, column.kind) for column in one.columns],
            }
            for one in tables
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        "# KD Atlas",
        "",
        "Papers on knowledge distillation on four axes, what those that were reproduced claim, and what came out, with "
        "the figures that the verdicts rest on. Verdicts are computed, never typed, and hold at the scale that they "
        "name: `tiny` never says that a paper is wrong.",
        "",
        _made_from(commit, dirty=dirty),
        "Null says that nothing is recorded, or that there is nothing to say.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'claims = load_dataset("FOLDER", "claims", split="train")',
        "```",
    ]
    for one in tables:
        lines += ["", f"## {one.name}", "", f"{one.says} {counts[one.name]:,} rows.", ""]
        lines += table(["column", "type", "what it says"], [_line(column) for column in one.columns])
    return "\n".join(lines) + "\n"


def _made_from(commit: str | None, *, dirty: bool) -> str:
    if commit is None:
        return "Made by `kd export` from an installed copy, whose commit is not known."
    also = ", with changes that were not committed" if dirty else ""
    return (
        f"Made by `kd export` at commit `{commit}`{also}; `file` names the file of that commit behind a row."
    )


def _line(column: Column) -> list[str]:
    return [f"`{column.name}`", _type(column.kind), _told(column.says)]


def _told(says: str) -> str:
    """A sentence as a cell, its code spans kept."""
    parts = _CODE.split(" ".join(says.split()))
    return "".join(part if _CODE.fullmatch(part) else _SPACES.sub(_escaped, part) for part in parts)


def _escaped(found: re.Match[str]) -> str:
    return md(found[0])


def _type(kind: Any) -> str:
    if isinstance(kind, tuple):
        return f"list of {_type(kind[0])}"
    return ", ".join(f"{name} {of}" for name, of in kind.items()) if isinstance(kind, Mapping) else str(kind)


def _feature(name: str, kind: Any) -> dict[str, Any]:
    """A column in the words of `dataset_info`."""
    if not isinstance(kind, tuple):
        return {"name": name, "dtype": kind}
    inner = kind[0]
    if isinstance(inner, Mapping):
        return {"name": name, "list": [{"name": field, "dtype": of} for field, of in inner.items()]}
    return {"name": name, "list": inner}
