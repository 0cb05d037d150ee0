"""Answers of the student's own near future: the same training run ahead, and what its later checkpoint gets right."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import TrainerCallback

from methods.assembly import trainer_for
from methods.elicitation.steps import checked_answers
from methods.errors import Broken, MethodError
from methods.losses.fused.linear import head_of, linear_log_probs
from methods.modeling.core import core_model, token_states
from methods.modeling.rollouts import labelled, left_pad, prompt_tokens
from methods.recipe import SAMPLES_ITSELF, canonical_method
from methods.registry import component
from methods.trainers.optimisation.given import behind_prompts, log_probs_of

if TYPE_CHECKING:
    from methods.assembly import Surroundings

GUIDE = "guide"


@component("data", "guide-answers")
def guide_answers(
    rows: Dataset,
    teacher: None,
    surroundings: Surroundings,
    *,
    verifier: Mapping[str, Any] | str = "exact-answer",
    ahead: int = 100,
    num_generations: int = 8,
    baseline: str = "mean-std",
    loss_type: str = "grpo",
    kl_weight: float = 0.04,
    samples: int = 8,
    temperature: float = 1.0,
    threshold: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    **parts: Any,
) -> Dataset:
    """The rows with an answer to each prompt that a later checkpoint of the student's own GRPO run got right.

    The student is trained for the first `ahead` steps of the training that is wanted, its seed, schedule and order of
    prompts, by GRPO on the `verifier` (groups of `num_generations`, a `baseline`, a `loss_type`, the k3 estimate of the
    KL to the start weighed by `kl_weight`); 0 is the student as it is. That guide writes `samples` answers to each
    prompt; the first whose reward reaches `threshold` stands in the column `guide`, None where there is none, and the
    guide's log-probabilities of its tokens at `temperature`, in nats, in `guide_log_probs`. Raises Broken where none
    is right, MethodError where none of the student's as it is.
    Source: NPO, arXiv 2604.20733, section 3 and Algorithm 1, known through reading notes (train ahead, go back, keep
    one verified answer for each prompt); the number of answers is our choice.
    """
    if ahead < 0 or samples < 1:
        raise MethodError(
            f'guide-answers: "ahead" is 0 or more and "samples" 1 or more, not {ahead} and {samples}'
        )
    start = surroundings.student()
    around = _Around(surroundings, copy.deepcopy(start), rows, parts.get("training", {}))
    if ahead:
        method = canonical_method(
            {
                "teacher": None,
                "trainer": {
                    "name": SAMPLES_ITSELF,
                    "num_generations": num_generations,
                    "loss_type": loss_type,
                },
                "rewards": [verifier],
                "advantage": {"name": "group-reward", "baseline": baseline},
                "terms": [{"term": "sampled-kl", "estimator": "k3", "to": "start", "weight": kl_weight}],
            }
        )
        trainer = trainer_for(method, around)
        trainer.add_callback(StopsAfter(ahead))
        trainer.args.set_save(strategy="no")  # a checkpoint of it is none of the student's
        around.model = surroundings.train(trainer, GUIDE)
    sampling: dict[str, Any] = {
        "temperature": temperature,
        "greedy": False,
        "batch_size": batch_size,
        "seed": seed,
    }
    right: dict[str, str] = {}
    judged = checked_answers(rows, around, verifier, samples, **sampling)
    for prompt, text, figure in judged:
        if figure is not None and figure >= threshold:
            right.setdefault(prompt, text)
    if not right:
        error = Broken if ahead else MethodError  # what no training changed no rate has broken
        raise error(f"guide-answers: none of the guide's {len(judged)} answers is right")
    said = log_probs_by(around.model, surroundings.tokenizer, right, temperature, batch_size)
    prompts, names = list(rows["prompt"]), (GUIDE, log_probs_of(GUIDE))
    kept = rows.remove_columns([name for name in names if name in rows.column_names])
    kept = kept.add_column(names[0], [right.get(prompt) for prompt in prompts])
    return kept.add_column(names[1], [said.get(prompt) for prompt in prompts])


class _Around:
    """Surroundings with another student, these rows to train on, and these arguments."""

    def __init__(self, around: Surroundings, model: Any, rows: Dataset, training: Mapping[str, Any]) -> None:
        self._around, self.model, self._rows, self._training = around, model, rows, training

    def __getattr__(self, name: str) -> Any:
        return getattr(self._around, name)

    def student(self) -> Any:
        return self.model

    def rows(self, name: str) -> Dataset:
        return self._rows

    def arguments(self, config_class: type, **more: Any) -> Any:
        return self._around.arguments(config_class, **{**self._training, **more})


class StopsAfter(TrainerCallback):
    """Ends a training after so many optimizer steps, its schedule as if it went on."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.steps:
            control.should_training_stop = True


@torch.no_grad()
def log_probs_by(
    model: Any, tokenizer: Any, answers: Mapping[str, str], temperature: float, batch_size: int
) -> dict[str, list[float]]:
    """By prompt, the model's log-probabilities of the tokens of an answer and of its end, in nats."""
    core, found = core_model(model), dict[str, list[float]]()
    training = core.training
    core.eval()
    for prompts in _pieces(list(answers), batch_size):
        asked = prompt_tokens(tokenizer, prompts)
        told = behind_prompts({"prompt": prompts, "completion": [answers[p] for p in prompts]}, tokenizer)
        prompt_ids, prompt_mask = left_pad(asked, 0, core.device)
        width = max(map(len, told))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in told], device=core.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in told], device=core.device)
        states = token_states(core, labelled(prompt_ids, prompt_mask, ids, mask))
        said = linear_log_probs(states, head_of(core), ids[mask.bool()], temperature=temperature).tolist()
        for prompt, row in zip(prompts, told, strict=True):
            found[prompt], said = said[: len(row)], said[len(row) :]
    core.train(training)
    return found


def _pieces(items: Sequence[str], size: int) -> Iterator[list[str]]:
    yield from (list(items[start : start + size]) for start in range(0, len(items), size))
