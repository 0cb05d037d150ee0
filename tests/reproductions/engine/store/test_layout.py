"""Where an arm's files are, and what is said where one is missing or is none."""

import json

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.store import layout
from reproductions.engine.store.pair import add_runs, read_arm

from .made import levels, made_arm

KEY = "0123456789abcdef"


@pytest.fixture
def arm(tmp_path):
    """An arm of three seeds, each from a session of its own: two additions. The JSON of its first runs."""
    path = layout.arm_path(tmp_path / "line", KEY)
    for seed in range(3):
        add_runs(path, made_arm({seed: levels(1, 1.1, 1.2)[seed]}))
    return path


def test_files_are_listed_in_the_order_in_which_they_were_written(arm):
    for seed in range(3, 11):  # 10 comes after 9, not after 1
        add_runs(arm, made_arm({seed: levels(1)[0]}))
    names = [f"{KEY}.json", f"{KEY}.parquet"]
    names += [f"{KEY}/{n}.{kind}" for n in range(1, 11) for kind in ("json", "parquet")]
    files = layout.files_of(arm.parent, KEY)
    assert [path.relative_to(arm.parent).as_posix() for path in files] == names
    assert all(path.is_file() for path in files) and layout.next_addition(arm).name == "11.json"
    assert list(read_arm(arm).runs) == list(range(11))


def test_an_arm_that_is_not_recorded_has_no_files(tmp_path):
    assert layout.files_of(tmp_path / "line", KEY) == []
    assert layout.additions(layout.arm_path(tmp_path / "line", KEY)) == []


def test_additions_are_no_arms(arm):
    assert layout.arms_of(arm.parent) == layout.arms_in(arm.parent.parent) == [arm]


def broken(arm, change):
    """What is said of an arm after a change in its folder of additions, by whoever lists and whoever reads."""
    change(layout.folder_of(arm))
    with pytest.raises(KDError) as listed:
        layout.files_of(arm.parent, KEY)
    with pytest.raises(KDError) as read:
        read_arm(arm)
    assert str(listed.value) == str(read.value)
    return str(read.value).replace(f"{arm.parent}/", "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "1.json").unlink(), f"{KEY}/1.json: is missing, and 2.json is there"),
        (lambda folder: (folder / "2.json").rename(folder / "7.json"), f"{KEY}/2.json: is missing, and 7.json"),
        (lambda folder: (folder / "2.json").rename(folder / "02.json"), f"{KEY}/02.json: is no addition to {KEY}.json"),
        (lambda folder: (folder / "notes.md").touch(), f"{KEY}/notes.md: is no addition to {KEY}.json"),
    ],
)  # fmt: skip
def test_a_gap_and_a_file_that_is_none_are_named(arm, change, said):
    assert broken(arm, change).startswith(said)


def test_an_interrupted_write_leaves_nothing_that_is_read(arm):
    folder = layout.folder_of(arm)
    (folder / "3.parquet").write_bytes((folder / "2.parquet").read_bytes())
    (folder / ".3.json.half").write_text("{")
    assert list(read_arm(arm).runs) == [0, 1, 2] and layout.next_addition(arm).name == "3.json"
    assert layout.strays(arm.parent) == [(folder / "3.parquet", "has no JSON beside it")]


def test_additions_to_an_arm_that_is_gone_are_named_and_not_begun_anew(arm):
    arm.unlink()
    assert (layout.folder_of(arm), f"holds additions, and there is no {arm.name}") in layout.strays(
        arm.parent
    )
    with pytest.raises(KDError, match=rf"{KEY}\.json: is missing, and {KEY}/ holds additions to it"):
        add_runs(arm, made_arm(levels(1)))
    assert not arm.exists()


def test_lines_of_an_arm_are_those_of_all_its_files(arm):
    lines = layout.lines_of(arm)
    first = json.loads(arm.read_text())
    assert [run["seed"] for run in lines["runs"]] == [0, 1, 2] and lines["spec"] == first["spec"]
    assert set(lines["made_with"]) == {run["made_with"] for run in lines["runs"]}
    more = layout.folder_of(arm) / "2.json"
    more.write_text('{"runs": 7}')
    with pytest.raises(KDError, match=r"2\.json: no addition to the results of an arm"):
        layout.lines_of(arm)
