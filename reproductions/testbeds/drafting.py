"""The pronunciation testbed for draft models: how much of what a student proposes the teacher accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from methods.modeling.speculative import acceptance_rate, speculate
from reproductions.engine.metrics import Metric
from reproductions.testbeds import evaluation as ev
from reproductions.testbeds.pronunciation import METRICS, SAMPLES_PER_WORD, Pronunciation, load

if TYPE_CHECKING:
    from reproductions.engine.run import Run

BLOCK_LENGTH = 4  # proposals a block, gamma of the papers; figures of different lengths do not compare

MODES = {"": ("sampled", SAMPLES_PER_WORD), "greedy_": ("greedy", 1)}
COUNTS = ("accepted", "examined", "emitted", "target_calls")


def _metrics() -> dict[str, Metric]:
    found = {}
    for prefix, (how, _) in MODES.items():
        accepted, examined, emitted, calls = (prefix + name for name in COUNTS)
        found[prefix + "acceptance"] = Metric("ratio", (accepted, examined), True, f"acceptance rate, {how}")
        found[prefix + "block_efficiency"] = Metric(
            "ratio", (emitted, calls), True, f"tokens per target call, {how}"
        )
    found["expected_acceptance"] = Metric(
        "mean", ("expected_acceptance",), True, "1 - TVD on the target's samples"
    )
    return found


class PronunciationDrafting(Pronunciation):
    """The same testbed, where the student drafts for the teacher in real speculative decoding.

    Acceptance: proposals kept of those examined; block efficiency: tokens per call of the teacher; both over all
    words, sampling at temperature 1 and greedily, in blocks of BLOCK_LENGTH. The expected acceptance is the mean of
    1 - TVD over the tokens of the teacher's own sample of a word, without any draw of the student's.
    Source: DistillSpec, arXiv 2310.08461, whose measures these are; arXiv 2211.17192.
    """

    metrics = METRICS | _metrics()

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        columns = super().evaluate(model, run, split=split, limit=limit)
        rows = getattr(self, split)
        prompts = list(rows["prompt"])[: limit or len(rows)]
        teacher = self.teacher(run)
        for prefix in MODES:
            columns |= self._speculate(teacher, model, prompts, run, prefix)
        expected = self._expected_acceptance(teacher, model, prompts, run)
        return columns | ev.rounded({"expected_acceptance": (expected, 3)})

    def _speculate(
        self, teacher: PreTrainedModel, model: PreTrainedModel, prompts: list[str], run: Run, prefix: str
    ) -> dict[str, list[float]]:
        """Counts of one way to decode, summed over a word's samples."""
        how, copies = MODES[prefix]
        found = speculate(
            teacher,
            model,
            self.tokenizer(prompts)["input_ids"] * copies,
            max_new_tokens=self.max_completion_tokens,
            eos_ids=[self.tokenizer.eos_token_id],
            pad_id=self.tokenizer.pad_token_id,
            block_length=BLOCK_LENGTH,
            greedy=how == "greedy",
            generator=torch.Generator(teacher.device).manual_seed(run.seed),
        )
        counts: dict[str, Any] = {
            "accepted": found.accepted,
            "examined": found.examined,
            "emitted": found.tokens,
            "target_calls": found.target_calls,
        }
        return ev.rounded(
            {prefix + name: (counts[name].view(copies, -1).sum(0).cpu().numpy(), 0) for name in COUNTS}
        )

    @torch.no_grad()
    def _expected_acceptance(
        self, teacher: PreTrainedModel, model: PreTrainedModel, prompts: list[str], run: Run
    ) -> np.ndarray:
        ids, attention = ev.encode_prompts(self.tokenizer, prompts, self.max_prompt_tokens)
        samples = self._judge.teacher_samples(run, prompts)
        parts = []
        for start in range(0, len(ids), ev.FORWARD_ROWS):
            span = slice(start, start + ev.FORWARD_ROWS)
            some = samples.rows(span)
            p, q = (ev.completion_logprobs(m, ids[span], attention[span], some) for m in (teacher, model))
            kept = acceptance_rate(q, p) * some.mask
            parts.append(kept.sum(1) / some.mask.sum(1))
        return torch.cat(parts).cpu().numpy()


def load_drafting() -> Pronunciation:
    """The testbed on the installed lexicon."""
    return load(PronunciationDrafting)
