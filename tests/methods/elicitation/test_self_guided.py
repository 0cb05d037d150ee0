"""Weights against noise: the slope by finite differences in float64, planted noise found, wrong turns caught."""

import pytest
import torch
from datasets import Dataset

from methods.assembly import rows_of
from methods.data_tree import canonical_data
from methods.elicitation import self_guided as module
from methods.elicitation.self_guided import learnt_weights, read_texts, self_guided, slope_of
from methods.errors import MethodError
from methods.toy import ToyClasses, ToySurroundings

TEXTS, WIDTH = 120, 6


def planted(noise=0.3, seed=0):
    """Two clouds, and labels of which a share is turned round: features (N, H), labels (N,), which are right (N,)."""
    draws = torch.Generator().manual_seed(seed)
    truth = torch.arange(TEXTS) % 2
    centre = torch.randn(WIDTH, generator=draws, dtype=torch.float64)
    features = (truth[:, None] * 2 - 1) * centre + 0.7 * torch.randn(TEXTS, WIDTH, generator=draws).double()
    right = torch.rand(TEXTS, generator=draws) >= noise
    return features / WIDTH**0.5, torch.where(right, truth, 1 - truth), right


def outer_by_hand(weights, features, labels, inside, outside, outer, inner, rate):
    """The outer loss after `inner` steps, the last of which alone sees `weights`: once more, one text a time."""
    texts = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1)
    theta = torch.zeros(2, WIDTH + 1, dtype=torch.float64)
    for step in range(inner):
        own = weights if step == inner - 1 else weights.detach()
        slope = torch.zeros_like(theta)
        for place in inside.tolist():
            p = (texts[place] @ theta.T).softmax(0)
            errors = p - torch.nn.functional.one_hot(labels[place], 2)
            slope = slope + own[place] * torch.outer(errors, texts[place])
        theta = theta - rate * slope / len(inside)
    total = 0.0
    for place in outside.tolist():
        p = (texts[place] @ theta.T).softmax(0)
        right = p[labels[place]]
        total = total + (4 * (1 - right) if outer == "reverse-cross-entropy" else -right.log())
    return total / len(outside)


def check_slope(slope, outer):
    features, labels, _ = planted()
    draws = torch.Generator().manual_seed(3)
    order = torch.randperm(TEXTS, generator=draws)
    inside, outside = order[30:], order[:30]
    weights = torch.rand(TEXTS, generator=draws, dtype=torch.float64)
    found = slope(features, labels, 2, weights, inside, outside, outer, 3, 2.0)
    about, step = (features, labels, inside, outside, outer, 3, 2.0), 1e-6
    for number, place in list(enumerate(inside.tolist()))[:6]:
        # The steps before the last are those of the weights as they are: only the last one is moved.
        ends = []
        for sign in (1, -1):
            moved = weights.clone()
            moved[place] += sign * step
            ends.append(last_step_moved(weights, moved, *about))
        want = (ends[0] - ends[1]) / (2 * step)
        assert float(found[number]) == pytest.approx(float(want), rel=1e-5, abs=1e-9)


def last_step_moved(weights, moved, features, labels, inside, outside, outer, inner, rate):
    class Both:
        """The weights as they are, until the last step asks."""

        def __init__(self):
            self.asked = 0

        def detach(self):
            return weights

        def __getitem__(self, place):
            return moved[place]

    return outer_by_hand(Both(), features, labels, inside, outside, outer, inner, rate)


@pytest.mark.parametrize("outer", ["reverse-cross-entropy", "cross-entropy"])
def test_the_slope_of_a_weight_is_that_of_the_outer_loss(outer):
    check_slope(slope_of, outer)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda *given: -slope_of(*given),
        lambda *given: slope_of(*given[:6], "cross-entropy", *given[7:]),
        lambda *given: slope_of(*given[:7], given[7] + 1, given[8]),
    ],
    ids=["turned", "the other loss", "a step too many"],
)
def test_a_slope_that_is_another_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_slope(wrong, "reverse-cross-entropy")


def auc(weights, right):
    """How often a right label weighs more than a wrong one; ties count half."""
    pairs = weights[right][:, None] - weights[~right][None]
    return float((pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean())


SETTINGS = {"rounds": 60, "inner": 20, "inner_rate": 4.0, "outer_rate": 0.25, "held": 0.3}


@pytest.mark.parametrize("seed", [0, 1])
def test_wrong_labels_lose_their_weight_although_nobody_says_which(seed):
    features, labels, right = planted(seed=seed)
    weights = learnt_weights(features, labels, 2, outer="reverse-cross-entropy", seed=seed, **SETTINGS)
    assert auc(weights, right) > 0.85 and float(weights.min()) >= 0 and float(weights.max()) <= 1
    flat = learnt_weights(features, labels, 2, outer="cross-entropy", seed=seed, **{**SETTINGS, "rounds": 0})
    assert set(flat.tolist()) == {0.5}


def test_weights_that_are_turned_round_find_no_noise(monkeypatch):
    monkeypatch.setattr(module, "slope_of", lambda *given: -slope_of(*given))
    features, labels, right = planted()
    assert (
        auc(learnt_weights(features, labels, 2, outer="reverse-cross-entropy", seed=0, **SETTINGS), right)
        < 0.2
    )


@pytest.mark.parametrize("around", [ToyClasses, ToySurroundings])
def test_texts_are_read_alike_whoever_stands_beside_them(around):
    surroundings = around()
    model, tokenizer = surroundings.student(), surroundings.tokenizer
    texts = ["ab", "distil", "gap", "hello"]
    together = read_texts(model.double(), tokenizer, texts, 10)
    assert together.shape == (4, 12) and torch.allclose(
        together.mean(0), torch.zeros(12, dtype=torch.float64)
    )
    alone = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        alone.append(model.base_model(input_ids=ids).last_hidden_state[0].mean(0).detach())
    plain = torch.stack(alone)
    want = (plain - plain.mean(0)) / plain.std(0) / 12**0.5
    torch.testing.assert_close(together, want.double(), atol=1e-5, rtol=1e-4)


def test_as_many_of_each_class_are_kept_with_their_columns():
    surroundings = ToyClasses()
    rows = Dataset.from_list(
        [
            {"prompt": word, "completion": "ab"[n % 2], "source": str(n)}
            for n, word in enumerate(["ab", "gap", "kd"] * 4)
        ]
    )
    made = self_guided(rows, None, surroundings, keep=3, rounds=3)
    assert sorted(made["completion"]) == ["a"] * 3 + ["b"] * 3 and made["source"] == sorted(
        made["source"], key=int
    )
    again = self_guided(rows, None, surroundings, keep=3, rounds=3)
    assert again.to_list() == made.to_list()
    assert len(rows_of(canonical_data({"use": "self-guided", "keep": 2}, {}), surroundings)) == 4
    for wrong, said in (
        ({"keep": 9}, "keeps 9 rows of each of several classes; there are a 6, b 6"),
        ({"keep": 3, "outer": "cross-entropie"}, 'no outer loss "cross-entropie".*did you mean'),
        ({"keep": 3, "held": 1.0}, '"held" between 0 and 1'),
    ):
        with pytest.raises(MethodError, match=said):
            self_guided(rows, None, surroundings, **wrong)
