"""What the student, its start and the teachers think of completions: log-probabilities, entropy, divergence, states."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.losses.fused.kernels import Layout
from methods.losses.fused.linear import Head, head_of, linear_divergence, linear_log_probs
from methods.modeling.core import token_states
from methods.modeling.rollouts import spread
from methods.slots.advantages import START
from methods.slots.advantages.signals import DIVERGENCE, ENTROPY, STUDENT
from methods.trainers.optimisation.record import as_batch


@torch.no_grad()
def linear_entropy(hidden: Tensor, head: Head, *, temperature: float = 1.0) -> Tensor:
    """Entropy (N,) in nats of what a head makes of hidden states (N, H); logits exist a few rows at a time."""
    size = len(head.weight)
    chunk = Layout.plan(len(hidden), size, hidden.device, torch.float32, None).chunk
    found = []
    for rows in hidden.split(chunk):
        logq = (head.logits(rows) / temperature).log_softmax(-1)
        found.append(-torch.special.xlogy(logq.exp(), logq.exp()).sum(-1))
    return torch.cat(found) if found else hidden.new_zeros(0)


def sampling_weights(
    student: Tensor, sampled: Tensor, mask: Tensor, *, most: float | None, given: Tensor | None
) -> Tensor:
    """(B, C) the student's probability of a token over the one it was sampled with, at most `most`; 0 off `mask`.

    Both are log-probabilities (B, C) in nats. Of completions that were `given` (B,) nothing was sampled: 1.
    """
    weights = (student - sampled).exp()
    if most is not None:
        weights = weights.clamp_max(most)
    if given is not None:
        weights = weights.masked_fill(given.unsqueeze(1), 1.0)
    return weights.masked_fill(mask == 0, 0.0)


@torch.no_grad()
def looked_at(
    batches: Mapping[str | int, Mapping[str, Tensor]],
    mask: Tensor,
    models: Mapping[str | int, Any],
    *,
    asked: Collection[str | int],
    kept: Collection[str | int],
    temperature: float,
    read: Callable[[Any, Mapping[str, Tensor]], Tensor] = token_states,
) -> dict[str, Tensor]:
    """By name, tensors (B, C, ...) of a part of the generation batch, on the tokens inside `mask` (B, C).

    `batches` and `models` by whom (STUDENT, START, numbers of teachers): a part of the generation batch as each reads
    it, the same completions behind prompts of its own. "log_probs <who>" of those in `asked`, the student's at the
    temperature of sampling; "entropy" (its, at that temperature) and "divergence" (to teacher 0, at 1); "hidden <who>"
    of those in `kept`. `read` says how a model reads a batch.
    """
    ids = next(iter(batches.values()))["labels"][:, 1:]
    ids, made = ids[ids != -100], dict[str, Tensor]()
    states: dict[str | int, Tensor] = {}
    for who, model in models.items():
        states[who] = read(model, batches[who])
        if who in asked:
            heat = temperature if who == STUDENT else 1.0
            said = linear_log_probs(states[who], head_of(model), ids, temperature=heat)
            made[f"log_probs {who}"] = spread(said, mask)
        if who in kept:
            made[f"hidden {who}"] = spread(states[who], mask)
    if ENTROPY in asked:
        entropy = linear_entropy(states[STUDENT], head_of(models[STUDENT]), temperature=temperature)
        made[ENTROPY] = spread(entropy, mask)
    if DIVERGENCE in asked:
        sides = ((states[who], head_of(models[who])) for who in (STUDENT, 0))
        (ours, our_head), (theirs, their_head) = sides
        gap = linear_divergence(ours, our_head, theirs, their_head, divergence="reverse_kl").values
        made[DIVERGENCE] = spread(gap, mask)
    return made


def opinions(
    trainer: Any, inputs: Mapping[str, Tensor], shown: Sequence[str | None] | None = None
) -> dict[str, Tensor]:
    """What everybody whom a policy trainer asks thinks of its completions, a micro-batch at a time, without dropout.

    `shown`: of each completion the sibling that teachers are shown.
    """
    if not trainer._scored:
        return {}
    models = {who: trainer._model(who) for who in trainer._scored}
    student = trainer._model(STUDENT)
    training = student.training
    student.eval()
    found = []
    read: dict[str | int, Tensor | int] = dict.fromkeys(models, 0)
    rows = torch.arange(len(inputs["mask"]), device=inputs["mask"].device)
    for part in rows.split(trainer.args.per_device_train_batch_size):
        some = {name: tensor[part] for name, tensor in inputs.items()}
        batch, siblings = as_batch(some), None if shown is None else [shown[place] for place in part.tolist()]
        batches: dict[str | int, Mapping[str, Tensor]] = {}
        for who in models:
            prompts = trainer.models.prompts[who] if isinstance(who, int) else None
            batches[who] = batch if prompts is None else prompts.batch(batch, siblings)
            read[who] = read[who] + batches[who]["attention_mask"].sum()
        with trainer.accelerator.autocast():
            found.append(
                looked_at(
                    batches,
                    some["mask"],
                    models,
                    asked=trainer._asked,
                    kept=trainer._kept,
                    temperature=trainer.temperature,
                    read=trainer.token_states,
                )
            )
    student.train(training)
    for who, tokens in read.items():  # of a student that learns
        trainer.count_tokens("student" if who in (STUDENT, START) else "teacher", tokens)
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}
