import os
import stat
import time

import pytest

from reproductions.engine import files
from reproductions.engine.errors import KDError
from reproductions.engine.state import State

RECORD = {"arm": "a", "seed": 1, "metrics": {}, "examples": {}, "curve": [], "seconds": {}, "tokens": {}}
SETUP = {"data_revision": "r", "device_type": "cpu", "environment": {"torch": "2.13.0"}}


def test_a_finished_run_comes_back_and_its_old_traceback_goes(tmp_path):
    state = State(tmp_path, "toy", "tiny", "abc")
    assert state.read_run("a", 1) is None
    files.write_atomic(state.failure_path("a", 1), "Traceback")
    state.write_run(RECORD, "then")
    assert state.read_run("a", 1)["record"] == RECORD and not state.failure_path("a", 1).exists()
    assert State(tmp_path, "toy", "tiny", "other").read_run("a", 1) is None


def test_forgetting_removes_runs(tmp_path):
    state = State(tmp_path, "toy", "tiny", "abc")
    state.write_run(RECORD, "then")
    state.check_setup(SETUP)
    state.forget()
    assert state.read_run("a", 1) is None and state.setup() is None


def test_runs_of_two_setups_are_not_mixed(tmp_path):
    state = State(tmp_path, "toy", "tiny", "abc")
    state.check_setup({**SETUP, "data_revision": "old"})
    state.check_setup(SETUP)  # nothing is recorded yet: the new one counts
    state.write_run(RECORD, "then")
    state.check_setup(SETUP)
    for changed in ({"device_type": "cuda"}, {"environment": {"torch": "2.14.0"}}, {"data_revision": "new"}):
        with pytest.raises(
            KDError, match=f"made with {'torch' if 'environment' in changed else next(iter(changed))}"
        ):
            state.check_setup({**SETUP, **changed})
    assert state.setup() == SETUP


def test_sessions_add_up(tmp_path):
    state = State(tmp_path, "toy", "tiny", "abc")
    for begun, clock in (("a", -10.0), ("a", -20.0), ("b", -5.0)):
        state.session(begun, time.monotonic() + clock)
    assert state.wall_seconds() == pytest.approx(25, abs=1)


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    files.write_atomic(path, "old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~files._umask()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KDError, match="file.json: cannot be written: No space left on device"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_rounding_is_to_significant_digits():
    assert [files.significant(value, 5) for value in (123456.0, 0.00012345678, -1 / 3, 0.0)] == [
        123460.0,
        0.00012346,
        -0.33333,
        0.0,
    ]


def test_canonical_json_knows_no_order_and_no_nan():
    assert files.digest({"a": 1, "b": [1.5]}, 16) == files.digest({"b": [1.5], "a": 1}, 16)
    with pytest.raises(KDError, match="not plain JSON data"):
        files.canonical_json(float("nan"))
