"""What is made for several runs is made as it would be anywhere else."""

import contextlib

import pytest
import torch

from reproductions.engine.work import shared
from reproductions.engine.work.shared import outside_autocast


def trained():
    """A layer's weights after ten steps of training under autocast, and the losses: mean squares towards zero."""
    torch.manual_seed(0)
    layer, given, losses = torch.nn.Linear(8, 8), torch.randn(16, 8), []
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(10):
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(given).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return layer.weight.detach(), losses


@contextlib.contextmanager
def in_an_evaluation():
    with torch.autocast("cpu", torch.bfloat16):
        torch.nn.functional.linear(torch.randn(2, 8), torch.nn.Parameter(torch.randn(8, 8)))  # a cast is kept
        yield


@pytest.mark.parametrize("around", [contextlib.nullcontext, in_an_evaluation])
def test_a_training_inside_goes_by_its_own_steps(around):
    """Weights that autocast keeps are given up after each step, also where somebody asks amid an evaluation."""
    weight, losses = trained()
    with around():
        before = torch.is_autocast_enabled("cpu"), torch.autocast_increment_nesting()
        torch.autocast_decrement_nesting()
        with outside_autocast("cpu"):
            assert not torch.is_autocast_enabled("cpu")
            inside, found = trained()
        after = torch.is_autocast_enabled("cpu"), torch.autocast_increment_nesting()
        torch.autocast_decrement_nesting()
    assert torch.equal(inside, weight) and found == losses and losses[-1] < losses[0] / 2
    assert before == after


def test_autocast_that_is_only_turned_off_is_caught():
    weight, losses = trained()
    with torch.autocast("cpu", enabled=False):
        inside, found = trained()
    assert not torch.equal(inside, weight) and found[1:] == [found[0]] * 9, "the first weights at every step"


def test_what_is_built_is_built_outside(tmp_path, monkeypatch, trial):
    """The cache's own way: a model that is made under autocast is the one that is made without."""
    seen = []
    monkeypatch.setattr(
        shared, "outside_autocast", lambda device: seen.append(device) or outside_autocast(device)
    )

    class Bed:
        shelf, revision = "none", "0"

    run = trial(Bed())
    with in_an_evaluation():
        found = run.shared.data("figures", {"of": "a training"}, lambda apart: trained()[1])
    assert found == trained()[1] and seen == ["cpu"]
