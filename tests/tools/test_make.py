"""What is typed behind `make` reaches `kd` word by word and is never run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = (
    "`touch pwned`",
    "$(touch pwned)",
    "$$(touch pwned)",
    "$(shell touch pwned)",
    "${shell touch pwned}",
    'a";touch pwned;"',
    "a';touch pwned;'",
    "a;touch pwned",
    "a|touch pwned",
    "a&touch pwned",
    "a\ntouch pwned",
    '"`touch pwned`"',
    "$(eval X:=$(shell touch pwned))",
    "a b  *",
    "\\",
    "#",
)
OPTIONS = {
    "reproduce": {"PAPER": None, "SCALE": "--scale", "SEEDS": "--seeds", "ARMS": "--arms"},
    "distill": {"CONFIG": None},
    "teach": {"CONFIG": None},
    "compare": {"CONFIG": None},
    "methods": {},
    "elicit": {"CONFIG": None},
    "plan": {"PAPER": None, "SCALE": "--scale"},
    "tune": {"PAPER": None, "SCALE": "--scale"},
    "gate": {"TESTBED": None},
    "attempt": {"PAPER": None, "CHANGED": "--changed"},
    "browse": {
        name.upper(): f"--{name}"
        for name in ("elicitation", "algorithm", "skill", "vertical", "search", "status", "year", "scope")
    },
    "show": {"PAPER": None},
    "verify": {"PAPER": None},
    "new": {"PAPER": None, "ARXIV": "--arxiv"},
    "check": {"PAPER": None},
    "check-links": {},
    "site": {"OUT": "--out"},
    "export": {"OUT": None},
}
ECHO = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"


@pytest.fixture
def make(tmp_path):
    """`make` in a folder whose kd, python and pip print the words they are given."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", "data-packages.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("kd", "python", "pip"):
        (tmp_path / ".venv" / "bin" / name).write_text(ECHO)
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    (tmp_path / ".venv" / "ready").touch()

    def run(*words, environment=None):
        environment = {"PATH": os.environ["PATH"], **(environment or {})}
        done = subprocess.run(  # noqa: S603
            ["make", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,  # noqa: S607
        )
        assert not (tmp_path / "pwned").exists(), done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr

    return run


def expected(verb, values):
    words = [verb]
    for name, option in OPTIONS[verb].items():
        words += [option, values[name]] if option else [values[name]]
    return words


@pytest.mark.parametrize("verb", OPTIONS)
def test_plain_values_become_options(make, verb):
    values = {name: name.lower() for name in OPTIONS[verb]}
    assert make(verb, *(f"{name}={value}" for name, value in values.items())) == expected(verb, values)
    assert make(verb) == [verb], "what is not given is left out"
    assert make(verb, "ARGS=--json  --fresh") == [verb, "--json", "--fresh"]


@pytest.mark.parametrize("typed", HOSTILE)
def test_hostile_values_arrive_as_they_are(make, typed):
    for verb, names in OPTIONS.items():
        values = dict.fromkeys(names, typed)
        assert make(verb, *(f"{name}={value}" for name, value in values.items())) == expected(verb, values)
        assert make(verb, environment=values) == expected(verb, values)
    for given in ({"words": (f"ARGS={typed}",)}, {"environment": {"ARGS": typed}}):
        words, environment = given.get("words", ()), given.get("environment")
        assert make("show", *words, environment=environment) == ["show", *typed.split()]


@pytest.mark.parametrize("typed", HOSTILE)
def test_hostile_values_of_the_other_targets(make, typed, tmp_path):
    for target in ("test", "check-links", "readme", "bench"):
        make(target, f"ARGS={typed}")
        make(target, environment={"ARGS": typed})
    (tmp_path / ".venv" / "ready").unlink()
    make("show", f"PYTHON={typed}")


def test_flags_and_both_ways_of_asking(make):
    assert make("browse", "HAS_CODE=1", "EXTERNAL=1", "HAS_REPRODUCTION=1") == [
        "browse",
        "--has-code",
        "--external",
        "--has-reproduction",
    ]
    assert make("show", "PAPER=gkd", environment={"PAPER": "minillm"}) == ["show", "gkd"]
    assert make("new", "PAPER=a", "REPRODUCTION=1") == ["new", "a", "--reproduction"]


def test_quotes_keep_the_words_of_a_test_selection_together(make, tmp_path):
    (tmp_path / ".venv" / "bin" / "python").write_text(
        f"#!{sys.executable}\nimport json, os, shlex\nprint(json.dumps(shlex.split(os.environ['PYTEST_ADDOPTS'])))\n"
    )
    assert make("test", "ARGS=-x -k 'one or two'") == ["-x", "-k", "one or two"]
