"""DistiLLM-2 (Ko et al., arXiv 2503.07067): one skewed KL on the teacher's answers, the other on the student's.

The forward one raises what the teacher said, the reverse one lowers what only the student says. Two curricula: each
sequence's skew follows how far apart the models still are on it, and the student's side grows from 1 to 1.5 of 2.
Each step learns on half of its prompts, with two answers each, so that all arms see as many sequences.
The paper says: this pairing beats either loss on both sides and on-policy JSD, and both curricula add to it; as a
draft model such a student is accepted more often.
Not as in the paper: the student's answers are fresh at every step. At tiny they are sampled at temperature 1, and no
adapter is used.
"""

from typing import Any

from reproductions.arms import distil, teacher_answers
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import tiny

SKEW = 0.1  # alpha_0 of the paper
FORWARD, REVERSE = (
    "skew_forward_kl",
    "skew_reverse_kl",
)  # the second with its mixture detached, as in their code


def pairs(run, **sides):
    """Terms on teacher's and student's answers to the same prompts."""
    from methods.slots.samplers import PairedStudent

    terms = [term(name, side) for side, name in sides.items()]
    return distil(run, terms=terms, sampler=PairedStudent(**sampling(run)), dataset=teacher_answers(run))


def sampling(run):
    """How the student's answers are sampled, where the scale says."""
    return run.settings.get("sampling", {})


def term(name, *sources, **options):
    """One of the skewed divergences on sequences of some sources."""
    from methods.slots.terms import Divergence

    divergence = "detached_skew_reverse_kl" if name == REVERSE else name
    return Divergence(divergence, settings={"skew": SKEW}, sources=sources, **options)


def one_on_both(name):
    """The same divergence on both sides."""
    return lambda run: pairs(run, teacher=name, student=name)


def teacher_side(run):
    """The forward one alone, on the teacher's answers."""
    return distil(run, terms=[term(FORWARD)], dataset=teacher_answers(run))


def student_side(run):
    """The reverse one alone, on the student's answers."""
    from methods.slots.samplers import OnPolicy

    return distil(run, terms=[term(REVERSE)], sampler=OnPolicy(1.0, **sampling(run)))


def contrastive(run):
    """The forward one on the teacher's answers, the reverse one on the student's; nothing changes over time."""
    return pairs(run, teacher=FORWARD, student=REVERSE)


def distillm_2(run):
    """The contrastive loss with both curricula."""
    from methods.slots.samplers import PairedStudent
    from methods.slots.weights import AdaptiveSkew, student_share, teacher_share

    def skew(side):
        return AdaptiveSkew(side, base=SKEW, **run.settings["adaptive_skew"])

    terms = [
        term(FORWARD, "teacher", weight=teacher_share, row_settings=skew("teacher")),
        term(REVERSE, "student", weight=student_share, row_settings=skew("student")),
    ]
    return distil(run, terms=terms, sampler=PairedStudent(**sampling(run)), dataset=teacher_answers(run))


def gkd(run):
    """JSD on the student's answers; 0.9 is the weight of the teacher in the baseline of the official code."""
    from methods.slots.samplers import OnPolicy
    from methods.slots.terms import Divergence

    jsd = Divergence("jensen_shannon", settings={"teacher_weight": 0.9})
    return distil(run, terms=[jsd], sampler=OnPolicy(1.0, **sampling(run)))


def testbed():
    """Pronunciation, where the student also drafts for the teacher."""
    from reproductions.testbeds.drafting import load_drafting

    return load_drafting()


def openings():
    """Opening questions of UltraChat, and the first of the paper's pairs."""
    from reproductions.testbeds.conversations import OpeningQuestions

    return OpeningQuestions("Qwen/Qwen2-7B-Instruct", "Qwen/Qwen2-1.5B")


# The anchor is the mean gap of the first sixteenth of the steps, as with the official 100 of some 1,560.
ADAPTIVE_SKEW = {"floor": 0.01, "anchor_steps": 15}

# Qwen2-7B-Instruct -> Qwen2-1.5B. From the official code, training_configs/qwen2.5-1.5b-sft.yaml (whose model is
# Qwen2-1.5B) and qwen2.5-1.5b-distillm2.yaml, for 4 GPUs as its README says; here one process has batches as large.
# How its baselines were trained was not seen: they get the same.
MAIN_ARMS = ("gkd", "skl-both", "srkl-both", "contrastive", "distillm-2")
PAPER: dict[str, Any] = {
    "precision": "bf16-autocast",
    "download": True,
    "curve_points": 0,
    "sft_start": {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 256,  # 64 on each GPU
        "learning_rate": 5e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # warmup_ratio
    },
    "training": {
        # 8 accumulated pairs on each GPU are 32 a step, which takes 64 questions here, as half of them wait: two epochs
        # are as many steps as the paper's one.
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 16,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # warmup_ratio
        "weight_decay": 0.0,  # the trainer's default
        "max_grad_norm": 1.0,  # the trainer's default
    },
    "lora": {
        "r": 16,
        "lora_alpha": 128,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    },
    # generate/generate_vllm.py: temperature 0.8, seed 42; its nucleus of 0.95 is left out
    "labelling": {"temperature": 0.8, "batch_size": 64, "seed": 42, "prompts": None},
    "sampling": {"temperature": 0.8},
    "adaptive_skew": {"floor": 0.01, "anchor_steps": 100},  # distillm_trainer.py; logging_steps
    "arms": {arm: {"learning_rate": 5e-5} for arm in MAIN_ARMS},
}

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
            settings=tiny(
                {
                    "gkd": 0.002,
                    "skl-teacher": 0.004,
                    "srkl-student": 0.004,
                    "skl-both": 0.004,
                    "srkl-both": 0.004,
                    "swapped": 0.004,
                    "contrastive": 0.004,
                    "distillm-2": 0.004,
                },
                adaptive_skew=ADAPTIVE_SKEW,
            ),
            minutes=10,
        ),
        # 42 is the authors' seed.
        "paper": Scale("ultrachat-openings", seeds=(42, 43, 44), settings=PAPER, arms=MAIN_ARMS),
    },
    testbeds={"pronunciation-drafting": testbed, "ultrachat-openings": openings},
    metrics=("greedy_rouge_l", "greedy_block_efficiency", "expected_acceptance"),
    only_named_metrics=True,
    headline=("rouge_l", "acceptance", "greedy_acceptance", "block_efficiency"),
)
