"""Reproductions over two nodes of Ray: a worker is killed, a node lost, and the figures are those of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.work.sessions.executors import executor_named
from reproductions.engine.work.sessions.session import make_runs

from ....conftest import RUNS, Events
from ..test_session import COMMAND, wait_for
from .fake import alive, wait_until

pytestmark = pytest.mark.slow

HOLDER = (
    "import sys, time; from pathlib import Path; "
    "from tests.reproductions.engine.work.sessions.executors.fake import *; "
    "from reproductions.engine.work.sessions.executors import executor_named; folder = Path(sys.argv[1]); "
    "ray = executor_named('ray', address=sys.argv[2]); workers = [ray.start(command(folder)) for _ in range(2)]; "
    "[next(worker.lines()) for worker in workers]; time.sleep(600)"
)
REPRODUCE = COMMAND.replace(
    "results_root=", "executor=executor_named('ray', address=sys.argv[5]), results_root="
)
REPRODUCE = "from reproductions.engine.work.sessions.executors import executor_named; " + REPRODUCE


def told(process: int, name: str) -> bytes:
    """A file of what the system tells of a process; nothing once it has ended."""
    try:
        return Path(f"/proc/{process}/{name}").read_bytes()
    except OSError:
        return b""


def parent(process: int) -> int:
    return int(told(process, "stat").rpartition(b")")[2].split()[1])


def worker_numbered(number: int, processes: list[int]) -> int:
    """The latest: one that lost its node lives on for a moment beside the one that takes its place."""
    found = [one for one in processes if b'"number": %d,' % number in told(one, "cmdline")]
    begun = {one: told(one, "stat").rpartition(b")")[2].split()[19:20] for one in found}
    return max((one for one in found if begun[one]), key=lambda one: int(begun[one][0]))


class Trouble(Events):
    """In the middle of the first run on each node: kills the worker on one, takes the other node away."""

    def __init__(self, toy, nodes) -> None:
        super().__init__()
        self.toy, self.nodes = toy, nodes
        self.second = nodes.second.all_processes["raylet"][0].process.pid
        self.seen: set[int] = set()  # raylets, the nodes' own processes, of whom a worker is a grandchild
        self.killed = self.removed = None

    def event(self, event) -> None:
        super().event(event)
        if event["event"] != "started" or (self.killed and self.removed):
            return
        run = (event["arm"], event["seed"])
        worker = worker_numbered(event["worker"], self.toy.workers())
        raylet = parent(parent(worker))
        self.seen.add(raylet)
        if raylet != self.second and self.killed is None:
            self.killed = run
            os.kill(worker, signal.SIGKILL)
        elif raylet == self.second and self.removed is None:
            self.removed = run
            self.nodes.cluster.remove_node(self.nodes.second, allow_graceful=False)


def test_a_killed_worker_and_a_lost_node_change_no_figure(finished, toy, nodes):
    events, ray = Trouble(toy, nodes), executor_named("ray", address=nodes.address)
    try:
        made = make_runs(toy.plan(), 2, events, executor=ray)
    finally:
        ray.close()
        if events.removed:
            nodes.second = nodes.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    assert len(events.seen) == 2, "workers were on both nodes"
    assert not made.failures and len(made.runs) == RUNS
    lost = {(e["arm"], e["seed"]): e["message"] for e in events.heard if e["event"] == "lost"}
    assert lost.keys() == {events.killed, events.removed}
    assert "SIGKILL" in lost[events.killed] and "node or actor is gone" in lost[events.removed]
    assert all(events.of("started").count(run) == 2 for run in lost)
    assert toy.figures() == finished[0].figures()
    toy.assert_no_worker_stays()


def test_ctrl_c_leaves_no_worker_on_any_node(toy, nodes):
    words = [toy.papers, toy.cache, "2", toy.results, nodes.address]
    process = subprocess.Popen(
        [sys.executable, "-c", REPRODUCE, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: len(toy.runs()) >= 1, process)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and "runs are finished and kept" in said, said
    assert "Traceback" not in said
    toy.assert_no_worker_stays()


def test_a_runner_that_is_killed_leaves_no_worker_on_any_node(tmp_path, nodes):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), nodes.address])
    wait_until(lambda: len(alive(tmp_path)) == 2 or process.poll() is not None)
    assert process.poll() is None
    process.kill()
    process.wait()
    wait_until(lambda: not alive(tmp_path))


def test_a_cluster_that_is_not_there_is_one_sentence(nodes):
    with pytest.raises(KDError, match="^the Ray cluster cannot be joined: "):
        executor_named("ray", address="127.0.0.1:1")
