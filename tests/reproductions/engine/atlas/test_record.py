"""The committed record: what is written is read again, an edit is found, and every input counts."""

from __future__ import annotations

import shutil

import pytest

from reproductions.engine.atlas import record as kept
from reproductions.engine.atlas.compute import compute, record_of
from reproductions.engine.atlas.statements import Pair, Statement
from tests.reproductions.engine.atlas.made import arms_at


@pytest.fixture
def made():
    pair = Pair("terms", {"divergence": "reverse-kl"}, {"divergence": "forward-kl"})
    return record_of([], arms_at(50, 60, 70, 40), [Statement("s", "S", "Says.", (pair,))], made_from="0" * 16)


def test_what_is_written_is_read(tmp_path, made):
    assert kept.read(tmp_path) is None
    assert kept.write(made, tmp_path) and not kept.write(made, tmp_path)
    assert kept.read(tmp_path) == made
    assert made.tables[0].rows[0].key == "a2" and made.statements[0].contrasts[0].difference > 0


@pytest.mark.parametrize("change", [("50", "51"), ('"a2"', '"a9"'), ("greedy_exact_match", "rouge_l")])
def test_an_edited_figure_is_no_record(tmp_path, made, change):
    kept.write(made, tmp_path)
    path = tmp_path / kept.FILE
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    assert kept.read(tmp_path) is None


def test_a_change_of_rows_is_a_change_of_lines(made):
    lines = kept.text(made).splitlines()
    assert len(lines) > 12 and sum('"key": "a1"' in line for line in lines) == 1


def test_every_input_changes_the_digest(tmp_path):
    folder = tmp_path / "reproductions"
    names = ["results/toy/a.json", "papers/p.yaml", "testbeds/toy.yaml", "tuning/tiny/p.json"]
    names += ["attempts/p.1.json", "statements.yaml"]
    seen = {kept.inputs(tmp_path)}
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
        seen.add(kept.inputs(tmp_path))
        (folder / name).write_text("{1}")
        seen.add(kept.inputs(tmp_path))
    assert len(seen) == 1 + 2 * len(names)


def test_a_checkout_without_results_has_an_empty_record(tmp_path):
    folder = tmp_path / "reproductions"
    folder.mkdir()
    shutil.copy(kept.ROOT / "reproductions" / "statements.yaml", folder)
    found = compute(tmp_path)
    assert found.tables == () and found.made_from == kept.inputs(tmp_path)
