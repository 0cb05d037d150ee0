"""Domain weights by hand, what the sampler draws, and perplexities against the plain forward pass."""

import math
import random

import pytest
import torch
from datasets import Dataset
from methods.slots.domains import DomainSampler, DomainWeights
from methods.trainers.distillation import SFTConfig, Term, collate
from methods.trainers.domain_distillation import DomainDistillationTrainer, examples_in

from methods.errors import MethodError
from methods.slots.samplers import Example, OnPolicy, Step
from tests.methods.conftest import make_model
from tests.methods.trainers.test_distillation import logits_and_labels

STEP = Step(0.0, random.Random(0), lambda *a, **k: [], lambda: 0.0)


def pool(name: int, size: int) -> list[Example]:
    return [Example([name], [i, 1]) for i in range(size)]


def sampler(**options):
    given = {
        "every": 2,
        "smoothing": 0.5,
        "perplexities": lambda: ({"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 2.0}),
    }
    given |= options
    perplexities = given.pop("perplexities")
    return DomainSampler({"a": pool(5, 40), "b": pool(6, 40)}, perplexities, **given)


def test_weights_move_as_the_paper_says():
    weights = DomainWeights(["a", "b", "c"], smoothing=0.5)
    assert weights.shares == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    student, teacher = {"a": 3.0, "b": 4.0, "c": 2.0}, {"a": 1.5, "b": 4.0, "c": 2.0}
    share = 1 / 3
    for _ in range(2):
        scores = [share * math.exp(2.0), (1 - share) / 2 * math.exp(1.0), (1 - share) / 2 * math.exp(1.0)]
        share = 0.5 * scores[0] / sum(scores) + 0.5 / 3
        weights.update(student, teacher)
        assert weights.shares["a"] == pytest.approx(share)
        assert weights.shares["b"] == weights.shares["c"] == pytest.approx((1 - share) / 2)


def test_smoothing_keeps_every_domain_alive():
    behind, ahead = {"a": 900.0, "b": 1.0}, {"a": 1.0, "b": 1.0}  # a ratio whose exponential is infinite
    smoothed, plain = DomainWeights("ab", smoothing=0.5), DomainWeights("ab", smoothing=1.0)
    for _ in range(5):
        smoothed.update(behind, ahead)
        plain.update(behind, ahead)
    assert smoothed.shares["b"] == pytest.approx(0.25) and plain.shares["b"] < 1e-100


def test_weights_move_every_few_steps_and_rule_the_draws():
    asked = []

    def perplexities():
        asked.append(len(shares))
        return {"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 2.0}

    chosen, shares = sampler(perplexities=perplexities, smoothing=0.9), []
    for _ in range(6):
        chosen([Example([0], [0])] * 50, STEP)
        shares.append(chosen.weights.shares["a"])
    assert asked == [2, 4] and shares[0] == shares[1] == 0.5 < shares[2] == shares[3] < shares[4] == shares[5]
    expected = sum(50 * share for share in shares)
    assert abs(chosen.drawn["a"] - expected) < 4 * math.sqrt(300 * 0.25)
    assert sum(chosen.drawn.values()) == 300


def test_a_domain_is_gone_through_before_it_repeats():
    one = sampler(every=1000)
    seen = [e for _ in range(10) for e in one([Example([0], [0])] * 6, STEP)]
    of_a = [e.completion[0] for e in seen if e.prompt == [5]]
    assert 15 < len(of_a) <= 40 and len(set(of_a)) == len(of_a)
    assert of_a != sorted(of_a)


def test_ranks_share_one_global_batch():
    whole = sampler()
    halves = [sampler(rank=rank, ranks=2) for rank in (0, 1)]
    for _ in range(4):
        batch = whole([Example([0], [0])] * 8, STEP)
        first, second = (half([Example([0], [0])] * 4, STEP) for half in halves)
        assert [e for pair in zip(first, second, strict=True) for e in pair] == batch
    assert sampler(seed=1)([Example([0], [0])] * 8, STEP) != sampler()([Example([0], [0])] * 8, STEP)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DomainWeights(["a"]), "two or more"),
        (lambda: DomainWeights(["a", "b"], smoothing=1.5), "smoothing"),
        (lambda: sampler(every=0), "not a number of steps"),
        (lambda: DomainSampler({"a": [], "b": pool(1, 1)}, lambda: ({}, {}), every=1), "no examples"),
        (lambda: DomainWeights("ab").update({"a": math.nan, "b": 1.0}, {"a": 1.0, "b": 1.0}), "no weights"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(MethodError, match=message):
        make()


def encoded(tokenizer, pairs):
    rows = []
    for prompt, completion in pairs:
        asked, answer = tokenizer(prompt)["input_ids"], [*tokenizer(completion)["input_ids"], 1]
        rows.append({"input_ids": asked + answer, "labels": [-100] * len(asked) + answer})
    return Dataset.from_list(rows)


DOMAINS = {
    "copy": [("ab|", "ab"), ("xyz|", "xyz"), ("q|", "q"), ("mnop|", "mnop")],
    "reverse": [("ba|", "ab"), ("zyx|", "xyz"), ("po|", "op"), ("cba|", "abc")],
}


def trainer_of(tmp_path, tokenizer, student, teacher, *, batch=4, accumulate=1, steps=1, **options):
    domains = {name: encoded(tokenizer, pairs) for name, pairs in DOMAINS.items()}
    rows = encoded(tokenizer, [pair for pairs in DOMAINS.values() for pair in pairs])
    args = SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
        max_steps=steps, learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True,
        bf16=False, gradient_checkpointing=False, report_to="none", logging_strategy="no",
        disable_tqdm=True, seed=3, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        save_strategy=options.pop("save_strategy", "no"), save_steps=options.pop("save_steps", 500),
    )  # fmt: skip
    return DomainDistillationTrainer(
        student, teacher=teacher, args=args, train_dataset=rows, processing_class=tokenizer,
        domains=domains, validation=domains, every=1, terms=[Term("cross_entropy"), Term("forward_kl", weight=0.2)],
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_perplexities_are_those_of_full_logits(tmp_path, tokenizer, kind):
    student, teacher = make_model(kind, seed=0), make_model(kind, seed=1)
    trainer = trainer_of(tmp_path, tokenizer, student, teacher)
    got = trainer._both_perplexities()
    for model, found in zip((student, teacher), got, strict=True):
        for name, pairs in DOMAINS.items():
            batch = collate(examples_in(encoded(tokenizer, pairs)), 0, torch.device("cpu"))
            z, labels, _ = logits_and_labels(model, batch)
            assert found[name] == pytest.approx(
                float(torch.nn.functional.cross_entropy(z, labels).detach().exp()), rel=1e-4
            )


def test_updates_do_not_depend_on_the_micro_batches(tmp_path, tokenizer):
    updates, shares = [], []
    for batch, accumulate in ((4, 1), (2, 2), (1, 4)):
        student = make_model(seed=0)
        before = student.lm_head.weight.detach().clone()
        trainer = trainer_of(
            tmp_path, tokenizer, student, make_model(seed=1), batch=batch, accumulate=accumulate, steps=3
        )
        trainer.train()
        assert sum(trainer.domain_sampler.drawn.values()) == 12
        updates.append(student.lm_head.weight.detach() - before)
        shares.append(trainer.domain_sampler.weights.shares["copy"])
    assert updates[0].abs().max() > 1e-3 and shares[0] != 0.5
    for update, share in zip(updates[1:], shares[1:], strict=True):
        torch.testing.assert_close(update, updates[0], rtol=1e-3, atol=1e-5)
        assert share == pytest.approx(shares[0], rel=1e-3)


def test_a_resumed_run_goes_on_with_its_weights_and_draws(tmp_path, tokenizer):
    whole, stopped = make_model(seed=0), make_model(seed=0)
    first = trainer_of(tmp_path / "whole", tokenizer, whole, make_model(seed=1), steps=5)
    first.train()
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer_of(tmp_path / "half", tokenizer, stopped, make_model(seed=1), steps=5, **saving).train()
    again = make_model(seed=7)
    second = trainer_of(tmp_path / "half", tokenizer, again, make_model(seed=1), steps=5, **saving)
    second.train(resume_from_checkpoint=str(tmp_path / "half/checkpoint-3"))
    assert second.domain_sampler.weights.shares == pytest.approx(
        first.domain_sampler.weights.shares, rel=1e-6
    )
    assert second.domain_sampler.drawn == first.domain_sampler.drawn
    for a, b in zip(again.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_another_sampler_or_other_domains_are_refused(tmp_path, tokenizer):
    with pytest.raises(MethodError, match="give no other"):
        trainer_of(tmp_path, tokenizer, make_model(), make_model(seed=1), sampler=OnPolicy(1.0))
