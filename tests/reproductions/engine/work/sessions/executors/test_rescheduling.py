"""What a dead worker left is begun again, in a reproduction and in a sweep; and what a worker elsewhere must have."""

from __future__ import annotations

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.work.environment import software
from reproductions.engine.work.sessions import sweep, worker
from reproductions.engine.work.sessions.executors.local import Local
from reproductions.engine.work.sessions.session import make_runs
from reproductions.engine.work.sessions.worker import Job

from ....conftest import Events


class Fragile(Local):
    """Workers of this machine, the first of which die as they get their first task."""

    reschedules = 2

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths

    def start(self, command):
        process = super().start(command)
        send = process.send

        def dies(line: str) -> None:
            if self.deaths:
                self.deaths -= 1
                process.kill()
            else:
                send(line)

        process.send = dies
        return process


@pytest.mark.slow
def test_a_run_that_kills_every_worker_is_begun_three_times_and_no_more(toy):
    events = Events()
    made = make_runs(toy.plan(arms=["baseline"], seeds=2), 1, events, executor=Fragile(3))
    assert events.of("lost") + events.of("failed") == [("baseline", 0), ("baseline", 1), ("baseline", 0)] or (
        events.of("lost") == [("baseline", 0)] * 2 and events.of("failed") == [("baseline", 0)]
    )
    assert len(made.runs) == 2 - len(made.failures)


@pytest.mark.slow
def test_a_trial_of_a_sweep_is_begun_again(toy, monkeypatch):
    monkeypatch.setenv("KD_CACHE", str(toy.cache))
    said: list[str] = []
    options = {"papers_root": toy.papers, "root": toy.root / "tuning", "say": said.append, "workers": 1}
    record = sweep.tune("toy", arms=["baseline"], executor=Fragile(1), **options)
    assert set(record["figures"]["baseline"]) == {"0.01", "0.02"} and not any(
        "killed" in line for line in said
    )


def test_a_node_that_sees_another_cache_or_has_other_packages_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_SEEN", 0.0)
    job = Job(cache="/shared/cache", device="cpu", threads=1, number=0)
    worker._check_place(job)
    elsewhere = Job(**{**vars(job), "beacon": str(tmp_path / "beacon")})
    with pytest.raises(
        KDError, match="does not see the runner's cache, /shared/cache: KD_CACHE must lie on a file system"
    ):
        worker._check_place(elsewhere)
    (tmp_path / "beacon").touch()
    worker._check_place(elsewhere)
    with pytest.raises(KDError, match=r"has torch \S+ \(the runner: 0.1\): its runs would not count"):
        worker._check_place(Job(**{**vars(elsewhere), "software": {**software(), "torch": "0.1"}}))
