"""DistiLLM-2 (Ko et al., arXiv 2503.07067): one skewed KL on the teacher's answers, the other on the student's.

The forward one raises what the teacher said, the reverse one lowers what only the student says. Two curricula: each
sequence's skew follows how far apart the models still are on it, and the student's side grows from 1 to 1.5 of 2.
Each step learns on half of its prompts, with two answers each, so that all arms see as many sequences.
The paper says: this pairing beats either loss on both sides and on-policy JSD, and both curricula add to it; as a
draft model such a student is accepted more often.
Not as in the paper: the student's answers are fresh at every step, sampled at temperature 1, and no adapter is used.
"""

from reproductions.arms import distil, on_policy, teacher_answers
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import tiny

SKEW = 0.1  # alpha_0 of the paper
FORWARD, REVERSE = (
    "skew_forward_kl",
    "skew_reverse_kl",
)  # the second with its mixture detached, as in their code


def pairs(run, **sides):
    """Terms on teacher's and student's answers to the same prompts."""
    from methods.contrastive import PairedStudent

    terms = [term(name, side) for side, name in sides.items()]
    return distil(run, terms=terms, sampler=PairedStudent(), dataset=teacher_answers(run))


def term(name, *sources, **options):
    """One of the skewed divergences on sequences of some sources."""
    from methods.algorithms.distillation import Term
    from methods.contrastive import detached_skew_reverse_kl

    divergence = detached_skew_reverse_kl if name == REVERSE else name
    return Term(divergence, settings={"skew": SKEW}, sources=sources, **options)


def one_on_both(name):
    """The same divergence on both sides."""
    return lambda run: pairs(run, teacher=name, student=name)


def teacher_side(run):
    """The forward one alone, on the teacher's answers."""
    return distil(run, terms=[term(FORWARD)], dataset=teacher_answers(run))


def student_side(run):
    """The reverse one alone, on the student's answers."""
    from methods.samplers import OnPolicy

    return distil(run, terms=[term(REVERSE)], sampler=OnPolicy(1.0))


def contrastive(run):
    """The forward one on the teacher's answers, the reverse one on the student's; nothing changes over time."""
    return pairs(run, teacher=FORWARD, student=REVERSE)


def distillm_2(run):
    """The contrastive loss with both curricula."""
    from methods.contrastive import AdaptiveSkew, PairedStudent, student_share, teacher_share

    def skew(side):
        return AdaptiveSkew(side, base=SKEW, **run.settings["adaptive_skew"])

    terms = [
        term(FORWARD, "teacher", weight=teacher_share, row_settings=skew("teacher")),
        term(REVERSE, "student", weight=student_share, row_settings=skew("student")),
    ]
    return distil(run, terms=terms, sampler=PairedStudent(), dataset=teacher_answers(run))


def gkd(run):
    """JSD on the student's answers; 0.9 is the weight of the teacher in the baseline of the official code."""
    return on_policy(run, name="jensen_shannon", teacher_weight=0.9)


def testbed():
    """Pronunciation, where the student also drafts for the teacher."""
    from reproductions.testbeds.drafting import load_drafting

    return load_drafting()


# The anchor is the mean gap of the first sixteenth of the steps, as with the official 100 of some 1,560.
ADAPTIVE_SKEW = {"floor": 0.01, "anchor_steps": 15}

EXPERIMENT = Experiment(
    paper="distillm-2",
    title="DistiLLM-2: A Contrastive Approach Boosts the Distillation of LLMs",
    arms={
        "gkd": Arm("GKD, JSD(0.9)", gkd, "baseline"),
        "skl-teacher": Arm("skew forward KL, teacher's answers", teacher_side, "ablation"),
        "srkl-student": Arm("skew reverse KL, student's answers", student_side, "ablation"),
        "skl-both": Arm("skew forward KL, both", one_on_both(FORWARD), "ablation"),
        "srkl-both": Arm("skew reverse KL, both", one_on_both(REVERSE), "ablation"),
        "swapped": Arm(
            "reverse on teacher's, forward on student's",
            lambda run: pairs(run, teacher=REVERSE, student=FORWARD),
            "ablation",
        ),
        "contrastive": Arm("contrastive, fixed", contrastive, "ablation"),
        "distillm-2": Arm("DistiLLM-2", distillm_2, "method"),
    },
    scales={
        "tiny": Scale(
            "pronunciation-drafting",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny({}, adaptive_skew=ADAPTIVE_SKEW),
            minutes=10,
        )
    },
    testbeds={"pronunciation-drafting": testbed},
    headline=("rouge_l", "exact_match", "greedy_exact_match", "acceptance", "excess_error"),
)
