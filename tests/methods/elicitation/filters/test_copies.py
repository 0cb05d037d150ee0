"""Copies: against the reference implementation and every pair compared one by one."""

import random

import pytest

from methods.elicitation.filters import copies
from methods.elicitation.filters.marks import exact_copies, near_copies
from methods.elicitation.records.record import Record
from methods.errors import MethodError

WORDS = [
    "add",
    "two",
    "list",
    "of",
    "the",
    "numbers",
    "word",
    "sort",
    "write",
    "a",
    "short",
    "story",
    "about",
    "rain",
    "and",
    "fish",
]


def texts(count, seed=0, longest=14):
    """Texts among which there are near copies: some are others with a word changed, left out or moved."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        if made and draw.random() < 0.6:
            words = draw.choice(made).split()
            place = draw.randrange(len(words))
            change = draw.choice(["other", "less", "move"])
            if change == "other":
                words[place] = draw.choice(WORDS)
            elif change == "less" and len(words) > 1:
                del words[place]
            else:
                words.insert(draw.randrange(len(words)), words.pop(place))
        else:
            words = draw.choices(WORDS, k=draw.randint(1, longest))
        made.append(" ".join(words))
    return made


def by_table(one, other):
    """The common subsequence by its definition."""
    rows = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


def test_the_common_subsequence_is_that_of_the_table():
    draw = random.Random(1)
    for _ in range(300):
        one, other = (draw.choices("abcd", k=draw.randint(0, 90)) for _ in range(2))
        assert copies.longest_common(one, other) == by_table(one, other)


def test_rouge_l_is_that_of_the_reference_implementation():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    made = [*texts(30), "Don't stop, 12.5% of It!", "", "...", "one one one two"]
    for one in made[::3]:
        for other in made:
            theirs = scorer.score(one, other)["rougeL"].fmeasure
            assert copies.rouge_l(copies.tokens(one), copies.tokens(other)) == pytest.approx(theirs)


def by_every_pair(made, near):
    """Who is kept, every pair compared."""
    kept = []
    for place, text in enumerate(made):
        if all(
            2 * by_table(copies.tokens(text), copies.tokens(made[other]))
            < near * (len(copies.tokens(text)) + len(copies.tokens(made[other])))
            for other in kept
        ):
            kept.append(place)
    return kept


@pytest.mark.parametrize("near", [0.5, 0.7, 0.9, 1.0])
def test_no_near_copy_is_missed_and_nothing_else_dropped(near):
    for seed in range(3):
        made = texts(60, seed)
        rows = near_copies([Record(text, str(n)) for n, text in enumerate(made)], near=near)
        kept = [place for place, row in enumerate(rows) if row.alive]
        assert kept == by_every_pair(made, near)
        assert 5 < len(kept) < 60
        assert {row.dropped for row in rows} == {None, "near copy"}


def test_a_bound_that_is_too_tight_would_miss_copies(monkeypatch):
    made = texts(60)
    right = copies.Pool._candidates

    def tighter(self, words):
        for place in right(self, words):
            if abs(len(self._kept[place][0]) - len(words)) < 1:
                yield place

    monkeypatch.setattr(copies.Pool, "_candidates", tighter)
    rows = near_copies([Record(text) for text in made])
    assert [place for place, row in enumerate(rows) if row.alive] != by_every_pair(made, 0.7)


def test_a_near_copy_says_of_whom():
    rows = [
        Record("write a story about the rain"),
        Record("write a poem about the rain"),
        Record("sort numbers"),
    ]
    made = near_copies(rows)
    assert [row.dropped for row in made] == [None, "near copy", None]
    assert made[1].why == f"ROUGE-L 0.83 to {rows[0].id}"  # 2 x 5 / 12
    assert [row.id for row in made] == [row.id for row in rows]


def test_what_is_dropped_already_makes_no_copies():
    rows = [Record("write a story", "1").drop("failed"), Record("write a story", "2")]
    assert [row.dropped for row in near_copies(rows)] == ["failed", None]
    assert [row.dropped for row in exact_copies(rows, column="prompt")] == ["failed", None]


def test_exact_copies_by_text_words_and_equations():
    def kept(key, column="completion", *said):
        rows = exact_copies(
            [Record("q", one, fields={"n": n}) for n, one in enumerate(said)], key=key, column=column
        )
        return [place for place, row in enumerate(rows) if row.alive]

    assert kept("text", "completion", "A b", "a b", "A b") == [0, 1]
    assert kept("words", "completion", "A b!", "a  B", "ab") == [0, 2]
    chains = [
        "First 3 + 4 = 7. Then 7*2=14",
        "so 3+4 = 7, and 7 * 2 = 14!",
        "7*2 = 14 and 3+4=7",
        "no sums",
        "no sums",
    ]
    assert kept("equations", "completion", *chains) == [0, 2, 3]
    two = [Record("q", chains[0]), Record("other", chains[1])]
    assert all(row.alive for row in exact_copies(two, key="equations", column="completion"))


def test_the_same_row_twice_is_a_copy():
    row = Record("a", "b")
    assert [one.dropped for one in exact_copies([row, row])] == [None, "copy"]
    assert [one.dropped for one in near_copies([row, row])] == [None, "copy"]


def test_wrong_settings_are_refused():
    with pytest.raises(MethodError, match='no key "word" of a copy \\(did you mean "words"'):
        exact_copies([], key="word")
    with pytest.raises(MethodError, match='"near" is a ROUGE-L'):
        near_copies([], near=0)
    with pytest.raises(MethodError, match='has no column "text"'):
        near_copies([Record("a")], column="text")


def test_scripts_without_latin_letters_are_told_apart():
    rows = near_copies([Record("写一个故事关于雨"), Record("排序数字列表吧"), Record("写一个故事关于雪")])
    assert [row.dropped for row in rows] == [None, None, "near copy"]
