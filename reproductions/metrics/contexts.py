"""A model and its teacher on the same contexts: excess accumulated error, and two risks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reproductions.engine.metrics import Metric
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task


@measurement("excess-error")
class ExcessError:
    """How much further from the teacher a model is along its own answers than along the teacher's.

    KL(teacher || model) in nats, summed over an answer that the model sampled and over one that the teacher sampled.
    On the first `examples` rows where given: both models read every answer.
    Source: ExAccErr of MiniLLM, arXiv 2306.08543, section 3.3.
    """

    def __init__(self, teacher: str = "main", examples: int | None = None) -> None:
        self.teachers, self.examples = (teacher,), examples

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`excess_error`."""
        columns = ("kl_student_contexts", "kl_teacher_contexts")
        return {"excess_error": Metric("excess_ratio", columns, False, "excess accumulated error", "%")}

    def columns(self, evaluation: Evaluation) -> Columns:
        """The two sums of every prompt."""
        own, theirs = evaluation.beside(self.teachers[0], self.examples)
        return {"kl_student_contexts": (own.divergence, 2), "kl_teacher_contexts": (theirs.divergence, 2)}


@measurement("risks")
class Risks:
    """How likely each side finds what the other says, nats per token.

    Likelihood risk: -log of the teacher's probability of the student's sample; coverage risk: -log of the student's
    probability of the teacher's sample. Source: f-DISTILL, arXiv 2307.15190, section 4 (Table 3).
    """

    def __init__(self, teacher: str = "main", examples: int | None = None) -> None:
        self.teachers, self.examples = (teacher,), examples

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`likelihood_risk`, `coverage_risk`."""
        return {
            "likelihood_risk": Metric("mean", ("likelihood_risk",), False, "likelihood risk, nats/token"),
            "coverage_risk": Metric("mean", ("coverage_risk",), False, "coverage risk, nats/token"),
        }

    def columns(self, evaluation: Evaluation) -> Columns:
        """Both risks of every prompt."""
        own, theirs = evaluation.beside(self.teachers[0], self.examples)
        return {"likelihood_risk": (own.teacher_nll, 2), "coverage_risk": (theirs.model_nll, 2)}
