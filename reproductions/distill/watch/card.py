"""The card of a student: what it was made of, under whose terms, how, and how good it was on held-out rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from methods.elicitation.records.card import code, plain
from reproductions.distill.evaluate import table

CARD = "README.md"


def card_of(
    record: Mapping[str, Any],
    *,
    teachers: Sequence[Mapping[str, str]],
    title: str,
    about: str,
    evaluation: Mapping[str, Any] | None,
    picture: bool,
    loads: str = "AutoModelForCausalLM",
) -> str:
    """The README.md of a student's folder, with the front matter that the hub reads.

    `teachers` have `name`, `terms` and `note`; `title` and `about` are the recipe's. `loads` is transformers' class.
    """
    student = _short(record["student"])
    head = [
        "---",
        "library_name: transformers",
        "license: other",
        "tags: [distillation, kd-atlas]",
        *([f"base_model: {json.dumps(record['student'])}"] if _of_the_hub(record["student"]) else []),
        "---",
        "",
        f"# {plain(student)}, distilled by {plain(title)}",
        "",
        *([f"{plain(about)}", ""] if about else []),
        "```python",
        f"from transformers import {loads}, AutoTokenizer",
        "",
        f'model = {loads}.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "```",
    ]
    parts: list[tuple[str, list[str]]] = [("Lineage", _lineage(record, teachers))]
    if evaluation:
        parts.append(("Before and after", _figures(record, evaluation)))
    parts.append(("Data", _data(record)))
    parts.append(("Training", _training(record, picture=picture)))
    body = [line for name, lines in parts for line in ["", f"## {name}", "", *lines]]
    made = record["environment"]
    with_ = ", ".join(f"{name} {made[name]}" for name in ("torch", "transformers", "trl") if name in made)
    return "\n".join(
        [*head, *body, "", f"Made with KD Atlas, {plain(with_)}; `kd-distill.json` has everything.", ""]
    )


def _lineage(record: Mapping[str, Any], teachers: Sequence[Mapping[str, str]]) -> list[str]:
    rows = [["role", "model", "its terms", "what they say"]]
    student = _model(record, record["student"], "student")
    rows.append(["student at the start", student, "", "those of the model it was made from"])
    for number, one in enumerate(teachers, 1):
        note = one["note"] or "not known to KD Atlas: look them up"
        model = _model(record, one["name"], f"teacher {number}")
        rows.append(["teacher", model, plain(one["terms"] or "unknown"), plain(note)])
    return markdown(rows)


def _model(record: Mapping[str, Any], name: str, who: str) -> str:
    """A model's name with what makes it another one than that name tells: blocks left out, weights of few bits."""
    loading = record["inputs"].get(f"loading of {who}", {})
    layers, bits, weights = loading.get("layers"), loading.get("bits"), record.get("weights", {}).get(name)
    if layers is None:
        kept = ""
    else:
        kept = (
            f"{layers} of its blocks"
            if isinstance(layers, int)
            else f"its blocks {', '.join(map(str, layers))}"
        )
    parts = [kept, f"in {bits} bits" if bits else "", f"weights of {weights}" if weights else ""]
    return ", ".join([code(_short(name)), *(plain(part) for part in parts if part)])


def _figures(record: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[str]:
    shown = record.get("table") or table.rows_of(record["evaluation"])
    lines = markdown([[plain(cell) for cell in row] for row in shown])
    answers = f"; answers of the first {evaluation['answers']}, greedy" if evaluation.get("answers") else ""
    lines += [
        "",
        f"On {evaluation['rows']} answers that nothing was trained on{answers}. In brackets: the distance from the "
        "start with its 95 % interval over conversations; another seed's training may lie elsewhere.",
    ]
    lines += ["", f"{plain(table.about_tasks(record[table.TASKS]))}."] if table.TASKS in record else []
    return lines


def _data(record: Mapping[str, Any]) -> list[str]:
    rows = [
        ["what", "rows"],
        *([plain(name.replace("_", " ")), f"{count:,}"] for name, count in record["rows"].items()),
    ]
    rows += [
        [plain(f"unreadable: {name}"), f"{count:,}"] for name, count in record.get("bad_rows", {}).items()
    ]
    rows += [[plain(name), f"{count:,}"] for name, count in record.get("told", {}).items()]
    return [
        f"{code(_short(record['data']))}, read as {record.get('shape') or 'prompts and completions'}.",
        "",
        *markdown(rows),
    ]


def _training(record: Mapping[str, Any], *, picture: bool) -> list[str]:
    budget, loss = record["budget"], record["loss"]
    rows = [["what", "value"], ["method", code(record["method"])]]
    rows += [["settings", code(json.dumps(record["settings"]))]] if record["settings"] else []
    rows += [[name.replace("_", " "), plain(value)] for name, value in budget.items()]
    rows += [["LoRA", code(json.dumps(record["lora"]))]] if record["lora"] else []
    rows += [["precision", plain(record["precision"])], ["seed", plain(record["seed"])]]
    rows += [["seconds", plain(record["seconds"])]]
    rows += [["tokens", plain(", ".join(f"{who} {count:,}" for who, count in record["tokens"].items()))]]
    if loss:
        rows.append(["loss", plain(f"{loss['start']:g} at the start, {loss['end']:g} at the end")])
    return [*markdown(rows), *(["", "![loss](loss.svg)"] if picture else [])]


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; cells are Markdown already."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def _short(name: str) -> str:
    """A model's or a file's name without the machine's folders."""
    return Path(name).name if Path(name).is_absolute() else name


def _of_the_hub(name: str) -> bool:
    return not Path(name).is_absolute() and name.count("/") == 1
