"""f-DISTILL (Wen et al., arXiv 2307.15190): sequence-level f-divergences, written as sums of token-level ones.

Forward KL learns on the teacher's samples, reverse KL on the student's; the symmetric Jensen-Shannon and total
variation take half of their sequences from each side, with the half of the divergence that belongs to it. The
teacher's samples are made once.
The paper says: soft targets beat hard ones; the symmetric divergences beat both KLs; forward KL covers the teacher
better and reverse KL says more of what the teacher finds likely.
"""

from reproductions.arms import distil, seqkd, teacher_answers
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import tiny


def on_teacher_samples(run):
    """Forward KL on what the teacher wrote."""
    return distil(run, dataset=teacher_answers(run))


def on_student_samples(run):
    """Reverse KL on what the student says."""
    from methods.slots.samplers import OnPolicy
    from methods.slots.terms import Divergence

    return distil(run, terms=[Divergence("reverse_kl")], sampler=OnPolicy(1.0))


def jensen_shannon(run):
    """KL(p || m) on the teacher's samples, KL(q || m) on the student's, m = (p + q) / 2: skews of one half."""
    from methods.slots.terms import Divergence

    half = {"skew": 0.5}
    return symmetric(
        run,
        [
            Divergence("skew_forward_kl", settings=half, sources=("teacher",)),
            Divergence("skew_reverse_kl", settings=half, sources=("student",)),
        ],
    )


def total_variation(run):
    """Total variation on the samples of both sides."""
    from methods.slots.terms import Divergence

    return symmetric(run, [Divergence("total_variation")])


def symmetric(run, terms):
    """Half of every batch stays as the teacher wrote it, the student answers the other half."""
    from methods.slots.samplers import HalfStudent

    return distil(run, terms=terms, sampler=HalfStudent("teacher"), dataset=teacher_answers(run))


def testbed():
    """Pronunciation with the two risks of the paper's Table 3."""
    from reproductions.testbeds.pronunciation import PronunciationRisks, load

    return load(PronunciationRisks)


EXPERIMENT = Experiment(
    paper="f-distill",
    title="f-Divergence Minimization for Sequence-Level Knowledge Distillation",
    arms={
        "seqkd": Arm("SeqKD", seqkd, "baseline"),
        "kl": Arm("KL, teacher's samples", on_teacher_samples, "baseline"),
        "rkl": Arm("reverse KL, student's samples", on_student_samples, "baseline"),
        "js": Arm("Jensen-Shannon, both", jensen_shannon, "method"),
        "tvd": Arm("total variation, both", total_variation, "method"),
    },
    scales={
        "tiny": Scale(
            "pronunciation-risks",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny({"seqkd": 0.002, "kl": 0.004, "rkl": 0.004, "js": 0.004, "tvd": 0.004}),
            minutes=5,
        )
    },
    testbeds={"pronunciation-risks": testbed},
    headline=("rouge_l", "exact_match", "greedy_exact_match", "likelihood_risk", "coverage_risk"),
)
