"""DistillSpec (Zhou et al., arXiv 2310.08461): distil a draft model so that speculative decoding accepts more of it.

The student drafts blocks of tokens, the teacher keeps those that it would have said; a token is kept with probability
1 - TVD(teacher, student). Arms differ in the text that the student learns on and in the divergence.
The paper says: text that a model made beats fixed text, most of all the draft's own; total variation, although it is
the very quantity, is seldom the best divergence; it works for sampling and for greedy decoding.
Acceptance and block efficiency are measured by real speculative decoding; its seconds on this machine are measured by
`python -m reproductions.papers.distillspec.speed`, since seconds are no figure of a word.
"""

from functools import partial
from typing import Any

from reproductions.arms import distil, divergence, on_policy, sft, teacher_answers
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import TINY_TUNING, tiny

JSD: dict[str, Any] = {"teacher_weight": 0.5}


def on_teacher_text(run, name):
    """One divergence on answers that the teacher sampled once."""
    from methods.slots.terms import Divergence

    return distil(run, terms=[Divergence(name)], dataset=teacher_answers(run))


def testbed():
    """Pronunciation, where the student drafts for the teacher."""
    from reproductions.testbeds.drafting import load_drafting

    return load_drafting()


# A draft is chosen by how much of it is accepted, and so is every arm's learning rate.
TUNING = TINY_TUNING | {"metric": "expected_acceptance"}

EXPERIMENT = Experiment(
    paper="distillspec",
    title="DistillSpec: Improving Speculative Decoding via Knowledge Distillation",
    arms={
        "sft": Arm("SFT, not distilled", sft, "baseline"),
        "fkl": Arm("forward KL, fixed text", partial(divergence, name="forward_kl"), "baseline"),
        "fkl-teacher": Arm(
            "forward KL, teacher's text", partial(on_teacher_text, name="forward_kl"), "ablation"
        ),
        "rkl-teacher": Arm(
            "reverse KL, teacher's text", partial(on_teacher_text, name="reverse_kl"), "ablation"
        ),
        "fkl-draft": Arm(
            "DistillSpec, forward KL, draft's text", partial(on_policy, name="forward_kl"), "method"
        ),
        "rkl-draft": Arm(
            "DistillSpec, reverse KL, draft's text", partial(on_policy, name="reverse_kl"), "method"
        ),
        "jsd-draft": Arm(
            "DistillSpec, JSD(0.5), draft's text", partial(on_policy, name="jensen_shannon", **JSD), "method"
        ),
        "tvd-draft": Arm(
            "DistillSpec, total variation, draft's text", partial(on_policy, name="total_variation"), "method"
        ),
    },
    scales={
        "tiny": Scale(
            "pronunciation-drafting",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny(
                {
                    "sft": 0.004,
                    "fkl": 0.004,
                    "fkl-teacher": 0.004,
                    "rkl-teacher": 0.002,
                    "fkl-draft": 0.004,
                    "rkl-draft": 0.002,
                    "jsd-draft": 0.002,
                    "tvd-draft": 0.002,
                },
                tuning=TUNING,
            ),
            minutes=9,
        )
    },
    testbeds={"pronunciation-drafting": testbed},
    headline=(
        "acceptance",
        "block_efficiency",
        "greedy_acceptance",
        "greedy_block_efficiency",
        "expected_acceptance",
        "rouge_l",
    ),
    only_named_metrics=True,
)
