"""What a training leaves on the disk: killed, interrupted, side by side, on a full disk."""

import contextlib
import errno
import os
import shutil
import signal
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from catalog.errors import CatalogError
from reproductions.distill import run, state
from reproductions.distill.config import load_config
from reproductions.distill.evaluate.compare import compare
from reproductions.distill.plan import plan_of
from reproductions.distill.run import distil
from reproductions.distill.state import LOCK, STATE, is_whole
from reproductions.engine import files
from reproductions.engine.errors import KDError
from tools.cli import main

from .conftest import config_of, made


def said(path):
    heard = []
    record = run.distil(load_config(path), lambda *_: None, heard.append)
    return record, heard


def interrupted(folder, stopped, name="cut", at=3):
    path = config_of(folder, "gkd", name=name)
    with pytest.raises(KeyboardInterrupt), stopped(at=at):
        made(path)
    return path, folder / name / STATE / "checkpoint-2"


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("what", "broken"),
    [
        ("only weights", lambda new: [f.unlink() for f in new.iterdir() if f.suffix != ".safetensors"]),
        ("an empty folder", lambda new: [f.unlink() for f in new.iterdir()]),
        ("no memory", lambda new: [f.unlink() for f in new.glob("memory-*")]),
        ("half the state", lambda new: cut_short(new / "trainer_state.json")),
        ("half the optimizer", lambda new: cut_short(new / "optimizer.pt")),
        ("half the weights", lambda new: cut_short(new / "model.safetensors")),
    ],
)
def test_a_checkpoint_that_was_not_written_to_its_end_is_taken_for_none(folder, stopped, what, broken):
    """kill -9 while it is saved; the one before it is whole, as it goes only after."""
    path, whole = interrupted(folder, stopped)
    assert is_whole(whole)
    half = whole.with_name("checkpoint-3")
    shutil.copytree(whole, half)
    broken(half)
    record, heard = said(path)
    assert heard[:2] == [
        "checkpoint-3 was not written to its end, and is taken for none",
        "going on from step 2",
    ]
    assert record["steps"] == 4
    expected = made(config_of(folder, "gkd", name="whole"))
    assert record["tokens"] == expected["tokens"] and record["loss"] == expected["loss"]
    for name, value in weights(folder / "whole").items():
        torch.testing.assert_close(weights(folder / "cut")[name], value, rtol=0, atol=0)


def test_no_whole_checkpoint_at_all_begins_anew(folder, stopped):
    path, whole = interrupted(folder, stopped)
    cut_short(whole / "optimizer.pt")
    record, heard = said(path)
    assert record["steps"] == 4 and not any("going on" in line for line in heard)


@pytest.mark.parametrize("method", ["sft", "minillm"])
def test_killed_while_the_student_is_saved(folder, monkeypatch, method):
    """It went on from a checkpoint of the last step, and made one step too many."""
    extra = "settings: {steps_per_generation: 2, num_iterations: 1}\n" if method == "minillm" else ""
    path = config_of(folder, method, teacher=None if method == "sft" else "teacher", steps=3, extra=extra)

    def killed(config, *_):
        (config.output / "config.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "save", killed)
        made(path)
    assert [path.name for path in (folder / "run" / STATE).glob("checkpoint-*")] == ["checkpoint-2"]
    assert made(path)["steps"] == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_the_step_under_way(folder, stopped, capsys, number):
    """That step is saved, though `save_every` is 2: a machine that is taken away costs no more than it."""
    path = config_of(folder)
    before = signal.getsignal(number)
    with stopped(at=3, how=lambda _: os.kill(os.getpid(), number)):
        assert main(["distill", str(path)]) == 130
    assert "stopped; the same command goes on from step 3\n" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    record, heard = said(path)
    assert record["steps"] == 4 and heard == ["going on from step 3"]
    whole = made(config_of(folder, name="whole"))
    assert record["tokens"] == whole["tokens"]
    one, other = (load_file(folder / name / "model.safetensors") for name in ("run", "whole"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_second_signal_does_not_wait_for_the_step(folder, stopped, capsys):
    def twice(_):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    with stopped(at=3, how=twice):
        assert main(["distill", str(config_of(folder))]) == 130
    assert "stopped; the same command goes on from step 2\n" in capsys.readouterr().err


def test_a_signal_in_the_last_step_loses_nothing(folder, stopped):
    with stopped(at=4, how=lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        assert made(config_of(folder))["steps"] == 4


def test_a_closed_terminal_does_not_end_what_was_started_by_nohup(folder, stopped):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped(at=3, how=lambda _: os.kill(os.getpid(), signal.SIGHUP)):
            assert made(config_of(folder))["steps"] == 4
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_at_a_time_is_one_too_many(folder, stopped):
    path, refused = config_of(folder), []

    def again(_):
        with pytest.raises(
            KDError, match=f"run is already being worked on by process {os.getpid()}"
        ) as error:
            made(path)
        refused.append(error)

    with stopped(at=2, how=again):
        assert made(path)["steps"] == 4
    assert refused and not (folder / "run" / LOCK).exists()


def test_a_run_that_cannot_begin_leaves_nothing(folder):
    (folder / "data.jsonl").write_text('{"prompt": "", "completion": "b"}\n')
    with pytest.raises(KDError, match=":1: "):
        made(config_of(folder))
    assert not (folder / "run").exists()


def test_a_disk_without_room_is_said_before(folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(state.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 40_000, 40_000))
    with pytest.raises(
        KDError, match=r"run: 0 MiB free, checkpoints and student take up to \d+ MiB; make room"
    ):
        made(config_of(folder))
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 6296704 vs 6296592"),
        OSError(28, "No space left on device"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_is_one_sentence(folder, stopped, error):
    path = config_of(folder)

    def full(_):
        raise error

    with (
        pytest.raises(KDError, match="run: the disk is full; make room, and the same command goes on"),
        stopped(at=3, how=full),
    ):
        made(path)
    record, heard = said(path)
    assert record["steps"] == 4 and heard == ["going on from step 2"]


def test_other_errors_stay_what_they_are(folder, stopped):
    def fault(_):
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"), stopped(at=3, how=fault):
        made(config_of(folder))


def test_labels_that_were_written_before_a_kill_are_kept(folder, monkeypatch):
    """And heard of while they come."""
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher")
    model.generation_config.eos_token_id = list(range(1, 29, 3))
    model.save_pretrained(folder / "teacher")
    settings = "settings: {batch_size: 3, temperature: 1.0}\n"
    expected = made(config_of(folder, "seqkd", name="whole", extra=settings))
    path, heard = config_of(folder, "seqkd", extra=settings), []

    def report(phase, step, total, known=None):
        heard.append((phase, step, total))
        if heard.count(("labels", 2, 3)) == 1 and phase == "labels" and step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.distil(load_config(path), report, lambda _: None)
    record = run.distil(load_config(path), report, lambda _: None)
    assert [entry for entry in heard if entry[0] == "labels"] == [("labels", n, 3) for n in (1, 2, 3)]
    for name in ("labels", "tokens", "rows", "loss"):
        assert record[name] == expected[name]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("data.jsonl/run", "data.jsonl is a file, not a folder"),
        ("n" * 300, "File name too long"),
        ("loop/run", "Symlink loop"),
        ("~nobody-of-that-name/run", "home"),
    ],
)
def test_an_output_that_cannot_be_made_is_told_with_its_line(folder, output, message):
    (folder / "loop").symlink_to(folder / "loop")
    path = config_of(folder)
    path.write_text(path.read_text().replace("output: run", f"output: {output}"))
    with pytest.raises(CatalogError, match=message) as error:
        made(path)
    assert "run.yaml:4: " in str(error.value) and "\n" not in str(error.value)


def test_an_output_at_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    path = config_of(folder)
    path.write_text(path.read_text().replace("output: run", "output: ~/run"))
    assert load_config(path).output == folder / "home" / "run"


def test_a_folder_that_is_read_only_is_told_before_a_model_or_a_row_is_read(folder, monkeypatch):
    path = config_of(folder)
    config = load_config(path)
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", _read_only)
    monkeypatch.setattr("reproductions.distill.preflight.read_rows", lambda *_, **__: 1 / 0)
    for asked in (
        lambda: distil(config, lambda *_: None),
        lambda: plan_of(config, {}, lambda _: None),
        lambda: compare({"a": config, "b": config}, lambda *_: None, lambda _: None),
    ):
        with pytest.raises(
            (KDError, CatalogError), match=r"run.yaml:4: .*run cannot be written: Read-only file"
        ):
            asked()
    assert not (folder / "run").exists()


def test_a_student_that_is_there_is_found_on_a_read_only_disk(folder, monkeypatch):
    record = made(config_of(folder, "sft", teacher=None))
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", _read_only)
    assert made(folder / "run.yaml") == record


def _read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_disk_without_room_for_a_lock_is_one_sentence(folder, monkeypatch):
    @contextlib.contextmanager
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield

    monkeypatch.setattr(state, "sole_user", full)
    with pytest.raises(KDError, match="run: the disk is full; make room"):
        made(config_of(folder, "sft", teacher=None))


def test_a_plan_says_that_the_disk_is_too_small(folder, monkeypatch):
    monkeypatch.setattr(state.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    said = []
    plan_of(load_config(config_of(folder)), {}, said.append)
    assert any("run: 0.0 MiB free, and up to 0." in one for one in said)
