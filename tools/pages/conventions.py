"""Which convention the losses of several libraries keep: the rows of `benchmarks/conformance.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = [
    "loss",
    "divergence",
    "temperature",
    "reduction",
    "padding",
    "unequal heads",
    "masked ids",
    "top-k",
]


def convention_rows(record: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Columns, and for each loss its name and cells."""
    return COLUMNS, [(row["implementation"], _cells(row)) for row in record["rows"]]


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row.get("missing"):
        return ["not in this version", *["-"] * (len(COLUMNS) - 2)]
    kept, edges = row["convention"], row["edges"]
    heads = list(dict.fromkeys(edges[f"larger-{side}"] for side in ("teacher", "student")))
    name = kept["divergence"]
    if [one for one in row["broken"] if one != "masked-teacher"]:
        name += f" (not on {', '.join(row['broken'])})"
    heated = "" if kept["temperature"] == "both" else f", {kept['temperature']}"
    temperature = "-" if "factor" in row["unseen"] else f"{kept['factor']}{heated}"
    return [
        name,
        temperature,
        kept["reduction"],
        kept["padding"],
        edges["larger-teacher"]
        if len(heads) == 1
        else f"{heads[0]} (teacher's larger), {heads[1]} (student's)",
        edges["masked-teacher"],
        edges.get("top-k", "-"),
    ]
