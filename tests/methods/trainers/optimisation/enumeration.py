"""A student and teachers over four tokens, all 40 completions of at most three, and the trainer's expected gradient.

float64, GPT-2 (Llama normalises in float32 whatever the weights are).
"""

import torch
from datasets import Dataset

from methods.trainers.optimisation import OptimisationConfig, PolicyOptimiser, Record
from tests.methods.conftest import make_model
from tests.methods.trainers.test_policy import (
    LIMIT,
    PROMPT,
    VOCABULARY,
    as_rollouts,
    completions,
    gradient,
    next_token_kl,
    token_logps,
)

ALL = completions()
__all__ = ["ALL", "gradient", "next_token_kl", "token_logps"]


def model(seed: int):
    return make_model("gpt2", seed=seed, vocabulary=VOCABULARY, width=8, layers=1).double()


def trainer_of(student, folder, tokenizer, *, teachers=(), settings=None, **parts) -> PolicyOptimiser:
    args = OptimisationConfig(
        output_dir=str(folder), per_device_train_batch_size=8, use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, max_completion_length=LIMIT, max_steps=1,
        **{"num_generations": 1, "epsilon": None, **(settings or {})},
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "a", "completion": "b"}] * 16)
    return PolicyOptimiser(
        student, args=args, train_dataset=rows, processing_class=tokenizer, teacher=list(teachers), **parts
    )


def record_of(some=ALL, **more) -> Record:
    """Completions as if they had been sampled; each in a group of its own where nothing else is said."""
    given = {"group": torch.arange(len(some)), "rewards": torch.zeros(len(some), 0)}
    return Record(as_rollouts(list(some)), **(given | more))


def loss_of(trainer, record: Record, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The trainer's own loss of completions, as a sum over tokens; `weights` (B,) multiply the advantages."""
    inputs = trainer.scored(record)
    if weights is not None:
        inputs["advantages"] = inputs["advantages"] * weights.unsqueeze(1)
    return loss_on(trainer, inputs)


def loss_on(trainer, inputs) -> torch.Tensor:
    """The same of completions that are scored already."""
    trainer._begin([inputs])
    one = torch.tensor(1)
    counts = {**trainer._counts, "tokens": one, "completions": one}
    return trainer._compute_loss(trainer.model, {**inputs, "batch": trainer._window[0], "window": counts})


def probabilities(student) -> torch.Tensor:
    with torch.no_grad():
        return chosen(every_next(student)).sum(1).exp()


def expected(trainer, student, record: Record | None = None) -> torch.Tensor:
    """The trainer's gradient, in expectation over what the student samples."""
    return gradient(loss_of(trainer, record or record_of(), probabilities(student)), trainer.model)


def expected_terms(trainer, student) -> torch.Tensor:
    """The same for terms, whose sums are not weighted by the completion: one at a time."""
    inputs, total = trainer.scored(record_of()), torch.zeros(())
    for place, probability in enumerate(probabilities(student)):
        own = {name: tensor[place : place + 1] for name, tensor in inputs.items()}
        total = total + probability * loss_on(trainer, own)
    return gradient(total, trainer.model)


def every_next(model) -> torch.Tensor:
    """log-probabilities (40, 3, V) of the next token at each place of every completion, in one plain forward."""
    ids = as_rollouts(ALL).completion_ids
    prompt = torch.full((len(ALL), 1), PROMPT[0])
    return model(torch.cat([prompt, ids], 1)).logits.log_softmax(-1)[:, :-1]


def chosen(log_probs: torch.Tensor) -> torch.Tensor:
    """Of those the completions' own tokens, (40, 3), 0 behind their ends."""
    rollouts = as_rollouts(ALL)
    own = log_probs.gather(-1, rollouts.completion_ids.unsqueeze(-1)).squeeze(-1)
    return own * rollouts.completion_mask


def positions_kl(student, gap_of) -> torch.Tensor:
    """Sum over completions of q(y), without gradient, times the sum of `gap_of(log q)` (40, 3) over their places."""
    log_q = every_next(student)
    weights = chosen(log_q).sum(1).exp().detach().unsqueeze(1) * as_rollouts(ALL).completion_mask
    return (weights * gap_of(log_q)).sum()


def reverse(log_p: torch.Tensor):
    """KL(q || p) at each place, by log q."""
    return lambda log_q: (log_q.exp() * (log_q - log_p.detach())).sum(-1)
