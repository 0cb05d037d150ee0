"""MiniLLM: on-policy minimisation of the sequence-level reverse KL divergence (Gu et al., arXiv 2306.08543)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel

from methods.errors import MethodError
from methods.losses.fused.linear import head_of, linear_divergence, linear_log_probs
from methods.losses.policy_gradient import (
    clipped_policy_loss,
    importance_weights,
    log_ratio_rewards,
    return_to_go,
)
from methods.modeling.checks import check_ids
from methods.modeling.core import core_model, eos_ids, freeze, shared_vocabulary, token_states
from methods.modeling.normalise import window_mean, window_tokens
from methods.modeling.rollouts import Rollouts, labelled, prompt_tokens, rollout, spread
from methods.modeling.sharding import gathered
from methods.slots.terms.plain_text import TextBatch, TextStream
from methods.teachers.store import TeacherStore
from methods.trainers.memory import Remembers
from methods.trainers.teachers import Teacher, as_teachers, as_they_are
from methods.trainers.trl_compat import GRPOConfig, GRPOTrainer, RepeatSampler, through_wrapper


@dataclass
class PolicyConfig(GRPOConfig):
    """GRPO's configuration with the paper's switches.

    Rollouts per iteration are `per_device_train_batch_size * steps_per_generation` a rank, reused for
    `num_iterations` (PPO epochs). `epsilon` is the ratio clip. One completion is sampled for each prompt.
    """

    teacher_mix: float = field(
        default=0.2, metadata={"help": "alpha of eq. 6: the teacher's share in sampling"}
    )
    single_step_decomposition: bool = field(
        default=True, metadata={"help": "take the single step exactly (eq. 3)"}
    )
    length_normalization: bool = field(default=True, metadata={"help": "average future rewards (eq. 5)"})
    discount: float = field(
        default=1.0, metadata={"help": "of future rewards: 1 in the paper, .95 in its scripts"}
    )
    reward_clip: float | None = field(
        default=None, metadata={"help": "bound on |log p/q| of a token, in nats"}
    )
    pretraining_weight: float = field(
        default=1.0, metadata={"help": "weight of L_PT where a corpus is given"}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "sampling and scoring must agree"})
    beta: float = field(default=0.0, metadata={"help": "no reference model: the teacher is the target"})

    def __post_init__(self):
        self.num_generations = (
            2  # GRPO compares completions of one prompt; nothing here does, so one is enough
        )
        super().__post_init__()
        self.num_generations = 1
        if not 0 <= self.teacher_mix < 1:
            raise MethodError(f"teacher_mix is {self.teacher_mix}, not in [0, 1)")
        if self.use_vllm:
            raise MethodError("use_vllm: student and teacher write together here, which no engine does")
        assert self.steps_per_generation is not None  # GRPOConfig has filled it in
        if self.steps_per_generation % self.gradient_accumulation_steps:
            raise MethodError(
                f"steps_per_generation ({self.steps_per_generation}) must be a multiple of "
                f"gradient_accumulation_steps ({self.gradient_accumulation_steps}), or an update would mix two policies"
            )


class OrderOfEpochs(Sampler):
    """TRL's sampler, whose epochs have the same order whether or not the training was interrupted before them."""

    def __init__(self, sampler: RepeatSampler):
        self.sampler = sampler

    def __iter__(self):
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Draw the orders of the epochs before, which a resumed training has not drawn."""
        if not self.sampler.shuffle or self.sampler.seed is None:
            return
        self.sampler.generator.manual_seed(self.sampler.seed)
        for _ in range(epoch):
            torch.randperm(self.sampler.num_samples, generator=self.sampler.generator)


class PolicyDistiller(Remembers, GRPOTrainer):
    """The student samples (mixed with the teacher), the teacher scores every token, the student follows the gradient

    grad L = Single + Long, with p the teacher, q the student, w_t the importance weight of the mixed sampler:
      Single = sum_t w_t grad KL(q(.|y_<t) || p(.|y_<t)), exact over the vocabulary;
      Long   = -sum_t grad min(rho_t A_t, clip(rho_t) A_t), rho_t = w_t q/q_old, A_t the mean of log p/q over k > t;
    plus `pretraining_weight` times the language-modelling loss on a plain corpus. The mean is over completion tokens.
    GRPO gives the loop (buffered rollouts, PPO epochs, data order); sampling, scoring and loss are ours.
    Differs from the authors' scripts, which whiten advantages, leave w_t out of Single and keep r_t in A_t.
    """

    args: PolicyConfig

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        teacher: PreTrainedModel | Teacher,
        args: PolicyConfig,
        train_dataset: Dataset,
        processing_class: Any,
        pretraining_dataset: Dataset | None = None,
        **kwargs: Any,
    ):
        generation = args.generation_batch_size
        assert generation is not None  # GRPOConfig has filled it in
        if (
            len(train_dataset) < generation
        ):  # TRL's sampler drops what does not fill a batch: no step would be made
            raise MethodError(
                f"{len(train_dataset)} prompts do not fill one generation batch of {generation} (batch size "
                f"{args.per_device_train_batch_size} x {args.steps_per_generation} steps_per_generation x "
                f"{args.world_size} processes): give more prompts, or take a smaller batch"
            )
        super().__init__(
            model,
            reward_funcs=_no_reward,
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        core = core_model(self.accelerator.unwrap_model(self.model))
        (given,) = as_teachers(teacher)
        as_they_are([given])
        if isinstance(given.model, TeacherStore):
            raise MethodError("a teacher store cannot score what a student writes: give the teacher itself")
        self.readable = shared_vocabulary(core, given.model, processing_class, given.tokenizer)
        prompts = prompt_tokens(processing_class, list(train_dataset["prompt"]))
        check_ids(max(map(max, filter(None, prompts)), default=0), (core, given.model), processing_class)
        self.teacher = self.accelerator.prepare_model(freeze(given.model), evaluation_mode=True)
        self.text_tokenizer = processing_class
        self.stop_ids = eos_ids(core, processing_class)
        # Those of a cohort, where several trainers sample and read together.
        self.rollout: Callable[..., Rollouts] = rollout
        self.token_states: Callable[..., Tensor] = token_states
        self._tokens: dict[str, Tensor | int] = {"student": 0, "teacher": 0, "generated": 0}
        self.rollout_counts = {"completions": 0, "truncated": 0, "empty": 0}
        self._corpus = None
        if pretraining_dataset is not None and args.pretraining_weight > 0:
            self._corpus = TextStream(
                pretraining_dataset,
                processing_class,
                self.accelerator,
                batch_size=args.per_device_train_batch_size,
                max_length=args.max_completion_length,
                seed=args.seed,
            )
        self._corpus_window: list[TextBatch] = []
        self._corpus_tokens = torch.zeros(())

    @property
    def token_counts(self) -> dict[str, int]:
        """Tokens processed by student and teacher in scoring and training, and tokens generated, on this rank."""
        return {who: int(tokens) for who, tokens in self._tokens.items()}

    def teacher_model(self) -> Any:
        """The teacher's causal language model."""
        return core_model(self.accelerator.unwrap_model(self.teacher))

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler:
        sampler = super()._get_train_sampler(dataset)
        return OrderOfEpochs(sampler) if isinstance(sampler, RepeatSampler) else sampler

    def remembered(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        plain = {
            "tokens": self.token_counts,
            "rollouts": self.rollout_counts,
            "step": self._step,
            "corpus": None if self._corpus is None else self._corpus.state(),
        }
        buffered: list[dict[str, Tensor]] = self._buffered_inputs or []
        return plain, {f"{n}/{name}": t for n, batch in enumerate(buffered) for name, t in batch.items()}

    def recall(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._tokens, self.rollout_counts, self._step = plain["tokens"], plain["rollouts"], plain["step"]
        if self._corpus is not None:
            self._corpus.restore(plain["corpus"])
        buffered: list[dict[str, Tensor]] = [{} for _ in {name.partition("/")[0] for name in tensors}]
        for name, tensor in tensors.items():
            place, _, column = name.partition("/")
            buffered[int(place)][column] = tensor
        self._buffered_inputs = buffered or None  # type: ignore[assignment]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Roll out the batch's prompts and score them with both models: everything the loss needs, per token."""
        student = self.accelerator.unwrap_model(self.model)
        prompts = prompt_tokens(self.text_tokenizer, [row["prompt"] for row in inputs])
        with gathered(student):
            rollouts = self.rollout(
                student,
                prompts,
                max_new_tokens=self.args.max_completion_length or 0,
                eos_ids=self.stop_ids,
                pad_id=self.text_tokenizer.pad_token_id,
                temperature=self.temperature,
                teacher=self.teacher_model(),
                teacher_mix=self.args.teacher_mix,
                vocabulary=self.readable,
            )
        self._count(rollouts)
        return self.score_rollouts(rollouts)

    @torch.no_grad()
    def score_rollouts(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Score completions with both models: importance weights and advantages (B, C), teacher states (B, C, H)."""
        student = core_model(self.accelerator.unwrap_model(self.model))
        teacher = self.accelerator.unwrap_model(self.teacher)
        mask = rollouts.completion_mask
        training = student.training
        student.eval()
        scores = []
        for part in torch.arange(len(mask), device=mask.device).split(self.args.per_device_train_batch_size):
            scores.append((self._score(student, rollouts, part)[0], *self._score(teacher, rollouts, part)))
        student.train(training)
        student_logps, teacher_logps, teacher_hidden = (
            torch.cat(column) for column in zip(*scores, strict=True)
        )
        return {
            "prompt_ids": rollouts.prompt_ids,
            "prompt_mask": rollouts.prompt_mask,
            "completion_ids": rollouts.completion_ids,
            "completion_mask": mask,
            "old_logps": student_logps,
            "teacher_hidden": teacher_hidden,
            "weights": importance_weights(
                student_logps, teacher_logps, mask, teacher_mix=self.args.teacher_mix
            ),
            "advantages": return_to_go(
                log_ratio_rewards(teacher_logps, student_logps, mask, clip=self.args.reward_clip),
                mask,
                include_present=not self.args.single_step_decomposition,
                normalize=self.args.length_normalization,
                discount=self.args.discount,
            ),
        }

    def _count(self, rollouts: Rollouts) -> None:
        scored = rollouts.prompt_mask.sum() + rollouts.completion_mask.sum()
        passes: dict[str, Tensor | int] = {"generated": rollouts.tokens, "teacher": scored, "student": scored}
        if self.args.teacher_mix > 0:  # the teacher reads along while sampling
            passes["teacher"] = 2 * scored
        for who, tokens in passes.items():
            self._tokens[who] = self._tokens[who] + tokens
        for name, number in rollouts.counts().items():
            self.rollout_counts[name] += number

    def _score(self, model: PreTrainedModel, rollouts: Rollouts, part: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, C) of the completion tokens and the hidden states (B, C, H) that predict them."""
        ids, mask = rollouts.completion_ids[part], rollouts.completion_mask[part]
        with self.accelerator.autocast():
            batch = labelled(rollouts.prompt_ids[part], rollouts.prompt_mask[part], ids, mask)
            hidden = self.token_states(model, batch)
            chosen = linear_log_probs(hidden, head_of(model), ids[mask.bool()])
        return spread(chosen, mask), spread(hidden, mask)

    def _prepare_inputs(self, generation_batch):
        """GRPO's buffered slice, with the token counts of the accumulation window it belongs to."""
        inputs = super()._prepare_inputs(generation_batch)
        accumulate = self.current_gradient_accumulation_steps
        buffered: list[dict[str, Tensor]] = self._buffered_inputs or []
        position = self._step % len(buffered)
        start = position - position % accumulate
        window = buffered[start : start + accumulate]
        tokens = window_tokens(sum(batch["completion_mask"].sum() for batch in window), self.accelerator)
        inputs = dict(inputs, window_tokens=tokens)
        if self._corpus is not None:
            if position == start:
                self._corpus_window = self._corpus.window(accumulate)
                read = sum(text.count() for text in self._corpus_window)
                self._corpus_tokens = window_tokens(read, self.accelerator)
            inputs["corpus"] = self._corpus_window[position - start]
        return inputs

    def _compute_loss(self, model, inputs):
        inner = self.accelerator.unwrap_model(model)
        core = core_model(inner)

        def losses() -> Tensor:
            return self.micro_batch_loss(core, token_states(core, self.micro_batch(inputs)), inputs)

        return through_wrapper(model, inner, losses)

    def micro_batch(self, inputs: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """The ids, attention and labels that the student reads for what `_prepare_inputs` gives."""
        return labelled(
            *(inputs[n] for n in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"))
        )

    def micro_batch_loss(self, core: Any, hidden: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """The micro-batch's share of the window's loss, from the student's states (N, H) that predict its tokens."""
        keep = inputs["completion_mask"].bool()
        self._tokens["student"] = self._tokens["student"] + inputs["prompt_mask"].sum() + keep.sum()
        total = self.completion_loss(core, hidden, keep, inputs)
        loss = window_mean(total, inputs["window_tokens"], self.accelerator)
        if "corpus" in inputs:
            loss = loss + self.args.pretraining_weight * self._corpus_loss(core, inputs["corpus"])
        return loss

    def completion_loss(
        self, core: torch.nn.Module, hidden: Tensor, keep: Tensor, inputs: Mapping[str, Any]
    ) -> Tensor:
        """Sum over the N kept completion tokens of Long plus Single; `hidden` (N, H) are the student's states, nats."""
        weights = inputs["weights"][keep]
        head = head_of(core)
        logps = linear_log_probs(hidden, head, inputs["completion_ids"][keep])
        loss = clipped_policy_loss(
            logps,
            inputs["old_logps"][keep],
            inputs["advantages"][keep],
            weights,
            torch.ones_like(weights),
            clip=self.args.epsilon,
        ).sum()
        if self.args.single_step_decomposition:
            teacher_head = head_of(self.accelerator.unwrap_model(self.teacher))
            loss = (
                loss
                + linear_divergence(
                    hidden,
                    head,
                    inputs["teacher_hidden"][keep],
                    teacher_head,
                    weights=weights,
                    divergence="reverse_kl",
                ).total
            )
        return loss

    def _corpus_loss(self, core: torch.nn.Module, text: TextBatch) -> Tensor:
        total, read = text.loss(core, head_of(core))
        self._tokens["student"] = self._tokens["student"] + read
        return window_mean(total, self._corpus_tokens, self.accelerator)


def _no_reward(prompts, **_):
    """GRPO asks for a reward function; MiniLLM's rewards are made of the two models' log-probabilities."""
    return [0.0] * len(prompts)
