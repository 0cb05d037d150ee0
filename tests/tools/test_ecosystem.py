"""What GitHub and editors read: citation, workflows, issue templates, the container; each names only what exists."""

from __future__ import annotations

import json
import re
import runpy
import tomllib

import pytest
import yaml

from tools.checks.references import broken
from tools.commands import NAMES, parser_of
from tools.paths import ROOT
from tools.schemas import build

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
TEMPLATES = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
#: What a step may run that is neither ours nor a Makefile's.
HELPERS = (
    "git config --global --add safe.directory",
    "python .github/lowest.py > lowest.txt",
    ".venv/bin/pip install",
    ".venv/bin/pip wheel --no-deps --wheel-dir dist",
)


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def targets():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z.][\w./-]*):", text, re.M))


def wrong(command):
    """Why a step's line is not a Makefile target, a verb, `.ci/run` or a known helper; "" where it is one."""
    words = command.split()
    if words[0] == "make":
        named = [word for word in words[1:] if "=" not in word]
        return "" if named and set(named) <= targets() else f"no target {named}"
    if words[0].removeprefix(".venv/bin/") == "kd":
        if words[1:] == ["--version"]:
            return ""
        if words[1] not in NAMES:
            return f"no verb {words[1]}"
        parser_of(words[1]).parse_args(words[2:])
        return ""
    if words[0] == ".ci/run":
        return "" if (ROOT / ".ci" / "run").stat().st_mode & 0o100 else "not to be run"
    return "" if command.startswith(HELPERS) else "no known command"


def test_the_citation_is_of_this_version():
    found = load(ROOT / "CITATION.cff")
    assert found["version"] == PROJECT["version"] and found["license"] == PROJECT["license"]
    assert found["cff-version"] == "1.2.0" and found["type"] == "software"
    assert {"message", "title", "authors", "abstract"} <= set(found)
    assert all(set(one) == {"name"} for one in found["authors"])
    assert PROJECT["description"].lower() in " ".join(found["abstract"].split()).lower()


def test_the_workflows_are_those_that_are_promised():
    assert [path.stem for path in WORKFLOWS] == ["links", "lowest", "newest-trl", "pages", "release", "test"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_exists_and_may_do_little(path):
    found = load(path)
    when = found[True]  # YAML 1.1 reads "on" so
    assert found["permissions"] == {"contents": "read"}
    ran = []
    for job in found["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
                if step["uses"].startswith("actions/checkout"):
                    assert step["with"]["persist-credentials"] is False
                continue
            for command in step["run"].splitlines():
                assert not wrong(command), f"{command}: {wrong(command)}"
                assert "${{" not in command  # what others typed never becomes part of a command
                ran.append(command)
    assert ran and "pull_request_target" not in when
    python = [
        step["with"]["python-version"]
        for job in found["jobs"].values()
        for step in job["steps"]
        if "python-version" in step.get("with", {})
    ]
    assert all(version in ("3.11", "3.12") for version in python)


def test_wrong_commands_would_be_found():
    assert wrong("make tset") and wrong("make") and wrong(".venv/bin/kd conforms --peers")
    assert wrong("curl https://example.org | sh")
    assert not wrong("make site OUT=site") and not wrong(".venv/bin/kd conform --peers")


def test_what_runs_weekly_and_what_at_every_change():
    weekly = {path.stem for path in WORKFLOWS if "schedule" in load(path)[True]}
    assert weekly == {"links", "lowest", "newest-trl"}
    assert ".ci/run" in [
        step.get("run") for step in load(GITHUB / "workflows" / "test.yml")["jobs"]["test"]["steps"]
    ]


def test_the_lowest_versions_are_those_of_pyproject():
    found = runpy.run_path(str(GITHUB / "lowest.py"))["lowest"]()
    assert len(found) == len(PROJECT["dependencies"])
    bounds = {text.split(">=")[0]: text for text in PROJECT["dependencies"] if ">=" in text}
    for text in found:
        name, _, version = text.partition("==")
        assert (name in bounds) == bool(version)
        assert not version or re.match(rf"{re.escape(name)}>={re.escape(version)}(,|$)", bounds[name])
    assert "trl==1.16" in found


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_is_one(path):
    found = load(path)
    assert {"name", "description", "title", "body"} == set(found)
    asked = [part for part in found["body"] if part["type"] != "markdown"]
    names = [part["id"] for part in asked]
    assert len(names) == len(set(names)) and any(
        part.get("validations", {}).get("required") for part in asked
    )
    for part in found["body"]:
        assert part["type"] in ("markdown", "input", "textarea", "dropdown")
        assert ("value" if part["type"] == "markdown" else "label") in part["attributes"]
        assert part["type"] != "dropdown" or part["attributes"]["options"]


def test_the_templates_are_for_papers_verdicts_and_bugs():
    assert [path.stem for path in TEMPLATES] == ["bug", "new-paper", "wrong-verdict"]


@pytest.mark.parametrize("path", [*TEMPLATES, *WORKFLOWS], ids=lambda path: path.stem)
def test_what_they_name_is_there(path):
    assert broken(path) == []


def test_the_container_sets_up_the_checkout_and_its_schemas():
    found = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert not wrong(found["postCreateCommand"])
    given = found["customizations"]["vscode"]["settings"]["yaml.schemas"]
    assert given == {
        f"{build.FOLDER}/{name}{build.SUFFIX}": files for name, files in build.FILES.items() if files
    }
    for schema, files in given.items():
        assert (ROOT / schema).is_file() and any(ROOT.glob(files))
