"""Answers after reasoning, written out or silent: right, and how many tokens and latent thoughts they took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reproductions.engine.metrics import Metric
from reproductions.metrics.answers import RIGHT, score_of
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task


@measurement("reasoning")
class Reasoning:
    """Greedy answers; latent thoughts, where a model has them, count as decoding steps."""

    teachers: tuple[str, ...] = ()

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`exact_match`, `decoding_steps`, `right_per_step`, `unfinished`."""
        return {
            "exact_match": Metric("mean", ("correct",), True, "exact match", "%"),
            "decoding_steps": Metric(
                "mean", ("decoding_steps",), False, "tokens and latent thoughts generated"
            ),
            "right_per_step": Metric(
                "ratio", ("correct", "decoding_steps"), True, "right answers per step", "%"
            ),
            "unfinished": Metric("mean", ("unfinished",), False, "answers cut by the token limit", "%"),
        }

    def columns(self, evaluation: Evaluation) -> Columns:
        """Of every problem."""
        from methods.modeling.latent_reasoning import latent_of, rollout_after_thoughts
        from methods.modeling.rollouts import rollout

        testbed, task = evaluation.testbed, evaluation.task
        eos, latent = testbed.tokenizer.eos_token_id, latent_of(evaluation.model)
        decode = rollout if latent is None else rollout_after_thoughts
        made = decode(
            evaluation.model,
            testbed.tokenizer(evaluation.prompts)["input_ids"],
            max_new_tokens=testbed.max_completion_tokens,
            eos_ids=[eos],
            pad_id=testbed.tokenizer.pad_token_id,
            greedy=True,
        )
        steps = made.completion_mask.sum(1).cpu().numpy() + (0 if latent is None else latent.steps)
        kept = made.completion_mask.bool() & (made.completion_ids != eos)
        ids = [row[k].tolist() for row, k in zip(made.completion_ids, kept, strict=True)]
        right = score_of(type(task), RIGHT).function
        return {
            "correct": (right(task.said(ids, testbed.tokenizer), evaluation.references), 0),
            "decoding_steps": (steps, 0),
            "unfinished": (100 * made.truncated.cpu().numpy().astype(np.int64), 0),
        }
