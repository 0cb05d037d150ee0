"""DSKD (Zhang et al., arXiv 2406.17328): compare teacher and student under one LM head, in either model's space.

The teacher's hidden states are projected into the student's space and go through the student's head, the student's into
the teacher's space and through the teacher's head; the projectors train along. Where the tokenizers differ, attention
between the two models' embeddings brings the states together. Half of the loss is that, half is cross entropy.
The paper says: in one vocabulary that beats the plain divergence, already with the student's space alone; across
vocabularies it beats ULD and fine-tuning on the teacher's text.
"""

from functools import partial
from typing import Any

from reproductions.arms import distil, sft
from reproductions.cross_tokenizer_arms import dual_space, seqkd, uld_on_data
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import tiny

# KD_RATE, KD_TEMP, KD_OBJ and PROJECTOR_LR over LR of the authors' scripts for GPT2.
DSKD = {"weight": 0.5, "temperature": 2.0, "divergence": "forward_kl", "learning_rate_factor": 2.0}


def testbed():
    """Pronunciations, with one teacher that reads the student's tokens and one that reads byte-level BPE."""
    from reproductions.testbeds.pronunciation_tokenizers import load

    return load()


def kl(run: Any) -> Any:
    """Half cross entropy, half the KL divergence to the teacher with the student's tokens, at DSKD's temperature."""
    from methods.slots.terms import Divergence

    weight, temperature = (run.settings["dskd"][name] for name in ("weight", "temperature"))
    return distil(
        run,
        terms=[
            Divergence("cross_entropy", weight=1 - weight),
            Divergence("forward_kl", weight=weight, temperature=temperature),
        ],
    )


same = partial(dual_space, same_tokens=True)

EXPERIMENT = Experiment(
    paper="dskd",
    title="Dual-Space Knowledge Distillation for Large Language Models",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "seqkd": Arm("SFT on the other teacher's text", seqkd, "baseline"),
        "uld": Arm("ULD, other tokens", uld_on_data, "baseline"),
        "dskd-attention": Arm("DSKD with attention, other tokens", dual_space, "method"),
        "kl": Arm("KL, same tokens", kl, "baseline"),
        "dskd": Arm("DSKD, same tokens", partial(same, attention=False), "method"),
        "dskd-student-space": Arm(
            "DSKD in the student's space, same tokens",
            partial(same, attention=False, spaces=("student",)),
            "ablation",
        ),
        "dskd-attention-same": Arm("DSKD with attention, same tokens", same, "ablation"),
    },
    scales={
        "tiny": Scale(
            "pronunciation-tokenizers",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny(
                {
                    "sft": 0.004,
                    "seqkd": 0.002,
                    "uld": 0.004,
                    "dskd-attention": 0.004,
                    "kl": 0.004,
                    "dskd": 0.004,
                    "dskd-student-space": 0.004,
                    "dskd-attention-same": 0.004,
                },
                dskd=DSKD,
            ),
            minutes=10,
        )
    },
    headline=("rouge_l", "exact_match", "greedy_exact_match", "ece"),
    testbeds={"pronunciation-tokenizers": testbed},
)
