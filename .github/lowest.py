"""Prints the lowest versions that pyproject.toml allows, one requirement a line, for a job that tests with them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest() -> list[str]:
    """`name==lowest` where there is a lower bound, the requirement as it is where there is none."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return [re.sub(r">=([\w.]+).*", r"==\1", text) for text in project["dependencies"]]


if __name__ == "__main__":
    print("\n".join(lowest()))
