"""ULD (Boizard et al., arXiv 2402.12030): distil between different vocabularies by the shape of the distributions.

The teacher writes the answers. Position by position from the first answer token, both next-token distributions are
sorted from high to low and compared by their L1 distance, 1.5 times which is added to the cross entropy.
The paper says: that beats fine-tuning on the same answers, also with half of them.
"""

from functools import partial
from typing import Any

from reproductions.arms import sft
from reproductions.cross_tokenizer_arms import seqkd, uld
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import small_two_tokenizers, tiny

# lambda of the paper, `distil_factor` of its code; temperatures as there.
ULD = {"weight": 1.5, "student_temperature": 1.0, "teacher_temperature": 1.0}

# Llama-2-7B-chat -> Pythia 410M on SQuAD: the example in the README of the official code (llm-recipes) where nothing
# else is said. It keeps the checkpoint of the best validation loss, here it is the last.
MAIN_ARMS = ("seqkd", "uld", "uld-half")
PAPER: dict[str, Any] = {
    "precision": "bf16-autocast",  # distillation_config.pure_bf16, of the teacher
    "download": True,
    "curve_points": 0,
    "training": {
        "num_train_epochs": 5,
        # 4 on each GPU. That there were 8 is a guess: the last checkpoint in llm-distillation/benchmark/results bears
        # the number 13,000, and five epochs of such batches are 13,687 steps.
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 8,
        # configs/training.py: one cycle, a tenth of it rising (pct_start) from half the rate (div_factor), here from 0,
        # and down to a tenth of the rate (final_div_factor 5 after div_factor 2)
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 1e-7},
        "warmup_steps": 0.1,
        "weight_decay": 0.1,  # configs/training.py
        "max_grad_norm": 0.0,  # train/train_utils.py does not clip
    },
    "labelling": {
        "greedy": True,
        "batch_size": 64,
        "seed": 0,
        "prompts": None,
    },  # datasets/generator.py: do_sample=False
    "arms": {arm: {"learning_rate": 1e-6, "start": "pretrained"} for arm in MAIN_ARMS},
    "uld": ULD,
}

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
        # 42 is the authors' seed (configs/training.py).
        "paper": Scale("reading", seeds=(42, 43, 44), settings=PAPER, arms=MAIN_ARMS),
    },
    metrics=("greedy_f1",),
    headline=("rouge_l", "exact_match", "greedy_exact_match", "ece"),
)
