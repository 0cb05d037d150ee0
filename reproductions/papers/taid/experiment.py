"""TAID (Shing et al., arXiv 2501.16937): aim at a mixture of the student's and the teacher's logits that drifts over.

The target starts near the student and ends at the teacher; how fast it moves follows the loss. On fixed answers.
The paper says: that beats forward and reverse KL, adaptive movement beats a straight line, and a better teacher makes
a better student, which is not so for plain KL.
"""

from functools import partial

from reproductions.arms import distil, divergence, sft
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import tiny


def taid(run, size="medium", **changes):
    """Forward KL to the interpolated target, from a teacher of some size."""
    from methods.algorithms.distillation import Term
    from methods.targets import InterpolatedLogits

    target = InterpolatedLogits(**run.settings["taid"] | changes)
    return distil(run, terms=[Term("forward_kl", target=target)], teacher=run.testbed.teacher(run, size))


def forward_kl(run, size):
    """Forward KL from a teacher of some size."""
    return distil(run, teacher=run.testbed.teacher(run, size))


# The paper's, but the step size, which adds up over the steps: 5e-4 there over about 16,000, here over 240.
TAID = {"start": 0.4, "end": 1.0, "step_size": 0.033, "momentum": 0.99}

EXPERIMENT = Experiment(
    paper="taid",
    title="TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language Models",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "fkl": Arm("forward KL", partial(divergence, name="forward_kl"), "baseline"),
        "rkl": Arm("reverse KL", partial(divergence, name="reverse_kl"), "baseline"),
        "taid": Arm("TAID", taid, "method"),
        "taid-linear": Arm("TAID, linear schedule", partial(taid, step_size=0.0), "ablation"),
        "taid-small-teacher": Arm("TAID, small teacher", partial(taid, size="small"), "method"),
        "taid-large-teacher": Arm("TAID, large teacher", partial(taid, size="large"), "method"),
        "fkl-large-teacher": Arm("forward KL, large teacher", partial(forward_kl, size="large"), "baseline"),
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
                    "taid": 0.004,
                    "taid-linear": 0.004,
                    "taid-small-teacher": 0.002,
                    "taid-large-teacher": 0.004,
                    "fkl-large-teacher": 0.004,
                },
                taid=TAID,
            ),
            minutes=6,
        )
    },
    headline=("rouge_l", "exact_match", "greedy_exact_match", "ece"),
)
