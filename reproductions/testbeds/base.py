"""What a testbed is: a task with its data, teacher, student and metrics, at one scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reproductions.engine.metrics import Metric


class Testbed(Protocol):
    """One task at one scale; every paper that uses it gets the same data, teacher and measurements.

    `train`, `validation` and `test` hold string columns `prompt` and `completion` and share no problem.
    `revision` is a hash of the rows, so that a result says which data it was measured on.
    """

    name: str
    revision: str
    metrics: Mapping[str, Metric]
    max_prompt_tokens: int
    max_completion_tokens: int

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def train(self) -> Dataset: ...
    @property
    def validation(self) -> Dataset: ...
    @property
    def test(self) -> Dataset: ...
    @property
    def pretraining(self) -> Dataset | None:
        """Plain text (column `text`) for a language-modelling term, where the scale has one."""

    def teacher(self, run: Any) -> PreTrainedModel:
        """The frozen teacher on `run.device`, in eval mode; made once and cached."""

    def student(self, run: Any) -> PreTrainedModel:
        """A fresh student for `run.seed`, before any training on the task."""

    def sft_start(self, run: Any) -> PreTrainedModel:
        """The student of `run.seed` after `settings["sft_start"]`, the common start of all arms; cached."""

    def evaluate(
        self, model: PreTrainedModel, run: Any, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """Per-example columns of the first `limit` rows; the same for the same `run.seed`."""
