"""Real speculative decoding: how much of what a student proposes the teacher accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.metrics import Metric
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task

MODES = {"": "sampled", "greedy_": "greedy"}
COUNTS = ("accepted", "examined", "emitted", "target_calls")


@measurement("drafting")
class Drafting:
    """The student drafts for the teacher, in blocks of `block_length`; figures of different lengths do not compare.

    Acceptance: proposals kept of those examined; block efficiency: tokens per call of the teacher; both over all
    prompts, sampling at temperature 1 (as often as the testbed samples) and greedily. The expected acceptance is the
    mean of 1 - TVD over the tokens of the teacher's own sample, without any draw of the student's. On the first
    `examples` rows where given.
    Source: DistillSpec, arXiv 2310.08461, whose measures these are; arXiv 2211.17192.
    """

    def __init__(self, block_length: int = 4, teacher: str = "main", examples: int | None = None) -> None:
        self.block_length, self.teachers, self.examples = block_length, (teacher,), examples

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`acceptance` and `block_efficiency`, each with `greedy_` too, and `expected_acceptance`."""
        found = {}
        for prefix, how in MODES.items():
            accepted, examined, emitted, calls = (prefix + name for name in COUNTS)
            found[prefix + "acceptance"] = Metric(
                "ratio", (accepted, examined), True, f"acceptance rate, {how}"
            )
            found[prefix + "block_efficiency"] = Metric(
                "ratio", (emitted, calls), True, f"tokens per target call, {how}"
            )
        found["expected_acceptance"] = Metric(
            "mean", ("expected_acceptance",), True, "1 - TVD on the target's samples"
        )
        return found

    def columns(self, evaluation: Evaluation) -> Columns:
        """Counts of every prompt, summed over its samples, and the expected acceptance."""
        columns: Columns = {}
        for prefix, how in MODES.items():
            if evaluation.wants(prefix + "acceptance", prefix + "block_efficiency"):
                columns |= self._speculate(evaluation, prefix, greedy=how == "greedy")
        if evaluation.wants("expected_acceptance"):
            columns["expected_acceptance"] = (self._expected(evaluation), 3)
        return columns

    def _speculate(self, evaluation: Evaluation, prefix: str, *, greedy: bool) -> Columns:
        import torch

        from methods.modeling.speculative import speculate

        testbed, teacher = evaluation.testbed, evaluation.teacher(self.teachers[0]).model
        copies = 1 if greedy else testbed.samples
        found = speculate(
            teacher,
            evaluation.model,
            testbed.tokenizer(evaluation.prompts[: self.examples])["input_ids"] * copies,
            max_new_tokens=testbed.max_completion_tokens,
            eos_ids=[testbed.tokenizer.eos_token_id],
            pad_id=testbed.tokenizer.pad_token_id,
            block_length=self.block_length,
            greedy=greedy,
            generator=torch.Generator(teacher.device).manual_seed(evaluation.run.seed),
        )
        counts: dict[str, Any] = {
            "accepted": found.accepted,
            "examined": found.examined,
            "emitted": found.tokens,
            "target_calls": found.target_calls,
        }
        return {prefix + name: (counts[name].view(copies, -1).sum(0).cpu().numpy(), 0) for name in COUNTS}

    def _expected(self, evaluation: Evaluation) -> np.ndarray:
        import torch

        from methods.modeling.speculative import acceptance_rate
        from reproductions.metrics.decoding import sampling

        side = evaluation.teacher(self.teachers[0])
        prompts = evaluation.prompts[: self.examples]
        ids, attention = evaluation.decoder.encode(prompts)
        samples = side.samples(prompts)
        parts = []
        with torch.no_grad():
            for start in range(0, len(ids), sampling.FORWARD_ROWS):
                span = slice(start, start + sampling.FORWARD_ROWS)
                some = samples.rows(span)
                p, q = (
                    sampling.completion_logprobs(model, ids[span], attention[span], some)
                    for model in (side.model, evaluation.model)
                )
                kept = acceptance_rate(q, p) * some.mask
                parts.append(kept.sum(1) / some.mask.sum(1))
        return torch.cat(parts).cpu().numpy()
