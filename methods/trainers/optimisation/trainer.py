"""One trainer for every policy gradient on what the student samples, with exact terms on the same completions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel

from methods.errors import MethodError
from methods.losses.fused.linear import head_of, linear_log_probs
from methods.losses.policy_gradient import shaped_surrogate, summed, surrogate
from methods.modeling.checks import check_ids
from methods.modeling.core import core_model, eos_ids, freeze, snapshot, token_states
from methods.modeling.normalise import window_mean, window_tokens
from methods.modeling.rollouts import Rollouts, prompt_tokens, rollout
from methods.modeling.sharding import gathered
from methods.slots.advantages import START, Signals, asked_of, wheres_of
from methods.slots.advantages.signals import DIVERGENCE, ENTROPY, STUDENT, Advantage
from methods.slots.rewards import RewardFunction, named, no_reward
from methods.slots.samplers import Example
from methods.slots.term import IDS, Term, Window, weight_at
from methods.trainers.memory import Remembers
from methods.trainers.models import SAID, Models
from methods.trainers.optimisation.checks import check_parts, check_prompts, check_rows, check_sources
from methods.trainers.optimisation.config import OptimisationConfig
from methods.trainers.optimisation.given import mixed_in
from methods.trainers.optimisation.record import Record, Writer, as_batch, ids_of
from methods.trainers.optimisation.scoring import opinions, sampling_weights
from methods.trainers.optimisation.siblings import siblings
from methods.trainers.policy import OrderOfEpochs
from methods.trainers.teachers import Said, Teachers, as_teachers, readers
from methods.trainers.trl_compat import GRPOTrainer, RepeatSampler, through_wrapper

BATCH, WINDOW = "batch", "window"


class PolicyOptimiser(Remembers, GRPOTrainer):
    """The student samples, every token gets an advantage A_t, the student follows the clipped policy gradient:

    loss = mean of -min(rho_t A_t, clip(rho_t) A_t) + sum over `terms`, rho_t = q(y_t) / anchor(y_t),
    anchor = q_old, or q_old^(1 - s) p^s with the first teacher's share s (`anchor_teacher_share`).

    GRPO gives the loop (groups, buffered rollouts, several updates of each, data order) and calls the `rewards`, which
    are TRL reward functions; sampling, scoring and loss are ours. `advantage` None leaves the terms alone. A term sees
    the completion tokens that the student wrote, as in the trainer of terms, and divides by its own count. The mean is
    `loss_type`'s: over tokens ("dapo", "cispo"), over completions of their tokens' means ("grpo"), over completions and
    the length limit ("dr_grpo"); always of the whole accumulation window over all ranks.
    A teacher may read other prompts than the student, a sibling of reward `sibling_reward` in them, and follow it.
    `writer` takes the place of one completion a prompt: an environment, whose own tokens are not learnt from. Of each
    group the last `given_completions` are the data's, rewarded as the others, with rho_t = q / (q + `given_shape`), or
    by another `given_ratio`. With a `given_gate` all are sampled, and those of groups that reach it stay.
    Log-probabilities of the student are at the temperature of sampling, those of others at 1.
    Raises MethodError for teachers, terms, rewards and batches that do not fit.
    """

    args: OptimisationConfig

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        args: OptimisationConfig,
        train_dataset: Dataset,
        processing_class: Any,
        advantage: Advantage | None = None,
        rewards: Sequence[RewardFunction] = (),
        terms: Sequence[Term] = (),
        teacher: Teachers | Sequence[Teachers] | None = None,
        writer: Writer | None = None,
        sibling_reward: float = 1.0,
        **kwargs: Any,
    ):
        terms = [term for term in terms if callable(term.weight) or term.weight != 0]
        if advantage is None and not terms:
            raise MethodError("nothing to learn from: give an advantage, or terms")
        check_rows(args, train_dataset)
        self.advantage, self.writer = advantage, writer
        self.terms, self.rewards = tuple(terms), tuple(rewards)
        self._wheres = [where for term in terms for where in wheres_of(term)]
        for place, where in enumerate(self._wheres):
            where.key = f"where {place}"
        asked = asked_of(advantage, *(where.where for where in self._wheres))
        wanted = {who for term in terms for who in getattr(term, "asks", ())}
        start = freeze(snapshot(model)) if START in asked | wanted else None
        given = as_teachers(teacher)
        check_parts(self.terms, given, asked)
        check_prompts(args, given)
        check_sources(args, train_dataset, writer)
        super().__init__(
            model,
            reward_funcs=[named(reward) for reward in rewards or (no_reward,)],
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        core = core_model(self.accelerator.unwrap_model(self.model))
        numbers = {who for who in asked if isinstance(who, int)} | ({0} if DIVERGENCE in asked else set())
        numbers |= {0} if args.teacher_mix or args.anchor_teacher_share else set()
        who = readers(given, self.terms, core, processing_class, along=True)
        self.models = Models(self, given, who, ())
        self._read = any(term.reads == IDS for term in self.terms)
        if max(numbers, default=-1) >= len(self.models.same):
            raise MethodError(
                f"teacher number {max(numbers)} is asked, and {len(self.models.same)} are given"
            )
        self._start = None if start is None else self.accelerator.prepare_model(start, evaluation_mode=True)
        stale = args.stale or args.teacher_mix > 0
        reads_student = stale or bool({STUDENT, ENTROPY, DIVERGENCE} & asked) or args.anchor_teacher_share > 0
        self._asked = asked | ({STUDENT} if stale or args.anchor_teacher_share else set())
        self._asked |= {0} if args.anchor_teacher_share else set()
        self._scored: list[str | int] = [STUDENT] if reads_student else []
        self._scored += [START] if START in asked | wanted else []
        self._scored += list(range(len(self.models.same))) if self._read else sorted(numbers)
        self._kept: list[str | int] = [n for n in self._scored if isinstance(n, int) and self._read]
        self._kept += [START] if START in wanted else []
        prompts = prompt_tokens(processing_class, list(train_dataset["prompt"]))
        cores = [core, *(self.teacher_model(n) for n in range(len(self.models.same)))]
        check_ids(max(map(max, filter(None, prompts)), default=0), cores, processing_class)
        sizes = [self.models.shared_size(n) for n in range(len(self.models.same))]
        self.readable = min(sizes, default=None)
        self.stop_ids = eos_ids(core, processing_class)
        self._tokens: dict[str, Tensor | int] = {"student": 0, "teacher": 0, "generated": 0}
        self.rollout_counts = {"completions": 0, "truncated": 0, "empty": 0}
        # Whether a completion of this rank ever had an advantage, or a token met the condition of a term that asks more
        # than the start, before a checkpoint too; None: nobody knows.
        self.had_advantage: bool | None = False
        self._window: list[dict[str, Any]] = []
        self._counts: dict[str, Any] = {}
        self._window_loss: Tensor | None = None
        # Those of a cohort, where several trainers sample and read together.
        self.rollout: Callable[..., Rollouts] = rollout
        self.token_states: Callable[..., Tensor] = token_states
        self._most: float | None = None  # of the ratio to what a `rollout` of another precision sampled from
        self.listeners: list[Callable[[Record, Tensor], None]] = []  # told of each generation batch
        self.sibling_reward = sibling_reward
        parts: list[Any] = [*self.terms, *filter(None, self.models.prompts)]
        for part in parts:
            part.prepare(self)
        self._siblings = any(prompts is not None and prompts.siblings for prompts in self.models.prompts)
        if self._siblings and not rewards:
            raise MethodError("a teacher that reads a sibling needs rewards, which say who was right")

    # Who is asked what.

    def teacher_model(self, number: int = 0) -> Any:
        """A teacher's causal language model; the first one samples along, where `teacher_mix` is set."""
        return core_model(self.accelerator.unwrap_model(self.models.same[number]))

    def _model(self, who: str | int) -> Any:
        if who == STUDENT:
            return core_model(self.accelerator.unwrap_model(self.model))
        if who == START:
            return core_model(self.accelerator.unwrap_model(self._start))
        return self.teacher_model(int(who))

    @property
    def _learns(self) -> bool:
        assert self.model is not None
        return self.model.training

    @property
    def progress(self) -> float:
        """Optimizer steps done over all steps."""
        return self.state.global_step / max(1, self.state.max_steps)

    @property
    def token_counts(self) -> dict[str, int]:
        """Tokens processed by student and teachers in scoring and training, and tokens generated, on this rank."""
        return {who: int(tokens) for who, tokens in self._tokens.items()}

    def count_tokens(self, who: str, tokens: Tensor | int) -> None:
        """Add to the tokens that `who` has processed; stays on the device."""
        if self._learns:
            self._tokens[who] = self._tokens.get(who, 0) + tokens

    def examples_by(self, column: str, rows: Dataset) -> dict[str, list[Example]]:
        """The prompts of rows by what stands in a column, in the order in which that first appears; no completions."""
        if column not in rows.column_names:
            raise MethodError(f"rows have no column {column!r}, only {', '.join(rows.column_names)}")
        groups: dict[str, list[Example]] = {name: [] for name in rows[column]}
        prompts = prompt_tokens(self.processing_class, list(rows["prompt"]))
        for name, prompt in zip(rows[column], prompts, strict=True):
            groups[name].append(Example(prompt, []))
        return groups

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler:
        sampler = super()._get_train_sampler(dataset)
        return OrderOfEpochs(sampler) if isinstance(sampler, RepeatSampler) else sampler

    # What is remembered.

    def remembered(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        buffered: list[dict[str, Tensor]] = self._buffered_inputs or []
        plain = {
            "tokens": self.token_counts,
            "rollouts": self.rollout_counts,
            "had_advantage": self.had_advantage,
            "step": self._step,
            "window_loss": None if self._window_loss is None else self._window_loss.item(),
            "slots": {name: slot.state() for name, slot in self._slots() if hasattr(slot, "state")},
        }
        tensors = {f"{n}/{name}": t for n, batch in enumerate(buffered) for name, t in batch.items()}
        return plain, tensors | self.models.followers()

    def recall(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        followers = self.models.followers()
        for name, weight in followers.items():
            weight.data.copy_(tensors[name])
        tensors = {name: tensor for name, tensor in tensors.items() if name not in followers}
        self._tokens, self.rollout_counts, self._step = plain["tokens"], plain["rollouts"], plain["step"]
        self.had_advantage = plain.get("had_advantage")  # checkpoints of before do not say
        if plain["window_loss"] is not None:
            self._window_loss = torch.tensor(plain["window_loss"], device=self.accelerator.device)
        for name, slot in self._slots():
            if hasattr(slot, "state"):
                slot.restore(plain["slots"][name])
        buffered: list[dict[str, Tensor]] = [{} for _ in {name.partition("/")[0] for name in tensors}]
        for name, tensor in tensors.items():
            place, _, column = name.partition("/")
            buffered[int(place)][column] = tensor
        self._buffered_inputs = buffered or None  # type: ignore[assignment]

    def _slots(self) -> list[tuple[str, Any]]:
        """The terms and what is in them, by name."""
        slots: list[tuple[str, Any]] = []
        for n, term in enumerate(self.terms):
            inside = [(f"term {n} {name}", part) for name, part in term.parts().items()]
            slots += [(f"term {n}", term), *inside]
        return slots

    def sampled_elsewhere(self, rollout: Callable[..., Rollouts], most: float) -> None:
        """Completions are from `rollout`, an engine whose probabilities are nearly the student's.

        Tokens weigh q over what was sampled from, at most `most`: as TRL's importance sampling, "token_truncate".
        Raises MethodError where a teacher is mixed in, or an environment writes.
        """
        if self.args.teacher_mix or self.writer is not None:
            raise MethodError("an engine samples from the student alone, one completion a prompt")
        self.rollout, self._most = rollout, most
        if STUDENT not in self._scored:
            self._scored = [STUDENT, *self._scored]
        self._asked = self._asked | {STUDENT}

    # A generation batch: sampled, rewarded, scored.

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        return self.scored(self.sampled(inputs))

    def sampled(self, rows: list[dict[str, Any]]) -> Record:
        """One completion for each of the rows, or what the `writer` makes of them, with groups and rewards."""
        if self.writer is None:
            written, model_tokens, turn = self.rollouts(rows), None, None
        else:
            written, model_tokens, turn = self.writer(rows, self)
        self.count_tokens("generated", written.tokens)
        for name, number in written.counts().items():
            self.rollout_counts[name] += number
        count = len(rows)
        first = self.accelerator.process_index * count
        places = torch.arange(first, first + count, device=written.completion_ids.device)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        size = self.args.num_generations or 1
        written, rewards, given = mixed_in(
            written,
            columns,
            places,
            self.args,
            self.processing_class,
            rewarded=lambda completions: self._rewards(rows, completions),
            gather=self.accelerator.gather,
        )
        return Record(written, places // size, rewards, columns, model_tokens, turn, given)

    def rollouts(self, rows: Sequence[Mapping[str, Any]]) -> Rollouts:
        """One completion of the student for each of the rows, with its log-probabilities."""
        student = self.accelerator.unwrap_model(self.model)
        # One source for a batch and rank, so that a resumed run draws the same.
        source = random.Random(f"{self.args.seed}:{self.accelerator.process_index}:{self._step}")
        draws = torch.Generator(device=student.device).manual_seed(source.getrandbits(63))
        mix = self.args.teacher_mix
        with gathered(student), self.accelerator.autocast():
            return self.rollout(
                student,
                prompt_tokens(self.processing_class, [row["prompt"] for row in rows]),
                max_new_tokens=self.args.max_completion_length or 0,
                eos_ids=self.stop_ids,
                pad_id=self.processing_class.pad_token_id,  # type: ignore[union-attr]
                temperature=self.temperature,
                teacher=self.teacher_model() if mix else None,
                teacher_mix=mix,
                vocabulary=self.readable,
                generator=draws,
                log_probs=True,
            )

    def _rewards(self, rows: list[dict[str, Any]], written: Rollouts) -> Tensor:
        """(B, R), by TRL's own calls of the reward functions; the row's completion is their `reference`."""
        if not self.rewards:
            return torch.zeros(len(rows), 0, device=written.completion_ids.device)
        ids = ids_of(written)
        said = self.processing_class.batch_decode(ids, skip_special_tokens=True)  # type: ignore[union-attr]
        given = [{**row, "reference": row.get("completion")} for row in rows]
        everyones = self._calculate_rewards(given, [row["prompt"] for row in rows], said, ids)
        first = self.accelerator.process_index * len(rows)
        return everyones[first : first + len(rows)]

    @torch.no_grad()
    def scored(self, record: Record) -> dict[str, Tensor]:
        """All that the loss needs of a generation batch, as tensors (B, ...): ids, masks, advantages, and more."""
        written = record.rollouts
        inputs = {
            "prompt_ids": written.prompt_ids,
            "prompt_mask": written.prompt_mask,
            "completion_ids": written.completion_ids,
            "completion_mask": written.completion_mask,
            "mask": record.mask,
        }
        if record.given is not None:
            inputs["given"] = record.given
            if self.args.given_ratio == "written":
                assert written.log_probs is not None, "they were asked for"
                inputs["written"] = written.log_probs
        seen = opinions(self, inputs, self._shown(record))
        log_probs = {who: seen[f"log_probs {who}"] for who in self._scored if f"log_probs {who}" in seen}
        gather = self.accelerator.gather
        signals = Signals(
            mask=record.mask,
            log_probs=log_probs,
            behaviour=written.log_probs,
            entropy=seen.get(ENTROPY),
            divergence=seen.get(DIVERGENCE),
            rewards=record.rewards,
            group=record.group,
            turn=record.turn,
            given=record.given,
            columns=record.columns,
            progress=self.progress,
            everyone=lambda local: (
                gather(self.accelerator.pad_across_processes(local, 1, torch.nan))
                if local.dim() > 1
                else gather(local)
            ),
        )
        if self.advantage is not None:
            # (B, C) in the precision of what it is made of, 0 off what the student wrote
            inputs["advantages"] = self.advantage(signals).masked_fill(record.mask == 0, 0.0)
            if self._learns and bool(inputs["advantages"].any()):
                self.had_advantage = True
        for where in self._wheres:
            inputs[where.key] = where.where(signals).to(written.completion_mask.dtype)
        teaching = [
            w for term in self.terms if getattr(term, "asks", ()) != (START,) for w in wheres_of(term)
        ]
        if self._learns and any(bool((inputs[where.key] * record.mask).any()) for where in teaching):
            self.had_advantage = True
        if self.args.stale or self.args.anchor_teacher_share:
            share = self.args.anchor_teacher_share
            anchor = log_probs[STUDENT]
            inputs["anchor"] = (1 - share) * anchor + share * log_probs[0] if share else anchor
        if self.args.teacher_mix or self._most is not None:
            assert written.log_probs is not None, "a mixture is sampled by our own rollouts"
            inputs["weights"] = sampling_weights(
                log_probs[STUDENT], written.log_probs, record.mask, most=self._most, given=record.given
            )
        for listener in self.listeners:
            listener(record, inputs.get("advantages", torch.zeros_like(record.mask)))
        return inputs | {name: tensor for name, tensor in seen.items() if name.startswith("hidden ")}

    def _shown(self, record: Record) -> list[str | None] | None:
        """Of each completion the sibling that its teacher is shown; None where no teacher is."""
        if not self._siblings:
            return None
        first = self.accelerator.process_index * len(record.mask)
        texts = self.processing_class.batch_decode(ids_of(record.rollouts), skip_special_tokens=True)  # type: ignore
        return siblings(record, texts, range(first, first + len(texts)), self.sibling_reward)

    # A micro-batch, in its accumulation window.

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches[0]:
            self.models.begin_step()
        return batches

    def _prepare_inputs(self, generation_batch):
        """GRPO's buffered slice as a micro-batch of its window, with the window's counts."""
        inputs = super()._prepare_inputs(generation_batch)
        if not self._learns:
            self._begin([inputs])
            return {**inputs, BATCH: self._window[0], WINDOW: self._counts}
        accumulate = self.current_gradient_accumulation_steps
        buffered: list[dict[str, Tensor]] = self._buffered_inputs or []
        position = self._step % len(buffered)
        start = position - position % accumulate
        if position == start:
            self._begin(buffered[start : start + accumulate])
        return {**inputs, BATCH: self._window[position - start], WINDOW: self._counts}

    def _begin(self, buffered: Sequence[Mapping[str, Tensor]]) -> None:
        """A window: its micro-batches as terms see them, and what their sums are divided by."""
        self._window = [as_batch(inputs) for inputs in buffered]
        last, self._window_loss = self._window_loss, None
        reduce = self.accelerator.reduce
        window = Window(
            self.progress,
            self._window,
            lambda: None if last is None else float(reduce(last, "mean")),
            lambda local: reduce(local.to(self.accelerator.device), "sum"),
            self,
        )
        for _, slot in self._slots():
            if hasattr(slot, "begin_step"):
                slot.begin_step(window)
        tokens = window_tokens(sum(inputs["mask"].sum() for inputs in buffered), self.accelerator)
        completions = window_tokens(sum(len(inputs["mask"]) for inputs in buffered), self.accelerator)
        factors: list[Tensor | float] = []
        for term in self.terms:
            weight, counts = weight_at(term.weight, self.progress), [term.count(b) for b in self._window]
            if counts[0] is None:
                factors.append(weight)
            else:
                count = window_tokens(sum(counts), self.accelerator)  # type: ignore[arg-type]
                factors.append(weight * tokens / count.clamp(min=1))
        self._counts = {"tokens": tokens, "completions": completions, "factors": factors}

    def _compute_loss(self, model, inputs):
        inner = self.accelerator.unwrap_model(model)
        core = core_model(inner)

        def losses() -> Tensor:
            return self.micro_batch_loss(core, token_states(core, inputs[BATCH]), inputs)

        return through_wrapper(model, inner, losses)

    def micro_batch(self, inputs: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """The ids, attention and labels that the student reads for what `_prepare_inputs` gives."""
        return inputs[BATCH]

    def micro_batch_loss(self, core: Any, hidden: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """The micro-batch's share of the window's loss, from the student's states (N, H) that predict its tokens."""
        self.count_tokens("student", inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
        window, loss = inputs[WINDOW], hidden.sum() * 0  # a graph even where there is nothing to learn
        if self.advantage is not None:
            total = self.policy_sum(core, hidden, inputs)
            count = window["tokens" if self.args.loss_type in ("dapo", "cispo") else "completions"]
            loss = loss + window_mean(total, count, self.accelerator)
        if self.terms:
            rows = self.models.rows(core, self._as_rows(inputs), (hidden, {}))
            total = hidden.sum() * 0
            for factor, term in zip(window["factors"], self.terms, strict=True):
                total = total + factor * term.total(rows)
            loss = loss + window_mean(total, window["tokens"], self.accelerator)
        if self._learns:
            seen = loss.detach()
            self._window_loss = seen if self._window_loss is None else self._window_loss + seen
        return loss

    def policy_sum(self, core: Any, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The surrogate summed over the micro-batch's tokens, or over its completions of their tokens' means."""
        mask = inputs["mask"]
        keep = mask.bool()
        ids = inputs["completion_ids"][keep]
        logps = linear_log_probs(hidden, head_of(core), ids, temperature=self.temperature)
        anchor = inputs["anchor"][keep] if "anchor" in inputs else logps.detach()
        if "weights" in inputs:  # rho is q over what was sampled from
            anchor = anchor - inputs["weights"][keep].clamp_min(torch.finfo(anchor.dtype).tiny).log()
        given = inputs["given"].unsqueeze(1).expand_as(mask)[keep] if "given" in inputs else None
        if given is not None and "written" in inputs:
            anchor = torch.where(given, inputs["written"][keep].to(anchor.dtype), anchor)
        per_token = surrogate(
            logps,
            anchor,
            inputs["advantages"][keep],
            low=self.epsilon_low,
            high=self.epsilon_high,
            capped=self.args.loss_type == "cispo",
        )
        if given is not None and self.args.given_ratio == "shaped":
            shaped = shaped_surrogate(logps, inputs["advantages"][keep], shape=self.args.given_shape)
            per_token = torch.where(given, shaped, per_token)
        return summed(per_token, mask, self.args.loss_type, longest=self.args.max_completion_length)

    def _as_rows(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The micro-batch as `Rows` have it, with what was kept of teachers, the start, and conditions."""
        keep = inputs["mask"].bool()
        numbers = [n for n in self._kept if isinstance(n, int)]
        said = Said(tuple((inputs[f"hidden {n}"][keep], head_of(self.teacher_model(n))) for n in numbers))
        batch = {**inputs[BATCH], SAID: said}
        if START in self._kept:
            batch[START] = inputs[f"hidden {START}"][keep], head_of(self._model(START))
        for where in self._wheres:
            batch[where.key] = inputs[where.key][keep].to(torch.get_default_dtype())
        return batch
