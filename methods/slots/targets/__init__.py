"""What takes the teacher's place in a divergence: teachers and mixtures of them, blends, distributions of few ids."""

from methods.slots.targets.teachers import (
    AverageLogits,
    InterpolatedLogits,
    NoisyTeacher,
    OneTeacher,
    Target,
    linear,
    mix_logits,
)

__all__ = [
    "AverageLogits",
    "InterpolatedLogits",
    "NoisyTeacher",
    "OneTeacher",
    "Target",
    "linear",
    "mix_logits",
]
