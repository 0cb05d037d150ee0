"""SimCT (Sun et al., arXiv 2605.07711): on-policy distillation between tokenizers, with units that both can spell.

The student answers, both tokenizers cut its answer, and at every place where both cut, the two models are compared in
what comes next: a token that both vocabularies have, or the shortest piece of the answer that both cut out, scored by
the mean log-probability of its tokens. The loss is the reverse KL between these choices.
The paper says: that beats comparing the shared tokens alone, and other losses between tokenizers, all on policy.
"""

from functools import partial
from typing import Any

from reproductions.arms import sft
from reproductions.cross_tokenizer_arms import seqkd, written_by_student
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import TINY_TUNING, tiny

# Settings of the other losses: of ULD's code without its cross entropy, ALM's appendix B, and TRL's defaults for GOLD.
LOSSES: dict[str, dict[str, Any]] = {
    "SortedProbabilities": {"weight": 1.0},
    "ChunkLikelihood": {"temperature": 100.0, "threshold": 0.1},
    "MergedChunks": {"divergence": "jensen_shannon", "teacher_weight": 0.5},
    "ContinuationUnits": {"divergence": "reverse_kl"},
}

# In the first sweep every arm on policy took the lower of two rates, and ended below the start: it goes further down.
TUNING = TINY_TUNING | {"learning_rates": [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3]}


def on_policy(run: Any, term: str, **changes: Any) -> Any:
    """One loss with its settings, on the student's own answers."""
    return written_by_student(run, term, **run.settings["losses"][term] | changes)


EXPERIMENT = Experiment(
    paper="simct",
    title="SimCT: Recovering Lost Supervision for Cross-Tokenizer On-Policy Distillation",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "seqkd": Arm("SFT on the teacher's text", seqkd, "baseline"),
        "uld-on-policy": Arm("ULD, on policy", partial(on_policy, term="SortedProbabilities"), "baseline"),
        "alm-on-policy": Arm("ALM, on policy", partial(on_policy, term="ChunkLikelihood"), "baseline"),
        "gold": Arm("GOLD", partial(on_policy, term="MergedChunks"), "baseline"),
        "opd-shared": Arm(
            "shared tokens only", partial(on_policy, term="ContinuationUnits", units=False), "ablation"
        ),
        "simct": Arm("SimCT", partial(on_policy, term="ContinuationUnits"), "method"),
    },
    scales={
        "tiny": Scale(
            "pronunciation-tokenizers",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny(
                {
                    "sft": 0.004,
                    "seqkd": 0.002,
                    "uld-on-policy": 0.0005,
                    "alm-on-policy": 0.001,
                    "gold": 0.001,
                    "opd-shared": 0.00025,
                    "simct": 0.00025,
                },
                losses=LOSSES,
                tuning=TUNING,
            ),
            minutes=10,
        )
    },
    headline=("rouge_l", "exact_match", "greedy_exact_match", "ece"),
)
