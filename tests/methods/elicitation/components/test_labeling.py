"""label and explain: what is asked, what the student sees, what is counted."""

import pytest

from methods.elicitation.components import asking
from methods.elicitation.components.labeling import explain, hand_back, label
from methods.elicitation.components.self_knowledge import verify
from methods.elicitation.prompting import read_prompt
from methods.elicitation.records.record import Record
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from tests.methods.elicitation.components.scripted import CutWriter, EmptyWriter, Script, reasons, rows

QUESTIONS = ("What is 2 + 2?", "What is 3 x 3?")


def right(asked, request, sample):
    """Adds and multiplies; the second sample is wrong."""
    value = {"2 + 2": 4, "3 x 3": 9}[next(key for key in ("2 + 2", "3 x 3") if key in asked)]
    return f"I think.\nAnswer: {value + sample}"


def test_a_label_names_its_question_its_teacher_and_what_was_asked():
    script, given = Script(right), rows(*QUESTIONS, topic="sums")
    made = label(given, script.session, parser="number")
    assert [(row.prompt, row.label, row.alive) for row in made] == [
        (QUESTIONS[0], "4", True),
        (QUESTIONS[1], "9", True),
    ]
    assert [row.completion for row in made] == ["I think.\nAnswer: 4", "I think.\nAnswer: 9"]
    assert [row.parents for row in made] == [(row.id,) for row in given]
    assert {row.component for row in made} == {"label"} and all(
        row.fields == {"topic": "sums"} for row in made
    )
    one = made[0].asked[0]
    assert (one.component, one.teacher, one.sample) == ("label", "function:script", 0) and len(
        one.request
    ) == 64
    assert script.asked == list(QUESTIONS) and {request.temperature for request in script.requests} == {0.0}
    assert script.requests[0].note == {"topic": "sums", "question": QUESTIONS[0], "component": "label"}


def test_samples_stand_in_the_place_of_their_row_and_dropped_rows_pass():
    given = [*rows(QUESTIONS[0]), Record("gone").drop("leak"), *rows(QUESTIONS[1])]
    script = Script(right)
    made = label(given, script.session, samples=2, temperature=1.0, parser="number")
    assert [row.label for row in made] == ["4", "5", None, "9", "10"]
    assert reasons(made) == [None, None, "leak", None, None] and made[2] is given[1]
    assert len(script.requests) == 2 and len({row.id for row in made}) == 5


def test_what_cannot_be_read_is_counted_with_its_text():
    made = label(
        rows("a", "b"),
        Script(lambda asked, request, n: "12" if asked == "a" else "hm").session,
        parser="number",
    )
    assert reasons(made) == [None, "unparseable"] and made[1].completion == "hm"


@pytest.mark.parametrize(("writer", "reason"), [(CutWriter, "truncated"), (EmptyWriter, "empty")])
def test_what_is_cut_or_empty_is_counted(writer, reason):
    for component in (label, explain):
        assert reasons(component(rows("a"), Session(writer()))) == [reason]


def test_equal_questions_cost_one_request_and_an_asked_journal_nothing():
    script = Script(right)
    for _ in range(2):
        made = label(rows(QUESTIONS[0], QUESTIONS[0]), script.session)
    assert len(script.requests) == 1 and len(made) == 2


def test_another_seed_draws_anew_and_a_greedy_answer_serves_all():
    seeds = [Script(right, seed=seed) for seed in (0, 1)]
    for script in seeds:
        label(rows(QUESTIONS[0]), script.session, temperature=1.0)
        label(rows(QUESTIONS[0]), script.session)
    (hot, cold), (other, same) = ([request.seed for request in script.requests] for script in seeds)
    assert hot != other and cold == same == 0


def test_an_unknown_parser_or_prompt_or_no_teacher_is_said():
    with pytest.raises(MethodError, match='no parser "numer"'):
        label([], None, parser="numer")
    with pytest.raises(MethodError, match='no prompt "anser" \\(did you mean "answer"'):
        label(rows("a"), Script(right).session, prompt="anser")
    with pytest.raises(MethodError, match="label asks a teacher, and there is none"):
        label(rows("a"), None)
    with pytest.raises(MethodError, match='"samples" must be 1 or more, not 0'):
        label(rows("a"), Script(right).session, samples=0)


def test_a_prompt_of_ones_own(tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text("[system]\nBe brief.\n[user]\nQ: {prompt}\nA:\n")
    script = Script(lambda asked, request, n: "x")
    label(rows("why {gold}?"), script.session, prompt=str(own))
    assert script.asked == ["Q: why {gold}?\nA:"] and script.requests[0].messages[0].content == "Be brief."
    own.write_text("[user]\n{question}\n")
    with pytest.raises(MethodError, match='nothing is called "question"'):
        label(rows("a"), script.session, prompt=str(own))


FORMED = {
    "steps": ("2 + 2 = 4\nAnswer: 4", {"label": "4"}),
    "program": ("```python\nprint(2 + 2)\n```", {}),
    "equations": ("answer = 2 + 2", {}),
    "sub-questions": (
        "1. What is 2?\n2. What is twice that?",
        {"sub": ["What is 2?", "What is twice that?"]},
    ),
}


@pytest.mark.parametrize("form", FORMED)
def test_each_form_is_asked_for_and_read(form):
    text, said = FORMED[form]
    script = Script(lambda asked, request, n: text)
    made = explain(rows(QUESTIONS[0]), script.session, form=form)[0]
    assert made.alive and made.completion == text and made.fields["form"] == form
    assert made.label == said.get("label") and made.fields.get("sub_questions") == said.get("sub")
    assert script.requests[0].messages[0].content == read_prompt(f"explain/{form}").turns[0][1]


@pytest.mark.parametrize("form", ["program", "sub-questions"])
def test_what_has_not_its_form_is_unparseable(form):
    assert reasons(explain(rows("q"), Script(lambda *a: "I do not know").session, form=form)) == [
        "unparseable"
    ]


def test_several_chains_are_several_rows_sampled():
    script = Script(right)
    made = explain(rows(*QUESTIONS), script.session, chains=3)
    assert [row.label for row in made] == ["4", "5", "6", "9", "10", "11"]
    assert {request.temperature for request in script.requests} == {0.7}
    assert {request.samples for request in script.requests} == {3}


@pytest.mark.parametrize("form", FORMED)
def test_the_hint_reaches_the_teacher_and_never_the_student(form):
    script = Script(lambda asked, request, n: FORMED[form][0])
    made = explain(rows(QUESTIONS[0], answers=["hinted-57"]), script.session, form=form, hint="always")
    assert "hinted-57" in script.asked[0]
    assert made[0].prompt == QUESTIONS[0] and "hinted-57" not in made[0].completion
    assert made[0].fields["hinted"] is True
    plain = Script(lambda asked, request, n: FORMED[form][0])
    explain(rows(QUESTIONS[0], answers=["hinted-57"]), plain.session, form=form)
    assert "hinted-57" not in "".join(m.content for r in plain.requests for m in r.messages)


def test_a_hint_that_leaks_would_be_seen(monkeypatch):
    """The test above can fail: a student that reads what the teacher read sees the answer."""

    def leaky(self, component, place=0, **changes):
        changes["prompt"] = self.request.messages[-1].content
        return self.row.child(component, self.answer, place, request=self.request, **changes)

    monkeypatch.setattr(asking.Asked, "child", leaky)
    made = explain(rows(QUESTIONS[0], answers=["hinted-57"]), Script(lambda *a: "x").session, hint="always")
    assert "hinted-57" in made[0].prompt


def test_a_hint_needs_the_right_answer():
    with pytest.raises(
        MethodError, match='explain needs the right answer of each row in "answer"; row .* has topic'
    ):
        explain(rows("q", topic="x"), Script(right).session, hint="always")
    with pytest.raises(MethodError, match='no form "step" \\(did you mean "steps"'):
        explain([], None, form="step")
    with pytest.raises(MethodError, match='"hint" is never, always, unsolved, not "no"'):
        explain([], None, hint="no")


def test_rationalisation_asks_again_with_the_answer_where_nothing_was_right():
    """STaR by hand: the first question is solved, the second only with the hint."""

    def say(asked, request, sample):
        if "right answer is" in asked:
            return "because\nAnswer: 9"
        return "so\nAnswer: 4"

    script = Script(say)
    first = verify(explain(rows(*QUESTIONS, answers=["4", "9"]), script.session), script.session)
    assert reasons(first) == [None, "wrong answer"]
    made = verify(explain(first, script.session, hint="unsolved"), script.session)
    assert [(row.prompt, row.label, row.dropped) for row in made] == [
        (QUESTIONS[0], "4", None),
        (QUESTIONS[1], "4", "wrong answer"),
        (QUESTIONS[1], "9", None),
    ]
    assert [row.fields["hinted"] for row in made] == [False, False, True]
    assert len(script.requests) == 3 and made[2].parents == (made[1].id,)


SURE = [("a", "x", 0.9), ("b", "y", 0.55), ("c", "x", 0.6), ("d", "x", 0.55)]


def labelled_rows():
    return [
        Record("dropped", fields={"answer": "y"}).drop("empty"),
        *[
            Record(text, label, label=label, score=score, fields={"answer": "y", "other": "z"})
            for text, label, score in SURE
        ],
    ]


def check_hand_back(component):
    """Of four that live the two least sure ones, and of equal ones the first; what people say is in "answer"."""
    made = component(labelled_rows(), None, share=0.5)
    assert [(row.prompt, row.completion, row.label) for row in made[1:]] == [
        ("a", "x", "x"), ("b", "y", "y"), ("c", "x", "x"), ("d", "y", "y"),
    ]  # fmt: skip
    assert made[0].dropped == "empty" and [row.component for row in made[1:]].count("hand-back") == 2


def test_the_least_sure_go_back_to_people():
    check_hand_back(hand_back)
    one = hand_back(labelled_rows(), None, share=0.3)  # 1.2 of four: one
    assert [row.label for row in one[1:]] == ["x", "y", "x", "x"]


def test_the_most_sure_first_is_caught():
    def turned(rows, session, **settings):
        rows = [row.marked(score=None if row.score is None else -row.score) for row in rows]
        return hand_back(rows, session, **settings)

    with pytest.raises(AssertionError):
        check_hand_back(turned)


def test_a_random_share_is_drawn_by_the_session_and_needs_no_score():
    bare = [Record(str(n), "x", label="x", fields={"answer": "y"}) for n in range(40)]
    drawn = [
        hand_back(bare, Script(lambda *a: "", seed=seed).session, by="random", share=0.25)
        for seed in (1, 1, 2)
    ]
    chosen = [[row.prompt for row in rows if row.label == "y"] for rows in drawn]
    assert chosen[0] == chosen[1] != chosen[2] and [len(one) for one in chosen] == [10, 10, 10]
    with pytest.raises(MethodError, match="has no score"):
        hand_back(bare, None)
    with pytest.raises(MethodError, match='no choice "lowst".*lowest'):
        hand_back(bare, None, by="lowst")
    with pytest.raises(MethodError, match="between 0 and 1"):
        hand_back(bare, None, share=1.5)
    with pytest.raises(MethodError, match='needs the right answer of each row in "gold"'):
        hand_back(labelled_rows(), None, column="gold")
