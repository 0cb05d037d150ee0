"""Records: closed vocabularies, and a message with file, line and nearest name for every mistake."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from catalog.errors import CatalogError
from catalog.schema import HERE, load_catalog

GOOD = """\
id: some-paper
title: "A Paper: With a Colon"
arxiv: "2401.00001"
venue: ICLR
date: "2024-01"
code:
  - https://github.com/someone/something
taxonomy:
  elicitation: {labeling: listed, self-knowledge: judged}
  algorithm: {sft: listed}
  skill: {code: judged}
teacher: a teacher
basis: recalled
teacher_terms: [openai]
adds: One line of our own.
objective: "-log p_S(y|x)"
method: sft
"""

EXTERNAL = """\
external:
  - url: https://github.com/someone/something/issues/5
    date: "2026-04-07"
    kind: author's statement
    says: "It was the other direction, 1 point instead of 6."
    agrees: null
    seen: "2026-11-28"
  - url: https://github.com/someone/something/issues/5
    date: "2026-04"
    kind: independent run
    says: "The same, again."
    agrees: false
    seen: "2026-11-28"
"""


@pytest.fixture
def catalog_with(tmp_path: Path):
    """A catalog of our taxonomy and the papers given by file name."""
    for name in ("taxonomy.yaml", "teachers.yaml"):
        shutil.copy(HERE / name, tmp_path / name)
    (tmp_path / "papers").mkdir()

    def load(**papers: str):
        for name, content in papers.items():
            (tmp_path / "papers" / f"{name.replace('_', '-')}.yaml").write_text(content, encoding="utf-8")
        return load_catalog(tmp_path)

    return load


def test_a_good_record_is_read(catalog_with):
    paper = catalog_with(some_paper=GOOD).paper("some-paper")
    assert paper.title == "A Paper: With a Colon"
    assert paper.url == "https://arxiv.org/abs/2401.00001"
    assert paper.taxonomy["elicitation"] == {"labeling": "listed", "self-knowledge": "judged"}
    assert paper.taxonomy["vertical"] == {}
    assert paper.teacher_terms == ("openai",)
    assert not paper.models_verified


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("id: some-paper", "id: other-paper", 1, 'must be the name of the file, "some-paper"'),
        ("id: some-paper", "id: Some_Paper", 1, "lower-case"),
        ("venue: ICLR", "venu: ICLR", None, '"venue" is missing (is it spelled "venu"?)'),
        ("venue: ICLR", "venue: ICLR\nreviewer: me", 5, 'unknown field "reviewer"'),
        ("venue: ICLR", "venue: ICLR\nteachr: x", 5, 'unknown field "teachr" (did you mean "teacher"?)'),
        ("venue: ICLR", "venue: [ICLR]", 4, "must be text, not a list"),
        ("venue: ICLR", "venue:", 4, '"venue" is missing'),
        ("venue: ICLR", 'venue: " "', 4, "one line"),
        ('title: "A Paper: With a Colon"', 'title: "two\\nlines"', 2, "one line"),
        ('"2024-01"', '"2024-13"', 5, 'not a month like "2023-06"'),
        ('"2024-01"', "2024", 5, "must be text, not a number"),
        ('"2401.00001"', "2401.00001", 3, "put it in quotes"),
        ('"2401.00001"', '"2401.00001v2"', 3, "without version"),
        ('"2401.00001"', '"2413.00001"', 3, "arXiv id"),
        ('arxiv: "2401.00001"\n', "", None, '"url" is missing'),
        ("https://github.com", "http://github.com", 7, "https link"),
        ("https://github.com/someone", "https://github.com/some one", 7, "https link"),
        ("https://github.com/someone", "javascript:alert(1)//", 7, "https link"),
        ("https://github.com/someone", "https://x.org/](evil)", 7, "https link"),
        ("https://github.com", "https://me:secret@github.com", 7, "https link"),
        ("code:\n  - ", "code: ", 6, "must be a list, not text"),
        ("{labeling: listed, self", "{labelling: listed, self", 9, '(did you mean "labeling"?)'),
        ("{sft: listed}", "{sft: maybe}", 10, 'no value "maybe"; known: listed, judged'),
        ("{sft: listed}", "[sft]", 10, "must be a mapping"),
        ("{sft: listed}", "{}", 8, "at least one elicitation and one algorithm"),
        ("  skill:", "  skil:", 11, 'unknown field "skil" (did you mean "skill"?)'),
        ("basis: recalled", "basis: remembered", 13, "no value"),
        ("basis: recalled\n", "", 12, "need a basis"),
        ("[openai]", "[openia]", 14, '(did you mean "openai"?)'),
        ("[openai]", "[openai, openai]", 14, "stands twice"),
        ("method: sft", "method: os.system", 17, "lower-case"),
        ("method: sft", "method: minillmm", 17, 'no recipe "minillmm" (did you mean "minillm"?)'),
        ("adds: One", "superseded_by: some-papr\nadds: One", 15, "no paper"),
        ("adds: One line of our own.", f"adds: {'x' * 501}", 15, "longer than 500"),
        ("adds: One line of our own.", f"adds: {'x' * 100_000}", 15, "longer than 500"),
        ("venue: ICLR", f"venue: ICLR\n{'x' * 900}: y", 5, "unknown field"),
        ("[openai]", f"[{'x' * 450}]", 14, "no teacher"),
        ("some-paper\n", f"{'x' * 400}\n", 1, "must be the name of the file"),
        ("{sft: listed}", f"{{{'x' * 450}: listed}}", 10, "no value of algorithm"),
        ("venue: ICLR", "venue: ICLR\nscope: video", 5, "known: llm, beyond-llm, survey"),
        ("venue: ICLR", "venue: ICLR\nscope: [llm]", 5, "must be text, not a list"),
        ("venue: ICLR", 'venue: ICLR\ndistils: "no"', 5, "must be true or false, not text"),
        ("venue: ICLR", "venue: ICLR\ncode_licence: Apache 2", 5, "SPDX"),
        ("venue: ICLR", "venue: ICLR\ncorrections: [a, a]", 5, "stands twice"),
        ("venue: ICLR", "venue: ICLR\ncorrections: [[a]]", 5, "must be text, not a list"),
        ("venue: ICLR", 'venue: ICLR\nsources: ["javascript:alert(1)"]', 5, "https link"),
        ("venue: ICLR", 'venue: ICLR\nsources: ["data:text/html,x"]', 5, "https link"),
        ("venue: ICLR", "venue: ICLR\nurl: https://x.org/<script>", 5, "https link"),
        ("venue: ICLR", 'venue: ICLR\nurl: "https://x.org/\\u202e"', 5, "U+202E"),
        ("venue: ICLR", "venue: ICLR\nurl: https://x.org/a\u00a0b", 5, "https link"),
        ("venue: ICLR", "venue: ICLR\nurl: https://x.org/\u0430", 5, "https link"),
        ("venue: ICLR", "venue: ICLR\nauthors: A B, C D", 5, "must be a list, not text"),
        ("venue: ICLR", 'venue: ICLR\nauthors: [A B, ""]', 5, "one line"),
        ("venue: ICLR", "venue: ICLR\nid: some-paper", 5, '"id" stands twice, first on line 1'),
        ("venue: ICLR", "venue:\tICLR", 4, "a tab"),
        ("venue: ICLR", "venue: I\x1b[31mCLR", 4, "U+001B"),
        ("venue: ICLR", "venue: I\u202eCLR", 4, "U+202E"),
        ("venue: ICLR", "venue: 0x1f", None, ""),  # text, and harmless
        ("venue: ICLR", "venue: &a ICLR\nnote: *a", 4, "anchors are not read"),
        ('"2024-01"', '"2024-1"', 5, "month"),
        ('"2024-01"', '"24-01"', 5, "month"),
        ('"2024-01"', '"2024-01-05"', 5, "month"),
        ('"2024-01"', '"20２４-01"', 5, "month"),
        ('"2401.00001"', '"24０１.00001"', 3, "arXiv id"),
        ('"2024-01"', "true", 5, "must be text, not true/false"),
    ],
)
def test_every_mistake_has_its_file_and_line(catalog_with, old, new, line, what):
    assert old in GOOD
    content = GOOD.replace(old, new, 1)
    if not what:
        catalog_with(some_paper=content)
        return
    with pytest.raises(CatalogError) as raised:
        catalog_with(some_paper=content)
    message = str(raised.value)
    assert what in message
    assert "some-paper.yaml:" in message and "\n" not in message
    assert len(message) < 1000  # a hostile value is not repeated at length
    if line is not None:
        assert raised.value.line == line


def test_two_papers_cannot_share_an_arxiv_id(catalog_with):
    with pytest.raises(CatalogError, match=r'other\.yaml:3: arXiv 2401\.00001 is "first" already'):
        catalog_with(first=GOOD.replace("some-paper", "first"), other=GOOD.replace("some-paper", "other"))


def test_superseded_by_names_another_paper(catalog_with):
    newer = GOOD.replace("some-paper", "newer").replace("00001", "00002")
    old = GOOD + "superseded_by: newer\n"
    assert catalog_with(some_paper=old, newer=newer).paper("some-paper").superseded_by == "newer"
    with pytest.raises(CatalogError, match="no paper"):
        catalog_with(some_paper=GOOD + "superseded_by: some-paper\n")


def test_an_unknown_paper_gets_the_nearest_id(catalog_with):
    with pytest.raises(CatalogError, match=r'no paper "some-papr".*did you mean "some-paper"'):
        catalog_with(some_paper=GOOD).paper("some-papr")


def test_taxonomy_and_teachers_are_as_strict(catalog_with, tmp_path):
    taxonomy = tmp_path / "taxonomy.yaml"
    good = taxonomy.read_text()
    taxonomy.write_text(good.replace("group: alignment", "group: alignmnt", 1))
    with pytest.raises(CatalogError, match=r'taxonomy\.yaml:\d+: .*did you mean "alignment"'):
        catalog_with()
    taxonomy.write_text(good)
    teachers = tmp_path / "teachers.yaml"
    teachers.write_text(teachers.read_text().replace('allows_training: "no"', "allows_training: never", 1))
    with pytest.raises(CatalogError, match=r"teachers\.yaml:\d+: .*known: yes, with-naming, no, unclear"):
        catalog_with()


@pytest.mark.parametrize("day", ["2026-02-30", "2026-13-01", "26-01-01", "2026-1-1", "tomorrow"])
def test_the_terms_were_checked_on_a_day_of_the_calendar(catalog_with, tmp_path, day):
    (tmp_path / "teachers.yaml").write_text(
        "teachers:\n  openai:\n    title: T\n    terms_url: https://x.org/\n    allows_training: unclear\n"
        f'    checked_on: "{day}"\n    verified: true\n    note: N.\n'
    )
    with pytest.raises(CatalogError, match=r"teachers\.yaml:6: .*is not a day"):
        catalog_with()


def test_a_bomb_of_records_is_refused_at_once(catalog_with):
    """Each level names the one before ten times: a loader that follows aliases would hold a billion values."""
    levels = [
        "a: &a [x, x]",
        *(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    with pytest.raises(CatalogError, match=r"some-paper\.yaml:1: .*anchors are not read"):
        catalog_with(some_paper="\n".join(levels))


def test_a_record_that_is_not_utf8_or_too_large_is_refused(catalog_with, tmp_path):
    path = tmp_path / "papers" / "some-paper.yaml"
    path.write_bytes(GOOD.replace("ICLR", "\xe9").encode("latin-1"))
    with pytest.raises(CatalogError, match=r"some-paper\.yaml:4: not UTF-8"):
        catalog_with()
    path.write_text(GOOD + "#" * 1_000_000)
    with pytest.raises(CatalogError, match=r"some-paper\.yaml: 1,000,\d+ bytes; at most"):
        catalog_with()


def test_what_lies_among_the_records_and_is_none_is_said(catalog_with, tmp_path):
    (tmp_path / "papers" / "folder.yaml").mkdir()
    with pytest.raises(CatalogError, match=r"folder\.yaml: not a file"):
        catalog_with()
    (tmp_path / "papers" / "folder.yaml").rmdir()
    (tmp_path / "papers" / "gone.yaml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CatalogError, match=r"gone\.yaml: no such file"):
        catalog_with()


def test_what_others_found_is_read(catalog_with):
    paper = catalog_with(some_paper=GOOD + EXTERNAL).paper("some-paper")
    said, run = paper.external
    assert said.kind == "author's statement" and said.agrees is None and run.agrees is False
    assert said.date == "2026-04-07" and run.date == "2026-04" and run.seen == "2026-11-28"
    assert [entry.stance for entry in paper.external] == ["neither for nor against", "against the headline"]
    assert catalog_with(some_paper=GOOD).paper("some-paper").external == ()


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("  - url: https", "  - url: http", 19, "https link"),
        ('date: "2026-04-07"', 'date: "2026-02-30"', 20, "not a day of the calendar"),
        ('date: "2026-04-07"', 'date: "2026-13"', 20, 'not a month like "2023-06"'),
        ('date: "2026-04-07"', 'date: "2026"', 20, "not a month"),
        ('date: "2026-04-07"', 'date: "2026-12-01"', 24, '"seen": 2026-11-28 is before "date", 2026-12-01'),
        ('date: "2026-04"\n', 'date: "2026-12"\n', 30, '"seen": 2026-11-28 is before "date", 2026-12'),
        ("kind: independent run", "kind: independant run", 27, 'did you mean "independent run"'),
        ("kind: independent run", "kind: author's statement", 25, "this author's statement stands twice"),
        ("agrees: null", 'agrees: "no"', 23, "must be true or false, not text"),
        ("    agrees: null\n", "", 19, '"agrees" is missing'),
        ("    says: ", "    say: ", 19, '"says" is missing (is it spelled "say"?)'),
        ("    seen: ", "    sen: ", 19, '"seen" is missing (is it spelled "sen"?)'),
        ("agrees: null", "agrees: null\n    reviewer: me", 24, 'unknown field "reviewer"'),
        ("point instead of 6", f"{'x' * 500}", 22, "longer than 500"),
    ],
)
def test_every_mistake_in_what_others_found_has_its_line(catalog_with, old, new, line, what):
    assert old in EXTERNAL
    with pytest.raises(CatalogError) as raised:
        catalog_with(some_paper=GOOD + EXTERNAL.replace(old, new, 1))
    assert what in str(raised.value) and "some-paper.yaml:" in str(raised.value)
    assert raised.value.line == line


def test_what_others_found_is_a_list(catalog_with):
    with pytest.raises(CatalogError, match="must be a list, not text"):
        catalog_with(some_paper=GOOD + "external: https://x.org/a\n")
    with pytest.raises(CatalogError, match="must be a mapping"):
        catalog_with(some_paper=GOOD + "external: [https://x.org/a]\n")
