"""The wheel: built from the tracked files, installed beside this environment's packages, every verb from elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.methods.conftest import letter_tokenizer, make_model
from tools.commands import NAMES
from tools.paths import ROOT

pytestmark = pytest.mark.slow
ROOMS = ("catalog", "methods", "reproductions", "tools")


def run(*words: str, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(words), capture_output=True, text=True, check=False, timeout=600, **how)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the checkout; nothing is fetched."""
    source, made = tmp_path_factory.mktemp("source") / "kd-atlas", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    done = run(*pip, "-w", str(made), str(source))
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def kd(wheel, tmp_path_factory):
    """The installed command: an environment of its own that sees the packages of this one, but no checkout."""
    home, folder = tmp_path_factory.mktemp("installed") / "venv", tmp_path_factory.mktemp("elsewhere")
    assert run(sys.executable, "-m", "venv", "--without-pip", str(home)).returncode == 0
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    done = run(*pip, str(wheel))
    assert done.returncode == 0, done.stderr[-2000:]
    # A path in a .pth file adds a folder, not the .pth files in it: an editable install there stays unseen.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"KD_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return run(str(home / "bin" / "kd"), *words, cwd=folder, env=environment)

    call.folder, call.packages = folder, packages  # type: ignore[attr-defined]
    return call


def test_every_file_of_data_is_in_the_wheel(wheel):
    listed = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    tracked = run("git", "ls-files", *ROOMS, cwd=ROOT).stdout.splitlines()
    missing = [name for name in tracked if Path(name) not in listed and (ROOT / name).is_file()]
    assert len(tracked) > 500 and not missing, missing[:10]


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--help"],
        ["browse"],
        ["show", "minillm"],
        ["methods", "gkd"],
        ["plan", "minillm"],
        ["verify", "akl"],
        ["check", "--owes"],
        ["export", "atlas-data"],
    ],
    ids=" ".join,
)
def test_verbs_that_read_what_is_installed(kd, words):
    done = kd(*words)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def test_every_verb_is_the_installed_copy_and_says_its_options(kd):
    script = (
        "import contextlib, tools.cli, reproductions.distill.run as run; from tools.commands import NAMES\n"
        "for verb in NAMES:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        tools.cli.main([verb, '--help'])\n"
        "print('from', tools.cli.__file__, run.__file__)"
    )
    done = run(str(kd.packages.parents[2] / "bin" / "python"), "-c", script, cwd=kd.folder)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr[-2000:]
    assert all(f"usage: kd {verb}" in done.stdout for verb in NAMES)
    assert all(str(kd.packages) in place for place in done.stdout.splitlines()[-1].split()[1:])


def test_a_student_from_the_installed_copy(kd):
    folder = kd.folder
    for name, seed in (("student", 0), ("teacher", 1)):
        make_model(seed=seed).save_pretrained(folder / name)
        letter_tokenizer().save_pretrained(folder / name)
    rows = [{"prompt": f"{a}{b}|", "completion": b + a} for a in "abcd" for b in "xyz"]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.yaml").write_text(
        "method: word-kd\nteacher: teacher\nstudent: student\ndata: data.jsonl\noutput: out\nevaluate: {rows: 4}\n"
        "budget: {steps: 3, batch_size: 4, prompt_tokens: 8, completion_tokens: 8}\n"
    )
    plan = kd("distill", "run.yaml", "--plan")
    assert plan.returncode == 0 and "3 steps of 4 sequences" in plan.stdout, plan.stderr[-2000:]
    done = kd("distill", "run.yaml")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loss (nats a token)" in done.stdout and "word-kd: 3 of 3" in done.stderr
    assert {"README.md", "loss.svg", "log.jsonl", "model.safetensors"} <= {
        one.name for one in (folder / "out").iterdir()
    }
