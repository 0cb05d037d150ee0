"""GKD (Agarwal et al., arXiv 2306.13649): learn from the teacher's distributions on the student's own answers.

A step takes the data or, with probability `fraction`, answers that the student sampled; either way the loss is a
token-level divergence, forward KL, reverse KL or the generalised JSD, without gradient through the sampling.
The paper says: for every divergence learning on policy beats learning on fixed answers; when answers are sampled,
mode-seeking divergences win; on-policy beats a half-and-half mixture.
"""

from functools import partial
from typing import Any

from reproductions.arms import divergence, on_policy, seqkd, sft
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import tiny

JSD: dict[str, Any] = {"teacher_weight": 0.5}

EXPERIMENT = Experiment(
    paper="gkd",
    title="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "seqkd": Arm("SeqKD", seqkd, "baseline"),
        "fkl": Arm("supervised KD, forward KL", partial(divergence, name="forward_kl"), "baseline"),
        "jsd": Arm("supervised KD, JSD(0.5)", partial(divergence, name="jensen_shannon", **JSD), "baseline"),
        "rkl": Arm("supervised KD, reverse KL", partial(divergence, name="reverse_kl"), "baseline"),
        "fkl-on-policy": Arm("GKD, forward KL", partial(on_policy, name="forward_kl"), "method"),
        "jsd-on-policy": Arm("GKD, JSD(0.5)", partial(on_policy, name="jensen_shannon", **JSD), "method"),
        "rkl-on-policy": Arm("GKD, reverse KL", partial(on_policy, name="reverse_kl"), "method"),
        "jsd-mixed": Arm(
            "GKD, JSD(0.5), half on policy",
            partial(on_policy, name="jensen_shannon", fraction=0.5, **JSD),
            "ablation",
        ),
    },
    scales={
        "tiny": Scale(
            "pronunciation",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny(
                {
                    "sft": 0.004,
                    "seqkd": 0.002,
                    "fkl": 0.004,
                    "jsd": 0.004,
                    "rkl": 0.004,
                    "fkl-on-policy": 0.004,
                    "jsd-on-policy": 0.004,
                    "rkl-on-policy": 0.004,
                    "jsd-mixed": 0.002,
                }
            ),
            minutes=9,
        )
    },
    headline=("rouge_l", "exact_match", "greedy_exact_match", "excess_error"),
)
