import torch

from methods.elicitation.labelling import label_with_teacher
from methods.models import freeze
from tests.methods.conftest import make_model

PROMPTS = ["ab|", "x|", "hello|", "ab|"]


def label(teacher, tokenizer, **settings):
    return label_with_teacher(teacher, tokenizer, PROMPTS, max_new_tokens=5, batch_size=3, **settings)


def test_greedy_labels_are_the_teacher_s_argmax(tokenizer):
    teacher = freeze(make_model(seed=5))
    data, report = label(teacher, tokenizer, greedy=True)
    assert report.completions == len(data) + report.truncated + report.empty == 4
    for row in data:
        ids = tokenizer(row["prompt"])["input_ids"]
        for _ in range(5):
            ids.append(int(teacher(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 1:
                break
        assert tokenizer.decode(ids[len(row["prompt"]) : -1]) == row["completion"]


def test_samples_depend_on_the_seed_only(tokenizer):
    teacher = freeze(make_model(seed=5))
    one, two, other = (label(teacher, tokenizer, seed=s)[0]["completion"] for s in (1, 1, 2))
    assert list(one) == list(two)
    assert list(one) != list(other)


def test_a_teacher_that_never_stops_gives_no_rows_and_says_so(tokenizer):
    teacher = make_model(seed=5)
    with torch.no_grad():
        teacher.lm_head.weight[1] = -100 * teacher.lm_head.weight.abs().max()
        teacher.model.norm.weight.abs_()
    data, report = label(freeze(teacher), tokenizer, greedy=True)
    assert report.truncated + report.empty + len(data) == 4
    assert report.generated_tokens > 0
