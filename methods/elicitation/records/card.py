"""The card of an elicited data set: who wrote it under what terms, how, what was dropped and what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from methods.elicitation.records.table import ROWS, TRAIN

Rows = Sequence[Sequence[Any]]


def card(
    *,
    title: str,
    seeds: str,
    teachers: Sequence[Mapping[str, str]],
    steps: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any],
    spent: Mapping[str, Any],
    priced: bool,
    versions: Mapping[str, str],
) -> str:
    """The README.md of the data set, with the front matter that `datasets` and the hub read.

    `teachers` have `identity`, `terms` and `note`; `steps` are components with their settings; `report` is that of the
    rows, `spent` that of the journal.
    """
    kept, rows = report["kept"], report["rows"]
    head = [
        "---",
        "license: other",
        "tags: [synthetic, distillation, kd-atlas]",
        "task_categories: [text-generation]",
        "configs:",
        f"  - {{config_name: default, data_files: {TRAIN}}}",
        "---",
        "",
        f"# {plain(title)}",
        "",
        f"What teachers wrote about {plain(seeds)}, made with KD Atlas. `{TRAIN}` holds the {kept} rows that are data,",
        f"`{ROWS}` all {rows} with their provenance (`Dataset.from_parquet`); each that is no data says why.",
    ]
    wrote = [["teacher", "its terms", "what they say"]]
    wrote += [
        [code(one["identity"]), one["terms"] or "unknown", one["note"] or "look them up"] for one in teachers
    ]
    made = [["step", "settings"]]
    made += [[code(step["name"]), code(_settings(step))] for step in steps]
    left = [["rows", "what became of them"], [kept, "kept"]]
    left += [[count, f"dropped: {reason}"] for reason, count in report["dropped"].items()]
    left += [[report["without_completion"], "without a completion"]] if report["without_completion"] else []
    cost = [["", "the rows above", "the whole journal"]]
    cost += [["answers, attempts", report["answers"], spent["calls"]]]
    cost += [[f"tokens {name}", report[name], spent[name]] for name in ("read", "written")]
    if priced:
        cost.append(["money", "", f"{spent['money']:.4f}"])
    parts = [("Who wrote it", wrote), ("How", made), ("What came of it", left), ("What it took", cost)]
    body = [line for name, table in parts for line in ["", f"## {name}", "", *_table(table)]]
    made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join([*head, *body, "", f"Made with {plain(made_with)}.", ""])


def plain(value: Any) -> str:
    """Text that is nothing but text in Markdown, on one line."""
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#&" else letter for letter in text)


def code(value: Any) -> str:
    """Text as code, on one line."""
    text = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else ""


def _settings(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {json.dumps(value)}" for name, value in step.items() if name != "name")


def _table(rows: Rows) -> list[str]:
    lines = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def _cell(value: Any) -> str:
    text = str(value)
    return text if text.startswith("`") and text.endswith("`") and len(text) > 1 else plain(text)
