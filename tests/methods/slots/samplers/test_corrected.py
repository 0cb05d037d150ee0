"""What is corrected and where, and what the trainer says of both models token by token."""

import random

import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.linear import Head, linear_draws
from methods.slots.samplers import (
    AdaptiveReplay,
    Comparison,
    Corrected,
    Example,
    HalfStudent,
    OnPolicy,
    Step,
    beginning,
)
from tests.methods.conftest import make_model
from tests.methods.slots.terms.test_clipped import normal
from tests.methods.trainers.test_distiller import trainer_of


def test_the_worst_token_is_the_most_divergent_one_that_the_teacher_would_not_say():
    found = Comparison([0.1, 9.0, 0.7, 0.2], [5, 6, 8, 4])
    assert beginning([5, 6, 7, 1], found) == [5, 6, 8], "9.0 is where both say 6"
    assert beginning([5, 6, 8, 4], found) == [5, 6, 8, 4]


WINDOW = [Example([2], [3, 1]), Example([4], [5, 1]), Example([6], [7, 1]), Example([8], [9, 1])]


def test_only_the_student_s_answers_are_corrected():
    asked = []

    def generate(prompts, begun=None, **settings):
        asked.append((prompts, begun, settings))
        return [[10, 11, 1] if begun is None else [*begun[n], 12, 1] for n in range(len(prompts))]

    def compare(examples, greedy):
        assert [e.prompt for e in examples] == [[4], [8]] and greedy
        return [Comparison([1.0, 2.0, 0.0], [20, 21, 1]), Comparison([3.0, 2.0, 0.0], [20, 21, 1])]

    step = Step(0.0, random.Random(0), generate, lambda: 0.0, compare)
    got = Corrected(HalfStudent("data"), greedy=True, temperature=0.7)(WINDOW, step)
    assert got == [
        WINDOW[0], Example([4], [10, 21, 12, 1], "student"), WINDOW[2], Example([8], [20, 12, 1], "student"),
    ]  # fmt: skip
    assert asked[1] == ([[4], [8]], [[10, 21], [20]], {"temperature": 0.7})
    assert Corrected(OnPolicy(0.0))(WINDOW, step) == WINDOW and len(asked) == 2


def test_a_sampler_that_remembers_is_refused():
    with pytest.raises(MethodError, match="AdaptiveReplay keeps"):
        Corrected(AdaptiveReplay())


def test_the_trainer_compares_token_by_token(tmp_path, tokenizer):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24, vocabulary=33).double()
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, sampler=OnPolicy(1.0))
    examples = [Example([5, 6, 2], [7, 8, 1]), Example([9, 2], [4]), Example([3, 3, 3, 2], [6, 5, 4, 3, 1])]
    source = random.Random(0)
    student.train()
    found = trainer.sampling.compare(source, examples, greedy=True)
    assert student.training and trainer.token_counts == {"student": 18, "teacher": 18}
    for example, one in zip(examples, found, strict=True):
        ids = torch.tensor([example.prompt + example.completion])
        rows = slice(len(example.prompt) - 1, -1)
        z, t = (m(ids).logits[0, rows].detach()[:, :29] for m in (student, teacher))
        expected = (t.softmax(-1) * (t.log_softmax(-1) - z.log_softmax(-1))).sum(-1)
        torch.testing.assert_close(torch.tensor(one.divergence).double(), expected, rtol=1e-6, atol=1e-7)
        assert one.teacher_tokens == t.argmax(-1).tolist()
    draws = [c.teacher_tokens for _ in range(4) for c in trainer.sampling.compare(source, examples)]
    assert any(tokens not in [c.teacher_tokens for c in found] for tokens in draws)


def test_a_begun_answer_goes_on_from_where_it_stands(tmp_path, tokenizer):
    trainer = trainer_of(tmp_path, tokenizer, make_model(seed=0), make_model(seed=1), sampler=OnPolicy(1.0))
    source = random.Random(0)
    limit = trainer.sampling.limit
    prompts = [[5, 2], [6, 2], [7, 2], [8, 2]]
    full, ended = [4] * limit, [5, 1]
    got = trainer.sampling.generate(source, prompts, begun=[[9], [9, 9, 9], full, ended])
    assert got[0][0] == 9 and got[1][:3] == [9, 9, 9] and len(got[0]) > 1 and len(got[1]) > 3
    assert all(len(c) <= limit for c in got) and got[2:] == [full, ended]
    assert trainer.rollout_counts["completions"] == 2 and trainer.rollout_counts["empty"] == 0
    assert trainer.rollout_counts["truncated"] == sum(c[-1] != 1 for c in got[:2])
    assert trainer.sampling.generate(source, prompts[:2], begun=[full, ended]) == [full, ended]


def test_draws_follow_the_distribution():
    head = Head(normal(4, 2), normal(4, seed=1))
    hidden = normal(1, 2, seed=2).expand(20_000, 2)
    drawn = linear_draws(hidden, head, 3, torch.Generator().manual_seed(0))
    expected = (hidden[0] @ head.weight.T + head.bias)[:3].softmax(-1)
    torch.testing.assert_close(
        torch.bincount(drawn, minlength=3) / 20_000, expected.float(), atol=0.01, rtol=0
    )
    assert (linear_draws(hidden[:5], head, 3) == expected.argmax()).all()
