"""What each parser reads, and what it does not guess."""

import pytest

from methods.elicitation.filters import parsers
from methods.elicitation.filters.marks import parse
from methods.elicitation.records.record import Record
from methods.errors import MethodError

CASES = {
    "final": {
        "3 + 4 = 7\n#### 7": "7",
        "First #### 3\nthen, no: #### 4 apples.": "4 apples",
        "So the answer is 12.": "12",
        "Answer: yes\nThat is all.": "yes",
        "The final answer is $\\boxed{\\frac{1}{2}}$.": "\\frac{1}{2}",
        "we get \\boxed{x_{1}} and stop": "x_{1}",
        "no answer here": None,
        "": None,
        "the answer is": None,
    },
    "boxed": {"\\boxed{a{b}c}": "a{b}c", "\\boxed{1} or \\boxed{2}": "2", "\\boxed{1": None, "box": None},
    "number": {
        "#### 1,234": "1234",
        "#### 1000.0": "1000",
        "#### .5": "1/2",
        "#### 2/4": "1/2",
        "#### -3": "-3",
        "the answer is $7 in all, 8 not": "7",
        "10 minus 4 is 6": "6",
        "answer: none": None,
        "it is 5. The answer is unknown": None,
        "no number": None,
        "#### 1/0": None,
        "#### 12,34": "12",
    },
    "choice": {
        "(B)": "B",
        "The answer is (c) because": "C",
        "B. it floats": "B",
        "Answer: option D": "D",
        "A cat": "A",
        "Because": None,
        "I'm not sure": None,
        "the answer is apple": None,
    },
    "yes-no": {"Yes, it does": "yes", "so the answer is no.": "no", "True": "yes", "nobody": None, "maybe": None},
    "program": {
        "Here:\n```python\nprint(1)\n```\ndone": "print(1)",
        "```\nx = 1\n```\nand\n```py\nx = 2\n```": "x = 2",
        "```python\nprint(1)": "print(1)",
        "print(3)": "print(3)",
        "```python\nprint(\n```": None,
        "Sure, I can help!": None,
        "": None,
    },
    "items": {
        "1. one\n2) two\n(3) three\n- four\n* five": "one\ntwo\nthree\nfour\nfive",
        "Intro\n1. one\n   more of it\n2. two": "one\ntwo",
        "no list": None,
        "3.5 is a number": None,
    },
    "verdict": {
        "Score: 4": "4",
        "I would say\n**Rating**: 10/10": "10",
        "[[7]]": "7",
        "Score: 3. On second thought, score: 5": "5",
        "score: 4.5": None,
        "score: 11": None,
        "it scored": None,
    },
    "reasons": {
        "Tom 3\nann tom +2\nAnswer: 5": "Tom 3\nann tom +2",
        "The answer is 3, no. So\nthe final answer is 4.": "The answer is 3, no. So\nthe",
        "2 + 2 = 4 #### 4": "2 + 2 = 4",
        "Answer: 5": None,
        "the answer is 3": "the",
        "2 + 2 = 4": None,
        "so \\boxed{4}": None,
    },
    "text": {" a ": "a", "  ": None},
    "field:answer": {
        '{"answer": "x", "b": 1}': "x",
        '{"answer": 3}': "3",
        '```json\n{"answer": [1, 2]}\n```': "[1, 2]",
        '{"answer": null}': None,
        '{"other": 1}': None,
        '{"answer": "x"': None,
        "[1]": None,
        "[" * 100_000: None,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_parser_reads(name):
    read = parsers.parser(name)
    found = {text: read(text) for text in CASES[name]}
    assert found == CASES[name]


def test_every_parser_has_cases():
    assert set(parsers.PARSERS) <= set(CASES)


def test_an_unknown_parser_names_the_nearest():
    with pytest.raises(MethodError, match='no parser "nunber" \\(did you mean "number"\\?\\)'):
        parse([Record("a", "b")], parser="nunber")


def test_unreadable_rows_are_marked_and_counted_not_lost():
    rows = [Record("a", "#### 1"), Record("b", "nothing"), Record("c", "#### 3").drop("truncated")]
    made = parse(rows, parser="number")
    assert [row.label for row in made] == ["1", None, None]
    assert [row.dropped for row in made] == [None, "unparseable", "truncated"]
    assert [row.id for row in made] == [row.id for row in rows]
    assert made[1].why == "no number in its completion"
    assert parse(rows[:1], parser="number", into="value")[0].fields == {"value": "1"}


def test_a_parser_that_guesses_would_be_seen(monkeypatch):
    monkeypatch.setitem(parsers.PARSERS, "number", lambda text: parsers.number(text) or "0")
    assert parse([Record("a", "nothing")], parser="number")[0].alive


def test_reasons_that_keep_the_answer_would_be_seen(monkeypatch):
    """A rationale task that shows the label would be another task."""
    row = Record("? tom", "Tom 3\nAnswer: 3")
    assert parse([row], parser="reasons", into="reasons")[0].fields == {"reasons": "Tom 3"}
    monkeypatch.setitem(parsers.PARSERS, "reasons", parsers.whole)
    assert "3\nAnswer" in parse([row], parser="reasons", into="reasons")[0].fields["reasons"]
