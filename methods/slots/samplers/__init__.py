"""Which sequences a student learns from: the data, its own samples, replayed ones, a mixture with the teacher's."""

from methods.slots.samplers.corrected import Corrected, beginning
from methods.slots.samplers.domains import DomainSampler, DomainWeights
from methods.slots.samplers.example import (
    SOURCES,
    Comparison,
    Example,
    Sampler,
    Step,
    student_examples,
    with_completions,
)
from methods.slots.samplers.interleaved import (
    HandingOverSampler,
    Nucleus,
    SpeculativeSampler,
    SwitchingSampler,
)
from methods.slots.samplers.mixed import Continued, GatedLength, Mixed, Paired, Truncated
from methods.slots.samplers.replay import AdaptiveReplay
from methods.slots.samplers.student import HalfStudent, OnPolicy, PairedStudent, TeacherMixed, WithStudent

__all__ = [
    "SOURCES",
    "AdaptiveReplay",
    "Comparison",
    "Continued",
    "Corrected",
    "DomainSampler",
    "DomainWeights",
    "Example",
    "GatedLength",
    "HalfStudent",
    "HandingOverSampler",
    "Mixed",
    "Nucleus",
    "OnPolicy",
    "Paired",
    "PairedStudent",
    "Sampler",
    "SpeculativeSampler",
    "Step",
    "SwitchingSampler",
    "TeacherMixed",
    "Truncated",
    "WithStudent",
    "beginning",
    "student_examples",
    "with_completions",
]
