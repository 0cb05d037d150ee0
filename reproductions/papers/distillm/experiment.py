"""DistiLLM (Ko et al., arXiv 2402.03898): skewed KL divergences, and student samples only as often as they help.

Skewing mixes a little of the first argument into the second, which bounds the log-ratio. A growing share of the
steps learns from student samples, most of them replayed: the share rises when the validation loss does not fall.
The paper says: skewed divergences beat plain ones on the same data, and adaptive replay is as good as sampling at
every step or better, for a fraction of the generations.
"""

from functools import partial
from typing import Any

from reproductions.arms import distil, divergence, on_policy, sft
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import DOLLY_SEEDS, dolly, tiny

SKEW: dict[str, Any] = {"skew": 0.1}  # alpha of the paper


def distillm(run, name="skew_forward_kl"):
    """A skewed divergence on data and adaptively replayed student samples."""
    from methods.slots.samplers import AdaptiveReplay
    from methods.slots.terms import Divergence

    return distil(
        run, terms=[Divergence(name, settings=SKEW)], sampler=AdaptiveReplay(**run.settings["replay"])
    )


# A tenth of the steps lies between two validations, as in the paper; the buffer holds as many examples.
REPLAY = {"start": 0.0, "rise": 0.1, "tolerance": 0.0, "validations": 10, "capacity": 1000}

# GPT-2 1.5B -> 0.1B, from the official code: scripts/gpt2/distillm/train_0.1B_1.5B.sh where nothing else is said. Its
# batch of 8 on each of 4 GPUs is one of 32 here. sft/sft_base.sh and kd/kd_base.sh start from the pretrained student,
# without plain text; other divergences on fixed data have no script. Here all but SFT train as DistiLLM does, so that
# arms differ only in what the claims compare.
PAPER = dolly(
    {"sft": {"learning_rate": 5e-4, "start": "pretrained"}}
    | {
        arm: {"learning_rate": 5e-4}
        for arm in ("fkl", "rkl", "jsd", "skl", "srkl", "skl-on-policy", "skl-mixed", "distillm")
    },
    replay={
        "start": 0.0,  # --init-threshold
        "rise": 0.1,  # finetune.py
        "tolerance": 0.1,  # --loss-eps
        "validations": 20,  # --eval-interval -1: once an epoch
        "capacity": 1000,  # --capacity
    },
    # --lm-data-dir openwebtext/gpt2/512, --lm-coef at its default; documents cut at 512 tokens, not a stream of them
    plain_text={"text_weight": 1.0, "text_length": 512},
)

EXPERIMENT = Experiment(
    paper="distillm",
    title="DistiLLM: Towards Streamlined Distillation for Large Language Models",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "fkl": Arm("forward KL", partial(divergence, name="forward_kl"), "baseline"),
        "rkl": Arm("reverse KL", partial(divergence, name="reverse_kl"), "baseline"),
        "jsd": Arm("JSD(0.5)", partial(divergence, name="jensen_shannon", teacher_weight=0.5), "baseline"),
        "skl": Arm("skew forward KL", partial(divergence, name="skew_forward_kl", **SKEW), "ablation"),
        "srkl": Arm("skew reverse KL", partial(divergence, name="skew_reverse_kl", **SKEW), "ablation"),
        "skl-on-policy": Arm(
            "skew forward KL, on policy", partial(on_policy, name="skew_forward_kl", **SKEW), "ablation"
        ),
        "skl-mixed": Arm(
            "skew forward KL, half on policy",
            partial(on_policy, name="skew_forward_kl", fraction=0.5, **SKEW),
            "ablation",
        ),
        "distillm": Arm("DistiLLM", distillm, "method"),
    },
    scales={
        "tiny": Scale(
            "pronunciation",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny(
                {
                    "sft": 0.004,
                    "fkl": 0.004,
                    "rkl": 0.004,
                    "jsd": 0.004,
                    "skl": 0.004,
                    "srkl": 0.004,
                    "skl-on-policy": 0.004,
                    "skl-mixed": 0.004,
                    "distillm": 0.004,
                },
                replay=REPLAY,
            ),
            minutes=9,
        ),
        "paper": Scale("instructions", seeds=DOLLY_SEEDS, settings=PAPER),
    },
    headline=("rouge_l", "exact_match", "greedy_exact_match", "excess_error"),
)
