import pytest
import torch

from methods.elicitation import labelling
from methods.elicitation.labelling import label_with_teacher
from methods.errors import MethodError
from methods.models import freeze
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
