"""DAC-KL (Liu et al., arXiv 2407.10068, "Multi-Granularity Semantic Revision"): revise sequences, tokens and spans.

The student's answer is corrected at its worst token and continued anew. The KL is to a teacher clipped to a band of
its quantiles, which a small network learns. Products of neighbouring distributions within a span have to agree.
The paper says: each of the three helps, and the clipped KL beats every plain divergence.

Its spans are phrases that a chunker finds; here a span is what is said up to a vowel, that one included. Half of each
batch is the student's, half the data, on which the SFT term is; the losses add up with weights of one.
"""

from functools import partial

from reproductions.arms import distil, sft
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import tiny


def on_data(run, *, name=None, band=None, **settings):
    """SFT and one divergence, or the clipped KL, on the training rows."""
    from methods.slots.terms import Divergence

    soft = clipped(band) if name is None else Divergence(name, settings=settings)
    return distil(run, terms=[Divergence("cross_entropy"), soft])


def mixed(run, *, correct=False, clip=False, spans=False):
    """SFT on the data half of each batch and a KL on all of it; the paper's three revisions by choice."""
    from methods.slots.samplers import Corrected, HalfStudent
    from methods.slots.terms import Divergence

    sampler = HalfStudent("data")
    terms = [Divergence("cross_entropy", sources=("data",))]
    return distil(
        run,
        sampler=Corrected(sampler) if correct else sampler,
        terms=[*terms, *([clipped()] if clip else [Divergence("forward_kl")]), *([tied()] if spans else [])],
    )


def clipped(band=None):
    """KL to the clipped teacher; the band learned where none is given."""
    from methods.slots.terms import ClippedKL

    return ClippedKL("learned" if band is None else band)


def tied():
    """Neighbours within a span; the phonemes with a stress digit are the vowels."""
    from methods.slots.terms import SpanConsistency

    return SpanConsistency("ends-in-digit")


EXPERIMENT = Experiment(
    paper="dac-kl",
    title="Multi-Granularity Semantic Revision for Large Language Model Distillation",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "fkl": Arm("SFT + forward KL", partial(on_data, name="forward_kl"), "baseline"),
        "rkl": Arm("SFT + reverse KL", partial(on_data, name="reverse_kl"), "baseline"),
        "jsd": Arm("SFT + JSD(0.5)", partial(on_data, name="jensen_shannon"), "baseline"),
        "srkl": Arm("SFT + skew reverse KL", partial(on_data, name="skew_reverse_kl", skew=0.1), "baseline"),
        "dac": Arm("SFT + DAC-KL", on_data, "method"),
        "dac-fixed": Arm("SFT + DAC-KL, fixed band", partial(on_data, band=(0.05, 0.95)), "ablation"),
        "mixed": Arm("half the student's answers, forward KL", mixed, "baseline"),
        "corrected": Arm("+ correction", partial(mixed, correct=True), "ablation"),
        "corrected-clipped": Arm("+ DAC-KL", partial(mixed, correct=True, clip=True), "ablation"),
        "revision": Arm("+ spans: all three", partial(mixed, correct=True, clip=True, spans=True), "method"),
    },
    scales={
        "tiny": Scale(
            "pronunciation",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny(
                {
                    "sft": 0.004,
                    "fkl": 0.004,
                    "rkl": 0.004,
                    "jsd": 0.002,
                    "srkl": 0.004,
                    "dac": 0.002,
                    "dac-fixed": 0.002,
                    "mixed": 0.002,
                    "corrected": 0.004,
                    "corrected-clipped": 0.004,
                    "revision": 0.002,
                }
            ),
            minutes=13,
        )
    },
    headline=("rouge_l", "exact_match", "greedy_exact_match", "excess_error"),
    only_named_metrics=True,
)
