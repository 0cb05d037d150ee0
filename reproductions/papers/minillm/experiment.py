"""MiniLLM (Gu et al., arXiv 2306.08543): distil by minimising the reverse KL of whole responses, on policy.

Phase 1 fine-tunes the student on the data; phase 2 is what the arms differ in. All arms start from the same student
and take the same number of optimizer steps. At tiny every main arm has its own best learning rate of one sweep, and the
ablations take MiniLLM's; at small nothing is tuned.
The paper says: MiniLLM answers better than SFT, word-level KD and sequence-level KD when sampling, drifts less from the
teacher along its own answers, is better calibrated, and needs each of its three variance reductions.
"""

from functools import partial

from reproductions.arms import encoded, teacher_answers
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.papers.minillm.settings import PAPER, SMALL, TINY


def sft(run):
    """Go on with supervised fine-tuning."""
    from methods.slots.terms import NextToken
    from methods.trainers import Distiller, SFTConfig
    from reproductions.testbeds.training import SKIP_PREPARATION

    args = run.arguments(SFTConfig, **run.settings["sft"], **SKIP_PREPARATION)
    trainer = Distiller(
        baseline_start(run), terms=[NextToken()], args=args, **encoded(run, run.testbed.train)
    )
    return run.train(trainer)


def word_kd(run):
    """Match the teacher's next-token distributions on the data (forward KL)."""
    from methods.slots.terms import Divergence
    from methods.trainers import Distiller, SFTConfig
    from reproductions.testbeds.training import SKIP_PREPARATION

    settings = dict(run.settings["word_kd"])
    weight = settings.pop("distillation_weight")
    trainer = Distiller(
        baseline_start(run),
        terms=[
            Divergence("forward_kl", weight=weight),
            Divergence("cross_entropy", weight=1 - weight),
        ],
        teacher=run.testbed.teacher(run),
        args=run.arguments(SFTConfig, **settings, **SKIP_PREPARATION),
        **encoded(run, run.testbed.train),
    )
    return run.train(trainer)


def seqkd(run):
    """Fine-tune on responses that the teacher wrote for the same prompts."""
    from methods.slots.terms import NextToken
    from methods.trainers import Distiller, SFTConfig
    from reproductions.testbeds.training import SKIP_PREPARATION

    args = run.arguments(SFTConfig, **run.settings["seqkd"], **SKIP_PREPARATION)
    rows = teacher_answers(run)
    return run.train(Distiller(baseline_start(run), terms=[NextToken()], args=args, **encoded(run, rows)))


def minillm(run, **ablation):
    """The paper's method, or one of its ablations."""
    from methods.trainers import PolicyConfig, PolicyDistiller

    settings = (
        run.settings["minillm"] | {"max_completion_length": run.testbed.max_completion_tokens} | ablation
    )
    trainer = PolicyDistiller(
        run.testbed.sft_start(run),
        teacher=run.testbed.teacher(run),
        args=run.arguments(PolicyConfig, **settings),
        pretraining_dataset=run.testbed.pretraining,
        train_dataset=run.testbed.train,
        processing_class=run.testbed.tokenizer,
    )
    return run.train(trainer)


def baseline_start(run):
    """Phase 1's student, so that all arms take equal steps; the pretrained one at scale paper, as published."""
    return run.testbed.sft_start(run) if run.settings["start"] == "sft" else run.testbed.student(run)


MAIN_ARMS = ("sft", "word-kd", "seqkd", "minillm")  # the ablations would double the hours of scale small

EXPERIMENT = Experiment(
    paper="minillm",
    title="MiniLLM: Knowledge Distillation of Large Language Models",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "word-kd": Arm("word-level KD", word_kd, "baseline"),
        "seqkd": Arm("SeqKD", seqkd, "baseline"),
        "minillm": Arm("MiniLLM", minillm, "method"),
        "minillm-no-length-norm": Arm(
            "MiniLLM w/o length normalisation", partial(minillm, length_normalization=False), "ablation"
        ),
        "minillm-no-teacher-mix": Arm(
            "MiniLLM w/o teacher mixing", partial(minillm, teacher_mix=0.0), "ablation"
        ),
        "minillm-no-single-step": Arm(
            "MiniLLM w/o single-step split", partial(minillm, single_step_decomposition=False), "ablation"
        ),
    },
    scales={
        "tiny": Scale("pronunciation", seeds=(0, 1, 2, 3, 4), settings=TINY, minutes=6),
        "small": Scale("word-problems", seeds=(0, 1, 2), settings=SMALL, minutes=100, arms=MAIN_ARMS),
        "paper": Scale("instructions", seeds=(10, 20, 30, 40, 50), settings=PAPER),
    },
    metrics=("rouge_l_dolly", "rouge_l_self_instruct", "rouge_l_super_natural"),
    headline=("rouge_l", "exact_match", "greedy_exact_match", "ece", "excess_error"),
)
