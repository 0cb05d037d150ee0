"""The interpolated bound against loops in float64, against the bounds at its ends and a known mutual information."""

import math

import pytest
import torch
from torch import nn

from methods.errors import MethodError
from methods.losses.mutual_information import MutualInformation, interpolated_bound
from methods.slots.features import LayerFilters
from methods.slots.terms import HiddenMatch, NextToken
from methods.trainers import Distiller
from tests.methods.conftest import make_model
from tests.methods.slots.terms.test_hidden import arguments, block_outputs
from tests.methods.trainers.test_distiller import DATA, a_batch, logits_and_labels


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(scores, log_q, mixture):
    """The bound from its definition: scores[j][i] = f(x_i, y_j)."""
    size = len(scores)

    def a(j, without):
        mean = sum(math.exp(scores[j][i]) for i in range(size) if i != without) / (size - 1)
        return mixture * mean + (1 - mixture) * math.exp(log_q[j])

    total = 0.0
    for k in range(
        size
    ):  # each pair is left out once: it gives y_k for the products, the others give the pairs
        for i in range(size):
            if i != k:
                total += scores[i][i] - math.log(a(i, k)) - math.exp(scores[k][i]) / a(k, k)
    return 1 + total / (size * (size - 1))


@pytest.mark.parametrize("mixture", [0.0, 0.2, 0.5, 1.0])
def test_the_bound_is_its_definition(mixture):
    scores, log_q = 2 * normal(3, 6, 6), normal(3, 6, seed=1)
    got = interpolated_bound(scores, log_q, mixture).mean(-1)
    expected = [by_hand(s, q, mixture) for s, q in zip(scores.tolist(), log_q.tolist(), strict=True)]
    assert got.tolist() == pytest.approx(expected, rel=1e-10)


def test_one_end_is_infonce_and_at_most_the_log_of_the_others():
    scores, log_q = normal(7, 7), normal(7, seed=1)
    got = interpolated_bound(scores, log_q, 1.0).mean()
    parts = []
    for k in range(7):
        keep = [i for i in range(7) if i != k]
        kept = scores[keep][:, keep]
        parts.append((kept.diagonal() - kept.logsumexp(-1)).mean() + math.log(6))
    assert float(got) == pytest.approx(float(sum(parts)) / 7, rel=1e-10)
    assert torch.equal(got, interpolated_bound(scores, log_q + 3, 1.0).mean()), "no baseline there"
    perfect = interpolated_bound(50 * torch.eye(7).double(), log_q, 1.0).mean()
    assert float(perfect) == pytest.approx(math.log(6))


def test_the_other_end_is_the_bound_with_a_baseline_alone():
    scores, log_q = normal(7, 7), normal(7, seed=1)
    off = ~torch.eye(7, dtype=torch.bool)
    expected = 1 + (scores.diagonal() - log_q).mean() - (scores - log_q[:, None]).exp()[off].mean()
    torch.testing.assert_close(interpolated_bound(scores, log_q, 0.0).mean(), expected)


@pytest.mark.parametrize(("mixture", "tolerance"), [(0.0, 0.03), (0.01, 0.03), (0.5, 0.15)])
def test_it_bounds_the_information_of_correlated_normals(mixture, tolerance):
    rho, size = 0.8, 128
    information = -0.5 * math.log(1 - rho**2)
    x, noise = normal(200, size), normal(200, size, seed=1)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    spread = math.sqrt(1 - rho**2)
    # The critic and the baseline that are best: log p(y | x) and log p(y).
    scores = -0.5 * ((y[:, :, None] - rho * x[:, None, :]) / spread) ** 2 - math.log(spread)
    value = float(interpolated_bound(scores, -0.5 * y**2, mixture).mean())
    assert information - tolerance < value < information + 0.01


def test_what_is_outside_the_mask_counts_nowhere():
    scores, log_q = normal(3, 5, 5).requires_grad_(), normal(3, 5, seed=1)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    got = interpolated_bound(scores, log_q, 0.3, mask)
    torch.testing.assert_close(got[0, :3], interpolated_bound(scores[:1, :3, :3], log_q[:1, :3], 0.3)[0])
    torch.testing.assert_close(got[2], interpolated_bound(scores[2:], log_q[2:], 0.3)[0])
    assert (got[0, 3:] == 0).all() and (got[1] == 0).all(), "one token alone says nothing"
    got.sum().backward()
    assert scores.grad.isfinite().all() and (scores.grad[1] == 0).all()
    assert (scores.grad[0, 3:] == 0).all() and (scores.grad[0, :, 3:] == 0).all()


@pytest.mark.parametrize("mixture", [0.0, 0.4, 1.0])
def test_gradients_are_those_of_finite_differences(mixture):
    scores, log_q = normal(2, 4, 4).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    assert torch.autograd.gradcheck(lambda s, q: interpolated_bound(s, q, mixture, mask), (scores, log_q))


def test_a_dominant_pair_is_left_out_exactly():
    scores = torch.zeros(4, 4)
    scores.fill_diagonal_(60.0)  # e^60 swallows the others in fp32 before it is taken off again
    got = interpolated_bound(scores, torch.zeros(4), 1.0)
    expected = 1 + 60.0 - (60.0 + math.log(1 / 3)) - 1
    torch.testing.assert_close(got, torch.full((4,), expected), atol=1e-4, rtol=0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(MethodError, match="do not fit"):
        interpolated_bound(torch.zeros(3, 4), torch.zeros(3), 0.5)
    with pytest.raises(MethodError, match="mixture"):
        MutualInformation(4, mixture=1.5)


def critic_by_hand(critic, x, y):
    """-bound times the tokens of one sequence."""
    scores = (y @ critic.teacher.weight.T) @ (x @ critic.student.weight.T).T / critic.size**0.5
    first, _, last = critic.baseline
    log_q = (y @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
    return -len(x) * by_hand(scores.tolist(), log_q.squeeze(-1).tolist(), critic.mixture)


def test_tokens_are_compared_within_their_sequence():
    critic = MutualInformation(5, size=3, mixture=0.3, seed=1).double()
    nn.init.normal_(critic.baseline[2].weight, generator=torch.Generator().manual_seed(2))
    x, y = normal(9, 5), normal(9, 5, seed=1)
    got = critic(x, y, torch.tensor([0, 0, 0, 4, 7, 7, 7, 7, 7]))
    assert got[:3].sum().item() == pytest.approx(critic_by_hand(critic, x[:3], y[:3]))
    assert got[3].item() == 0
    assert got[4:].sum().item() == pytest.approx(critic_by_hand(critic, x[4:], y[4:]))
    assert len(critic(x[:0], y[:0], torch.zeros(0).long())) == 0


def test_hidden_matching_takes_a_critic_for_each_pair_of_layers(tmp_path, tokenizer):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24, layers=4).double()
    filters = LayerFilters((0,), 16, 24, seed=2).double()
    critics = [MutualInformation(24, size=8, seed=3).double()]
    options = {"teacher": teacher, "train_dataset": DATA, "processing_class": tokenizer}

    def terms(distance):
        match = HiddenMatch([(0, 2)], filters=(filters, None), weight=0.7, distance=distance)
        return [NextToken(), match]

    with pytest.raises(MethodError, match="2 modules for 1"):
        Distiller(student, args=arguments(tmp_path), terms=terms(critics * 2), **options)
    trainer = Distiller(student, args=arguments(tmp_path), terms=terms(critics), **options)
    batch = a_batch(tokenizer)
    loss = trainer.compute_loss(student, batch, num_items_in_batch=torch.tensor(11))
    z, labels, keep = logits_and_labels(student, batch)
    ours, theirs = block_outputs(student, batch)[0], block_outputs(teacher, batch)[2]
    matching = sum(
        critic_by_hand(critics[0], filters(0, ours[b, :-1][keep[b]]), theirs[b, :-1][keep[b]])
        for b in range(len(keep))
    )
    expected = nn.functional.cross_entropy(z, labels, reduction="sum") + 0.7 * matching
    assert loss.item() == pytest.approx(expected.item() / 11, rel=1e-9)

    names, was = set(student.state_dict()), [p.detach().clone() for p in critics[0].parameters()]
    trainer.train()
    assert set(student.state_dict()) == names, "the student leaves without them"
    moved = [not torch.equal(a, b) for a, b in zip(was, critics[0].parameters(), strict=True)]
    assert moved[:2] == [True, True], "the optimizer had the critic"


def test_learning_raises_the_bound_towards_the_information():
    torch.manual_seed(0)
    x = torch.randn(64, 12, 2)
    y = 0.9 * x + math.sqrt(1 - 0.81) * torch.randn(64, 12, 2)
    critic = MutualInformation(2, size=8)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)
    sequence = torch.arange(64).repeat_interleave(12)
    for _ in range(150):
        loss = critic(x.flatten(0, 1), y.flatten(0, 1), sequence).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0.5 < -loss.item() < -math.log(1 - 0.81) + 0.1
