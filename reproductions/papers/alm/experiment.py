"""ALM (Minixhofer et al., arXiv 2503.20083): match the likelihoods of chunks of text that both tokenizers cut alike.

A chunk happens or does not: the loss is the divergence of those two outcomes, with probabilities to the power 1 / 100.
Debiasing multiplies in the chance that a word ends behind the chunk, and joins chunks where that is at most 0.1.
The paper says, of a large teacher and a small student with other tokens: ALM beats fine-tuning, fine-tuning added to it
by the size of the gradients beats both; debiasing helps, and fixed weights in place of the gradients' do not.
"""

from functools import partial
from typing import Any

from reproductions.arms import sft
from reproductions.cross_tokenizer_arms import alm, seqkd, uld
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.papers.uld.experiment import ULD
from reproductions.settings import small_two_tokenizers, tiny

# Appendix B: tau, gamma, f.
ALM = {"temperature": 100.0, "threshold": 0.1, "divergence": "kl"}

# OpenMath2-Llama3.1-8B -> Gemma2-2B (Table 3). From the official code, tokenkit: what is set by
# examples/gemma2_distill_from_openmath2-llama_gpu.sh, for the rest configs/math_cross_tokenizer_distill.yaml. Its loss
# covers the question too, in a template that maps both models' special tokens; here it covers the solution, and each
# model is asked in its own format. The example adds ALM and SFT up; the paper balances them (GradMag), so does the arm.
MAIN_ARMS = ("sft", "alm", "alm-sft")
PAPER: dict[str, Any] = {
    "precision": "bf16-autocast",  # dtype bfloat16, trained parameters fp32
    "download": True,
    "curve_points": 0,
    "training": {
        "max_steps": 5_000,  # steps
        "per_device_train_batch_size": 16,  # data.batch_size 64
        "gradient_accumulation_steps": 4,  # optimizer.grad_acc_steps
        "lr_scheduler_type": "linear",  # tokenkit/training/lr.py
        "warmup_steps": 2_000,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,  # null: no clipping
    },
    "arms": {arm: {"learning_rate": 5e-6, "start": "pretrained"} for arm in MAIN_ARMS},
    "alm": ALM,  # binarization_temp, tokenizer_pair_bias_threshold
}

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
            "pronunciation-tokenizers",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny(
                {
                    "sft": 0.004,
                    "seqkd": 0.002,
                    "uld": 0.004,
                    "alm": 0.004,
                    "alm-sft": 0.004,
                    "alm-no-debiasing": 0.004,
                    "alm-sft-fixed": 0.004,
                },
                uld=ULD,
                alm=ALM,
            ),
            minutes=8,
        ),
        "small": Scale(
            "extraction",
            seeds=(0, 1, 2),
            settings=small_two_tokenizers(uld=ULD, alm=ALM),
            minutes=75,
            arms=("sft", "seqkd", "uld", "alm", "alm-sft"),
        ),
        # 1234 is the code's seed.
        "paper": Scale("maths", seeds=(1234, 1235, 1236), settings=PAPER, arms=MAIN_ARMS),
    },
    metrics=("gsm8k", "math"),
    headline=("rouge_l", "exact_match", "greedy_exact_match", "ece"),
)
