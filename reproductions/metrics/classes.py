"""What a classifier says of held-out texts: the right class, the nats of it, the class that a teacher says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from torch import Tensor

    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task


@measurement("classes")
class Classes:
    """`accuracy` in percent, `loss` in nats a text, `agreement` with the class that the teacher says, in percent.

    `agreement` is measured where a `teacher` is named.
    """

    def __init__(self, teacher: str | None = None) -> None:
        self.teacher = teacher
        self.teachers: tuple[str, ...] = () if teacher is None else (teacher,)

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """Means over the texts. Raises KDError for a task whose answers are written."""
        if not task.classifies:
            raise KDError(f"{task.__name__} classifies nothing")
        found = {
            "accuracy": Metric("mean", ("right",), True, "Accuracy", "%"),
            "loss": Metric("mean", ("nats",), False, "Cross entropy", "nats"),
        }
        if self.teacher is not None:
            found["agreement"] = Metric("mean", ("agrees",), True, "Says the teacher's class", "%")
        return found

    def columns(self, evaluation: Evaluation) -> Columns:
        """Figures of every text."""
        asked = evaluation.reader is not None and _asked_in_words(evaluation, evaluation.reader)
        logits = _said(evaluation, str(evaluation.reader)) if asked else _logits(evaluation, evaluation.model)
        said, classes = logits.argmax(-1).numpy(), list(evaluation.task.classes)
        right = np.array([classes.index(name) for name in evaluation.references])
        nats = -logits.log_softmax(-1).numpy()[np.arange(len(right)), right]
        columns: Columns = {"right": (100.0 * (said == right), 0), "nats": (nats, 4)}
        if self.teacher is not None and evaluation.wants("agreement"):
            columns["agrees"] = (100.0 * (said == self._theirs(evaluation)), 0)
        return columns

    def _theirs(self, evaluation: Evaluation) -> np.ndarray[Any, Any]:
        """The classes that the teacher says; kept with what it makes, which is the same for all runs of a draw."""
        bed, run, name = evaluation.testbed, evaluation.run, str(self.teacher)
        if _asked_in_words(evaluation, name):
            return _said(evaluation, name).argmax(-1).numpy()
        key = {
            "teacher": bed.teacher_key(run, name),
            "split": evaluation.split,
            "texts": len(evaluation.all_prompts),
        }
        said = run.shared.data(
            "teacher-said",
            key,
            lambda apart: _logits(evaluation, bed.teacher(apart, name), reader=name).argmax(-1).tolist(),
        )
        return np.array(said[: len(evaluation.prompts)])


def _asked_in_words(evaluation: Evaluation, name: str) -> bool:
    return evaluation.testbed.models.prompted(name) is not None


def _said(evaluation: Evaluation, name: str) -> Tensor:
    """Logits (N, C) of a teacher that is asked in words: it is slow, and asked once for all runs, its own too."""
    import torch

    bed, run = evaluation.testbed, evaluation.run
    key = {
        "teacher": bed.teacher_key(run, name),
        "split": evaluation.split,
        "texts": len(evaluation.all_prompts),
    }
    said = run.shared.data(
        "teacher-logits",
        key,
        lambda apart: _logits(evaluation, bed.teacher(apart, name), reader=name).tolist(),
    )
    return torch.tensor(said)[: len(evaluation.prompts)]


def _logits(evaluation: Evaluation, model: Any, *, reader: str | None = None) -> Tensor:
    """Logits (N, C) in fp32 of the evaluation's texts, in their order; texts of one length are read together.

    `reader`: a teacher's name, for the teacher itself, on all texts of the split in its own tokens.
    """
    import torch

    from methods.classes.model import logits_of
    from reproductions.metrics.decoding.decoder import autocast

    decoder = evaluation.decoder if reader is None else evaluation.testbed.decoder_of(reader)
    tokenizer, texts = decoder.tokenizer, evaluation.prompts if reader is None else evaluation.all_prompts
    rows = tokenizer(texts, truncation=True, max_length=decoder.prompt_tokens)
    order = sorted(range(len(texts)), key=lambda place: len(rows["input_ids"][place]))
    parts = [order[start : start + decoder.batch] for start in range(0, len(order), decoder.batch)]
    batches = (
        tokenizer.pad({name: [rows[name][place] for place in part] for name in rows}, return_tensors="pt")
        for part in parts
    )
    made: Any = None
    with autocast(evaluation.run):
        for part, logits in zip(parts, logits_of(model, batches), strict=True):
            made = torch.empty(len(texts), logits.shape[1]) if made is None else made
            made[torch.tensor(part)] = logits
    return made
