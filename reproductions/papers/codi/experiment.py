"""CODI (Shen et al., arXiv 2502.21074): one model thinks twice, in words and in a few vectors, and the second learns
from the first.

Each step trains explicit reasoning (thoughts, then the answer), latent reasoning (a fixed number of hidden states fed
back as inputs, then the answer), and pulls the hidden states of the latent branch at the token before the answer to
those of the explicit one, on all layers. Only latent reasoning is used afterwards. The paper says: that beats answering
without reasoning, is as good as explicit reasoning, for a third of the tokens; without the hidden states it is worse.
"""

from functools import partial

from reproductions.arms import arguments, sft
from reproductions.engine.experiment import Arm, Experiment, Scale

# Weights of the three losses are 1 each, as in the authors' GPT-2 script; six thoughts there, for longer reasoning.
CODI = {"thoughts": 3, "teacher_weight": 1.0, "student_weight": 1.0, "distillation_weight": 1.0}


def explicit(run):
    """Supervised fine-tuning on the written-out results, then the answer."""
    from datasets import Dataset

    columns = run.testbed.train.to_dict()
    said = [a + b for a, b in zip(columns["thoughts"], columns["completion"], strict=True)]
    return sft(run, Dataset.from_dict({"prompt": columns["prompt"], "completion": said}))


def codi(run, **changes):
    """Explicit and latent reasoning together; the model that comes back reasons in latent thoughts."""
    from methods.modeling.latent_reasoning import attach_latent
    from methods.trainers import LatentDistiller, SFTConfig

    settings = {**run.settings["codi"], **changes}
    model = run.testbed.sft_start(run)
    attach_latent(model, steps=settings.pop("thoughts"), **run.testbed.thought_ids)
    trainer = LatentDistiller(
        model,
        args=arguments(run, SFTConfig),
        train_dataset=run.testbed.branches,
        processing_class=run.testbed.tokenizer,
        **settings,
    )
    return run.train(trainer)


# The steps are few on purpose: with the rates of the grid explicit reasoning then ends near 85 % and silence near 60 %,
# away from floor and ceiling. Set on these two arms, the validation split and the tuning seed, before CODI ever ran.
SETTINGS = {
    "curve_points": 2,
    "curve_examples": 150,
    "sft_start": {
        "max_steps": 200,
        "per_device_train_batch_size": 64,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 40,
    },
    "training": {
        "max_steps": 120,
        "per_device_train_batch_size": 64,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
    },
    "codi": CODI,
    "tuning": {"seed": 100, "learning_rates": [1e-3, 2e-3, 4e-3], "metric": "exact_match"},
    "arms": {
        "no-cot": {"learning_rate": 0.004},
        "cot": {"learning_rate": 0.004},
        "codi": {"learning_rate": 0.001},
        "codi-no-distillation": {"learning_rate": 0.004},
    },
}

EXPERIMENT = Experiment(
    paper="codi",
    title="CODI: Compressing Chain-of-Thought into Continuous Space via Self-Distillation",
    arms={
        "no-cot": Arm("SFT without reasoning", sft, "baseline"),
        "cot": Arm("SFT with explicit reasoning", explicit, "baseline"),
        "codi": Arm("CODI", codi, "method"),
        "codi-no-distillation": Arm(
            "CODI without the hidden states", partial(codi, distillation_weight=0.0), "ablation"
        ),
    },
    scales={"tiny": Scale("arithmetic", seeds=(0, 1, 2, 3, 4), settings=SETTINGS, minutes=5)},
    headline=("exact_match", "decoding_steps", "right_per_step", "unfinished"),
)
