"""TRL's configuration of GRPO with what the policy trainer has beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.registry import near
from methods.trainers.trl_compat import GRPOConfig

# Of TRL's, those that do not change when a step is cut into micro-batches, or spread over ranks, differently.
LOSS_TYPES = ("dapo", "grpo", "dr_grpo", "cispo")
# The ratio by which a completion that the data give is learnt.
GIVEN_RATIOS = ("shaped", "own", "written")


@dataclass
class OptimisationConfig(GRPOConfig):
    """GRPO's configuration. `per_device_train_batch_size` counts completions; `num_generations` of them share a prompt.

    One completion for a prompt is allowed where TRL asks for two: a teacher's log-ratio needs no group. `epsilon` null
    leaves the ratio unclipped. The reference of `beta` is not TRL's: take the term "sampled-kl".
    """

    anchor_teacher_share: float = field(
        default=0.0, metadata={"help": "weight of log p in the ratio's anchor: 1 - alpha of RLAD"}
    )
    teacher_mix: float = field(default=0.0, metadata={"help": "the first teacher's share in sampling"})
    given_completions: int = field(
        default=0, metadata={"help": "of a group's completions those that are the data's, not sampled"}
    )
    given_shape: float | None = field(
        default=0.1, metadata={"help": "their ratio is q / (q + given_shape), q if null"}
    )
    given_ratio: str = field(
        default="shaped",
        metadata={"help": "shaped, own (as the student's own), written (over who wrote them)"},
    )
    given_gate: float | None = field(
        default=None, metadata={"help": "only where the mean reward of the sampled group is at most this"}
    )
    given_column: str = field(default="completion", metadata={"help": "the column that their texts stand in"})
    disable_dropout: bool = field(default=True, metadata={"help": "sampling and scoring must agree"})
    beta: float = field(default=0.0, metadata={"help": "no reference model of TRL's"})

    def __post_init__(self):
        steps = self.steps_per_generation or self.gradient_accumulation_steps
        ranks = int(os.environ.get("WORLD_SIZE", 1))  # TRL's own count is made later
        generated = self.per_device_train_batch_size * steps * ranks
        alone = self.num_generations == 1
        if (
            alone
        ):  # TRL refuses it; any other number that divides the generation batch lets it fill in the rest
            self.num_generations = generated
        if generated < 2:
            raise MethodError(
                "one completion is the whole generation batch: take a batch_size of 2, or more steps_per_generation"
            )
        if not self.num_generations or self.num_generations < 1 or generated % self.num_generations:
            raise MethodError(
                f"{generated} completions a generation (batch_size {self.per_device_train_batch_size} x {steps} "
                f"steps_per_generation x {ranks} processes) are no whole number of groups of {self.num_generations} "
                "(num_generations)"
            )
        super().__post_init__()
        if alone:
            self.num_generations = 1
        self._check()

    def _check(self) -> None:
        if self.loss_type not in LOSS_TYPES:
            raise MethodError(
                f'no loss_type "{self.loss_type}"{near(self.loss_type, LOSS_TYPES)}; known: {", ".join(LOSS_TYPES)}'
            )
        if self.loss_type == "cispo" and self.epsilon_high is None:
            raise MethodError("cispo needs epsilon_high: the largest ratio, such as 5.0")
        if self.use_vllm:
            raise MethodError("use_vllm: TRL's loop would ask it; give the trainer to engine.roll_out_with")
        check_fraction("anchor_teacher_share", self.anchor_teacher_share)
        if not 0 <= self.teacher_mix < 1:
            raise MethodError(f"teacher_mix is {self.teacher_mix}, not in [0, 1)")
        if not 0 <= self.given_completions <= max(0, (self.num_generations or 0) - 2):
            raise MethodError(
                f"given_completions is {self.given_completions}: of {self.num_generations} completions a group "
                "(num_generations) at least two are the student's own"
            )
        if self.given_shape is not None and not self.given_shape > 0:
            raise MethodError(f"given_shape is {self.given_shape}, not above 0")
        if self.given_gate is not None and not self.given_completions:
            raise MethodError(f"given_gate is {self.given_gate}, and nothing is given: set given_completions")
        if self.given_ratio not in GIVEN_RATIOS:
            raise MethodError(
                f'no given_ratio "{self.given_ratio}"{near(self.given_ratio, GIVEN_RATIOS)}; known: '
                f"{', '.join(GIVEN_RATIOS)}"
            )
        if self.beta != 0:
            raise MethodError(
                "beta is for TRL's own reference; take {term: sampled-kl, to: start, weight: ...}"
            )
        assert self.steps_per_generation is not None  # GRPOConfig has filled it in
        if self.steps_per_generation % self.gradient_accumulation_steps:
            raise MethodError(
                f"steps_per_generation ({self.steps_per_generation}) must be a multiple of "
                f"gradient_accumulation_steps ({self.gradient_accumulation_steps}), or an update would mix two policies"
            )

    @property
    def stale(self) -> bool:
        """Whether a completion may be trained on after the policy has changed since it was sampled."""
        assert self.steps_per_generation is not None
        return self.num_iterations > 1 or self.steps_per_generation > self.gradient_accumulation_steps
