"""What a paper's record is: frozen, closed vocabularies; a mistake gets its file, line and nearest name."""

from __future__ import annotations

from pathlib import Path

from catalog import index
from catalog.model import (
    ALLOWS_TRAINING,
    AXES,
    BASES,
    CONFIDENCES,
    EXTERNAL_KINDS,
    SCOPES,
    UNVERIFIED_BASES,
    Axis,
    Catalog,
    External,
    Formula,
    Paper,
    Teacher,
    Value,
)
from catalog.records import load_paper, load_taxonomy, load_teachers

__all__ = [
    "ALLOWS_TRAINING",
    "AXES",
    "BASES",
    "CONFIDENCES",
    "EXTERNAL_KINDS",
    "HERE",
    "SCOPES",
    "UNVERIFIED_BASES",
    "Axis",
    "Catalog",
    "External",
    "Formula",
    "Paper",
    "Teacher",
    "Value",
    "load_catalog",
    "load_paper",
    "load_taxonomy",
    "load_teachers",
]

HERE = Path(__file__).parent


def load_catalog(root: Path = HERE) -> Catalog:
    """Every record under `root`, read strictly; raises CatalogError at the first mistake.

    For the committed catalog, files that did not change since they were last read come from a cache (catalog/index.py).
    """
    return index.load(root, cached=root == HERE)
