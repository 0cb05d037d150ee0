"""Which of written texts a student learns from: weights that are learnt against noise, without anybody's labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.modeling.core import core_model, position_ids
from methods.modeling.rollouts import left_pad
from methods.registry import component, near

if TYPE_CHECKING:
    from datasets import Dataset

    from methods.assembly import Surroundings

OUTER = ("reverse-cross-entropy", "cross-entropy")
NEVER = -4.0  # log 0 in the reverse cross-entropy, as of symmetric cross-entropy, arXiv 1908.06112
READ = 32  # texts read together


@component("data", "self-guided")
def self_guided(
    rows: Dataset,
    teacher: None,
    surroundings: Surroundings,
    *,
    keep: int,
    outer: str = "reverse-cross-entropy",
    rounds: int = 100,
    inner: int = 20,
    inner_rate: float = 4.0,
    outer_rate: float = 0.25,
    held: float = 0.3,
    seed: int = 0,
) -> Dataset:
    """Of each class the `keep` rows with the largest weights, which bilevel optimisation learns from the rows alone.

    The inner problem trains a linear classifier of what the student, before its training, makes of the texts, by the
    cross-entropy that the weights weigh: `inner` steps at `inner_rate`. The outer one moves the weights, from 0.5
    within 0 to 1, so that the `outer` loss of that classifier falls on a share `held` of the rows, for `rounds` rounds,
    each with its own draw of both sides; its gradient goes through the last inner step alone. The reverse cross-entropy
    is 4 (1 - p of the label): a wrong label pulls no harder the surer the classifier is. Raises MethodError for one
    class, or fewer rows of a class than are kept.
    Source: SunGen, arXiv 2205.12679 (a small model trained within, reverse cross-entropy without, weights within 0 and
    1, outer rate 0.25, 100 rounds in the released code); the linear classifier and its rate are our choice.
    """
    if outer not in OUTER:
        raise MethodError(
            f'self-guided: no outer loss "{outer}"{near(outer, OUTER)}; known: {", ".join(OUTER)}'
        )
    if keep < 1 or rounds < 0 or inner < 1 or not 0 < held < 1:
        raise MethodError(
            'self-guided: "keep" and "inner" are 1 or more, "rounds" 0 or more, "held" between 0 and 1'
        )
    names = sorted(set(rows["completion"]))
    labels = torch.tensor([names.index(name) for name in rows["completion"]])
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    if len(names) < 2 or min(counts) < keep:
        told = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
        raise MethodError(f"self-guided keeps {keep} rows of each of several classes; there are {told}")
    features = read_texts(
        surroundings.student(), surroundings.tokenizer, list(rows["prompt"]), surroundings.prompt_tokens
    )
    weights = learnt_weights(
        features, labels, len(names), outer=outer, rounds=rounds, inner=inner, inner_rate=inner_rate,
        outer_rate=outer_rate, held=held, seed=seed,
    )  # fmt: skip
    kept = []
    for number in range(len(names)):
        own = (labels == number).nonzero().squeeze(1).tolist()
        kept += sorted(own, key=lambda place: (-float(weights[place]), place))[:keep]
    return rows.select(sorted(kept))


@torch.no_grad()
def read_texts(model: Any, tokenizer: Any, texts: Sequence[str], limit: int) -> Tensor:
    """What a model makes of texts: the mean of its last hidden states over a text, scaled to deviation 1; (N, H)."""
    core: Any = core_model(model)
    body, mode = getattr(core, "base_model", core), core.training
    core.eval()
    found = []
    try:
        for start in range(0, len(texts), READ):
            ids = tokenizer(list(texts[start : start + READ]), truncation=True, max_length=limit)["input_ids"]
            pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            if tokenizer.padding_side == "left":
                batch, mask = left_pad(ids, pad, core.device)
                more = {"position_ids": position_ids(mask)}
            else:
                padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
                batch, mask = padded["input_ids"].to(core.device), padded["attention_mask"].to(core.device)
                more = {}
            states = body(input_ids=batch, attention_mask=mask, **more).last_hidden_state.float()
            found.append((states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))
    finally:
        core.train(mode)
    made = torch.cat(found).cpu().double()
    return (made - made.mean(0)) / made.std(0).clamp_min(1e-6) / made.shape[1] ** 0.5


def learnt_weights(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    outer: str,
    rounds: int,
    inner: int,
    inner_rate: float,
    outer_rate: float,
    held: float,
    seed: int,
) -> Tensor:
    """Weights (N,) of texts (N, H) with labels (N,), learnt as `self_guided` says; each round's step has length 1."""
    draws = torch.Generator().manual_seed(seed)
    weights = torch.full((len(labels),), 0.5, dtype=features.dtype)
    for _ in range(rounds):
        order = torch.randperm(len(labels), generator=draws)
        cut = max(1, int(held * len(labels)))
        outside, inside = order[:cut], order[cut:]
        slope = slope_of(features, labels, classes, weights, inside, outside, outer, inner, inner_rate)
        largest = slope.abs().max()
        if largest > 0:
            weights[inside] = (weights[inside] - outer_rate * slope / largest).clamp(0, 1)
    return weights


def slope_of(
    features: Tensor,
    labels: Tensor,
    classes: int,
    weights: Tensor,
    inside: Tensor,
    outside: Tensor,
    outer: str,
    inner: int,
    inner_rate: float,
) -> Tensor:
    """The slope of the outer loss in the weights of the texts `inside`, through the last inner step: (len(inside),).

    With theta' = theta - rate mean_i w_i g_i(theta) it is -rate / n times the product of g_i(theta) and the outer
    loss's gradient at theta': what a text teaches, beside what helps the others.
    """
    theta = features.new_zeros(classes, features.shape[1] + 1)
    texts = torch.cat([features, features.new_ones(len(features), 1)], 1)
    own, others = texts[inside], texts[outside]
    wanted = torch.nn.functional.one_hot(labels[inside], classes).to(features)
    for _ in range(inner):
        errors = (own @ theta.T).softmax(1) - wanted  # (n, C): the gradient of a text's loss in its logits
        before = errors
        theta = theta - inner_rate * (weights[inside, None] * errors).T @ own / len(inside)
    pull = _gradient(OUTER_LOSSES[outer], others @ theta.T, labels[outside]).T @ others
    return -inner_rate / len(inside) * ((own @ pull.T) * before).sum(1)


def _gradient(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """Of the mean loss in the logits (N, C)."""
    logits = logits.detach().requires_grad_(True)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(loss(logits, labels), logits)
    return found


def reverse_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-sum_k p_k log y_k with log 0 = NEVER, in the mean: 4 (1 - p of the label)."""
    said = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    return (-NEVER * (1 - said)).mean()


OUTER_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reverse-cross-entropy": reverse_cross_entropy,
    "cross-entropy": torch.nn.functional.cross_entropy,
}
