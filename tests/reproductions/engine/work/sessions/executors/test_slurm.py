"""Reproductions as jobs: whole, by submitit's local executor; what Slurm is told, by stand-ins of its commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.work.sessions.executors.mailbox import Beat, Lines, append, serve
from reproductions.engine.work.sessions.executors.process import Ended
from reproductions.engine.work.sessions.executors.slurm import Slurm, options_of
from reproductions.engine.work.sessions.session import make_runs

from ....conftest import RUNS, Events
from .fake import alive, command, wait_until

HOLDER = (
    "import sys, time; from pathlib import Path; "
    "from tests.reproductions.engine.work.sessions.executors.fake import *; "
    "from reproductions.engine.work.sessions.executors.slurm import Slurm; folder = Path(sys.argv[1]); "
    "slurm = Slurm(['cluster=local', 'time=10'], folder=folder, patience=8); "
    "workers = [slurm.start(command(folder)) for _ in range(2)]; "
    "[next(worker.lines()) for worker in workers]; time.sleep(600)"
)
# Stand-ins: a job is its script in a process group of its own; what is said of it comes from whether that lives.
COMMANDS = {
    "sbatch": 'cp "$1" "$SPOOL/script"; setsid bash "$1" >/dev/null 2>&1 & echo $! > "$SPOOL/job"; '
    'echo "Submitted batch job $!"',
    "srun": 'while [ "${1#--}" != "$1" ]; do case "$1" in --output|--error) shift;; esac; shift; done; '
    'export SLURM_JOB_ID=$(cat "$SPOOL/job") SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1; exec "$@"',
    "scancel": 'echo "$@" >> "$SPOOL/cancelled"; for last; do :; done; kill -9 -- -$last',
    "sacct": 'job=$(cat "$SPOOL/job"); state=RUNNING; kill -0 -- -$job 2>/dev/null || state=NODE_FAIL; '
    'printf "JobID|State|NodeList\\n$job|$state|here\\n"',
}


class KillsFirst(Events):
    """Kills the worker of the first run."""

    def __init__(self, toy) -> None:
        super().__init__()
        self.toy = toy

    def event(self, event) -> None:
        super().event(event)
        if event["event"] == "started" and len(self.of("started")) == 1:
            number = b'"number": %d,' % event["worker"]
            for worker in self.toy.workers():
                if number in Path(f"/proc/{worker}/cmdline").read_bytes():
                    os.kill(worker, signal.SIGKILL)


@pytest.mark.slow
def test_jobs_of_which_one_is_killed_give_the_figures_of_this_machine(finished, toy, monkeypatch):
    monkeypatch.setenv("TOY_SECONDS_A_STEP", "0.02")
    events, slurm = KillsFirst(toy), Slurm(["cluster=local", "time=30"], folder=toy.cache)
    try:
        made = make_runs(toy.plan(), 2, events, executor=slurm)
    finally:
        slurm.close()
    assert not made.failures and len(made.runs) == RUNS
    assert events.of("lost") == events.of("started")[:1]
    assert toy.figures() == finished[0].figures()
    toy.assert_no_worker_stays()
    assert list((toy.cache / "slurm").iterdir()) == [], "its files are gone"


@pytest.mark.slow
def test_a_runner_that_is_killed_leaves_no_job(tmp_path):
    """Nobody tells them: the sign that it gives stays as it was."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)])
    wait_until(lambda: len(alive(tmp_path)) == 2 or process.poll() is not None)
    assert process.poll() is None
    process.kill()
    process.wait()
    wait_until(lambda: not alive(tmp_path))


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """A folder with stand-ins of Slurm's commands on the PATH."""
    folder = tmp_path / "spool"
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SPOOL", str(folder))
    return folder


@pytest.mark.slow
def test_what_sbatch_is_told_and_a_job_that_is_lost(spool, tmp_path):
    options = ["partition=long", "time=240", "gpus-per-node=1", "licenses=two", "requeue"]
    slurm = Slurm(options, folder=tmp_path, every=1.0)
    try:
        worker = slurm.start(command(tmp_path))
        lines = worker.lines()
        assert next(lines).strip() == "ready passed on"
        script = (spool / "script").read_text()
        for line in (
            "partition=long",
            "time=240",
            "gpus-per-node=1",
            "licenses=two",
            "requeue",
            "job-name=kd-atlas",
        ):
            assert f"#SBATCH --{line}\n" in script
        assert slurm.has_gpu() and slurm.reschedules == 2
        job = (spool / "job").read_text().strip()
        os.killpg(int(job), signal.SIGKILL)  # the node is gone, with all that ran there
        assert list(lines) == []
        assert worker.wait() == Ended(None, f"the worker's job {job} is gone: NODE_FAIL")
        wait_until(lambda: not alive(tmp_path))
    finally:
        slurm.close()


def test_a_job_that_still_waits_is_cancelled(spool, tmp_path):
    (spool / "sbatch").write_text('#!/bin/bash\necho 77 > "$SPOOL/job"; echo "Submitted batch job 77"\n')
    slurm = Slurm(["time=240"], folder=tmp_path)
    try:
        worker = slurm.start(command(tmp_path))
        worker.kill()
        assert worker.wait().code is None and (spool / "cancelled").read_text().split()[-1] == "77"
    finally:
        slurm.close()


def test_what_sbatch_refuses_is_one_sentence(spool, tmp_path):
    (spool / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    slurm = Slurm(["time=240", "partition=lnog"], folder=tmp_path)
    try:
        with pytest.raises(KDError, match="^Slurm takes no job: .*invalid partition"):
            slurm.start(command(tmp_path))
    finally:
        slurm.close()
    with pytest.raises(KDError, match="--workers N"):
        slurm.workers("cpu", 2)


def test_options_are_numbers_words_and_flags():
    assert options_of(["--mem=8GB", "cpus-per-task=4", "exclusive", "time=1-00:00:00"]) == {
        "mem": "8GB",
        "cpus_per_task": 4,
        "exclusive": True,
        "time": "1-00:00:00",
    }


def test_a_job_that_is_begun_twice_does_nothing_the_second_time(tmp_path):
    place = tmp_path / "worker-0"
    place.mkdir()
    (place / "claimed").touch()
    serve(str(place), ["-c", "raise SystemExit(5)"], {}, str(tmp_path / "log"), 60.0)
    assert not (place / "end").exists()


def test_a_line_is_read_once_and_when_it_is_whole(tmp_path):
    lines = Lines(tmp_path / "in")
    assert lines.new() == []
    append(tmp_path / "in", ["one", "zwei, \u00fc"])
    with (tmp_path / "in").open("ab") as handle:
        handle.write("dr\u00fc".encode()[:-1])
    assert lines.new() == ["one", "zwei, \u00fc"] and lines.new() == []
    with (tmp_path / "in").open("ab") as handle:
        handle.write("\u00fc".encode()[-1:] + b"ben\n")
    assert lines.new() == ["dr\u00fcben"]


def test_a_runner_is_gone_when_its_sign_stays_as_it_was(tmp_path):
    sign = tmp_path / "alive"
    sign.write_text("1")
    beat = Beat(sign, 0.3)
    assert not beat.stopped()
    time.sleep(0.4)
    sign.write_text("2")
    assert not beat.stopped()
    sign.unlink()
    time.sleep(0.4)
    assert beat.stopped()
