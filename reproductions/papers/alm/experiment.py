"""ALM (Minixhofer et al., arXiv 2503.20083): match the likelihoods of chunks of text that both tokenizers cut alike.

A chunk happens or does not: the loss is the divergence of those two outcomes, with probabilities to the power 1 / 100.
Debiasing multiplies in the chance that a word ends behind the chunk, and joins chunks where that is at most 0.1.
The paper says, of a large teacher and a small student with other tokens: ALM beats fine-tuning, fine-tuning added to it
by the size of the gradients beats both; debiasing helps, and fixed weights in place of the gradients' do not.
"""

from functools import partial

from reproductions.arms import sft
from reproductions.cross_tokenizer_arms import alm, seqkd, uld
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.papers.uld.experiment import ULD, extraction, testbed
from reproductions.settings import small_two_tokenizers, tiny

# Appendix B: tau, gamma, f.
ALM = {"temperature": 100.0, "threshold": 0.1, "divergence": "kl"}

EXPERIMENT = Experiment(
    paper="alm",
    title="Cross-Tokenizer Distillation via Approximate Likelihood Matching",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "seqkd": Arm("SFT on the teacher's text", seqkd, "baseline"),
        "uld": Arm("ULD", uld, "baseline"),
        "alm": Arm("ALM", alm, "method"),
        "alm-sft": Arm("ALM + SFT", partial(alm, with_sft=True), "method"),
        "alm-no-debiasing": Arm("ALM without debiasing", partial(alm, debias=False), "ablation"),
        "alm-sft-fixed": Arm(
            "ALM + SFT, weights 1 : 1", partial(alm, with_sft=True, balance=False), "ablation"
        ),
    },
    scales={
        "tiny": Scale(
            "pronunciation-tokenizers", seeds=(0, 1, 2, 3, 4), settings=tiny({}, uld=ULD, alm=ALM), minutes=8
        ),
        "small": Scale(
            "extraction",
            seeds=(0, 1, 2),
            settings=small_two_tokenizers(uld=ULD, alm=ALM),
            minutes=75,
            arms=("sft", "seqkd", "uld", "alm", "alm-sft"),
        ),
    },
    headline=("rouge_l", "exact_match", "greedy_exact_match", "ece"),
    testbeds={"pronunciation-tokenizers": testbed, "extraction": extraction},
)
