"""What the gallery shows of each component: a sentence, and where the method comes from."""

import re

import pytest

from methods.registry import components

ENTRIES = list(components().values())
NAMES = [f"{entry.slot}/{entry.name}" for entry in ENTRIES]
# Of nobody's: what stands for leaving something as it is.
NO_PAPER = {"target/teacher", "trainer/teacher-alone"}
ABBREVIATIONS = re.compile(r"\b(al|eq|e\.g|i\.e|vs)\.")


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_the_first_paragraph_is_one_sentence(entry):
    assert entry.summary.endswith("."), entry.summary
    plain = ABBREVIATIONS.sub("", entry.summary.removesuffix("."))
    assert not re.search(r"[.!?] ", plain), f"more than one sentence: {entry.summary}"
    assert "Source" not in plain and "arXiv" not in plain, "the source has a line of its own below"
    assert len(entry.summary) <= 130


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_the_source_has_a_line_of_its_own(entry):
    if f"{entry.slot}/{entry.name}" in NO_PAPER:
        assert "Source:" not in entry.doc
        return
    lines = [line for line in entry.doc.splitlines() if "Source:" in line]
    assert len(lines) == 1 and lines[0].startswith("Source:"), entry.doc
    rest = entry.doc.partition("Source:")[2]
    assert re.search(r"\d{4}\.\d{5}|\"[A-Z].+\"", rest.replace("\n", " ")), (
        f"no paper by number or title: {rest}"
    )


def test_the_exceptions_are_components():
    assert set(NAMES) >= NO_PAPER
