"""criticise, revise, rate, inject-errors: what is shown to whom, flips counted, errors right by construction."""

import re
from collections import Counter

import pytest

from methods.elicitation.components import feedback
from methods.elicitation.components.feedback import criticise, inject_errors, rate, revise
from methods.elicitation.components.self_knowledge import verify
from methods.elicitation.records.record import Record
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from tests.methods.elicitation.components.scripted import CutWriter, EmptyWriter, Script, reasons


def answered(*pairs, **marks):
    return [Record(f"q{n}", text, fields={"answer": gold}, **marks) for n, (text, gold) in enumerate(pairs)]


def reviewer(asked, request, sample):
    """Wants revision wherever a 5 stands; its revision says 6."""
    if "Review:" in asked:
        return "#### 6"
    return "The sum is off.\nRevise: yes" if "5" in asked else "Fine.\nRevise: no"


def test_a_critique_stands_beside_its_answer_and_changes_nothing_else():
    script, given = Script(reviewer), answered(("#### 5", "6"), ("#### 6", "6"))
    made = criticise(given, script.session)
    assert [row.fields["revise"] for row in made] == [True, False]
    assert made[0].fields["critique"] == "The sum is off.\nRevise: yes"
    assert [(row.id, row.completion) for row in made] == [(row.id, row.completion) for row in given]
    assert [one.component for one in made[0].asked] == ["criticise"]


def test_what_a_check_said_is_shown_and_what_is_right_is_left_alone():
    script = Script(reviewer)
    marked = verify(answered(("#### 5", "6"), ("#### 6", "6")), None, drop=False)
    marked[0] = marked[0].marked(fields={"error": "printed 5"})
    made = criticise(marked, script.session, only_wrong=True)
    assert len(script.asked) == 1 and "Its check says: printed 5" in script.asked[0]
    assert "critique" not in made[1].fields


def test_silence_about_revising_is_a_yes_and_no_critique_is_none():
    assert criticise(answered(("a", "b")), Script(lambda *a: "Hm.").session)[0].fields["revise"] is True
    for writer in (CutWriter, EmptyWriter):
        row = criticise(answered(("a", "b")), Session(writer()))[0]
        assert row.fields["revise"] is False and row.fields["critique"] is None and row.alive


def test_a_revision_takes_the_place_of_what_was_wrong():
    script = Script(reviewer)
    made = revise(verify(answered(("#### 5", "6"), ("#### 6", "6")), None, drop=False), script.session)
    assert [(row.completion, row.dropped) for row in made] == [
        ("#### 5", "revised"),
        ("#### 6", None),
        ("#### 6", None),
    ]
    child = made[1]
    assert child.parents == (made[0].id,) and child.round == 1 and child.prompt == "q0"
    assert child.verified is None and child.fields["first"] == "#### 5" and "revise" not in child.fields
    assert "The sum is off." in next(asked for asked in script.asked if "Review:" in asked)
    assert verify(made, None)[1].verified is True


def test_rounds_end_where_nothing_is_to_be_revised():
    """From 3 upwards by one; content at 6."""

    def say(asked, request, sample):
        value = int(re.findall(r"#### (\d+)", asked)[-1])
        if "Review:" in asked:
            return f"#### {value + 1}"
        return f"#### {value}\nRevise: {'no' if value >= 6 else 'yes'}"

    made = revise(answered(("#### 3", "6")), Script(say).session, rounds=9)
    assert [row.completion for row in made] == ["#### 3", "#### 4", "#### 5", "#### 6"]
    assert reasons(made) == ["revised"] * 3 + [None] and [row.round for row in made] == [0, 1, 2, 3]
    assert made[3].fields["first"] == "#### 3"
    short = revise(answered(("#### 3", "6")), Script(say).session, rounds=2)
    assert [row.completion for row in short if row.alive] == ["#### 5"]
    both = revise(answered(("#### 3", "6")), Script(say).session, rounds=2, keep_first=True)
    assert [row.completion for row in both if row.alive] == ["#### 3", "#### 4", "#### 5"]


def flips(made):
    """(wrong to right, right to wrong) among revised rows, by the check."""
    by_id = {row.id: row for row in made}
    pairs = Counter(
        (by_id[row.parents[0]].verified, row.verified)
        for row in verify(made, None, drop=False)
        if row.parents
    )
    return pairs[False, True], pairs[True, False]


def test_right_answers_that_a_revision_spoils_are_seen():
    given = verify(answered(("#### 5", "6"), ("#### 5", "5"), ("#### 4", "4")), None, drop=False)
    assert flips(revise(given, Script(reviewer).session)) == (1, 1)


def test_a_reviser_that_changes_nothing_would_be_seen():
    given = verify(answered(("#### 5", "6"), ("#### 5", "5")), None, drop=False)
    lazy = Script(lambda asked, request, n: "#### 5" if "Review:" in asked else "Revise: yes")
    assert flips(revise(given, lazy.session)) == (0, 0)


def test_a_revision_that_fails_leaves_the_answer_that_there_was():
    script = Script(lambda asked, request, n: "" if "Review:" in asked else "Revise: yes")
    made = revise(answered(("#### 5", "6")), script.session, rounds=3)
    assert [(row.completion, row.dropped) for row in made] == [("#### 5", None), ("", "empty")]
    assert len(script.requests) == 2  # asked about once, not in every round


def test_ratings_are_averaged_and_unreadable_ones_counted_out():
    said = ["Good.\nScore: 5", "Bad.\nScore: 2", "hm"]
    made = rate(answered(("a", "b")), Script(lambda asked, request, n: said[n]).session, samples=3)[0]
    assert made.score == 3.5 and made.alive and made.asked[0].component == "rate"
    none = rate(answered(("a", "b")), Script(lambda *a: "hm").session)[0]
    assert (none.dropped, none.score) == ("not rated", None)
    assert reasons(rate(answered(("a", "b")), Session(CutWriter()))) == ["not rated"]


TEXT = "First, 12 apples + 3 pears = 15 fruits.\nThen 15 * 2 = 30.\nSo it is a well-known sum.\n#### 30"


def seeded(seed):
    return Session(EmptyWriter(), seed=seed)


@pytest.mark.parametrize("kind", feedback.ERRORS)
def test_an_error_is_in_its_line_and_nowhere_else(kind):
    right = TEXT.split("\n")
    for seed in range(20):
        given = [Record("q", TEXT)]
        row, wrong = inject_errors(given, seeded(seed), kinds=[kind])
        assert row is given[0]
        assert wrong.completion != TEXT and wrong.verified is False and wrong.parents == (row.id,)
        assert wrong.fields["right"] == TEXT and wrong.fields["errors"] == [kind]
        (line,), lines = wrong.fields["error_lines"], wrong.completion.split("\n")
        if kind == "missing-step":
            assert lines == right[: line - 1] + right[line:] and line < 4
        elif kind == "swapped-steps":
            assert (lines[line - 1], lines[line]) == (right[line], right[line - 1])
            assert sorted(lines) == sorted(right) and lines[-1] == "#### 30"
        else:
            assert [n for n in range(4) if lines[n] != right[n]] == [line - 1]
            before, after = right[line - 1], lines[line - 1]
            if kind == "number":
                assert re.sub(r"\d+", "#", before) == re.sub(r"\d+", "#", after)
            else:
                assert "well-known" in wrong.completion
                assert re.sub(r"[-+*/]", "?", before) == re.sub(r"[-+*/]", "?", after)


def test_every_kind_is_drawn_and_several_errors_are_told():
    kinds = Counter(
        wrong.fields["errors"][0]
        for seed in range(80)
        for wrong in inject_errors([Record("q", TEXT)], seeded(seed))[1:]
    )
    assert set(kinds) == set(feedback.ERRORS) and min(kinds.values()) > 5
    wrong = inject_errors([Record("q", TEXT)], None, errors=3)[1]
    assert len(wrong.fields["errors"]) == len(wrong.fields["error_lines"]) == 3


def test_a_text_without_a_place_has_no_wrong_one_and_dropped_rows_none():
    given = [Record("q", "no"), Record("r", TEXT).drop("leak")]
    assert inject_errors(given, None) == given


def test_an_error_that_changes_nothing_is_none(monkeypatch):
    monkeypatch.setitem(feedback.ERRORS, "number", lambda text, draws: (text, 1))
    assert len(inject_errors([Record("q", TEXT)], None, kinds=["number"])) == 1


def test_the_same_seed_makes_the_same_error():
    made = [inject_errors([Record("q", TEXT)], seeded(seed))[1].completion for seed in (3, 3, 4, 5)]
    assert made[0] == made[1] and len(set(made)) > 1


def test_an_unknown_kind_is_refused():
    with pytest.raises(MethodError, match='no kind "numbers" \\(did you mean "number"'):
        inject_errors([], None, kinds=["numbers"])
    with pytest.raises(MethodError, match="needs a kind"):
        inject_errors([], None, kinds=[])
