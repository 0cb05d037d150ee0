"""The slots of the trainer against formulas written out on full logits in float64."""

from unittest import mock

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from methods.errors import MethodError
from methods.losses.divergences import DIVERGENCES
from methods.slots.samplers import (
    Example,
    HalfStudent,
    OnPolicy,
    TeacherMixed,
    WithStudent,
)
from methods.slots.targets import AverageLogits, OneTeacher
from methods.slots.terms import Divergence, NextToken
from methods.tokenizers.dual_space import DualSpace
from methods.tokenizers.terms import SortedProbabilities
from methods.trainers import Distiller, SFTConfig, Teacher, sampling
from methods.trainers.views import collate, examples_of
from tests.methods.conftest import LETTERS, letter_tokenizer, make_model, pair_tokenizer

DATA = Dataset.from_list(
    [
        {"prompt": p, "completion": c}
        for p, c in (("ab|", "cdef"), ("hello|", "o"), ("x|", "xyzxyz"), ("d|", "kd"))
    ]
)


def trainer_of(tmp_path, tokenizer, student, teacher, *, batch=4, accumulate=1, steps=1, **options):
    args = SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
        max_steps=steps, learning_rate=options.pop("learning_rate", 0.5), optim="sgd", lr_scheduler_type="constant",
        max_grad_norm=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=3,
    )  # fmt: skip
    options.setdefault("terms", [Divergence()])
    return Distiller(
        student, teacher=teacher, args=args, train_dataset=DATA, processing_class=tokenizer,
        max_completion_length=6, **options,
    )  # fmt: skip


def a_batch(tokenizer, sources=("data",) * 4):
    examples = [
        Example(
            tokenizer(row["prompt"])["input_ids"], [*tokenizer(row["completion"])["input_ids"], 1], source
        )
        for row, source in zip(DATA, sources, strict=True)
    ]
    return collate(examples, 0, torch.device("cpu"))


def logits_and_labels(model, batch):
    """Full logits (N, V) in float64 at the completion tokens, by the plain forward pass."""
    keep = batch["labels"][:, 1:] != -100
    logits = model.double()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[
        :, :-1
    ]
    return logits[keep], batch["labels"][:, 1:][keep], keep


def test_a_sum_of_terms_is_the_formula_on_full_logits(tmp_path, tokenizer):
    student, teachers = make_model(seed=0).double(), [make_model(seed=s, width=24).double() for s in (1, 2)]
    sources = ("data", "teacher", "student", "student")
    batch = a_batch(tokenizer, sources)
    terms = [
        Divergence("skew_forward_kl", weight=0.7, settings={"skew": 0.3}, sources=("teacher",)),
        Divergence("reverse_kl", weight=0.4, target=OneTeacher(1), sources=("student",), temperature=2.0),
        Divergence("forward_kl", weight=lambda progress: 0.2 + progress, target=AverageLogits()),
        Divergence("cross_entropy", weight=0.1, sources=("data",)),
        Divergence("total_variation", token_weights=lambda rows: (rows.position + 1.0) * (rows.sequence + 1)),
    ]
    trainer = trainer_of(tmp_path, tokenizer, student, teachers, terms=terms)
    loss = trainer.compute_loss(student, batch, num_items_in_batch=torch.tensor(10))
    loss.backward()
    got = {name: p.grad.clone() for name, p in student.named_parameters()}
    student.zero_grad()

    z, labels, keep = logits_and_labels(student, batch)
    t0, t1 = (logits_and_labels(teacher, batch)[0].detach() for teacher in teachers)
    row = torch.arange(4).unsqueeze(1).expand_as(keep)[keep]
    position = (keep.cumsum(1) - 1)[keep]
    source = torch.tensor([0, 1, 2, 2])[row]
    d = DIVERGENCES
    expected = (
        0.7 * d["skew_forward_kl"](z, t0, skew=0.3)[source == 1].sum()
        + 0.4 * d["reverse_kl"](z, t1, temperature=2.0)[source == 2].sum()
        + 0.2 * d["forward_kl"](z, (t0 + t1) / 2).sum()
        - 0.1 * z.log_softmax(-1)[torch.arange(len(z)), labels][source == 0].sum()
        + (d["total_variation"](z, t0) * (position + 1) * (row + 1)).sum()
    ) / 10
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for name, p in student.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("sampler", [OnPolicy(1.0), WithStudent(), TeacherMixed(0.5)])
def test_samples_do_not_depend_on_the_micro_batches(tmp_path, tokenizer, sampler):
    updates = []
    for batch, accumulate in ((4, 1), (2, 2), (1, 4)):
        student = make_model(seed=0)
        before = student.lm_head.weight.detach().clone()
        trainer = trainer_of(
            tmp_path,
            tokenizer,
            student,
            make_model(seed=1),
            batch=batch,
            accumulate=accumulate,
            sampler=sampler,
        )
        trainer.train()
        assert trainer.rollout_counts["completions"] == 4 and trainer.token_counts["generated"] >= 4
        updates.append(student.lm_head.weight.detach() - before)
    assert updates[0].abs().max() > 1e-3
    for other in updates[1:]:
        torch.testing.assert_close(other, updates[0], rtol=1e-4, atol=1e-6)


def test_what_is_collated_reads_back(tokenizer):
    batch = a_batch(tokenizer)
    again = collate(examples_of(batch), 0, torch.device("cpu"))
    assert all(torch.equal(again[name], batch[name]) for name in batch)


@pytest.mark.parametrize("loaded", [False, True])
def test_what_is_generated_counts_after_loading_and_after_an_evaluation(tmp_path, tokenizer, loaded):
    """Both leave the student in evaluation mode."""

    class Evaluation(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            trainer.model.eval()

    student = make_model(seed=0).train(not loaded)
    teacher = make_model(seed=1, width=24)
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, steps=3, sampler=OnPolicy(1.0))
    trainer.add_callback(Evaluation())
    made = []
    generate = sampling.rollout

    def counted(*args, **settings):
        made.append(generate(*args, **settings))
        return made[-1]

    with mock.patch.object(sampling, "rollout", counted):
        trainer.train()
    assert len(made) == 3
    assert trainer.token_counts["generated"] == sum(int(m.completion_mask.sum()) for m in made)


def test_the_step_before_reaches_the_target(tmp_path, tokenizer):
    seen = []

    class Spy(OneTeacher):
        def begin_step(self, window):
            seen.append((window.progress, window.last_loss))

    trainer = trainer_of(
        tmp_path, tokenizer, make_model(seed=0), make_model(seed=1), batch=2, accumulate=2, steps=3,
        terms=[Divergence(target=Spy())], learning_rate=1e-8,
    )  # fmt: skip
    trainer.train()
    assert [progress for progress, _ in seen] == [0, 1 / 3, 2 / 3] and seen[0][1] is None
    batch = a_batch(tokenizer)
    z, _, _ = logits_and_labels(make_model(seed=0), batch)
    p, _, _ = logits_and_labels(make_model(seed=1), batch)
    assert seen[1][1] == pytest.approx(float(DIVERGENCES["forward_kl"](z, p).mean()), rel=1e-4)


def test_validation_loss_is_the_mean_over_tokens(tmp_path, tokenizer):
    student = make_model(seed=0)
    trainer = trainer_of(
        tmp_path, tokenizer, student, make_model(seed=1), eval_dataset=DATA, sampler=OnPolicy()
    )
    got = trainer.sampling.validation_loss()
    z, labels, _ = logits_and_labels(student, a_batch(tokenizer))
    assert got == pytest.approx(float(torch.nn.functional.cross_entropy(z, labels)), rel=1e-5)


@pytest.mark.parametrize(
    ("terms", "message"),
    [({"divergence": "forwrd_kl"}, "unknown divergence"), ({"sources": ("web",)}, "unknown source")],
)
def test_wrong_names_are_refused(terms, message):
    with pytest.raises(MethodError, match=message):
        Divergence(**terms)


def test_every_teacher_is_held_against_the_student(tmp_path, tokenizer):
    models, other = [make_model(seed=1), make_model(seed=2)], letter_tokenizer(LETTERS[::-1])

    def trainer(*tokenizers, terms=None):
        teachers = [Teacher(model, its) for model, its in zip(models, tokenizers, strict=True)]
        return trainer_of(tmp_path, tokenizer, make_model(), teachers, terms=list(terms or [Divergence()]))

    assert len(trainer(tokenizer, tokenizer).models.same) == 2
    with pytest.raises(MethodError, match="id 3 is 'a' for the student and 'z' for the teacher"):
        trainer(tokenizer, other)
    # A term about two tokenisations reads the second one, the divergence the first.
    both = trainer(tokenizer, other, terms=(Divergence(), SortedProbabilities()))
    assert both.models.same == both.models.teachers[:1] and both.models.pair is both.models.teachers[1]
    with pytest.raises(MethodError, match="2 teachers have tokenizers of their own"):
        trainer(other, pair_tokenizer(), terms=(SortedProbabilities(),))
    with pytest.raises(MethodError, match="id 3 is 'a'"):
        trainer(other, other, terms=(Divergence(), SortedProbabilities()))


def test_terms_without_the_teacher_that_they_need_are_named(tmp_path, tokenizer):
    terms = [NextToken(), Divergence(), DualSpace()]
    with pytest.raises(MethodError, match="these terms need one: Divergence, DualSpace"):
        trainer_of(tmp_path, tokenizer, make_model(), None, terms=terms)
    with pytest.raises(MethodError, match="at least one term"):
        trainer_of(tmp_path, tokenizer, make_model(), None, terms=[NextToken(weight=0.0)])


def test_a_hook_sees_the_window_that_is_trained_on(tmp_path, tokenizer):
    class Reader:
        def __init__(self):
            self.seen = []

        def begin_step(self, window):
            self.seen.append(
                (window.trainer.state.global_step, window.progress, [b["source"] for b in window.batches])
            )

    hook = Reader()
    trainer_of(
        tmp_path, tokenizer, make_model(), make_model(seed=1), batch=2, accumulate=2, steps=2, hooks=[hook],
        sampler=HalfStudent(),
    ).train()  # fmt: skip
    assert [(step, progress) for step, progress, _ in hook.seen] == [(0, 0.0), (1, 0.5)]
    assert all([s.tolist() for s in sources] == [[1, 2], [1, 2]] for *_, sources in hook.seen)


def test_a_teacher_that_no_term_reads_is_not_run(tmp_path, tokenizer):
    teacher = make_model(seed=1)
    trainer = trainer_of(tmp_path, tokenizer, make_model(), teacher, terms=[Divergence("cross-entropy")])
    trainer.train()
    assert set(trainer.token_counts) == {"student"}
