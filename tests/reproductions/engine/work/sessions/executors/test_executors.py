"""What every executor must do, with a worker that needs no torch."""

from __future__ import annotations

import sys

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.work.sessions.executors import NAMES, base, executor_named
from reproductions.engine.work.sessions.executors.process import Ended
from tools import cli
from tools import executors as typed

from .fake import alive, command, wait_until


def test_lines_go_to_and_fro_in_order_and_the_environment_is_there(executor, tmp_path):
    ordered = command(tmp_path)
    worker = executor.start(ordered)
    lines = worker.lines()
    assert next(lines).strip() == "ready passed on"
    for number in range(20):
        worker.send(f"line {number} é")
    heard = [next(lines).split() for _ in range(20)]
    assert [words[:4] for words in heard] == [["heard", "line", str(number), "é"] for number in range(20)]
    worker.send("exit 3")
    assert [line.strip() for line in lines] == ["last words"]
    assert worker.wait() == Ended(3)
    assert ordered.log.read_text() == "a word on stderr\n"
    worker.send("nobody is there")  # says nothing


def test_a_worker_that_is_killed_ends_the_lines_and_leaves_no_half_of_one(executor, tmp_path):
    worker, other = executor.start(command(tmp_path)), executor.start(command(tmp_path))
    lines, still = worker.lines(), other.lines()
    next(lines), next(still)
    worker.send("die 9")
    assert list(lines) == [] and worker.wait() == Ended(-9)
    other.send("hello")
    assert next(still).startswith("heard hello"), "it stops no other"
    other.kill()
    other.wait()


def test_killing_ends_it_with_what_it_started_wherever_it_is(executor, tmp_path):
    workers = [executor.start(command(tmp_path)) for _ in range(2)]
    for worker in workers:
        lines = worker.lines()
        next(lines)
        worker.send("child")
        assert next(lines).startswith("child")
    wait_until(lambda: len(alive(tmp_path)) == 4)  # a child may not be what it is called yet
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.wait()
    wait_until(lambda: not alive(tmp_path))


def test_the_names_that_are_typed_are_those_there_are():
    assert typed.NAMES == NAMES


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_package_that_is_not_there_is_one_sentence_with_how_to_get_it(name, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        KDError, match=rf"^--executor {name} needs the package {package}: pip install 'kd-atlas\[{name}\]'"
    ):
        executor_named(name, slurm=["time=1"])
    assert cli.main(["reproduce", "minillm", "--executor", name, "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert f"kd-atlas[{name}]" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--executor", "rai"], "rai"),
        (["--address", "somewhere:6379"], "--address belongs to --executor ray"),
        (["--executor", "ray", "--slurm", "time=1"], "--slurm belongs to --executor slurm"),
        (["--executor", "slurm"], "--slurm time=240"),
        (["--executor", "slurm", "--slurm", "time=1"], "sbatch and srun are not on the PATH"),
        (["--executor", "slurm", "--slurm", "=1"], "not an option as sbatch has them, like partition=gpu"),
    ],
)
def test_what_is_typed_wrongly_is_one_sentence(words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KD_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert cli.main(["reproduce", "minillm", *words]) == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split()) and "Traceback" not in said


def test_a_package_is_looked_for_only_when_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert executor_named("local").reschedules == 0
    with pytest.raises(KDError):
        base.needed("ray")
