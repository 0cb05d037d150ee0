"""A student's and a teacher's hidden states and heads, and their logits, for the tests of the fused losses."""

import torch

from methods.losses.fused.linear import Head

ROWS, VOCABULARY, WIDTH, TEACHER_WIDTH = 11, 37, 5, 7


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def student_side(rows=(ROWS,), vocabulary=VOCABULARY, dtype=torch.float64, **head):
    hidden = normal(*rows, WIDTH, seed=1, dtype=dtype).requires_grad_()
    return hidden, Head(normal(vocabulary, WIDTH, seed=2, dtype=dtype).requires_grad_(), **head)


def teacher_side(rows=(ROWS,), vocabulary=VOCABULARY, dtype=torch.float64, **head):
    hidden = normal(*rows, TEACHER_WIDTH, seed=3, dtype=dtype)
    return hidden, Head(normal(vocabulary, TEACHER_WIDTH, seed=4, dtype=dtype), **head)


def bias(seed, size=VOCABULARY):
    return normal(size, seed=seed).requires_grad_()


def logits(hidden, head):
    z = hidden @ head.weight.t()
    z = (z if head.bias is None else z + head.bias) * head.scale
    return z if head.soft_cap is None else head.soft_cap * torch.tanh(z / head.soft_cap)


def leaves(hidden, head):
    return [x for x in (hidden, head.weight, head.bias) if x is not None and x.requires_grad]


def assert_same_gradients(expected, got, inputs, **tolerance):
    for a, b in zip(
        torch.autograd.grad(expected, inputs, retain_graph=True),
        torch.autograd.grad(got, inputs, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(b, a, **tolerance)
