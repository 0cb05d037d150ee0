"""Classes split by a teacher's states: joint distributions written out in float64 by numpy say the same."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, TrainingArguments

from methods.classes import subclasses as module
from methods.classes.encoding import encoded_texts
from methods.classes.model import head_of_classifier
from methods.classes.subclasses import SubclassMatch, clusters
from methods.classes.trainer import ClassDistiller
from methods.errors import MethodError
from methods.slots.terms import Divergence, HiddenMatch
from tests.methods.classes.test_trainer import LABELS, TEXTS, model_of, trained
from tests.methods.conftest import ONE_STEP, letter_tokenizer

MANY = [*TEXTS, "x|", "yy|", "abca|", "hid|", "noon|", "kk|", "deed|", "eye|"]


def trainer_of(tmp_path, terms, *, student=None, teacher=None):
    labels = [LABELS[place % len(LABELS)] for place in range(len(MANY))]
    return ClassDistiller(
        copy.deepcopy(model_of(seed=3) if student is None else student),
        terms=terms,
        args=TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=16, **ONE_STEP),
        train_dataset=encoded_texts(MANY, labels, {"": letter_tokenizer()}, 8)[0],
        processing_class=letter_tokenizer(),
        teacher=model_of(seed=1, layers=3) if teacher is None else teacher,
    )


def into_the_head(model):
    """(R, H) of texts that are read alone, and the logits (R, C)."""
    states, logits = [], []
    for text in MANY:
        ids = torch.tensor([letter_tokenizer()(text)["input_ids"]])
        with torch.no_grad():
            pooled = model.bert.pooler(model.bert(input_ids=ids).last_hidden_state)[0]
        states.append(pooled.double().numpy())
        logits.append(model.classifier(pooled).detach().double().numpy())
    return np.stack(states), np.stack(logits)


def softmax(values):
    made = np.exp(values - values.max(-1, keepdims=True))
    return made / made.sum(-1, keepdims=True)


def split_by_hand(states, logits, weights, pairs, temperature, null_space, seed):
    """p(s | c) (R, C, S): singular vectors of each class's own states, a rotation drawn as the term draws."""
    draws = torch.Generator().manual_seed(seed)
    of, made = logits.argmax(1), []
    for number in range(logits.shape[1]):
        own = states[of == number]
        raw = torch.randn(pairs, pairs, generator=draws, dtype=torch.float64).numpy()
        q, r = np.linalg.qr(raw)
        rotation = q * np.sign(np.diag(r))
        middle = own.mean(0) if len(own) else np.zeros(states.shape[1])
        away = own - middle
        if null_space:
            away = away - away @ np.linalg.pinv(weights) @ weights
        if len(own) < 2:
            made.append(np.full((len(states), 2 * pairs), 0.5 / pairs))
            continue
        vectors = np.linalg.svd(away, full_matrices=True)[2][:pairs]
        vectors = np.stack([v * np.sign(v[np.abs(v).argmax()]) for v in vectors])
        axes = rotation @ vectors
        size = np.sqrt(np.mean((away @ axes.T) ** 2))
        along = (states - middle) @ axes.T / size
        made.append(softmax(np.concatenate([along, -along], 1) / temperature))
    return np.stack(made, 1)


def whole_kl(p, shares, q, ours):
    """Over classes and subclasses together, less what is between the classes alone: loops."""
    total = 0.0
    for row in range(len(p)):
        for c in range(p.shape[1]):
            for s in range(shares.shape[2]):
                joint = p[row, c] * shares[row, c, s]
                if joint > 0:
                    total += joint * np.log(joint / (q[row, c] * ours[row, c, s]))
            total -= p[row, c] * np.log(p[row, c] / q[row, c])
    return total


def check(tmp_path, **settings):
    term = SubclassMatch(**{"seed": 4, **settings})
    trainer = trainer_of(tmp_path, [Divergence("forward-kl"), term])
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(len(MANY))])
    found = float(term.total(trainer.rows(batch)).detach())
    student, teacher = trainer.models.student(), trainer.models.first_teacher()
    states, logits = into_the_head(teacher)
    mine, q = into_the_head(student)
    weights = teacher.classifier.weight.detach().double().numpy()
    assert len({*logits.argmax(1)}) > 1, "several classes are split"
    shares = split_by_hand(
        states, logits, weights, term.subclasses // 2, term.temperature, settings.get("null_space", True), 4
    )
    layer = mine @ term.layer.weight.detach().double().numpy().T + term.layer.bias.detach().double().numpy()
    ours = softmax(layer.reshape(len(MANY), logits.shape[1], -1))
    right = whole_kl(softmax(logits), shares, softmax(q), ours)
    assert right > 0.1
    assert found == pytest.approx(right, rel=2e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"subclasses": 2, "temperature": 0.5}, {"null_space": False}, {"temperature": 3.0}]
)
def test_it_is_what_all_subclasses_together_have_beyond_the_classes(settings, tmp_path):
    check(tmp_path, **settings)


def _least_first(eigh):
    return lambda square: SimpleNamespace(eigenvectors=eigh(square).eigenvectors.flip(1))


def _unturned(square):
    return SimpleNamespace(Q=torch.eye(len(square)).double(), R=torch.eye(len(square)).double())


MUTATIONS = {
    "one-side": lambda patch: patch.setattr(
        module.torch, "cat", lambda parts: torch.stack([*parts[0], *parts[0]])
    ),
    "no-rotation": lambda patch: patch.setattr(module.torch.linalg, "qr", _unturned),
    "the-least-of-the-directions": lambda patch: patch.setattr(
        module.torch.linalg, "eigh", _least_first(torch.linalg.eigh)
    ),
    "states-of-another-text": lambda patch: patch.setattr(
        module, "linear", lambda teacher: (teacher[0].roll(1, 0), teacher[1])
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_loops_catch_what_is_wrong(name, tmp_path, monkeypatch):
    MUTATIONS[name](monkeypatch)
    with pytest.raises(AssertionError):
        check(tmp_path)


def test_clusters_are_of_least_distance_and_found_again():
    """Four heaps of ten: each is a cluster, whatever is drawn."""
    draws = torch.Generator().manual_seed(0)
    heaps = torch.eye(4, 6).double().repeat_interleave(10, 0) * 9
    states = heaps + 0.1 * torch.randn(40, 6, generator=draws, dtype=torch.float64)
    for seed in range(5):
        middle, means = clusters(states, 4, torch.Generator().manual_seed(seed))
        near = torch.cdist(states - middle, means).argmin(1).view(4, 10)
        assert (near == near[:, :1]).all() and len(near[:, 0].unique()) == 4
        for number, heap in zip(near[:, 0], (states - middle).view(4, 10, 6), strict=True):
            torch.testing.assert_close(means[number], heap.mean(0))
    middle, means = clusters(states[:3], 4, draws)
    assert torch.equal(means, torch.zeros(4, 6).double()), "three states are no four clusters"


def test_nearest_clusters_are_certain(tmp_path):
    term = SubclassMatch(3, split="clusters", seed=2)
    trainer = trainer_of(tmp_path, [Divergence("forward-kl"), term])
    states, _ = trainer.teacher_states()
    shares = term.shares(states)
    assert shares.shape == (len(MANY), 3, 3) and torch.equal(shares.sum(-1), torch.ones(len(MANY), 3))
    for row, state in enumerate(states):
        for c in range(3):
            gaps = [float((state - term.middles[c] - term.axes[c, s]).norm()) for s in range(3)]
            assert shares[row, c, int(np.argmin(gaps))] == 1


def test_the_layer_learns_along_and_the_student_is_plain(tmp_path):
    term = SubclassMatch(2, seed=0)
    trainer = trainer_of(tmp_path, [Divergence("forward-kl"), term])
    before = term.layer.weight.clone()
    trainer.train()
    assert not torch.equal(term.layer.weight, before)
    assert not torch.equal(
        head_of_classifier(trainer.model).weight, head_of_classifier(model_of(seed=3)).weight
    )
    trainer.model.save_pretrained(tmp_path / "saved")
    _, told = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not told["unexpected_keys"] and not told["missing_keys"]


def test_what_has_no_sense_is_refused(tmp_path):
    for settings, said in (
        ({"subclasses": 3}, "3 subclasses cannot be"),
        ({"subclasses": 1, "split": "clusters"}, "1 subclasses cannot be"),
        ({"split": "trees"}, "by directions or clusters, not by 'trees'"),
        ({"temperature": 0.0}, "not positive"),
    ):
        with pytest.raises(MethodError, match=said):
            SubclassMatch(**settings)
    with pytest.raises(MethodError, match="here tokens have labels"):
        trained(
            tmp_path,
            model_of(tokens=True),
            [HiddenMatch(), SubclassMatch()],
            teacher=model_of(tokens=True),
            tokens=True,
        )
