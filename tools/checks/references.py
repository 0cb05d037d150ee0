"""What the documents name (paths, modules, make targets, `kd` commands), and whether it is there."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from tools.commands import NAMES, UsageError, parser_of
from tools.paths import ROOT

ROOMS = ("catalog", "methods", "reproductions", "tools", "tests")
_LINK = re.compile(r"\]\(([^()\s]+)|^\[[^\]]+\]:\s*(\S+)|(?:src|href)=\"([^\"]+)\"")
_CODE = re.compile(r"`+([^`]+)`+|<code>(.*?)</code>")
_PATH = re.compile(
    rf"(?<![\w/.:-])(?:(?:{'|'.join(ROOMS)}|benchmarks|\.ci)/[\w./<>*-]*|Makefile\b|[A-Z]+\.md\b)"
)
_DOTTED = re.compile(rf"(?<![\w/.-])(?:{'|'.join(ROOMS)})(?:\.[A-Za-z_]\w*)+(?![\w/*<-])")
_MAKE = re.compile(r"(?<![\w./-])make\s+((?:[A-Z_]+=\S*\s+)*)([a-z][a-z-]*)((?:\s+[A-Z_]+=\S*)*)")
_KD = re.compile(r"(?<![\w./-])(?:\.venv/bin/)?kd\s+([a-z][a-z-]*)([^#|;&]*)")
_FILES = (".py", ".yaml", ".json", ".md", ".j2", ".txt", ".png", ".toml")


def broken(path: Path, root: Path = ROOT) -> list[tuple[int, str]]:
    """(line, what) of everything that a document names and that is not there."""
    found = []
    markdown = path.suffix == ".md"
    for number, line, is_code in _lines(path.read_text(encoding="utf-8"), markdown):
        texts = [line] if is_code else ["".join(pair) for pair in _CODE.findall(line)]
        problems = [problem for text in texts for problem in _in_code(text, root)]
        if markdown and not is_code:
            problems += _links(line, path.parent)
        if not markdown:
            problems += [f"no {name}" for name in _DOTTED.findall(line) if not defined(name, root)]
        found += [(number, problem) for problem in dict.fromkeys(problems)]
    return found


def defined(dotted: str, root: Path = ROOT) -> bool:
    """Whether a dotted name is a module of this repository or something a module defines; nothing is imported."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        place = root.joinpath(*parts[:size])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if size == len(parts) and (file.is_file() or place.is_dir()):
            return True
        if file.is_file():
            return _holds(ast.parse(file.read_text(encoding="utf-8")).body, parts[size:])
    return False


def _holds(body: list[ast.stmt], names: list[str]) -> bool:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == names[0]:
            return len(names) == 1 or _holds(node.body, names[1:])
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        imported = node.names if isinstance(node, ast.Import | ast.ImportFrom) else []
        if names[0] in [t.id for t in targets if isinstance(t, ast.Name)] + [
            a.asname or a.name for a in imported
        ]:
            return True
    return False


def _lines(text: str, markdown: bool) -> Iterator[tuple[int, str, bool]]:
    """Each line with its number, and whether it stands in a fenced block."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if markdown and line.lstrip().startswith("```"):
            fenced = not fenced
        else:
            yield number, line, fenced


def _in_code(text: str, root: Path) -> Iterator[str]:
    for before, target, after in _MAKE.findall(text):
        yield from _make(target, re.findall(r"([A-Z_]+)=", before + after), root)
    for verb, rest in _KD.findall(text):
        yield from _kd(verb, rest)
    for name in _PATH.findall(text):
        name = name.rstrip(".-")
        if not _exists(re.sub(r"<[^>]*>", "*", name), root):
            yield f"no file {name}"
    for name in _DOTTED.findall(text):
        if not name.endswith(_FILES) and not defined(name, root):
            yield f"no {name}"


def _exists(name: str, root: Path) -> bool:
    if "*" in name:
        return any(root.glob(name.rstrip("/")))
    return (root / name).exists()


def _make(target: str, variables: list[str], root: Path) -> Iterator[str]:
    targets, used = _makefile(root / "Makefile")
    if target not in targets:
        yield f"no target `make {target}`"
    for name in variables:
        if name not in used:
            yield f"`make {target}` knows no {name}="


@cache
def _makefile(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE)
    typed = re.search(r"^TYPED := ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    variables = re.findall(r"[A-Z_]+", typed[1]) if typed else []
    return frozenset(targets), frozenset(variables)


def _kd(verb: str, rest: str) -> Iterator[str]:
    if verb not in NAMES:
        if verb not in ("verb", "help"):
            yield f"no command `kd {verb}`"
        return
    try:
        words = [word for word in shlex.split(rest) if not word.startswith(("[", "<"))]
    except ValueError:
        words = rest.split()
    words = [word.rstrip(".,:;)") for word in words]
    try:
        parser_of(verb).parse_args(words)
    except UsageError as error:
        if "are required" not in str(error):  # a text may name an option without the paper
            yield str(error)
    except SystemExit:
        pass  # --help


def _links(line: str, folder: Path) -> Iterator[str]:
    for found in _LINK.findall(line):
        target = unquote(next(filter(None, found), "")).split("#")[0]
        if target and not re.match(r"[a-z][a-z0-9+.-]*:", target) and not (folder / target).exists():
            yield f"no file {target}"
