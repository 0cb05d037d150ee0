"""Rollouts by vLLM, in the place of our own token-by-token loop: TRL starts the engine and gives it the weights.

What is tested are the calls that are made here, with a stand-in for the engine; it was never run on a GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from methods.engine import Engine
from methods.errors import MethodError
from methods.losses.divergences import check_temperature
from methods.modeling.core import core_model
from methods.modeling.rollouts import Rollouts, left_pad
from methods.trainers.trl_compat import VLLMGeneration, is_vllm_available

MOST_RATIO = 3.0  # TRL's vllm_importance_sampling_clip_max


class EngineRollouts:
    """Takes the place of `methods.modeling.rollouts.rollout`; `generation` is TRL's VLLMGeneration, or acts like it.

    The student's weights go to the engine before the first rollout after each step. `generator` has no say: the engine
    draws by numbers of its own, so that a run that is begun again, or goes on, gets other completions.
    Raises MethodError for what it cannot do: a teacher's share in sampling, an empty prompt.
    """

    def __init__(self, trainer: Any, generation: Any) -> None:
        self._trainer, self._generation = trainer, generation
        self._synced = -1  # the step whose weights the engine has

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        prompts: list[list[int]],
        *,
        max_new_tokens: int,
        eos_ids: list[int],
        pad_id: int,
        temperature: float = 1.0,
        greedy: bool = False,
        teacher: Any = None,
        teacher_mix: float = 0.0,
        vocabulary: int | None = None,
        generator: torch.Generator | None = None,
        log_probs: bool = False,
    ) -> Rollouts:
        if teacher_mix:
            raise MethodError("vLLM samples from the student alone: no share of a teacher's can be mixed in")
        if not greedy:
            check_temperature(temperature)
        if not prompts or any(len(prompt) == 0 for prompt in prompts):
            raise MethodError("cannot roll out from an empty prompt")
        made, device = self._generation, model.device
        made.temperature, made.max_completion_length = 0.0 if greedy else temperature, max_new_tokens
        made.top_p, made.top_k, made.min_p, made.repetition_penalty = 1.0, 0, 0.0, 1.0
        made.generation_kwargs = {"stop_token_ids": list(eos_ids)}
        head = len(core_model(model).get_output_embeddings().weight)
        if vocabulary is not None and vocabulary < head:
            made.generation_kwargs["allowed_token_ids"] = list(range(vocabulary))
        with torch.autocast(device.type, enabled=False):
            if self._synced != self._trainer.state.global_step:
                made.sync_weights()
                self._synced = self._trainer.state.global_step
            _, written, said, _ = made.generate(prompts=prompts, images=None, num_generations=1)
        stops = set(eos_ids)
        written = [_to_its_end(list(ids)[:max_new_tokens], stops) for ids in written]
        chosen = [[first[0] for first in row[: len(ids)]] for row, ids in zip(said, written, strict=True)]
        return _as_rollouts(prompts, written, chosen if log_probs else None, stops, pad_id, device)


def roll_out_with(trainer: Any, engine: Engine, limit: int) -> None:
    """Have a trainer of terms or of advantages sample by vLLM; `limit` is the longest row, prompt and completion.

    Raises MethodError where vLLM is not installed, the trainer does not sample by rollouts of its student, or a server
    does not say what it drew from.
    """
    sampling = getattr(trainer, "sampling", trainer)  # of a Distiller, None without a sampler
    if not hasattr(sampling, "rollout"):
        raise MethodError(f"{type(trainer).__name__} has no rollouts that vLLM could write")
    if not is_vllm_available():
        raise MethodError("rollouts by vLLM need the package vllm: pip install 'trl[vllm]'")
    ranks = trainer.accelerator.num_processes
    if engine.mode == "server" and ranks > 1 and sampling is not trainer:
        raise MethodError(
            f"{ranks} processes do not ask a server for the same rollouts at the same time: take the mode colocate"
        )
    generation = VLLMGeneration(
        model=trainer.model,
        accelerator=trainer.accelerator,
        processing_class=trainer.processing_class,
        max_model_length=limit,
        logprobs=0,  # of what was drawn alone
        trust_remote_code=False,
        **engine.arguments(),
    )
    rollout = EngineRollouts(trainer, generation)
    if sampling is trainer:
        if engine.mode == "server" and trainer.accelerator.is_main_process:
            _check_log_probs(generation.vllm_client.get_server_info())
        trainer.sampled_elsewhere(rollout, MOST_RATIO)
    else:
        sampling.rollout = rollout


def _check_log_probs(server: Any) -> None:
    """What a server says of its tokens must be at the temperature of sampling, as tokens are weighed by it."""
    mode = server["model_config"]["logprobs_mode"]
    if mode != "processed_logprobs":
        raise MethodError(
            f"the vLLM server runs with --logprobs-mode {mode}: start it with --logprobs-mode processed_logprobs"
        )


def _to_its_end(ids: list[int], stops: Collection[int]) -> list[int]:
    """Ids up to the first that ends them, which stays."""
    return next((ids[: n + 1] for n, token in enumerate(ids) if token in stops), ids)


def _as_rollouts(
    prompts: list[list[int]],
    written: Sequence[list[int]],
    said: Sequence[Sequence[float]] | None,
    stops: Collection[int],
    pad_id: int,
    device: torch.device,
) -> Rollouts:
    """Completions as our own rollouts have them, with the log-probabilities of their tokens where they are given."""
    prompt_ids, prompt_mask = left_pad(prompts, pad_id, device)
    width = max(map(len, written))

    def padded(rows: Sequence[Sequence[Any]], value: float) -> torch.Tensor:
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=device)

    return Rollouts(
        prompt_ids,
        prompt_mask,
        padded(written, pad_id),
        padded([[1] * len(ids) for ids in written], 0),
        truncated=torch.tensor([ids[-1] not in stops for ids in written], device=device),
        empty=torch.tensor([ids[0] in stops for ids in written], device=device),
        log_probs=None if said is None else padded(said, 0.0).float(),
    )
