"""The student's own right answers: which are kept, and of whom they are."""

import pytest
from datasets import Dataset

from methods.elicitation import steps
from methods.elicitation.labelling import LabellingReport
from methods.errors import MethodError
from methods.recipe import canonical_method, components_of, teachers_of

ROWS = Dataset.from_list([{"prompt": "1+1=", "completion": "2"}, {"prompt": "2+2=", "completion": "so #4"}])


class Around:
    completion_tokens = 5

    @staticmethod
    def tokenizer(texts, **_):
        return {"input_ids": [list(map(ord, text)) for text in texts]}

    def __init__(self):
        self.reports = []

    def student(self):
        return "the student"

    def spent(self, report):
        self.reports.append(report)


@pytest.fixture
def said(monkeypatch):
    """Answers of a student that says these things in turn."""

    def answer(given):
        def label(model, tokenizer, prompts, **settings):
            assert model == "the student"
            pairs = list(zip(prompts, given, strict=True))
            rows = [{"prompt": prompt, "completion": text} for prompt, text in pairs if text]
            return Dataset.from_list(rows), LabellingReport(completions=len(prompts))

        monkeypatch.setattr(steps, "label_with_teacher", label)

    return answer


def kept(**settings):
    around = Around()
    rows = steps.right_answers(ROWS, None, around, **settings)
    assert len(around.reports) == 1
    return [(row["prompt"], row["completion"]) for row in rows]


def test_right_answers_are_kept_once_each(said):
    said(["2", "#4", "2", "4 #4", "3", "#4", " 2", ""])
    check = {"name": "exact-answer", "after": "#"}
    assert kept(samples=4, verifier=check) == [
        ("1+1=", "2"), ("1+1=", " 2"), ("2+2=", "#4"), ("2+2=", "4 #4"),
    ]  # fmt: skip
    assert kept(samples=4, verifier=check, most=1) == [("1+1=", "2"), ("2+2=", "#4")]
    assert len(kept(samples=4, verifier=check, distinct=False)) == 6
    assert kept(samples=4) == [("1+1=", "2"), ("1+1=", " 2")]


def test_nothing_right_is_an_error(said):
    said(["7", "8"])
    with pytest.raises(MethodError, match="none of the student's 2 answers is right"):
        kept(greedy=True)
    assert len(kept(greedy=True, threshold=0.0)) == 2


def test_no_teacher_is_asked():
    method = canonical_method(
        {"teacher": None, "data": {"use": "right-answers"}, "terms": [{"term": "next-token"}]}
    )
    assert teachers_of(method) == []
    named = {"use": "right-answers", "verifier": {"name": "shared-beginning"}}
    method = canonical_method({"teacher": None, "data": named, "terms": [{"term": "next-token"}]})
    assert ("reward", "shared-beginning") in components_of(method)
