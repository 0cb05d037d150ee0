"""`kd distill --plan` of a classifier: its rows, classes, steps and models, before a weight is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from methods.classes.encoding import encoded_texts
from reproductions.distill.classes import data
from reproductions.distill.classes.config import ClassesConfig
from reproductions.distill.classes.measure import size_of
from reproductions.distill.plan import terms_known
from reproductions.distill.record import of_the_data, parts_of
from reproductions.distill.state import check_writable
from reproductions.models.sources import classes_told, load_classifier


def plan_classes(config: ClassesConfig, known: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that can be told beforehand, as plain data. Raises what the training would begin with."""
    check_writable(config)
    split, budget = data.split_of(config), config.budget
    told = [classes_told(name) for name in config.teachers]
    classes = told[0] if told else data.classes_in(split.train)
    for rows in (split.train, split.held):
        data.ids_of(rows, classes)
    student, tokenizer = load_classifier(
        config.student, classes, loading=config.student_loaded, weights=False
    )
    teachers = [
        load_classifier(name, loading=loading, weights=False)
        for name, loading in zip(config.teachers, config.teachers_loaded, strict=True)
    ]
    data.lacks(split.train, tokenizer, [its for _, its in teachers])  # counted among what is told
    texts = split.train.texts
    _, cut = encoded_texts(texts, [0] * len(texts), {"": tokenizer}, budget["tokens"])
    sequences = budget["steps"] * budget["batch_size"] * budget["accumulate"]
    return {
        "method": config.method,
        "rows": {**split.counts, "cut": cut[""]},
        "bad_rows": dict(split.train.bad),
        "told": dict(split.train.told),
        "classes": {name: Counter(split.train.labels).get(name, 0) for name in classes},
        "steps": budget["steps"],
        "sequences": sequences,
        "epochs": round(sequences / len(split.train.texts), 3),
        "limit": budget["tokens"],
        "parameters": {
            "student": student.num_parameters(),
            "teachers": [model.num_parameters() for model, _ in teachers],
        },
        "teachers": [terms_known(config, name, known) for name in config.teachers],
        "output": str(config.output),
    }


def lines_of(plan: Mapping[str, Any]) -> list[str]:
    """The plan for a reader."""
    rows, limit = plan["rows"], f"{plan['limit']} tokens"
    lines = [f"{plan['method']}: texts with labels"]
    lines.append(f"rows: {', '.join(parts_of(rows, limit))}, {rows['trained_on']:,} to train on")
    if rows["cut"]:
        lines.append(f"cut at {limit}: {rows['cut']:,} texts")
    lines += of_the_data(plan["bad_rows"], plan["told"], [])
    lines.append("classes: " + ", ".join(f"{name} {count:,}" for name, count in plan["classes"].items()))
    each = plan["sequences"] // plan["steps"]
    lines.append(f"{plan['steps']:,} steps of {each:,} texts: {plan['epochs']:g} epochs")
    sizes = plan["parameters"]
    models = [("student", sizes["student"]), *(("teacher", size) for size in sizes["teachers"])]
    lines.append("parameters: " + ", ".join(f"{who} {size_of(size)}" for who, size in models))
    for one in plan["teachers"]:
        said = one["terms"] or "terms unknown"
        lines.append(
            f"teacher {one['name']}: {said}, training on its outputs: {one['allows_training']}; {one['note']}"
        )
    return [*lines, f"output: {plan['output']}"]
