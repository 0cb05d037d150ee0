"""A model that reasons in words teaches itself to reason in a few vectors: CODI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from methods.errors import MethodError
from methods.losses.fused.linear import head_of, linear_cross_entropy
from methods.modeling.core import core_model, position_ids
from methods.modeling.latent_reasoning import NAME, advance, extended, latent_of, think
from methods.modeling.normalise import window_mean, window_tokens
from methods.modeling.rollouts import left_pad
from methods.trainers.base import RowsTrainer
from methods.trainers.trl_compat import SFTConfig, through_wrapper

COLUMNS = ("prompt_ids", "thought_ids", "marker_ids", "answer_ids")
DEVIATION_FLOOR = 1e-6


class LatentDistiller(RowsTrainer):
    """Explicit reasoning, latent reasoning and their hidden states at the token before the answer, learnt together.

    loss = teacher_weight * CE(thoughts, marker, answer | prompt)                       mean over tokens
         + student_weight * CE(marker, answer | prompt, latent thoughts)                mean over tokens
         + distillation_weight * 1/L sum_l SmoothL1(sg(h_teacher^l), h_student^l) / std(h_teacher^l)   over sequences

    The rows hold token ids in the columns COLUMNS: the marker ("The answer is:") stands before the answer in both
    branches and its last token is where the hidden states h^l of the L layers are matched; EOS ends the answer.
    With `embeddings` the embeddings are one more layer, before the L ones.
    The model needs `attach_latent` first. All means are over the accumulation window. One pass serves the teacher's
    likelihood and, detached, its hidden states, and std is that of each sequence's own state over its H features,
    so that neither dropout nor the partition into micro-batches changes the target; the official code runs the pass
    twice, takes std over the micro-batch, and counts the embeddings as a layer.
    Source: CODI, arXiv 2502.21074, section 3 (alpha, beta, gamma are the weights here, in this order).
    """

    def __init__(
        self,
        model: Any,
        *,
        args: SFTConfig,
        teacher_weight: float = 1.0,
        student_weight: float = 1.0,
        distillation_weight: float = 1.0,
        embeddings: bool = False,
        **kwargs: Any,
    ):
        latent = latent_of(model)
        if latent is None:
            raise MethodError(
                "a latent distillation needs a model with latent thoughts: call attach_latent first"
            )
        if args.gradient_checkpointing:
            raise MethodError(
                "latent thoughts need the key-value cache, which gradient checkpointing turns off"
            )
        args.remove_unused_columns = False  # the columns are ours, not the model's
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        collator = Collator(kwargs["processing_class"].pad_token_id, latent.end_id)
        super().__init__(model, args=args, data_collator=collator, **kwargs)
        if self.is_fsdp_enabled:
            raise MethodError(
                "its gradients reach a layer through the key-value cache too, where FSDP does not gather its "
                "weights: use DDP"
            )
        self.weights = {
            "teacher": teacher_weight,
            "student": student_weight,
            "sequences": distillation_weight,
        }
        self._latent, self._first = latent, 0 if embeddings else 1
        self._window: dict[str, Tensor] = {}

    def trained_along(self) -> dict[str, torch.nn.Module]:
        return {NAME: self._latent}

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        local = [counts(batch) for batch in batches]
        self._window = {
            name: window_tokens(sum(int(c[name]) for c in local), self.accelerator) for name in self.weights
        }
        return batches, count

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:
            raise MethodError("the fused loss makes no logits to return")
        inner = self.accelerator.unwrap_model(model)
        core = core_model(inner)
        sums = through_wrapper(model, inner, lambda: self.sums(core, inputs))
        self.count_tokens("student", inputs["attention_mask"].sum() + inputs["answer_mask"].sum())
        thoughts = inputs["prompt_mask"].sum() + len(inputs["labels"]) * (latent_of(core).steps + 1)  # type: ignore[union-attr]
        self.count_tokens("student", thoughts)
        if num_items_in_batch is None:  # evaluation: the means of this batch
            here = counts(inputs)
            return sum(w * sums[name] / here[name] for name, w in self.weights.items())
        return sum(
            w * window_mean(sums[name], self._window[name], self.accelerator)
            for name, w in self.weights.items()
        )

    def sums(self, core: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The three losses of a batch, each summed: over the tokens of both branches and over the sequences."""
        head, wanted = head_of(core), self.weights["sequences"] != 0
        teacher = core.base_model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            position_ids=position_ids(inputs["attention_mask"]),
            use_cache=False,
            output_hidden_states=wanted,
        )
        state = think(core, inputs["prompt_ids"], inputs["prompt_mask"])
        student = advance(
            core,
            state.cache,
            extended(state.mask, inputs["answer_mask"]),
            input_ids=inputs["decoder_ids"],
            output_hidden_states=wanted,
        )
        sums = {
            "teacher": cross_entropy(teacher.last_hidden_state, inputs["labels"], head),
            "student": cross_entropy(student.last_hidden_state, inputs["answer_labels"], head),
            "sequences": student.last_hidden_state.sum() * 0,
        }
        if wanted:
            sums["sequences"] = hidden_distance(
                at(teacher.hidden_states[self._first :], inputs["teacher_place"]),
                at(student.hidden_states[self._first :], inputs["student_place"]),
            ).sum()
        return sums


def cross_entropy(hidden: Tensor, labels: Tensor, head: Any) -> Tensor:
    """Sum of -log p(label) in nats over the labels (B, L) that are not -100; hidden (B, L, H) predicts the next one."""
    rows = labels[:, 1:] != -100
    return linear_cross_entropy(hidden[:, :-1][rows], head, labels[:, 1:][rows]).total


def at(layers: Sequence[Tensor], place: Tensor) -> Tensor:
    """Of L layers (B, T, H), the states (B, L, H) at one place (B,) of each sequence."""
    rows = torch.arange(len(place), device=place.device)
    return torch.stack([layer[rows, place] for layer in layers], 1)


def hidden_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """(B,) mean over layers of SmoothL1 over features, over the teacher's standard deviation; states are (B, L, H).

    No gradient reaches `teacher`. Source: CODI, arXiv 2502.21074, section 3, the loss of self-distillation.
    """
    target = teacher.detach()
    deviation = target.std(-1, correction=0).clamp_min(DEVIATION_FLOOR)
    return (smooth_l1_loss(student, target, reduction="none").mean(-1) / deviation).mean(-1)


def counts(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each of the three losses is a mean over."""
    return {
        "teacher": (batch["labels"] != -100).sum(),
        "student": (batch["answer_labels"] != -100).sum(),
        "sequences": torch.tensor(len(batch["labels"])),
    }


class Collator:
    """Rows of COLUMNS as the two branches of a batch.

    Explicit: `input_ids`, `attention_mask`, `labels` (B, L), padded on the right, `teacher_place` (B,). Latent:
    `prompt_ids`, `prompt_mask` (B, P), padded on the left; `decoder_ids`, `answer_mask`, `answer_labels` (B, A) of end
    token, marker and answer, padded on the right; `student_place` (B,).
    Raises MethodError for an empty prompt, marker or answer.
    """

    def __init__(self, pad_id: int, end_id: int):
        self.pad_id, self.end_id = pad_id, end_id

    def __call__(self, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
        for row in rows:
            for name in ("prompt_ids", "marker_ids", "answer_ids"):
                if not row[name]:
                    raise MethodError(f"a row has no {name}")
        explicit = [[*r["prompt_ids"], *r["thought_ids"], *r["marker_ids"], *r["answer_ids"]] for r in rows]
        latent = [[self.end_id, *r["marker_ids"], *r["answer_ids"]] for r in rows]
        ids, mask, labels = self._right(explicit, [len(r["prompt_ids"]) for r in rows])
        decoder, answer_mask, answer_labels = self._right(latent, [1] * len(rows))
        prompts, prompt_mask = left_pad(
            [list(r["prompt_ids"]) for r in rows], self.pad_id, torch.device("cpu")
        )
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "teacher_place": torch.tensor(
                [len(e) - len(r["answer_ids"]) - 1 for e, r in zip(explicit, rows, strict=True)]
            ),
            "prompt_ids": prompts,
            "prompt_mask": prompt_mask,
            "decoder_ids": decoder,
            "answer_mask": answer_mask,
            "answer_labels": answer_labels,
            "student_place": torch.tensor([len(r["marker_ids"]) for r in rows]),
        }

    def _right(self, rows: list[list[int]], given: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and labels; the first `given` tokens of each row are not to be predicted."""
        width = max(map(len, rows))
        ids = torch.tensor([row + [self.pad_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        skip = torch.arange(width) < torch.tensor(given).unsqueeze(1)
        return ids, mask, ids.masked_fill(skip | (mask == 0), -100)
