"""A teacher with blocks of the student: layer after layer by hand, text after text, in float64, says the same."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional
from transformers import TrainingArguments

from methods.classes import replacing as replacing_module
from methods.classes.encoding import encoded_texts
from methods.classes.replacing import ReplacedBlocks
from methods.classes.trainer import ClassDistiller
from methods.errors import MethodError
from methods.slots.term import Window
from methods.slots.terms import NextToken
from tests.methods.classes.test_trainer import LABELS, TEXTS, model_of
from tests.methods.conftest import ONE_STEP, letter_tokenizer, pair_tokenizer

PATTERNS = [[False, False], [True, False], [False, True], [True, True]]


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trainer_of(tmp_path, term, *, student=None, teacher=None, tokenizers=None, **more):
    tokenizers = tokenizers or {"": letter_tokenizer()}
    return ClassDistiller(
        copy.deepcopy(model_of(seed=3).double() if student is None else student),
        terms=[term],
        args=TrainingArguments(
            output_dir=str(tmp_path), **{"per_device_train_batch_size": 8, **ONE_STEP, **more}
        ),
        train_dataset=encoded_texts(TEXTS, LABELS, tokenizers, 8)[0],
        processing_class=letter_tokenizer(),
        teacher=model_of(seed=1, layers=4).double() if teacher is None else teacher,
    )


def batch_of(trainer):
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(len(TEXTS))])
    assert not batch["attention_mask"].all(), "some are padded"
    return batch


def by_hand(student, teacher, pattern):
    """Losses of texts that are read alone: the teacher's embeddings, pooler and head around a list of layers."""
    shares = (slice(0, 2), slice(2, 4))
    layers = []
    for place, put in enumerate(pattern):
        own, theirs = student.bert.encoder.layer[place], teacher.bert.encoder.layer[shares[place]]
        layers += [own] if put else list(theirs)
    losses = []
    for text, label in zip(TEXTS, LABELS, strict=True):
        ids = torch.tensor([letter_tokenizer()(text)["input_ids"]])
        states = teacher.bert.embeddings(ids)
        for layer in layers:
            made = layer(states)
            states = made[0] if isinstance(made, tuple) else made
        logits = teacher.classifier(teacher.bert.pooler(states))
        losses.append(functional.cross_entropy(logits, torch.tensor([label])))
    return torch.stack(losses).sum()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_loss_and_its_gradient_are_those_of_layers_by_hand(pattern, tmp_path):
    term = ReplacedBlocks(copied=False)
    trainer = trainer_of(tmp_path, term)
    teacher, student = trainer.models.first_teacher(), trainer.models.student()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    expected = copy.deepcopy(student)
    right = by_hand(expected, teacher, pattern)
    term.replaced = pattern
    found = term.total(trainer.rows(batch_of(trainer)))
    assert found.item() == pytest.approx(right.item(), rel=1e-10)
    assert found.requires_grad == any(pattern), "nothing learns where nothing is put in"
    if any(pattern):
        found.backward(), right.backward()
    learnt = set()
    for (name, mine), theirs in zip(student.named_parameters(), expected.parameters(), strict=True):
        wanted = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(torch.zeros_like(mine) if mine.grad is None else mine.grad, wanted)
        learnt |= {name.split(".")[3]} if wanted.abs().max() > 1e-6 else set()
    assert learnt == {str(place) for place, put in enumerate(pattern) if put}
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]) and len(teacher.bert.encoder.layer) == 4
    assert not any(p.grad is not None for p in teacher.parameters()) and not teacher.training


MUTATIONS = {
    "shares-of-one-block": lambda patch: patch.setattr(
        replacing_module, "uniform_layers", lambda ours, theirs: [(0, 0), (1, 3)]
    ),
    "the-students-head": lambda patch: patch.setattr(
        replacing_module, "head_of_classifier", lambda model: _other_head(model)
    ),
    "nothing-is-put-in": lambda patch: patch.setattr(
        replacing_module, "_in_their_place", lambda model, blocks, training: nullcontext()
    ),
    "padding-is-read": lambda patch: patch.setattr(replacing_module, "INPUTS", ("input_ids",)),
}


def _other_head(model):
    from methods.classes.model import head_of_classifier

    head = head_of_classifier(model)
    return type(head)(head.weight.flip(0), head.bias)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_layers_by_hand_catch_what_is_wrong(name, tmp_path, monkeypatch):
    MUTATIONS[name](monkeypatch)
    with pytest.raises(AssertionError):
        test_the_loss_and_its_gradient_are_those_of_layers_by_hand([True, False], tmp_path)


def test_what_is_outside_is_the_teachers_and_stays(tmp_path):
    """Two steps of which the second has the student alone; blocks begin as the teacher's first or as they were."""
    teacher = model_of(seed=1, layers=4).double()
    for copied, learns in ((True, False), (False, True)):
        student = model_of(seed=3).double()
        trainer = trainer_of(
            tmp_path,
            ReplacedBlocks(1.0, until=0.5, form="constant", copied=copied, outside_learns=learns),
            student=student,
            teacher=copy.deepcopy(teacher),
            max_steps=2,
        )
        begun = trainer.models.student()
        assert torch.equal(begun.classifier.weight, teacher.classifier.weight)
        first = teacher if copied else student
        assert torch.equal(
            begun.bert.encoder.layer[1].output.dense.weight, first.bert.encoder.layer[1].output.dense.weight
        )
        trainer.train()
        after = trainer.accelerator.unwrap_model(trainer.model)
        assert torch.equal(after.classifier.weight, teacher.classifier.weight) != learns
        assert torch.equal(after.bert.pooler.dense.weight, teacher.bert.pooler.dense.weight) != learns
        assert not torch.equal(
            after.bert.encoder.layer[1].output.dense.weight, first.bert.encoder.layer[1].output.dense.weight
        )


def test_the_student_alone_learns_from_labels_as_ever(tmp_path):
    """All put in: the update is that of next-token on a student with the teacher's embeddings and head."""
    teacher = model_of(seed=1, layers=4).double()
    hybrid = trainer_of(
        tmp_path, ReplacedBlocks(1.0, form="constant", copied=False, outside_learns=True), teacher=teacher
    )
    start = copy.deepcopy(hybrid.models.student())
    hybrid.train()
    plain = trainer_of(tmp_path, NextToken(), student=start, teacher=teacher)
    plain.train()
    for mine, theirs in zip(hybrid.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("rising", {0.0: 0.2, 0.3: 0.6, 0.45: 0.8, 0.6: 1.0, 0.9: 1.0}),
        ("constant", {0.0: 0.2, 0.3: 0.2, 0.59: 0.2, 0.6: 1.0, 0.9: 1.0}),
        ("falling", {0.0: 0.8, 0.3: 0.4, 0.45: 0.2, 0.6: 1.0, 0.9: 1.0}),
    ],
)
def test_rates_by_hand(form, wanted):
    term = ReplacedBlocks(0.2, until=0.6, form=form)
    for progress, rate in wanted.items():
        assert term.rate_at(progress) == pytest.approx(rate)


def test_each_block_has_draws_of_its_own_which_a_step_alone_decides(tmp_path):
    term = ReplacedBlocks(0.3, until=1.0, form="constant", seed=5)
    trainer = trainer_of(tmp_path, term)

    def drawn(step):
        trainer.state.global_step = step
        torch.rand(step % 7)  # whoever else draws does not matter
        term.begin_step(Window(0.5, [], trainer=trainer))
        return term.replaced

    found = torch.tensor([drawn(step) for step in range(3000)], dtype=torch.float64)
    assert [drawn(step) for step in range(20)] == found[:20].bool().tolist()
    # Chances of 0.3: three standard deviations of 3,000 draws are 0.025; of both at once, 0.016.
    assert (found.mean(0) - 0.3).abs().max() < 0.025
    assert abs(float(found.prod(1).mean()) - 0.09) < 0.016
    assert abs(float(found[1:, 0].mul(found[:-1, 0]).mean()) - 0.09) < 0.016, "nor do steps go together"
    other = ReplacedBlocks(0.3, until=1.0, form="constant", seed=6)
    other.prepare(trainer)
    trainer.state.global_step = 0
    others = []
    for step in range(20):
        trainer.state.global_step = step
        other.begin_step(Window(0.5, [], trainer=trainer))
        others.append(other.replaced)
    assert others != found[:20].bool().tolist()


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(MethodError, match="a rate is rising, constant, falling, not 'linear'"):
        ReplacedBlocks(form="linear")
    with pytest.raises(MethodError, match="rate"):
        ReplacedBlocks(1.5)
    with pytest.raises(MethodError, match="same kind and width alone"):
        trainer_of(tmp_path, ReplacedBlocks(), teacher=model_of("roberta", layers=4).double())
    with pytest.raises(MethodError, match="same kind and width alone"):
        trainer_of(tmp_path, ReplacedBlocks(), teacher=_wide())
    with pytest.raises(MethodError, match="4 student blocks"):
        trainer_of(
            tmp_path,
            ReplacedBlocks(),
            student=model_of(layers=4).double(),
            teacher=model_of(layers=2).double(),
        )
    from methods.trainers.teachers import Teacher

    other = Teacher(model_of(layers=4).double(), pair_tokenizer())
    with pytest.raises(MethodError, match="reads the student's tokens"):
        trainer_of(
            tmp_path, ReplacedBlocks(), teacher=other,
            tokenizers={"": letter_tokenizer(), "teacher_0_": pair_tokenizer()},
        )  # fmt: skip


def _wide():
    from transformers import AutoModelForSequenceClassification

    config = model_of(layers=4).config
    config.intermediate_size = 64
    return AutoModelForSequenceClassification.from_config(config).double()
