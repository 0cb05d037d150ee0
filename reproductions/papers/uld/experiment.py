"""ULD (Boizard et al., arXiv 2402.12030): distil between different vocabularies by the shape of the distributions.

The teacher writes the answers. Position by position from the first answer token, both next-token distributions are
sorted from high to low and compared by their L1 distance, 1.5 times which is added to the cross entropy.
The paper says: that beats fine-tuning on the same answers, also with half of them.
"""

from functools import partial

from reproductions.arms import sft
from reproductions.cross_tokenizer_arms import seqkd, uld
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import small_two_tokenizers, tiny


def testbed():
    """Pronunciations, with a teacher that reads byte-level BPE."""
    from reproductions.testbeds.pronunciation_tokenizers import load

    return load()


def extraction():
    """Entities in a sentence: Gemma-3-270M teaches SmolLM2-135M."""
    from reproductions.testbeds.extraction import load

    return load()


# lambda of the paper, `distil_factor` of its code; temperatures as there.
ULD = {"weight": 1.5, "student_temperature": 1.0, "teacher_temperature": 1.0}

EXPERIMENT = Experiment(
    paper="uld",
    title="Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "seqkd": Arm("SFT on the teacher's text", seqkd, "baseline"),
        "uld": Arm("ULD", uld, "method"),
        "uld-half": Arm("ULD, half of the teacher's text", partial(uld, share=0.5), "method"),
    },
    scales={
        "tiny": Scale(
            "pronunciation-tokenizers",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny({"sft": 0.004, "seqkd": 0.002, "uld": 0.002, "uld-half": 0.002}, uld=ULD),
            minutes=4,
        ),
        "small": Scale(
            "extraction",
            seeds=(0, 1, 2),
            settings=small_two_tokenizers(uld=ULD),
            minutes=40,
            arms=("sft", "seqkd", "uld"),
        ),
    },
    headline=("rouge_l", "exact_match", "greedy_exact_match", "ece"),
    testbeds={"pronunciation-tokenizers": testbed, "extraction": extraction},
)
