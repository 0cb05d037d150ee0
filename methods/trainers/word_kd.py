"""Word-level knowledge distillation: match the teacher's next-token distributions on fixed text."""

from collections.abc import Mapping
from typing import Any

from methods.errors import MethodError
from methods.trainers.distillation import DistillationTrainer, SFTConfig, Term

__all__ = ["SFTConfig", "WordKDTrainer"]


class WordKDTrainer(DistillationTrainer):
    """Token-level divergence from a white-box teacher on the tokens of a data set.

    loss = (1 - distillation_weight) * NLL(labels) + distillation_weight * D(teacher, student), mean over completion
    tokens. `divergence` is a name of `methods.losses.divergences`, `divergence_settings` its further arguments (`skew`,
    `teacher_weight`, ...).
    Source: Kim and Rush, arXiv 1606.07947, section 3.1; the weight is `kd-ratio` of MiniLLM's scripts (0.5 there,
    and in the law of capacity gap, Zhang et al., arXiv 2311.07052).
    """

    def __init__(
        self,
        *args: Any,
        divergence: str = "forward_kl",
        divergence_settings: Mapping[str, Any] | None = None,
        temperature: float = 1.0,
        distillation_weight: float = 1.0,
        **kwargs: Any,
    ):
        if not 0 <= distillation_weight <= 1:
            raise MethodError(f"distillation_weight is {distillation_weight}, not between 0 and 1")
        terms = [
            Term(
                divergence,
                weight=distillation_weight,
                settings=divergence_settings or {},
                temperature=temperature,
            )
        ]
        if distillation_weight < 1:
            terms.append(Term("cross_entropy", weight=1 - distillation_weight))
        super().__init__(*args, terms=terms, **kwargs)
