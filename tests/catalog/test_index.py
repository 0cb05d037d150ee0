"""The compiled catalog: the same answers and the same strictness as without it, and never an error of its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from catalog import cache, index, schema
from catalog.errors import CatalogError
from catalog.schema import HERE, load_catalog

RECORD = """\
id: {name}
title: A paper
arxiv: "2401.{number:05d}"
venue: ICLR
date: "2024-01"
taxonomy:
  elicitation: {{labeling: listed}}
  algorithm: {{sft: listed}}
teacher_terms: [openai]
adds: One line of our own.
"""


TEACHERS = """\
teachers:
  openai:
    title: Models
    terms_url: https://example.org/terms
    allows_training: "no"
    verified: false
    note: Not read.
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    """A catalog of three papers, all long unchanged, and an empty cache folder."""
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "catalog"
    (place / "papers").mkdir(parents=True)
    shutil.copy(HERE / "taxonomy.yaml", place / "taxonomy.yaml")
    (place / "teachers.yaml").write_text(TEACHERS)
    for path in place.glob("*.yaml"):
        settle(path)
    for number, name in enumerate(("one", "two", "three")):
        write(place, name, RECORD.format(name=name, number=number))
    return place


def settle(path: Path) -> None:
    """Make a file look as if it had last been written long ago."""
    os.utime(path, (1_700_000_000, 1_700_000_000))


def write(root: Path, name: str, text: str) -> Path:
    path = root / "papers" / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    settle(path)
    return path


def load(root: Path):
    return index.load(root, cached=True)


@pytest.fixture
def parsed(monkeypatch) -> list[str]:
    """The names of the record files that are parsed, as they are."""
    names: list[str] = []

    def load_paper(path, taxonomy, teachers):
        names.append(path.stem)
        return schema.load_paper(path, taxonomy, teachers)

    monkeypatch.setattr(index, "load_paper", load_paper)
    return names


def test_the_committed_catalog_is_the_same_with_and_without_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE", str(tmp_path))
    strict = index.load(HERE, cached=False)
    assert load_catalog() == strict and load_catalog() == strict
    paper = load_catalog().papers["minillm"]
    assert isinstance(paper.authors, tuple) and isinstance(load_catalog().taxonomy["skill"].values, dict)


def test_only_what_changed_is_parsed_again(root, parsed):
    first = load(root)
    assert parsed == ["one", "three", "two"]
    assert load(root) == first and len(parsed) == 3
    write(root, "two", RECORD.format(name="two", number=7).replace("A paper", "B paper"))
    assert load(root).papers["two"].title == "B paper" and parsed[3:] == ["two"]
    write(root, "four", RECORD.format(name="four", number=9))
    assert set(load(root).papers) == {"one", "two", "three", "four"} and parsed[4:] == ["four"]
    (root / "papers" / "one.yaml").unlink()
    assert set(load(root).papers) == {"two", "three", "four"} and len(parsed) == 5


def test_a_change_of_the_same_size_and_date_is_seen(root, parsed):
    load(root)
    write(root, "one", RECORD.format(name="one", number=0).replace("A paper", "C paper"))
    assert load(root).papers["one"].title == "C paper"


def test_a_file_written_a_moment_ago_is_not_kept(root, parsed):
    path = root / "papers" / "one.yaml"
    path.write_text(path.read_text())
    load(root)
    load(root)
    assert parsed == ["one", "three", "two", "one"]


def test_other_names_to_check_against_make_records_be_read_again(root, parsed):
    load(root)
    teachers = root / "teachers.yaml"
    teachers.write_text(TEACHERS.replace("title: Models", "title: Their models"))
    settle(teachers)
    assert load(root).teachers["openai"].title == "Their models" and len(parsed) == 3
    teachers.write_text(TEACHERS.replace("openai:", "closed:"))
    settle(teachers)
    with pytest.raises(CatalogError, match=r'one\.yaml:9: .*no teacher "openai"'):
        load(root)


def test_another_version_of_the_code_keeps_nothing(root, parsed, monkeypatch):
    load(root)
    monkeypatch.setattr(cache, "source_key", lambda paths: "another")
    load(root)
    assert len(parsed) == 6


def test_mistakes_are_found_at_every_load_and_cost_the_others_nothing(root, parsed):
    load(root)
    write(root, "bad", RECORD.format(name="bad", number=9).replace("A paper", "[x]"))
    for _ in range(2):
        with pytest.raises(CatalogError, match=r"bad\.yaml:2: .*must be text, not a list"):
            load(root)
    assert parsed == ["one", "three", "two", "bad", "bad"]
    (root / "papers" / "bad.yaml").unlink()
    assert len(load(root).papers) == 3 and len(parsed) == 5


def test_what_is_checked_between_records_is_checked_from_the_cache_too(root, parsed):
    write(root, "two", RECORD.format(name="two", number=2) + "superseded_by: one\n")
    with pytest.raises(CatalogError, match=r'two\.yaml:3: arXiv 2401\.00002 is "three" already'):
        load(root)
    write(root, "two", RECORD.format(name="two", number=1) + "superseded_by: one\n")
    load(root)
    (root / "papers" / "one.yaml").unlink()
    for _ in range(2):
        with pytest.raises(CatalogError, match=r'two\.yaml:11: no paper "one"'):
            load(root)


def test_papers_cannot_supersede_each_other_in_a_circle(root):
    write(root, "one", RECORD.format(name="one", number=0) + "superseded_by: two\n")
    write(root, "two", RECORD.format(name="two", number=1) + "superseded_by: one\n")
    with pytest.raises(CatalogError, match=r"one\.yaml:11: superseded in a circle: one -> two -> one"):
        load(root)


def test_a_record_may_be_called_like_another_file(root):
    write(root, "taxonomy", RECORD.format(name="taxonomy", number=8))
    assert load(root) == load(root) and "taxonomy" in load(root).papers


def cache_file(root: Path) -> Path:
    path = cache.file_for("catalog", root)
    assert path is not None and path.is_file()
    return path


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"\xff\x00" * 50,
        lambda raw: raw.replace(b"A paper", b"B paper"),
        lambda raw: raw.split(b"\n", 1)[0] + b"\n" + b"[" * 100_000,
    ],
)
def test_a_spoilt_cache_counts_as_absent(root, parsed, spoil):
    load(root)
    path = cache_file(root)
    path.write_bytes(spoil(path.read_bytes()))
    assert load(root).papers["one"].title == "A paper" and len(parsed) == 6
    load(root)
    assert len(parsed) == 6  # and was written again


@pytest.mark.parametrize("kept", [{"papers/one.yaml": 7}, {"taxonomy.yaml": [[], {}]}, [1], 7])
def test_a_cache_of_another_shape_counts_as_absent(root, kept, monkeypatch):
    strict = index.load(root, cached=False)
    monkeypatch.setattr(cache, "read", lambda path, key: kept)
    assert load(root) == strict


def test_a_cache_that_cannot_be_written_or_is_no_file_is_no_error(root, tmp_path, monkeypatch):
    strict = index.load(root, cached=False)
    for place in ("/proc/no", "/dev/null/x", str(root / "taxonomy.yaml")):
        monkeypatch.setenv("KD_CACHE", place)
        assert load(root) == strict
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "other"))
    path = cache.file_for("catalog", root)
    path.mkdir(parents=True)
    assert load(root) == strict
    path.rmdir()
    os.mkfifo(path)  # opening it would wait for ever
    assert load(root) == strict


def test_nothing_is_left_beside_the_cache_file(root):
    load(root)
    path = cache_file(root)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    head, _, body = path.read_bytes().partition(b"\n")
    assert head.startswith(b"kd-atlas 1 ") and "papers/one.yaml" in json.loads(body)


def test_what_others_found_comes_back_from_the_cache_as_it_was_read(root, parsed):
    found = (
        'external:\n  - {url: "https://x.org/1", date: "2026-04", kind: issue, says: A., agrees: null, '
        'seen: "2026-11-28"}\n'
    )
    write(root, "one", RECORD.format(name="one", number=0) + found)
    first = load(root).papers["one"].external
    assert load(root).papers["one"].external == first and parsed.count("one") == 1
    assert first[0].agrees is None and first[0].stance == "neither for nor against"
