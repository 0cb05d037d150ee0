import json

import pytest

from methods.elicitation.records.record import Record, alive, from_plain, plain, seeds
from methods.elicitation.writers.protocol import LENGTH, STOP, Answer, Usage, ask, failed
from methods.errors import MethodError

REQUEST = ask("What is 2 + 2?", samples=2)
ANSWER = Answer(("4", "It is"), (STOP, LENGTH), Usage(9, 5), writer="model", terms="gemma", request="ab" * 32)


def test_a_child_says_who_wrote_it_and_a_text_that_is_no_data_is_marked():
    parent = seeds([{"question": "What is 2 + 2?", "level": 1}], "question")[0]
    whole, cut = (parent.child("label", ANSWER, place, request=REQUEST) for place in (0, 1))
    assert (whole.prompt, whole.completion, whole.parents) == ("What is 2 + 2?", "4", (parent.id,))
    assert (cut.dropped, cut.completion) == ("truncated", "It is"), "what was paid for stays readable"
    assert whole.fields == {"level": 1} and whole.id != cut.id != parent.id
    (asked,) = whole.asked
    assert (asked.teacher, asked.terms, asked.request) == ("model", "gemma", "ab" * 32)
    assert (asked.read, asked.written, asked.component) == (9, 5, "label") and asked.prompt
    assert alive([whole, cut]) == [whole]
    lost = parent.child("label", failed(REQUEST, "HTTP 500"), request=REQUEST)
    assert (lost.dropped, lost.why) == ("failed", "HTTP 500")


def test_marks_keep_the_id_and_the_first_reason():
    row = Record("a", "b")
    judged = row.marked(ANSWER, REQUEST, component="judge", score=0.5, fields={"critique": "short"})
    assert judged.id == row.id and judged.score == 0.5 and judged.fields == {"critique": "short"}
    assert judged.component == "seed" and judged.asked[0].component == "judge"
    assert judged.drop("low score").drop("near copy").dropped == "low score"


def test_a_row_survives_json():
    row = Record("a").child("label", ANSWER, request=REQUEST, round=2, label="yes", fields={"n": [1]})
    assert from_plain(json.loads(json.dumps(plain(row)))) == row


def test_a_row_without_text_is_named():
    with pytest.raises(MethodError, match='row 2 has no text in "question"'):
        seeds([{"question": "a"}, {"question": " "}], "question")
