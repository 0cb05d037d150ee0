"""The student's own right answers: which are kept, and of whom they are."""

from types import SimpleNamespace

import pytest
from datasets import Dataset

from methods.assembly import _kept_step
from methods.elicitation import steps
from methods.elicitation.labelling import LabellingReport
from methods.errors import MethodError
from methods.recipe import OWN_STEPS, TRAINING_STEPS, canonical_method, components_of, teachers_of

ROWS = Dataset.from_list([{"prompt": "1+1=", "completion": "2"}, {"prompt": "2+2=", "completion": "so #4"}])


class Around:
    completion_tokens = 5
    seed = 0

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


def test_own_answers_are_all_that_is_said_right_or_wrong(monkeypatch):
    """Each different prompt as often as is asked, by these settings, with no check."""
    asked = []

    def label(model, tokenizer, prompts, **settings):
        asked.append((model, list(prompts), settings))
        pairs = zip(prompts, ["2", "5", "", "5"], strict=True)
        rows = [{"prompt": prompt, "completion": text} for prompt, text in pairs if text]
        return Dataset.from_list(rows), LabellingReport(completions=len(prompts))

    monkeypatch.setattr(steps, "label_with_teacher", label)
    around, twice = Around(), Dataset.from_list([*ROWS, ROWS[0]])
    found = steps.own_answers(twice, None, around, samples=2, temperature=0.7, seed=3)
    assert list(found["prompt"]) == ["1+1=", "2+2=", "2+2="] and list(found["completion"]) == ["2", "5", "5"]
    ((model, prompts, settings),) = asked
    assert model == "the student" and prompts == ["1+1=", "2+2="] * 2 and len(around.reports) == 1
    wanted = {"temperature": 0.7, "batch_size": 64, "seed": 3, "greedy": False, "max_new_tokens": 5}
    assert settings == wanted
    with pytest.raises(MethodError, match='"samples" must be 1 or more, not 0'):
        steps.own_answers(ROWS, None, around, samples=0)


def test_a_prefix_is_asked_and_not_kept(monkeypatch):
    """The check sees the row's own columns, and the student learns to answer without the prefix."""
    asked = []

    def label(model, tokenizer, prompts, **settings):
        asked.extend(prompts)
        rows = [{"prompt": prompt, "completion": str(len(prompt))} for prompt in prompts]
        return Dataset.from_list(rows), LabellingReport(completions=len(prompts))

    monkeypatch.setattr(steps, "label_with_teacher", label)
    rows = Dataset.from_list([{"prompt": "1+1=", "completion": "9"}, {"prompt": "why: ", "completion": "10"}])
    found = steps.right_answers(rows, None, Around(), samples=1, prefix="why: ")
    assert asked == ["why: 1+1=", "why: why: "]
    assert found.to_list() == rows.to_list()


def test_nothing_right_is_an_error(said):
    said(["7", "8"])
    with pytest.raises(MethodError, match="none of the student's 2 answers is right"):
        kept(greedy=True)
    assert len(kept(greedy=True, threshold=0.0)) == 2


def check_rates():
    rows = ROWS.add_column("hint", ["a", "b"])
    found = steps.pass_rates(rows, None, Around(), samples=4, verifier={"name": "exact-answer", "after": "#"})
    assert found["pass_rate"] == [0.5, 0.25], "2 of 4, and 1 of 4 of which one was cut"
    assert found.remove_columns("pass_rate").to_list() == rows.to_list(), "the rows stay as they are"


SAID = ["2", "#4", "2", "5", "3", "7", "1", ""]


def test_the_rate_of_right_answers_stands_beside_each_row(said):
    said(SAID)
    check_rates()
    again = steps.pass_rates(
        ROWS.add_column("pass_rate", [0.9, 0.9]), None, Around(), samples=4, threshold=0.0
    )
    assert again["pass_rate"] == [1.0, 0.75], "an old rate goes; what was cut reaches no threshold"
    with pytest.raises(MethodError, match="1 or more"):
        steps.pass_rates(ROWS, None, Around(), samples=0)


def of_the_next_prompt(rows, surroundings, verifier, samples, **sampling):
    judged = OWN_ANSWERS(rows, surroundings, verifier, samples, **sampling)
    return [(other[0], *one[1:]) for one, other in zip(judged, judged[1:] + judged[:1], strict=True)]


OWN_ANSWERS = steps.checked_answers


@pytest.mark.parametrize("wrong", [of_the_next_prompt])
def test_a_wrong_rate_is_caught(wrong, said, monkeypatch):
    said(SAID)
    check_rates()
    monkeypatch.setattr(steps, "checked_answers", wrong)
    with pytest.raises(AssertionError):
        check_rates()


@pytest.mark.parametrize("step", sorted(OWN_STEPS))
def test_the_student_of_each_seed_is_asked_itself(step):
    """What is kept is made by a run of the key's seed; a seed of the sampling is another matter."""
    keys = []
    for seed in (3, 4):
        around = SimpleNamespace(
            seed=seed,
            start={"start": "sft"},
            training={"learning_rate": 0.1},
            keep=lambda kind, key, make: keys.append(key),
        )
        _kept_step({"use": step, "seed": 1}, around)
    assert [key["seed"] for key in keys] == [3, 4]
    assert all(key["step"]["seed"] == 1 for key in keys)
    assert all((key.get("training") == {"learning_rate": 0.1}) == (step in TRAINING_STEPS) for key in keys)


def test_no_teacher_is_asked():
    method = canonical_method(
        {"teacher": None, "data": {"use": "right-answers"}, "terms": [{"term": "next-token"}]}
    )
    assert teachers_of(method) == []
    named = {"use": "right-answers", "verifier": {"name": "shared-beginning"}}
    method = canonical_method({"teacher": None, "data": named, "terms": [{"term": "next-token"}]})
    assert ("reward", "shared-beginning") in components_of(method)


def agreed(**settings):
    around = Around()
    rows = steps.agreed_answers(ROWS, None, around, **settings)
    assert len(around.reports) == 1
    return [(row["prompt"], row["completion"]) for row in rows]


VOTES = ["so Answer: 2", "Answer: 4", "2 Answer: 3", "no", "Answer: 2", "1 Answer: 5", "", "it is Answer: 4"]


def test_agreed_answers_are_those_of_most_votes(said):
    """Asked in turn: 1+1 has votes 2, 3, 2 and a cut text, 2+2 has 4, none, 5, 4; what is right nobody asks."""
    said(VOTES)
    two, four = ("1+1=", "so Answer: 2"), ("2+2=", "it is Answer: 4")
    assert agreed(samples=4) == [two, ("2+2=", "Answer: 4"), ("1+1=", "Answer: 2"), four]
    assert agreed(samples=4, reasons=False) == [
        ("1+1=", "Answer: 2"), ("2+2=", "Answer: 4"), ("1+1=", "Answer: 2"), ("2+2=", "Answer: 4"),
    ]  # fmt: skip
    assert {prompt for prompt, _ in agreed(samples=4, share=0.6)} == {"1+1=", "2+2="}
    with pytest.raises(MethodError, match="on none of 2 prompts most of 4 samples agree"):
        agreed(samples=4, share=0.7)


def test_whole_texts_vote_where_no_mark_is_looked_for_and_ties_are_left_out(said):
    said(["1", "a", "1 ", "b", "2", "a"])
    assert agreed(samples=3, after=None) == [("1+1=", "1"), ("2+2=", "a"), ("1+1=", "1 "), ("2+2=", "a")]
    said(["1", "a", "2", "a"])
    assert agreed(samples=2, after=None) == [("2+2=", "a"), ("2+2=", "a")]


def test_each_training_draws_anew_and_asks_behind_the_prefix(monkeypatch):
    asked = []

    def label(model, tokenizer, prompts, **settings):
        asked.append((list(prompts), settings["seed"], settings["temperature"]))
        rows = [{"prompt": prompt, "completion": "7"} for prompt in prompts]
        return Dataset.from_list(rows), LabellingReport(completions=len(prompts))

    monkeypatch.setattr(steps, "label_with_teacher", label)
    around = Around()
    around.seed = 5
    found = steps.agreed_answers(
        ROWS, None, around, samples=1, after=None, prefix="why: ", temperature=0.7, seed=2
    )
    assert asked == [(["why: 1+1=", "why: 2+2="], 7, 0.7)]
    assert list(found["prompt"]) == list(ROWS["prompt"]) and list(found["completion"]) == ["7", "7"]
    asked.clear()
    found = steps.own_answers(ROWS, None, around, prefix="why: ", temperature=0.7, seed=2)
    assert asked == [(["why: 1+1=", "why: 2+2="], 2, 0.7)] and list(found["prompt"]) == list(ROWS["prompt"])


def test_a_vote_that_keeps_every_text_would_be_seen(said, monkeypatch):
    said(VOTES)
    monkeypatch.setattr(steps, "majority", lambda rows, session, share: rows)
    assert len(agreed(samples=4)) == 7
