"""Which of a teacher's right answers is kept: against probabilities taken token by token in float64."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from methods.assembly import _kept_step
from methods.elicitation import traces
from methods.elicitation.labelling import LabellingReport
from methods.elicitation.traces import gap, log_probs_of, teacher_pieces, teacher_traces
from methods.errors import MethodError
from methods.recipe import canonical_method, teachers_of
from methods.toy import ToySurroundings

ROWS = Dataset.from_list([{"prompt": "ab|", "completion": "x"}, {"prompt": "cd|", "completion": "y"}])
SAID = ["ba", "dc", "bab", "dcd", "b", "ddd", "abba", "c", "bbb", "d"]  # in turn of the two prompts


@pytest.fixture
def around(monkeypatch):
    """The toy, whose teacher says these things; whoever holds a "c" or a "b" is right, but for "bbb"."""

    def label(model, tokenizer, prompts, **settings):
        rows = [{"prompt": prompt, "completion": text} for prompt, text in zip(prompts, SAID, strict=True)]
        return Dataset.from_list(rows), LabellingReport(completions=len(prompts))

    def judged(rows, said, verifier, surroundings):
        return [
            (row["prompt"], row["completion"], float(row["completion"] not in ("bbb", "ddd", "d")))
            for row in said
        ]

    monkeypatch.setattr(traces, "label_with_teacher", label)
    monkeypatch.setattr(traces, "judged_answers", judged)
    made = ToySurroundings()
    made.reports = []
    made.spent = made.reports.append
    return made


RIGHT = {"ab|": ["ba", "bab", "b", "abba"], "cd|": ["dc", "dcd", "c"]}


def one_by_one(model, tokenizer, prompt, text):
    """Log-probabilities of an answer's tokens and its end: a full pass for each token, in float64."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None and tokenizer(prompt)["input_ids"][0] == tokenizer.bos_token_id:
        ids = [tokenizer.bos_token_id, *ids]
    found, model = [], model.double().eval()
    for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        found.append(float(logits.log_softmax(-1)[token]))
        ids.append(token)
    return found


def models(around):
    return around.teacher("main").model, around.student()


def kept(around, **settings):
    rows = teacher_traces(ROWS, around.teacher("main"), around, samples=5, **settings)
    return {row["prompt"]: row["completion"] for row in rows}


def test_probabilities_are_those_of_one_token_after_the_other(around):
    teacher, student = models(around)
    for model in (teacher, student):
        found = log_probs_of(model, around.tokenizer, RIGHT, 2)
        for prompt, texts in RIGHT.items():
            for text, figures in zip(texts, found[prompt], strict=True):
                wanted = one_by_one(model, around.tokenizer, prompt, text)
                assert figures == pytest.approx(wanted, abs=1e-4)


def test_what_is_kept_is_what_a_count_by_hand_says(around):
    teacher, student = models(around)
    worth = {}
    for prompt, texts in RIGHT.items():
        for text in texts:
            mine, other = (one_by_one(model, around.tokenizer, prompt, text) for model in (teacher, student))
            pieces = [
                torch.tensor(mine[n : n + 2]).mean().exp() - torch.tensor(other[n : n + 2]).mean().exp()
                for n in range(0, len(mine), 2)
            ]
            gaps = torch.tensor(mine).mean() - torch.tensor(other).mean()
            worth[text] = float(gaps), sum(float(one) >= 0 for one in pieces), len(text)
    for by, of in (
        ("gap", lambda w: w[0]),
        ("most", lambda w: w[1]),
        ("fewest", lambda w: -w[1]),
        ("longest", lambda w: w[2]),
    ):
        wanted = {prompt: max(texts, key=lambda text: of(worth[text])) for prompt, texts in RIGHT.items()}
        assert kept(around, by=by, unit=2, margin=0.0) == wanted, by
    assert kept(around, by="first") == {"ab|": "ba", "cd|": "dc"}
    assert len({worth[text][1] for text in RIGHT["ab|"]}) > 1  # the count decides something
    assert [report.completions for report in around.reports] == [10] * 5


def test_pieces_by_hand():
    theirs, ours = [0.0, 0.0, -1.0, -1.0, 0.0], [-1.0, -1.0, 0.0, 0.0, -0.05]
    assert teacher_pieces(theirs, ours, 0.1, 2) == 1  # 1 - e^-1, e^-1 - 1, and 1 - e^-0.05 < 0.1
    assert teacher_pieces(theirs, ours, 0.04, 2) == 2
    assert teacher_pieces(theirs, ours, 0.1, 1) == 2 and teacher_pieces(theirs, ours, 0.1, 5) == 0
    assert gap(theirs, ours) == pytest.approx(0.01)


def test_a_gap_that_forgets_the_student_or_turns_round_would_be_seen(around, monkeypatch):
    wanted = kept(around, by="gap")
    monkeypatch.setattr(traces, "gap", lambda theirs, ours: sum(ours) / len(ours) - sum(theirs) / len(theirs))
    assert kept(around, by="gap") != wanted


def test_wrong_settings_and_other_tokens_are_refused(around):
    teacher = around.teacher("main")
    with pytest.raises(MethodError, match='no order "longst" \\(did you mean "longest"'):
        teacher_traces(ROWS, teacher, around, by="longst")
    with pytest.raises(MethodError, match='"unit" must be 1 or more'):
        teacher_traces(ROWS, teacher, around, unit=0)
    with pytest.raises(MethodError, match="they must read the same tokens"):
        teacher_traces(ROWS, around.teacher("other"), around)
    with pytest.raises(MethodError, match="none of the teacher's 10 answers is right"):
        kept(around, threshold=2.0)


def test_the_teacher_stands_in_the_method_and_the_start_in_the_key():
    tree = {"use": "teacher-traces", "teacher": "large", "by": "most"}
    method = canonical_method({"teacher": None, "data": tree, "terms": [{"term": "next-token"}]})
    assert teachers_of(method) == ["large"]
    asked = []
    keep = lambda kind, key, make: asked.append((kind, key)) or []  # noqa: E731
    _kept_step(method["data"], SimpleNamespace(seed=3, start={"base": "a"}, keep=keep))
    ((kind, key),) = asked
    assert kind == "rows-teacher-traces" and key["student"] == {"base": "a"} and "seed" not in key
