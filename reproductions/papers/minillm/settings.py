"""Every hyper-parameter of the MiniLLM experiment, by scale, with where it comes from.

Keys: `sft_start` is phase 1, shared by all arms; `training` holds what all arms of phase 2 share; the keys named after
arms hold what is their own; `labelling` is how the teacher writes SeqKD's data.
"""

from typing import Any

# The paper's, from its scripts for GPT-2 120M (LMOps, minillm/scripts/gpt2): 256 rollouts for 16 updates of 64.
MINILLM: dict[str, Any] = {
    "teacher_mix": 0.2,  # section 3.1; teacher-mixed-alpha
    "steps_per_generation": 4,  # num-rollouts 256 / batch 64
    "num_iterations": 4,  # ppo-epochs
    "epsilon": 0.2,  # cliprange
}

TINY: dict[str, Any] = {
    "sft_start": {
        "max_steps": 400,
        "per_device_train_batch_size": 64,
        "learning_rate": 4e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 40,
    },
    "training": {
        "max_steps": 400,
        "per_device_train_batch_size": 64,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
    },
    "sft": {"learning_rate": 2e-3},
    "word_kd": {"learning_rate": 2e-3, "distillation_weight": 1.0},
    "seqkd": {"learning_rate": 2e-3},
    "labelling": {"temperature": 1.0, "batch_size": 512, "seed": 0},
    "minillm": {**MINILLM, "learning_rate": 2e-3},
}

SMALL: dict[str, Any] = dict(TINY)
PAPER: dict[str, Any] = dict(TINY)
