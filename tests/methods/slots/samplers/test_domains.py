"""Domain weights by hand, what the sampler draws, and perplexities against the plain forward pass."""

import math
import random

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.slots.samplers import DomainSampler, DomainWeights, Example, OnPolicy, Step
from methods.slots.terms import Divergence
from methods.trainers import Distiller, SFTConfig
from methods.trainers.views import SameTokens, collate
from tests.methods.conftest import make_model
from tests.methods.trainers.test_distiller import logits_and_labels

BEHIND = {"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 2.0}


def step_of(perplexities=lambda groups: BEHIND, **options):
    return Step(0.0, random.Random(0), lambda *a, **k: [], lambda: 0.0, perplexities=perplexities, **options)


STEP = step_of()


def pool(name: int, size: int) -> list[Example]:
    return [Example([name], [i, 1]) for i in range(size)]


def sampler(**options):
    domains = {"a": pool(5, 40), "b": pool(6, 40)}
    return DomainSampler(**{"every": 2, **options}).over(domains, domains)


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

    def perplexities(groups):
        assert [len(examples) for examples in groups.values()] == [40, 40]
        asked.append(len(shares))
        return BEHIND

    chosen, shares = sampler(smoothing=0.9), []
    for _ in range(6):
        chosen([Example([0], [0])] * 50, step_of(perplexities))
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
    whole, halves = sampler(), [sampler(), sampler()]
    for _ in range(4):
        batch = whole([Example([0], [0])] * 8, STEP)
        first, second = (
            half([Example([0], [0])] * 4, step_of(rank=rank, ranks=2)) for rank, half in enumerate(halves)
        )
        assert first + second == batch
    others = sampler()([Example([0], [0])] * 8, step_of(seed=1))
    assert others != sampler()([Example([0], [0])] * 8, STEP)


def test_another_sampler_may_go_on_with_what_was_drawn():
    window = [Example([0], [0])] * 4
    drawn = sampler()(window, STEP)
    step = Step(0.0, random.Random(0), lambda prompts, **k: [[p[0], 1] for p in prompts], lambda: 0.0)
    assert sampler(sampler=OnPolicy())(window, step) == [
        Example(e.prompt, [e.prompt[0], 1], "student") for e in drawn
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DomainWeights(["a"]), "two or more"),
        (lambda: DomainWeights(["a", "b"], smoothing=1.5), "smoothing"),
        (lambda: sampler(every=0), "not a number of steps"),
        (lambda: sampler().over({"a": [], "b": pool(1, 1)}, {"a": [], "b": []}), "no examples"),
        (lambda: sampler().over({"a": pool(1, 1)}, {"b": pool(1, 1)}), "validation rows of"),
        (lambda: DomainWeights("ab").update({"a": math.nan, "b": 1.0}, {"a": 1.0, "b": 1.0}), "no weights"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(MethodError, match=message):
        make()


def encoded(tokenizer, pairs, **columns):
    rows = []
    for prompt, completion in pairs:
        asked, answer = tokenizer(prompt)["input_ids"], [*tokenizer(completion)["input_ids"], 1]
        rows.append({"input_ids": asked + answer, "labels": [-100] * len(asked) + answer, **columns})
    return rows


DOMAINS = {
    "copy": [("ab|", "ab"), ("xyz|", "xyz"), ("q|", "q"), ("mnop|", "mnop")],
    "reverse": [("ba|", "ab"), ("zyx|", "xyz"), ("po|", "op"), ("cba|", "abc")],
}


def trainer_of(tmp_path, tokenizer, student, teacher, *, batch=4, accumulate=1, steps=1, **options):
    rows = [row for name, pairs in DOMAINS.items() for row in encoded(tokenizer, pairs, domain=name)]
    rows = options.pop("rows", Dataset.from_list(rows))
    args = SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
        max_steps=steps, learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True,
        bf16=False, gradient_checkpointing=False, report_to="none", logging_strategy="no",
        disable_tqdm=True, seed=3, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        save_strategy=options.pop("save_strategy", "no"), save_steps=options.pop("save_steps", 500),
    )  # fmt: skip
    return Distiller(
        student, teacher=teacher, args=args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer,
        terms=[Divergence("cross_entropy"), Divergence("forward_kl", weight=0.2)],
        sampler=DomainSampler(every=1, **options),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_perplexities_are_those_of_full_logits(tmp_path, tokenizer, kind):
    student, teacher = make_model(kind, seed=0), make_model(kind, seed=1)
    trainer = trainer_of(tmp_path, tokenizer, student, teacher)
    got = trainer.sampling.perplexities(trainer.examples_by("domain", trainer.eval_dataset))
    for model, found in zip((student, teacher), got, strict=True):
        for name, pairs in DOMAINS.items():
            examples = SameTokens(0).examples_in(Dataset.from_list(encoded(tokenizer, pairs)))
            batch = collate(examples, 0, torch.device("cpu"))
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
        assert sum(trainer.sampling.sampler.drawn.values()) == 12
        updates.append(student.lm_head.weight.detach() - before)
        shares.append(trainer.sampling.sampler.weights.shares["copy"])
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
    assert second.sampling.sampler.weights.shares == pytest.approx(
        first.sampling.sampler.weights.shares, rel=1e-6
    )
    assert second.sampling.sampler.drawn == first.sampling.sampler.drawn
    for a, b in zip(again.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_rows_without_domains_and_a_training_without_validation_are_refused(tmp_path, tokenizer):
    with pytest.raises(MethodError, match="no column 'subject', only input_ids, labels, domain"):
        trainer_of(tmp_path, tokenizer, make_model(), make_model(seed=1), column="subject")
    rows = Dataset.from_list(encoded(tokenizer, DOMAINS["copy"], domain="copy"))
    with pytest.raises(MethodError, match="two or more domains"):
        trainer_of(tmp_path, tokenizer, make_model(), make_model(seed=1), rows=rows)
    with pytest.raises(MethodError, match="give the trainer an eval_dataset"):
        DomainSampler(every=1).prepare(type("Trainer", (), {"eval_dataset": None}))
