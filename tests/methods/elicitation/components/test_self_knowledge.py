"""self-generate, verify, majority, best-of: precision and recall on planted cases, votes counted by hand."""

import random
from collections import Counter

import pytest

from methods.elicitation.components import self_knowledge
from methods.elicitation.components.self_knowledge import best_of, majority, self_generate, verify
from methods.elicitation.records.record import Record
from methods.elicitation.writers.oracle import OracleWriter, Skill
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from methods.sandbox import backends
from tests.methods.elicitation.components.scripted import CutWriter, Script, reasons, rows

needs_sandbox = pytest.mark.skipif(backends.available() == ["limits"], reason="no sandbox holds here")


def test_a_model_answers_several_times_and_its_labels_are_read():
    script = Script(lambda asked, request, sample: f"so\nAnswer: {sample}" if sample < 2 else "hm")
    made = self_generate(rows("a", "b", answers=["0", "1"]), script.session, samples=3)
    assert [(row.prompt, row.label) for row in made] == [("a", "0"), ("a", "1"), ("a", None)] + [
        ("b", "0"), ("b", "1"), ("b", None),
    ]  # fmt: skip
    assert all(row.alive for row in made) and len({row.id for row in made}) == 6
    assert [one.asked[0].sample for one in made[:3]] == [0, 1, 2]
    assert {request.temperature for request in script.requests} == {0.7}
    assert reasons(self_generate(rows("a"), Session(CutWriter()), samples=2)) == ["truncated"] * 2


PLANTED = {
    "number": [("1 + 1 = 2\n#### 2", "2", True), ("#### 3", "2", False), ("#### 2.0", "2", True), ("hm", "2", None),
               ("the answer is 1,000", "1000", True), ("#### 0.333", "1/3", False), ("#### 2", "two", None)],
    "exact": [("Answer: New York!", "new york", True), ("Answer: York", "New York", False), ("Paris", "paris", True),
              ("  ", "a", None)],
    "choice": [("Answer: (B)", "B", True), ("B. because", "(b)", True), ("Answer: C", "B", False), ("Well", "B", None)],
    "yes-no": [("Yes.", "yes", True), ("so the answer is no", "yes", False), ("True", "yes", True), ("hm", "no", None)],
    "mentions": [("It is Paris, France", "paris", True), ("It is comparison", "paris", False), ("", "a", None)],
    "equations": [("x = 3\nanswer = x + 4", "7", True), ("answer = 3", "7", False), ("no idea", "7", None),
                  ("x + y = 10\nx - y = 4\nanswer = 2x", "14", True)],
}  # fmt: skip


@pytest.mark.parametrize("check", PLANTED)
def test_every_planted_case_is_told(check):
    cases = PLANTED[check]
    given = [Record(f"q{n}", text, fields={"answer": gold}) for n, (text, gold, _) in enumerate(cases)]
    made = verify(given, None, check=check)
    assert [row.verified for row in made] == [right for _, _, right in cases]
    wanted = {True: None, False: "wrong answer", None: "unparseable"}
    assert reasons(made) == [wanted[right] for _, _, right in cases]
    kept = verify(given, None, check=check, drop=False)
    assert reasons(kept) == [None] * len(cases) and [row.verified for row in kept] == [
        row.verified for row in made
    ]


def test_every_check_has_planted_cases():
    assert set(PLANTED) == set(self_knowledge.CHECKS)


def test_a_check_that_says_yes_to_all_would_be_seen(monkeypatch):
    monkeypatch.setitem(self_knowledge.CHECKS, "number", lambda text, gold: True)
    made = verify([Record("q", "#### 3", fields={"answer": "2"})], None)
    assert made[0].verified is True


def test_filtering_leaves_what_is_right_of_a_teacher_of_known_skill():
    """An oracle that is right in 70 of 100 cases: what stays is right, and is 70 of 100."""

    def right(note, draws):
        return f"#### {note['answer']}"

    def wrong(note, draws):
        return f"#### {int(note['answer']) + draws.randint(1, 9)}"

    session = Session(OracleWriter("sums", right, wrong, Skill(right=0.7)))
    questions = rows(*(f"q{n}" for n in range(300)), answers=[str(n) for n in range(300)])
    made = verify(self_generate(questions, session, samples=1, parser="number"), session)
    kept = [row for row in made if row.alive]
    assert all(row.label == row.fields["answer"] for row in kept)
    assert 0.62 < len(kept) / 300 < 0.78  # 3 standard errors
    assert Counter(reasons(made)) == {None: len(kept), "wrong answer": 300 - len(kept)}


PROGRAMS = [
    ("```python\nprint(6 * 7)\n```", "42", True, ""),
    ("```python\nprint('working')\nprint(42.0)\n```", "42", True, ""),
    ("```python\nprint(41)\n```", "42", False, "printed 41"),
    ("```python\nprint(1 / 0)\n```", "42", None, "ZeroDivisionError: division by zero"),
    ("```python\nx = 42\n```", "42", None, "printed nothing"),
    ("```python\nwhile True: pass\n```", "42", None, "ended at its limit: "),
    ("I think it is 42, or so", "42", None, "no program"),
]


@needs_sandbox
def test_programs_are_run_and_held_against_the_answer():
    given = [Record(f"q{n}", text, fields={"answer": gold}) for n, (text, gold, _, _) in enumerate(PROGRAMS)]
    made = verify(given, None, check="program", run_programs=True, seconds=1)
    assert [row.verified for row in made] == [right for _, _, right, _ in PROGRAMS]
    for row, (_, _, right, why) in zip(made, PROGRAMS, strict=True):
        assert row.alive == bool(right) and str(row.fields.get("error", "")).startswith(why), row


TESTED = [
    ("def twice(n):\n    return 2 * n", True, ""),
    ("def twice(n):\n    return n + 2", False, "AssertionError"),
    ("def thrice(n):\n    return 3 * n", False, "NameError: name 'twice' is not defined"),
    ("import sys\ndef twice(n): return 0\nsys.exit(0)", False, "printed nothing"),
    ("def twice(", None, "no program"),
]


@needs_sandbox
def test_programs_are_held_against_tests_and_cannot_end_before_them():
    tests = "assert twice(2) == 4\nassert twice(5) == 10"
    given = [Record(f"q{n}", text, fields={"tests": tests}) for n, (text, _, _) in enumerate(TESTED)]
    made = verify(given, None, check="tests", gold="tests", run_programs=True, seconds=1)
    assert [row.verified for row in made] == [right for _, right, _ in TESTED]
    assert [str(row.fields.get("error", ""))[:20] for row in made] == [why[:20] for _, _, why in TESTED]


def test_no_program_is_run_without_the_flag(monkeypatch):
    monkeypatch.setattr(self_knowledge.programs, "_run", lambda *a: pytest.fail("it ran"))
    for check in ("program", "tests"):
        with pytest.raises(MethodError, match="run_programs: true"):
            verify([Record("q", "print(1)", fields={"answer": "1"})], None, check=check)


def test_a_missing_answer_and_an_unknown_check_are_said():
    with pytest.raises(
        MethodError, match='verify needs the right answer of each row in "answer"; row .* has gold'
    ):
        verify([Record("q", "1", fields={"gold": "1"})], None)
    assert verify([Record("q", "1", fields={"gold": "1"})], None, gold="gold")[0].verified
    with pytest.raises(MethodError, match='no check "numbr" \\(did you mean "number"'):
        verify([], None, check="numbr")


def voted(*labels, prompt="q", **settings):
    return [Record(prompt, f"{n}", label=label, fields={"n": n}) for n, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "settings", "kept", "score"),
    [
        (["7", "7", "8"], {}, [0, 1], 2 / 3),
        (["7", "8"], {}, [], None),  # a tie
        (["7", None, None], {}, [0], 1.0),  # the others have no vote
        (["7", "7", "8"], {"share": 0.7}, [], None),
        (["7", "7", "7"], {"share": 1.0}, [0, 1, 2], 1.0),
        (["7"], {"least": 2}, [], None),
        (["7", "7", "8", "9"], {}, [0, 1], 0.5),
        ([None], {}, [], None),
    ],
)
def test_votes_by_hand(labels, settings, kept, score):
    made = majority(voted(*labels), None, **settings)
    assert [place for place, row in enumerate(made) if row.alive] == kept
    assert {row.score for row in made if row.alive} == ({score} if kept else set())
    for row, label in zip(made, labels, strict=True):
        assert (row.dropped == "unparseable") == (label is None)


def test_each_prompt_votes_for_itself_and_dropped_rows_have_no_vote():
    given = [*voted("1", "1", "2"), *voted("2", "2", "1", prompt="other"), *voted("3", prompt="third")]
    given += [row.drop("truncated") for row in voted("9", "9", "9", prompt="third")]
    made = majority(given, None)
    assert [row.label for row in made if row.alive] == ["1", "1", "2", "2", "3"]
    assert Counter(reasons(made)) == {None: 5, "minority": 2, "truncated": 3}


def test_votes_against_counting_every_case():
    draw = random.Random(0)
    for _ in range(100):
        labels = draw.choices(["a", "b", "c", None], k=draw.randint(1, 7))
        made = majority(voted(*labels), None)
        votes = Counter(label for label in labels if label)
        best = [label for label, n in votes.items() if n == max(votes.values())] if votes else []
        assert {row.label for row in made if row.alive} == (set(best) if len(best) == 1 else set())


def test_a_vote_that_the_unread_win_would_be_seen(monkeypatch):
    monkeypatch.setattr(self_knowledge, "groups", lambda rows: {"q": list(range(len(rows)))})
    made = majority(voted("7", None, None), None)
    assert not made[0].alive


def test_the_best_of_each_prompt_stay():
    scores = [0.2, 0.9, 0.9, None]
    given = [Record(p, str(n), score=s, fields={"n": n}) for p in ("a", "b") for n, s in enumerate(scores)]
    made = best_of(given, None)
    assert [place for place, row in enumerate(made) if row.alive] == [1, 5]
    assert Counter(reasons(made)) == {None: 2, "not best": 4, "not scored": 2}
    assert [place for place, row in enumerate(best_of(given, None, keep=2)) if row.alive] == [1, 2, 5, 6]
    assert not any(row.alive for row in best_of(given, None, least=0.95))
    assert made[0].why == "score 0.2, number 3 of 3"
    with pytest.raises(MethodError, match='"keep" must be 1 or more'):
        best_of(given, None, keep=0)
    with pytest.raises(MethodError, match='"share" is between 0 and 1'):
        majority(given, None, share=2)
