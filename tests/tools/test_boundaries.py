"""Imports point one way, and the catalog answers without torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"catalog", "methods", "reproductions", "tools", "tests"}
MAY_IMPORT = {
    "catalog": {"catalog"},
    "methods": {"methods"},
    "reproductions": {"reproductions", "methods", "catalog"},
    "tools": {"tools", "reproductions", "methods", "catalog"},
}
# What the catalog may read besides the standard library; anything else would slow `kd browse` down.
CATALOG_PACKAGES = {"yaml"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, anywhere in it, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the room's name"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room):
    assert sources(room)
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(room)
        for line, name in imports(path)
        if name.split(".")[0] in OURS - MAY_IMPORT[room]
    ]
    assert not wrong


def test_the_catalog_needs_only_a_yaml_parser():
    allowed = set(sys.stdlib_module_names) | CATALOG_PACKAGES | {"catalog"}
    wrong = {
        name for path in sources("catalog") for _, name in imports(path) if name.split(".")[0] not in allowed
    }
    assert not wrong


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_nothing_comes_from_trl_experimental(room):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources(room)
        for line, name in imports(path)
        if name.startswith("trl.experimental")
    ]
    assert not wrong


@pytest.mark.parametrize(
    "words",
    [["browse"], ["browse", "--json"], ["show", "minillm"], ["--help"], ["--version"], ["plan", "minillm"]]
    + [["tune", "codi"], ["check", "--owes"], ["methods"]],
)
def test_looking_things_up_imports_no_heavy_library(words):
    done = light("import sys; from tools.cli import main; code = main(sys.argv[1:])", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_judging_again_and_saying_what_is_missing_imports_no_heavy_library(tmp_path):
    """Both read a recorded paper, a copy whose verdicts and pages are not written yet: so both end with 1."""
    script = (
        "import sys; from pathlib import Path; import pytest; from tools.cli import main\n"
        "from tests.reproductions.recorded import copy_of_a_paper\n"
        "copy_of_a_paper(Path(sys.argv[1]), pytest.MonkeyPatch())\n"
        "code = main(sys.argv[2:])"
    )
    for number, verb in enumerate(("verify", "check")):
        done = light(script, str(tmp_path / str(number)), verb, "codi")
        assert done.returncode == 1 and "Error" not in done.stderr, done.stderr
        assert "reproductions/verdicts/codi.json" in done.stdout


def light(script, *words):
    """A process that runs a script, which leaves `code`, and then holds what was imported against heavy libraries."""
    script += (
        "\nheavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_planning_every_paper_does_not_import_torch():
    script = (
        "import sys; from reproductions.engine.plan.experiment import list_papers, load_experiment\n"
        "from reproductions.engine.plan.plan import make_plan\n"
        "plans = [make_plan(paper, scale) for paper in list_papers() for scale in load_experiment(paper).scales]\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)\n"
        "assert len(plans) > 20 and not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_writing_every_page_does_not_import_torch():
    script = (
        "import sys; from tools.pages import atlas, documents; documents.documents(atlas.atlas());"
        "heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def last_word(script, cache):
    """The last line on stderr of a script that is run a second time, its caches warm."""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "KD_CACHE": str(cache)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


def test_browsing_again_parses_and_judges_nothing(tmp_path):
    """From the caches, `kd browse` needs neither the YAML parser nor numpy."""
    script = (
        "import sys; from catalog import cache; cache.SETTLED_NS = -(10**15);"
        "from tools.cli import main; code = main(['browse']);"
        "needless = {'yaml', 'numpy', 'difflib', 'jinja2', 'rich'} & set(sys.modules);"
        "print(sorted(needless), file=sys.stderr); sys.exit(code)"
    )
    assert last_word(script, tmp_path) == "[]"


def test_a_thousand_papers_are_parsed_once(tmp_path, monkeypatch):
    """What grows with the catalog is counted, not timed: `kd bench --catalog` measures it."""
    from catalog import cache, index, reader
    from catalog.schema import HERE
    from tools.verbs import browse

    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED_NS", -(10**15))
    root = tmp_path / "catalog"
    (root / "papers").mkdir(parents=True)
    for name in ("taxonomy.yaml", "teachers.yaml"):
        (root / name).write_bytes((HERE / name).read_bytes())
    record = (HERE / "papers" / "minillm.yaml").read_text(encoding="utf-8")
    for number in range(1000):
        text = record.replace("id: minillm", f"id: paper-{number}", 1).replace(
            "2306.08543", f"2306.{number:05d}", 1
        )
        (root / "papers" / f"paper-{number}.yaml").write_text(text, encoding="utf-8")
    parsed: list[str] = []
    inner = reader.read_yaml_with_lines
    monkeypatch.setattr(reader, "read_yaml_with_lines", lambda path: parsed.append(path.name) or inner(path))
    index.load(root, cached=True)
    assert len(parsed) == len(set(parsed)) == 1002
    parsed.clear()
    for _ in range(3):
        catalog = index.load(root, cached=True)
    lines = browse.tree(catalog, browse.select(catalog), {})
    assert parsed == [] and lines[0].startswith("1,000 papers")
    changed = root / "papers" / "paper-7.yaml"
    changed.write_text(changed.read_text(encoding="utf-8") + "# a comment\n", encoding="utf-8")
    index.load(root, cached=True)
    assert parsed == ["paper-7.yaml"]
    assert len(browse.select(catalog, search="miniml revrse")) == 1000


def test_browse_imports_no_more_than_it_needs(tmp_path):
    """A warm `kd browse` has 0.3 s, Python's start included; its modules are what can be counted of that."""
    script = (
        "import sys; before = set(sys.modules); from catalog import cache; cache.SETTLED_NS = -(10**15);"
        "from tools.cli import main; code = main(['browse']);"
        "print(len(set(sys.modules) - before), file=sys.stderr); sys.exit(code)"
    )
    assert int(last_word(script, tmp_path)) < 150
