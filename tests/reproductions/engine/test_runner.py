"""The runner with real worker processes: equal figures however it was run, and nothing lost whatever happens."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.progress import SilentReporter
from reproductions.engine.results import figures, read_results
from reproductions.engine.runner import Outcome, reproduce

from .conftest import TOY_PAPERS, change

COMMAND = (
    "import sys; from pathlib import Path; from reproductions.engine.runner import reproduce; "
    "sys.exit(reproduce('toy', papers_root=Path(sys.argv[1]), cache=Path(sys.argv[2]), workers=2).exit_code)"
)


class Events(SilentReporter):
    """Remembers what happened."""

    def __init__(self) -> None:
        self.plans, self.heard = [], []

    def begin(self, plan):
        self.plans.append(plan)

    def event(self, event):
        self.heard.append(event)

    def started(self) -> list[tuple[str, int]]:
        return [(event["arm"], event["seed"]) for event in self.heard if event["event"] == "started"]


def run(papers: Path, cache: Path, reporter=None, **options) -> Outcome:
    reporter = reporter if reporter is not None else SilentReporter()
    options = {"workers": 2, "quiet": True, **options}
    return reproduce("toy", papers_root=papers, cache=cache, reporter=reporter, **options)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[Path, Path, Outcome]:
    """An uninterrupted reproduction by two workers: (papers root, cache, outcome)."""
    folder = tmp_path_factory.mktemp("reference")
    shutil.copytree(TOY_PAPERS, folder / "papers", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "papers", folder / "cache", run(folder / "papers", folder / "cache")


def copy_of(reference, tmp_path) -> tuple[Path, Path]:
    """The finished reproduction, to be harmed."""
    shutil.copytree(reference[0], tmp_path / "p")
    shutil.copytree(reference[1], tmp_path / "c")
    return tmp_path / "p", tmp_path / "c"


def workers_of(cache: Path) -> list[int]:
    """Worker processes that serve this cache and still live."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if b"reproductions.engine.worker" in words and str(cache).encode() in words:
            found.append(int(entry.parent.name))
    return found


def assert_no_worker_stays(cache: Path) -> None:
    for _ in range(100):
        if not workers_of(cache):
            return
        time.sleep(0.1)
    raise AssertionError("workers outlived the reproduction")


def start(papers: Path, cache: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(papers), str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished_runs(cache: Path) -> int:
    return len(list((cache / "runs").glob("toy/*/*-seed*.json")))


def test_a_reproduction_ends_with_results_plot_report_and_verdicts(reference):
    papers, cache, outcome = reference
    assert outcome.complete and outcome.failures == ()
    assert {item.claim: item.seeds for item in outcome.judgements} == {"teacher-helps": 3, "noise-helps": 3}
    assert outcome.exit_code == 1
    path = papers / "toy" / "results" / "tiny.json"
    assert outcome.results_path == path
    results = read_results(path)
    assert [(one["arm"], one["seed"]) for one in results["runs"][:4]] == [
        ("baseline", 0),
        ("baseline", 1),
        ("baseline", 2),
        ("method", 0),
    ]
    environment = results["environment"]
    assert environment["workers"] == 2 and environment["threads"] == 1 and environment["device"] == "cpu"
    assert environment["torch"] and environment["started"] <= environment["finished"]
    (teacher,) = results["shared"].values()
    assert teacher["kind"] == "teacher" and teacher["key"]["data_revision"] == "revision-1"
    assert path.with_suffix(".png").stat().st_size < 200_000
    assert path.with_suffix(".md").read_text().startswith("# toy at scale tiny")
    assert_no_worker_stays(cache)


def test_a_second_call_repeats_nothing_and_leaves_the_file_alone(reference):
    papers, cache, outcome = reference
    before = outcome.results_path.stat().st_mtime_ns
    events = Events()
    again = run(papers, cache, events)
    assert events.plans == [] and events.heard == []
    assert again.judgements == outcome.judgements and "unchanged" in again.message
    assert outcome.results_path.stat().st_mtime_ns == before


def test_one_worker_in_another_order_gives_the_same_figures(reference, papers, tmp_path):
    # Roles decide who comes first and nothing else.
    change(papers, '"Noisy labels", train_baseline, "baseline"', '"Noisy labels", train_baseline, "method"')
    change(papers, 'train_method, "method"', 'train_method, "baseline"')
    events = Events()
    outcome = run(papers, tmp_path / "cache", events, workers=1)
    assert events.started()[0] == ("baseline", 0)
    expected = figures(read_results(reference[2].results_path))
    found = figures(read_results(outcome.results_path))
    assert found["runs"] == expected["runs"] and found["shared"] == expected["shared"]


@pytest.mark.slow
def test_killed_three_times_and_interrupted_it_ends_with_the_same_file(reference, papers, tmp_path):
    change(papers, "SECONDS_A_STEP = 0.0", "SECONDS_A_STEP = 0.015")
    cache, moments = tmp_path / "cache", random.Random(7)
    for kill in range(3):
        process = start(papers, cache)
        until = time.monotonic() + 60
        while finished_runs(cache) < 2 * kill and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(moments.uniform(0.0, 1.5))
        process.kill()
        process.communicate()
        assert_no_worker_stays(cache)
    process = start(papers, cache)
    kept = finished_runs(cache)
    until = time.monotonic() + 60
    while finished_runs(cache) == kept and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C sends: to the runner's whole group
    said = process.communicate(timeout=30)[0]
    if process.returncode == 130:  # else it had just ended
        assert "runs are finished and kept" in said and "Traceback" not in said
    assert_no_worker_stays(cache)
    kept, events = finished_runs(cache), Events()
    outcome = run(papers, cache, events)
    assert len(events.started()) == 9 - kept
    assert figures(read_results(outcome.results_path)) == figures(read_results(reference[2].results_path))


def test_a_run_that_raises_is_reported_the_others_go_on_and_nothing_is_lost(papers, tmp_path, capsys):
    fault = (
        "    if run.seed == 1:\n        raise RuntimeError('no such luck')\n    return _train(run, noise=4.0"
    )
    change(papers, "    return _train(run, noise=4.0", fault)
    change(papers, "    return _train(run, noise=1.0", "    if run.seed == 2:\n        import os\n\n"
           "        os.kill(os.getpid(), 9)\n    return _train(run, noise=1.0")  # fmt: skip
    cache, events = tmp_path / "cache", Events()
    outcome = run(papers, cache, events, quiet=False)
    assert outcome.exit_code == 2 and not (papers / "toy" / "results" / "tiny.json").exists()
    raised, killed = sorted(outcome.failures, key=lambda failure: failure.arm)
    assert (raised.arm, raised.seed, raised.message) == ("baseline", 1, "RuntimeError: no such luck")
    assert "Traceback" in Path(raised.file).read_text() and "train_baseline" in Path(raised.file).read_text()
    assert (killed.arm, killed.seed) == (
        "method-no-teacher",
        2,
    ) and "SIGKILL (out of memory?)" in killed.message
    assert raised.file in outcome.message and finished_runs(cache) == 7
    said = capsys.readouterr()
    assert raised.file in said.err and "Traceback" not in said.err + said.out
    mended, events = tmp_path / "mended", Events()
    shutil.copytree(TOY_PAPERS, mended)
    outcome = run(mended, cache, events)
    assert sorted(events.started()) == [("baseline", 1), ("method-no-teacher", 2)]
    assert outcome.failures == () and not Path(raised.file).exists()


def test_a_part_writes_nothing_beside_the_paper_and_a_later_whole_uses_it(reference, papers, tmp_path):
    cache = tmp_path / "cache"
    outcome = run(papers, cache, seeds=2, arms=["method", "baseline"], workers=1)
    assert not outcome.complete and not (papers / "toy" / "results").exists()
    assert cache in outcome.results_path.parents and "only a part" in outcome.message
    assert [item.verdict for item in outcome.judgements][1] == "not run"
    events = Events()
    whole = run(papers, cache, events)
    assert len(events.started()) == 9 - 4
    assert figures(read_results(whole.results_path)) == figures(read_results(reference[2].results_path))


def test_results_of_another_config_are_not_overwritten(reference, tmp_path):
    papers, cache = copy_of(reference, tmp_path)
    path = papers / "toy" / "results" / "tiny.json"
    foreign = json.loads(path.read_text()) | {"config_hash": "0123456789ab"}
    path.write_text(json.dumps(foreign))
    with pytest.raises(KDError) as error:
        run(papers, cache)
    hashes = "0123456789ab", read_results(reference[2].results_path)["config_hash"]
    assert all(text in str(error.value) for text in (*hashes, "--replace", str(path)))
    assert json.loads(path.read_text()) == foreign
    assert run(papers, cache, replace=True).results_path == path
    assert read_results(path)["config_hash"] == hashes[1]


def test_a_broken_results_file_is_named_and_kept(reference, tmp_path):
    papers, cache = copy_of(reference, tmp_path)
    path = papers / "toy" / "results" / "tiny.json"
    path.write_text('{"schema": 1,')
    with pytest.raises(KDError, match=r"tiny.json:1: not JSON"):
        run(papers, cache)
    assert path.read_text() == '{"schema": 1,'


def test_other_data_is_not_mixed_with_recorded_runs(reference, tmp_path):
    papers, cache = copy_of(reference, tmp_path)
    change(papers, '"revision-1"', '"revision-2"')
    next((cache / "runs" / "toy").glob("*/method-seed2.json")).unlink()
    with pytest.raises(KDError, match="made with data_revision revision-1, now it is revision-2"):
        run(papers, cache)
    with pytest.raises(KDError, match="holds results on data revision-1, the data is now revision-2"):
        run(papers, tmp_path / "fresh")
    assert_no_worker_stays(tmp_path)


def test_a_broken_run_state_is_set_aside_and_made_again(reference, tmp_path):
    papers, cache = copy_of(reference, tmp_path)
    path = next((cache / "runs" / "toy").glob("*/method-seed2.json"))
    path.write_text(path.read_text()[:-50])
    events = Events()
    outcome = run(papers, cache, events)
    assert events.started() == [("method", 2)] and path.with_suffix(".broken").exists()
    assert "unchanged" in outcome.message


def test_a_second_reproduction_at_the_same_time_is_told_who_works_there(papers, tmp_path):
    change(papers, "SECONDS_A_STEP = 0.0", "SECONDS_A_STEP = 1.0")
    cache = tmp_path / "cache"
    process = start(papers, cache)
    try:
        until = time.monotonic() + 30
        while not list(cache.glob("runs/toy/*/logs")) and time.monotonic() < until:
            time.sleep(0.05)
        with pytest.raises(KDError, match=f"already being worked on by process {process.pid}"):
            run(papers, cache)
    finally:
        process.terminate()  # SIGTERM ends it as Ctrl-C does
        assert process.wait(timeout=30) == 130
        process.stdout.close()
    assert_no_worker_stays(cache)


def test_a_testbed_that_cannot_load_is_one_clear_error(papers, tmp_path):
    change(papers, "    def __init__(self) -> None:\n        import torch\n",
           "    def __init__(self) -> None:\n        from reproductions.engine.errors import KDError\n\n"
           "        raise KDError('no such model folder: /models/x')\n        import torch\n")  # fmt: skip
    with pytest.raises(KDError, match="^no such model folder: /models/x$"):
        run(papers, tmp_path / "cache", workers=1)
    assert_no_worker_stays(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scale": "tine"}, 'no scale "tine"'),
        ({"arms": ["metod"]}, 'no arm "metod" (did you mean "method"?)'),
        ({"seeds": 9}, "declares 3"),
        ({"seeds": 0}, "declares 3"),
    ],
)
def test_bad_requests_start_nothing(papers, tmp_path, options, message):
    with pytest.raises(KDError) as error:
        run(papers, tmp_path / "cache", **options)
    assert message in str(error.value) and not (tmp_path / "cache").exists()


def test_no_room_or_no_right_to_write_is_said_before_starting(papers, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(KDError, match="cannot be written.*set KD_CACHE"):
        run(papers, tmp_path / "file" / "cache")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 2**20))
    with pytest.raises(KDError, match="10 MiB free, at least 200 MiB are needed"):
        run(papers, tmp_path / "cache")


def test_json_goes_to_stdout_and_progress_elsewhere(reference, capsys):
    papers, cache, outcome = reference
    reproduce("toy", papers_root=papers, cache=cache, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["exit_code"] == 1 and printed["complete"] is True
    assert printed["judgements"][0]["claim"] == "teacher-helps"
    assert printed["table"][0]["arm"] == "baseline" and printed["results_path"] == str(outcome.results_path)
