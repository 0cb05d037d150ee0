"""Signals written by hand, and every group of answers of a small bandit."""

import itertools

import torch

from methods.slots.advantages import Signals

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])


def signals(seed: int = 0, **given) -> Signals:
    """Three completions with log-probabilities of the student, its start and two teachers."""
    torch.manual_seed(seed)
    said = {who: -torch.rand(3, 4, dtype=torch.float64) * 3 * MASK for who in ("student", "start", 0, 1)}
    made = {
        "mask": MASK,
        "log_probs": said,
        "entropy": torch.rand(3, 4, dtype=torch.float64),
        "divergence": torch.rand(3, 4, dtype=torch.float64),
        "rewards": torch.tensor([[1.0], [0.0], [0.0]]),
        "group": torch.tensor([0, 0, 0]),
        "columns": {"domain": ["maths", "code", "maths"]},
    }
    return Signals(**(made | given))


def every_group(rewards: torch.Tensor, n: int) -> tuple[torch.Tensor, Signals]:
    """All K^n groups of n answers of a bandit with K answers: which answers (K^n, n), and their signals."""
    answers = torch.tensor(list(itertools.product(range(len(rewards)), repeat=n)))
    flat = answers.flatten()
    group = torch.arange(len(answers)).repeat_interleave(n)
    made = Signals(
        mask=torch.ones(len(flat), 1, dtype=torch.long), rewards=rewards[flat].unsqueeze(1), group=group
    )
    return answers, made
