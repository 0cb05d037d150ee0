"""How far a student is from its teacher and from the oracle that this teacher learnt from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.metrics import Metric
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reproductions.engine.work.run import Run
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task

TITLES = {
    "golden": "KL(oracle || student), nats",
    "proxy": "KL(teacher || student), nats",
    "golden_seen": "KL(oracle || student) on training words, nats",
    "proxy_seen": "KL(teacher || student) on training words, nats",
    "golden_rise": "rise of KL(oracle || student), nats",
    "proxy_rise": "rise of KL(teacher || student), nats",
}


@measurement("distances")
class Distances:
    """Golden and proxy: KL summed over the answer that the oracle or the teacher sampled to each prompt, nats a prompt.

    The same over as many prompts of the training data (`_seen`: the first ones, which fixed data hold); and what golden
    and proxy have risen by since the student that a run had after the share `checkpoint` of its steps, 0 where it kept
    none. On the first `examples` rows where given. Hacking is a proxy that falls while golden rises.
    Source: arXiv 2502.02671.
    """

    def __init__(
        self,
        checkpoint: float,
        golden: str = "main",
        proxy: str = "imperfect",
        examples: int | None = None,
    ) -> None:
        self.checkpoint, self.teachers, self.examples = checkpoint, (golden, proxy), examples
        self._kept: tuple[Run, PreTrainedModel] | None = None

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`golden`, `proxy`, and each with `_seen` and `_rise`."""
        return {name: Metric("mean", (name,), False, title) for name, title in TITLES.items()}

    def keep(self, run: Run, model: PreTrainedModel) -> None:
        """Remember the student as it is now: the rises of this run are counted from here."""
        from methods.modeling.core import snapshot

        self._kept = run, snapshot(model)

    def callbacks(self, run: Run) -> list[Any]:
        """Keeps the student at the checkpoint of a run's training."""
        from reproductions.metrics.callbacks import AtStep

        return [AtStep(self.checkpoint, lambda model: self.keep(run, model))]

    def columns(self, evaluation: Evaluation) -> Columns:
        """All six of every prompt."""
        asked, wants = evaluation.prompts[: self.examples], evaluation.wants
        seen = list(evaluation.task.rows("train")["prompt"])[: len(asked)]
        before = self._kept[1] if self._kept is not None and self._kept[0] is evaluation.run else None
        found: dict[str, np.ndarray] = {}
        for name, teacher in zip(("golden", "proxy"), self.teachers, strict=True):
            side = evaluation.teacher(teacher)
            if wants(name, f"{name}_rise"):
                found[name] = side.compare(evaluation.model, asked).divergence
            if wants(f"{name}_seen"):
                found[f"{name}_seen"] = np.resize(side.compare(evaluation.model, seen).divergence, len(asked))
            if wants(f"{name}_rise"):
                then = found[name] if before is None else side.compare(before, asked).divergence
                found[f"{name}_rise"] = found[name] - then
        return {name: (found[name], 3) for name in TITLES if name in found}
