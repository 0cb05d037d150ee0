"""What is installed is whole: every file of the rooms is Python or a kind of data that goes along."""

from __future__ import annotations

import ast
import sys
import tomllib
from fnmatch import fnmatch

import pytest

from tools.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("catalog", "methods", "reproductions", "tools")
#: Distributions by the name they are imported under, where that is another.
IMPORTED = {
    "yaml": "pyyaml",
    "rouge_score": "rouge-score",
    "markupsafe": "jinja2",
    "jinja2": "jinja2",
    "lm_eval": "lm-eval",
}
#: What comes with another one that is named, and peers that only a benchmark looks for.
WITH_OTHERS = {"tokenizers", "huggingface_hub", "liger_kernel", "distillkit", "triton"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_of_a_room_is_installed(room):
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    assert f"{room}*" in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    files = [path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    left_out = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.suffix != ".py" and not any(fnmatch(path.name, pattern) for pattern in patterns)
    ]
    assert files and not left_out


def test_whatever_is_imported_is_named_as_a_dependency():
    project = PROJECT["project"]
    extras = {
        text.split(">")[0].split("=")[0]
        for some in project["optional-dependencies"].values()
        for text in some
    }
    named = {text.split(">")[0].split("=")[0].strip().lower() for text in project["dependencies"]}
    found = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add((node.module or "").split(".")[0])
    ours = {*ROOMS, "tests", *sys.stdlib_module_names, "__future__", *WITH_OTHERS}
    used = {IMPORTED.get(name, name) for name in found - ours} - extras
    assert used <= named, f"imported, not named: {sorted(used - named)}"
    assert named <= used, f"named, never imported: {sorted(named - used)}"
