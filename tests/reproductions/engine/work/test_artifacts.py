import json
import multiprocessing
import time
from pathlib import Path

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.work.artifacts import Artifacts

KEY = {"width": 3, "revision": "a"}


def build(folder: Path) -> dict:
    (folder / "inner").mkdir()
    (folder / "inner" / "data.txt").write_text("made")
    return {"teacher_tokens": 7}


def test_built_once_and_found_again(tmp_path):
    made = []
    for artifacts in (Artifacts(tmp_path), Artifacts(tmp_path)):
        path, meta = artifacts.obtain("teacher", KEY, lambda folder: made.append(1) or build(folder))
        assert (path / "inner" / "data.txt").read_text() == "made"
        assert meta["key"] == KEY and meta["budget"] == {"teacher_tokens": 7} and "torch" in meta["versions"]
    assert made == [1]
    assert path.parent == tmp_path / "artifacts" and path.name.startswith("teacher-")


def test_another_key_is_another_folder_and_the_order_of_keys_is_not():
    artifacts = Artifacts(Path("x"))
    assert artifacts.path("t", {"a": 1, "b": 2}) == artifacts.path("t", {"b": 2, "a": 1})
    assert artifacts.path("t", {"a": 1}) != artifacts.path("t", {"a": 2})
    with pytest.raises(KDError, match="not plain JSON data"):
        artifacts.path("t", {"a": object()})


@pytest.mark.parametrize("damage", ["change", "truncate", "remove file", "remove meta", "break meta"])
def test_a_damaged_folder_is_made_again(tmp_path, damage):
    path, _ = Artifacts(tmp_path).obtain("teacher", KEY, build)
    file, meta = path / "inner" / "data.txt", path / "meta.json"
    if damage == "change":
        file.write_text("MADE")
    elif damage == "truncate":
        file.write_text("ma")
    elif damage == "remove file":
        file.unlink()
    elif damage == "remove meta":
        meta.unlink()
    else:
        meta.write_text(meta.read_text()[:-20])
    path, _ = Artifacts(tmp_path).obtain("teacher", KEY, build)
    assert (path / "inner" / "data.txt").read_text() == "made"
    assert json.loads((path / "meta.json").read_text())["key"] == KEY


def test_a_build_that_fails_leaves_nothing_that_is_used(tmp_path):
    def fail(folder):
        build(folder)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Artifacts(tmp_path).obtain("teacher", KEY, fail)
    assert not Artifacts(tmp_path).path("teacher", KEY).exists()
    path, _ = Artifacts(tmp_path).obtain("teacher", KEY, build)
    assert (path / "inner" / "data.txt").exists()


def slow_build(folder: Path) -> None:
    (folder.parent / f"built-{time.time_ns()}").touch()
    time.sleep(0.3)
    build(folder)


def ask(root: Path, waited: multiprocessing.Queue) -> None:
    said = []
    path, _ = Artifacts(root).obtain("teacher", KEY, slow_build, waiting=lambda: said.append(1))
    waited.put((len(said), (path / "inner" / "data.txt").read_text()))


def test_two_processes_ask_one_builds_the_other_waits(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=ask, args=(tmp_path, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=20) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(0, "made"), (1, "made")]
    assert len(list((tmp_path / "artifacts").glob("built-*"))) == 1
