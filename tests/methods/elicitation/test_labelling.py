import pytest
import torch

from methods.elicitation import labelling
from methods.elicitation.labelling import beam_search, closest, label_with_teacher
from methods.errors import MethodError
from methods.modeling.core import freeze
from tests.methods.conftest import make_model

PROMPTS = ["ab|", "x|", "hello|", "ab|"]


def label(teacher, tokenizer, **settings):
    return label_with_teacher(teacher, tokenizer, PROMPTS, max_new_tokens=5, batch_size=3, **settings)


def test_greedy_labels_are_the_teacher_s_argmax(tokenizer, monkeypatch):
    teacher = freeze(make_model(seed=5))
    stops = list(range(1, 29, 4))  # an untrained model hardly ever says EOS
    monkeypatch.setattr(labelling, "eos_ids", lambda *_: stops)
    data, report = label(teacher, tokenizer, greedy=True)
    assert report.completions == len(data) + report.truncated + report.empty == 4
    for row in data:
        ids = tokenizer(row["prompt"])["input_ids"]
        for _ in range(5):
            ids.append(int(teacher(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in stops:
                break
        said = tokenizer.convert_ids_to_tokens(ids[len(row["prompt"]) : -1])
        assert row["completion"] == "".join(f" {token}" for token in said)  # the leading blank is kept


def test_samples_depend_on_the_seed_only(tokenizer):
    teacher = freeze(make_model(seed=5))
    one, two, other = (label(teacher, tokenizer, seed=s)[0]["completion"] for s in (1, 1, 2))
    assert list(one) == list(two)
    assert list(one) != list(other)


def test_a_teacher_that_never_stops_is_refused_with_the_counts(tokenizer):
    teacher = freeze(make_model(seed=5))
    teacher.lm_head.bias = torch.nn.Parameter(torch.zeros(29).index_fill(0, torch.tensor([1]), -1e9))
    with pytest.raises(MethodError, match="4 prompts: 4 truncated at 5 tokens, 0 empty"):
        label(teacher, tokenizer)


def test_truncated_answers_are_left_out_and_counted(tokenizer):
    data, report = label(freeze(make_model(seed=5)), tokenizer, seed=3)
    assert report.completions == 4 == len(data) + report.truncated + report.empty
    assert report.truncated > 0 and len(data) > 0
    assert report.generated_tokens <= 20


def test_the_beam_finds_the_most_probable_answers(tokenizer):
    """Against every completion of at most three tokens, scored one by one."""
    teacher = make_model(seed=3)
    found, report = beam_search(teacher, tokenizer, ["ab|", "c|"], beams=40, max_new_tokens=3, batch_size=2)
    assert report.completions == 80 and report.truncated + report.empty + sum(map(len, found)) == 80
    for prompt, answers in zip(("ab|", "c|"), found, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        letters = range(2, 29)
        whole = [[a] for a in letters] + [[a, b] for a in letters for b in letters]
        scores = {tuple(c): score(teacher, ids, [*c, 1]) for c in whole}
        best = max(scores, key=scores.__getitem__)
        texts = [tuple(tokenizer(answer.replace(" ", ""))["input_ids"]) for answer in answers]
        assert texts[0] == best
        got = [scores[text] for text in texts]
        assert got == sorted(got, reverse=True)


def score(model, prompt, completion):
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logp = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logp[range(len(completion)), completion].sum())


def test_interpolation_takes_the_candidate_most_like_the_reference():
    candidates = ["A B C D X", "A B C D E F", "Q R S T U"]
    assert closest(candidates, "A B C D E") == "A B C D E F"
    assert closest(candidates, "Q R S T V") == "Q R S T U"
