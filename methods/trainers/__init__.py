"""Trainers: one for every sum of terms, one for every policy gradient, MiniLLM's own, one for latent reasoning.

As components they are functions whose settings are plain data; `parts` are what no recipe can hold: `arguments`, which
makes a configuration (class, **settings) -> TrainingArguments, and what the class itself takes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from methods.registry import component
from methods.trainers.distiller import Distiller, Hook
from methods.trainers.latent import LatentDistiller
from methods.trainers.optimisation import OptimisationConfig, PolicyOptimiser
from methods.trainers.policy import PolicyConfig, PolicyDistiller
from methods.trainers.teachers import Teacher
from methods.trainers.trl_compat import SFTConfig

__all__ = [
    "Distiller",
    "Hook",
    "LatentDistiller",
    "OptimisationConfig",
    "PolicyConfig",
    "PolicyDistiller",
    "PolicyOptimiser",
    "SFTConfig",
    "Teacher",
    "distillation",
    "latent_reasoning",
    "minillm",
    "policy_optimisation",
    "privileged_distillation",
    "privileged_policy",
]


@component("trainer", "distillation")
def distillation(student: Any, **parts: Any) -> Distiller:
    """A sum of terms on a sampler's sequences, from any teachers or none.

    Source: the slots of GKD, Agarwal et al., arXiv 2306.13649, section 3, and of the papers after it.
    """
    return Distiller(student, args=parts.pop("arguments")(SFTConfig), **parts)


@component("trainer", "privileged-distillation")
def privileged_distillation(
    student: Any, teacher: Any, *, reads: str = "{prompt}{completion}", follows: float = 0.0, **parts: Any
) -> Distiller:
    """The same, with a teacher that reads what the student is not shown, and may be the student itself.

    In the place of the prompt it reads `reads`, a text with columns of the row in braces, and then the same completion
    as the student, token by token. Before each step it takes over the share `follows` of the student's weights: 0 is
    the teacher as it was, 1 the student as it stands.
    Source: on-policy self-distillation, OPSD, Zhao et al., arXiv 2601.18734; SDFT, Shenfeld et al., arXiv 2601.19897.
    """
    teachers = [replace(one, follows=follows) for one in teacher]
    return Distiller(student, teacher=teachers, args=parts.pop("arguments")(SFTConfig), **parts)


@component("trainer", "minillm")
def minillm(
    student: Any,
    teacher: Any,
    *,
    teacher_mix: float = 0.2,
    single_step_decomposition: bool = True,
    length_normalization: bool = True,
    discount: float = 1.0,
    reward_clip: float | None = None,
    pretraining_weight: float = 1.0,
    steps_per_generation: int | None = None,
    num_iterations: int = 1,
    epsilon: float = 0.2,
    **parts: Any,
) -> PolicyDistiller:
    """Policy gradient on the sequence-level reverse KL.

    Source: MiniLLM, Gu et al., arXiv 2306.08543.
    """
    length = parts.pop("max_completion_length")
    args = parts.pop("arguments")(
        PolicyConfig,
        max_completion_length=length,
        teacher_mix=teacher_mix,
        single_step_decomposition=single_step_decomposition,
        length_normalization=length_normalization,
        discount=discount,
        reward_clip=reward_clip,
        pretraining_weight=pretraining_weight,
        steps_per_generation=steps_per_generation,
        num_iterations=num_iterations,
        epsilon=epsilon,
    )
    return PolicyDistiller(student, teacher=teacher, args=args, **parts)


@component("trainer", "policy-optimisation")
def policy_optimisation(
    student: Any,
    *,
    num_generations: int = 8,
    steps_per_generation: int | None = None,
    num_iterations: int = 1,
    epsilon: float | None = 0.2,
    epsilon_high: float | None = None,
    loss_type: str = "dapo",
    temperature: float = 1.0,
    teacher_mix: float = 0.0,
    anchor_teacher_share: float = 0.0,
    given_completions: int = 0,
    given_shape: float | None = 0.1,
    given_ratio: str = "shaped",
    given_gate: float | None = None,
    given_column: str = "completion",
    **parts: Any,
) -> PolicyOptimiser:
    """Clipped policy gradient of an advantage on what the student samples, with terms on the same completions.

    `num_generations` completions share a prompt. Ratios are clipped at `epsilon` (null: not at all) below and
    `epsilon_high` (null: the same) above. `loss_type` is "dapo" (mean over tokens), "grpo", "dr_grpo" or "cispo".
    `teacher_mix` is the first teacher's share in sampling, `anchor_teacher_share` its weight in the ratio's anchor.
    Of each group `given_completions` are those of the data's rows, the texts of `given_column`: rewarded with the
    others and learnt by `given_ratio`. "shaped" is q / (q + `given_shape`) (null: q itself), unclipped; "own" that of
    the student's own completions; "written" q over the probabilities in the column `<given_column>_log_probs`, clipped
    as all are. With a `given_gate` all are sampled and rewarded first, and given only where the mean reward of the
    group is at most that, and the row has a text.
    Source: GRPO, DeepSeekMath, arXiv 2402.03300, eq. 3; DAPO, arXiv 2503.14476; the anchor is RLAD's, arXiv 2602.22495;
    completions that are given are LUFFY's, arXiv 2504.14945, the gate and the other ratios NPO's, arXiv 2604.20733.
    """
    length = parts.pop("max_completion_length")
    args = parts.pop("arguments")(
        OptimisationConfig,
        max_completion_length=length,
        num_generations=num_generations,
        steps_per_generation=steps_per_generation,
        num_iterations=num_iterations,
        epsilon=epsilon,
        epsilon_high=epsilon_high,
        loss_type=loss_type,
        temperature=temperature,
        teacher_mix=teacher_mix,
        anchor_teacher_share=anchor_teacher_share,
        given_completions=given_completions,
        given_shape=given_shape,
        given_ratio=given_ratio,
        given_gate=given_gate,
        given_column=given_column,
    )
    return PolicyOptimiser(student, args=args, **parts)


@component("trainer", "privileged-policy")
def privileged_policy(
    student: Any,
    teacher: Any,
    *,
    reads: str = "{prompt}{completion}",
    follows: float = 0.0,
    sibling_reward: float = 1.0,
    num_generations: int = 8,
    steps_per_generation: int | None = None,
    num_iterations: int = 1,
    epsilon: float | None = 0.2,
    epsilon_high: float | None = None,
    loss_type: str = "dapo",
    temperature: float = 1.0,
    **parts: Any,
) -> PolicyOptimiser:
    """The same, with a teacher that reads what the student is not shown, and may be the student itself.

    It scores the student's completions behind `reads`, a text with columns of the row in braces, in the place of the
    prompt. {sibling} is the text of another completion of the group whose first reward is `sibling_reward` or more, the
    next one in the group's circle; where there is none the teacher reads the prompt. Before each step it takes over the
    share `follows` of the student's weights.
    Source: SDPO, Hübotter et al., arXiv 2601.20802 (a sibling's success); RLSD, arXiv 2604.03128 (the answer).
    """
    return policy_optimisation(
        student,
        teacher=[replace(one, follows=follows) for one in teacher],
        sibling_reward=sibling_reward,
        num_generations=num_generations,
        steps_per_generation=steps_per_generation,
        num_iterations=num_iterations,
        epsilon=epsilon,
        epsilon_high=epsilon_high,
        loss_type=loss_type,
        temperature=temperature,
        **parts,
    )


@component("trainer", "latent-reasoning")
def latent_reasoning(
    student: Any,
    *,
    thoughts: int = 6,
    teacher_weight: float = 1.0,
    student_weight: float = 1.0,
    distillation_weight: float = 1.0,
    embeddings: bool = False,
    **parts: Any,
) -> LatentDistiller:
    """Reasoning in words and in `thoughts` vectors, learnt together.

    Hidden states are matched on every layer; with `embeddings` on the embeddings too.
    `parts` has `thought_ids` too: the ids between which the thoughts stand (`begin_id`, `end_id`).
    Source: CODI, Shen et al., arXiv 2502.21074.
    """
    from methods.modeling.latent_reasoning import attach_latent

    attach_latent(student, steps=thoughts, **parts.pop("thought_ids"))
    return LatentDistiller(
        student,
        args=parts.pop("arguments")(SFTConfig),
        teacher_weight=teacher_weight,
        student_weight=student_weight,
        distillation_weight=distillation_weight,
        embeddings=embeddings,
        **parts,
    )
