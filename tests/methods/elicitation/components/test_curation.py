"""select and pilot, against choices made by hand and by trying every set."""

import itertools
import random

import pytest

from methods.elicitation.components import curation
from methods.elicitation.components.curation import allocate, edit_distance, pilot, select
from methods.elicitation.records.record import Asked, Record
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from tests.methods.elicitation.components.scripted import EmptyWriter, reasons

TEXTS = ["a b", "a b c d", "a", "x y z"]


def answers(*texts, prompt="q", **marks):
    return [Record(prompt, text, fields={"n": n}, **marks) for n, text in enumerate(texts)]


def kept(rows, **settings):
    made = select(rows, Session(EmptyWriter()), **settings)
    assert [row.id for row in made] == [row.id for row in rows]
    assert {row.dropped for row in made if not row.alive} <= {"not selected"}
    return [place for place, row in enumerate(made) if row.alive]


@pytest.mark.parametrize(
    ("by", "keep", "wanted"),
    [
        ("first", 1, [0]),
        ("first", 9, [0, 1, 2, 3]),
        ("shortest", 1, [2]),
        ("shortest", 2, [0, 2]),
        ("longest", 2, [1, 3]),
        ("distinct", 2, [1, 3]),  # a b c d and x y z: four words changed
        ("distinct", 3, [1, 2, 3]),  # the nearest of "a b" is 2 away, that of "a" is 3
    ],
)
def test_what_is_selected_by_hand(by, keep, wanted):
    assert kept(answers(*TEXTS), by=by, keep=keep) == wanted


def test_each_prompt_has_its_own_choice_or_all_together_have_one():
    rows = [*answers("a b", "a"), *answers("x", "x y", prompt="other")]
    assert kept(rows, by="shortest") == [1, 2]
    assert kept(rows, by="shortest", of="all") == [1]
    assert kept(rows, by="shortest", column="prompt", keep=2, of="all") == [0, 1]


SUBJECTS = [("a b", "x"), ("a", "y"), ("a b c", "x"), ("a b", "y"), ("a b c d", "x"), ("b", "y")]


def test_a_field_has_its_own_choice_for_each_value():
    """Long texts, evenly over subjects: the two longest of x and of y, not the four longest of all."""
    rows = [Record(f"q{n}", text, fields={"of": value}) for n, (text, value) in enumerate(SUBJECTS)]
    assert kept(rows, by="longest", keep=2, of="of") == [1, 2, 3, 4]
    assert kept(rows, by="longest", keep=4, of="all") == [0, 2, 3, 4]
    for keep in range(1, 5):  # every set of its size, of each subject
        chosen = kept(rows, by="longest", keep=keep, of="of")
        for value in "xy":
            of_it = [len(text.split()) for text, other in SUBJECTS if other == value]
            best = max(map(sum, itertools.combinations(of_it, min(keep, len(of_it)))))
            assert sum(len(SUBJECTS[n][0].split()) for n in chosen if SUBJECTS[n][1] == value) == best


def test_a_choice_that_ignores_the_field_would_be_seen(monkeypatch):
    rows = [Record(f"q{n}", text, fields={"of": value}) for n, (text, value) in enumerate(SUBJECTS)]
    monkeypatch.setattr(curation, "text_of", lambda row, column: "")
    assert kept(rows, by="first", keep=2, of="of") == [0, 1]


def sampled(**right):
    """Of each prompt so many right rows, and the rest of eight wrong ones: dropped, unparseable or only marked."""
    made = []
    for prompt, many in right.items():
        rows = [Record(prompt, f"{prompt}{n}", verified=n < many, fields={"n": n}) for n in range(8)]
        for n, row in enumerate(rows):
            how = n % 3 if n >= many else 0
            dropped = row.drop("wrong answer") if how == 1 else row
            made.append(dropped.marked(verified=None).drop("unparseable") if how == 2 else dropped)
    return made


def allocated(rows, **settings):
    made = allocate(rows, None, **settings)
    assert [row.id for row in made] == [row.id for row in rows]
    found = {row.prompt: [] for row in rows}
    for row in made:
        if row.alive:
            assert row.verified
            found[row.prompt].append(row.fields["n"])
    return found


def test_a_hard_prompt_keeps_more_of_its_right_rows():
    """Fail rates 0, 1/4, 1/2, 7/8: of 4 for the hardest 8/7 and 16/7 are due to the two between, one to the easy."""
    rows = sampled(easy=8, mild=6, hard=4, hardest=1, never=0)
    assert allocated(rows, keep=4) == {"easy": [0], "mild": [0], "hard": [0, 1], "hardest": [0], "never": []}
    assert allocated(rows, keep=7)["mild"] == [0, 1] and allocated(rows, keep=7)["hard"] == [0, 1, 2, 3]
    assert allocated(rows, keep=4, least=3)["easy"] == [0, 1, 2]


def test_allocation_is_the_rule_of_fractions():
    """In whole numbers: keep times the rate over the greatest, half up, one at least, what there is."""
    draw = random.Random(3)
    for _ in range(30):
        right = {f"p{n}": draw.randint(1, 8) for n in range(6)}
        keep, worst = draw.randint(1, 9), max(8 - many for many in right.values())
        due = {
            prompt: max(1, (2 * keep * (8 - many) + worst) // (2 * worst)) if worst else 1
            for prompt, many in right.items()
        }
        found = allocated(sampled(**right), keep=keep)
        assert {prompt: len(rows) for prompt, rows in found.items()} == {
            prompt: min(due[prompt], many) for prompt, many in right.items()
        }


def test_an_allocation_that_is_even_or_forgets_the_easy_would_be_seen(monkeypatch):
    rows, wanted = sampled(easy=8, hard=2), {"easy": [0], "hard": [0, 1]}
    assert allocated(rows, keep=2) == wanted
    monkeypatch.setattr(curation, "floor", lambda value: 2)
    assert allocated(rows, keep=2) != wanted
    monkeypatch.setattr(curation, "floor", int)
    monkeypatch.setattr(curation, "counted", lambda name, value: None)
    assert allocated(rows, keep=2, least=0) != wanted


def test_scores_choose_and_rows_without_one_are_said():
    rows = [Record("q", str(n), score=score, fields={"n": n}) for n, score in enumerate([0.5, 0.9, 0.5, 0.1])]
    assert kept(rows, by="highest", keep=2) == [0, 1] and kept(rows, by="lowest") == [3]
    with pytest.raises(MethodError, match="has no score"):
        kept(answers("a"), by="highest")


def test_a_random_choice_is_of_the_sessions_seed():
    rows = answers(*map(str, range(30)))
    chosen = [
        [row.id for row in select(rows, Session(EmptyWriter(), seed=seed), by="random", keep=5) if row.alive]
        for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2] and len(chosen[0]) == 5


def by_table(one, other):
    """Levenshtein's distance by its recursion."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        by_table(one[1:], other) + 1,
        by_table(one, other[1:]) + 1,
        by_table(one[1:], other[1:]) + (one[0] != other[0]),
    )


def test_the_edit_distance_is_that_of_its_recursion():
    draw = random.Random(0)
    for _ in range(60):
        one, other = (draw.choices("abc", k=draw.randint(0, 5)) for _ in range(2))
        assert edit_distance(one, other) == by_table(one, other)


def test_the_first_two_distinct_texts_are_the_farthest_pair_of_all():
    draw = random.Random(1)
    for _ in range(10):
        texts = [" ".join(draw.choices("abcdef", k=draw.randint(1, 6))) for _ in range(6)]
        chosen = [texts[place] for place in kept(answers(*texts), by="distinct", keep=2)]
        apart = [edit_distance(a.split(), b.split()) for a, b in itertools.combinations(texts, 2)]
        assert edit_distance(*(text.split() for text in chosen)) == max(apart)


def test_a_distance_that_ignores_words_would_be_seen(monkeypatch):
    monkeypatch.setattr(curation, "edit_distance", lambda one, other: abs(len(one) - len(other)))
    assert kept(answers(*TEXTS), by="distinct", keep=2) != [1, 3]


def test_wrong_settings_are_refused():
    with pytest.raises(MethodError, match='no order "shortst" \\(did you mean "shortest"'):
        select([], None, by="shortst")
    with pytest.raises(MethodError, match='has no column "famly"; it has prompt, .*, family'):
        select([Record("q", "a", fields={"family": "x"})], None, of="famly")
    with pytest.raises(MethodError, match='"keep" must be 1 or more'):
        select([], None, keep=0)


def written(teacher, prompt, verified=None, **marks):
    asked = (Asked("label", "", 0, teacher, "", "", 0, 0),)
    return Record(prompt, f"{teacher} on {prompt}", asked=asked, verified=verified, **marks)


def two_teachers():
    """On the first two prompts the small one is right twice and the large one once; later it is the other way."""
    right = {("small", "1"): True, ("small", "2"): True, ("large", "1"): True, ("large", "2"): False}
    return [
        written(teacher, prompt, right.get((teacher, prompt), teacher == "large"))
        for prompt in "1234"
        for teacher in ("large", "small")
    ]


def test_the_teacher_who_is_better_on_the_pilot_stays():
    made = pilot(two_teachers(), None, prompts=2)
    assert [row.asked[0].teacher for row in made if row.alive] == ["small"] * 4
    assert {row.dropped for row in made if not row.alive} == {"other source"}
    assert made[0].why == "function:small is better" or made[0].why == "small is better, 1"
    assert {row.asked[0].teacher for row in pilot(two_teachers(), None, prompts=4) if row.alive} == {
        "large"
    }  # 3 to 2


def test_what_was_dropped_on_the_way_counts_against_its_teacher():
    rows = [written("a", "1", True), written("a", "2", None).drop("unparseable"), written("b", "1", True),
            written("b", "2", False), written("b", "3", True)]  # fmt: skip
    rows.append(written("a", "3", None).drop("truncated"))
    made = pilot(rows, None, prompts=3)
    assert {row.asked[0].teacher for row in made if row.alive} == {"b"}  # 2 of 3 against 1 of 3
    assert reasons(made)[1] == "unparseable"


def test_a_pilot_by_score_and_by_a_field():
    rows = [
        Record("1", "x", score=s, fields={"level": level}) for level, s in (("short", 0.2), ("long", 0.7))
    ]
    made = pilot(rows, None, prompts=1, measure="score", by="level")
    assert reasons(made) == ["other source", None]
    with pytest.raises(MethodError, match="no row of the first 1 prompts has a score"):
        pilot([Record("1", "x", fields={"level": "a"})], None, prompts=1, measure="score", by="level")
    with pytest.raises(MethodError, match='no measure "scor"'):
        pilot([], None, prompts=1, measure="scor")
