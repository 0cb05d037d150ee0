"""Generalisation against fidelity (Ramesh et al., arXiv 2505.15442): what moves a distilled student, and how like its
teacher it becomes.

A study, not a method: token-level KL from a teacher tuned on the task, on its training data, with nothing else in the
loss. It varies the student's size, the teacher's size and knowledge of the task, temperature, and noise on the logits.
The paper says: small students gain most; a bigger teacher is not a better one, but one that does not know the task
ruins the student; some smoothing helps, much hurts; agreeing with the teacher and being right are two things.
"""

from functools import partial

from reproductions.arms import arguments, distil, encoded, sft
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import tiny


def kd(run, temperature=1.0, teacher="medium", student="small", noise=0.0):
    """Forward KL times temperature squared, as in the authors' code ("kld", weight 1)."""
    from methods.slots.targets import NoisyTeacher, OneTeacher
    from methods.slots.terms import Divergence

    target = NoisyTeacher(noise) if noise else OneTeacher()
    term = Divergence(temperature=temperature, settings={"temperature_squared": True}, target=target)
    start = run.testbed.sft_start(run, student)
    return distil(run, terms=[term], teacher=run.testbed.teacher(run, teacher), student=start)


def sft_large(run):
    """Supervised fine-tuning of the large student."""
    from methods.slots.terms import NextToken
    from methods.trainers import Distiller, SFTConfig

    start = run.testbed.sft_start(run, "large")
    trainer = Distiller(
        start, terms=[NextToken()], args=arguments(run, SFTConfig), **encoded(run, run.testbed.train)
    )
    return run.train(trainer)


def testbed():
    """Pronunciation with two sizes of student, agreement with the teacher and the gain over SFT."""
    from reproductions.testbeds.pronunciation_fidelity import load

    return load()


EXPERIMENT = Experiment(
    paper="ramesh-2025-generalization-fidelity",
    title="On the Generalization vs Fidelity Paradox in Knowledge Distillation",
    arms={
        "sft": Arm("SFT", sft, "baseline"),
        "kd": Arm("KD", kd, "method"),
        "kd-temperature-2": Arm("KD, temperature 2", partial(kd, temperature=2.0), "method"),
        "kd-temperature-5": Arm("KD, temperature 5", partial(kd, temperature=5.0), "ablation"),
        "kd-noise": Arm("KD, noise of 5 on the logits", partial(kd, noise=5.0), "ablation"),
        "kd-untuned-teacher": Arm(
            "KD, teacher not tuned on the task", partial(kd, teacher="untuned"), "ablation"
        ),
        "kd-large-teacher": Arm("KD, large teacher", partial(kd, teacher="large"), "ablation"),
        "sft-large-student": Arm("SFT, large student", sft_large, "baseline"),
        "kd-large-student": Arm("KD, large student", partial(kd, student="large"), "method"),
    },
    scales={
        "tiny": Scale(
            "pronunciation-fidelity",
            seeds=(0, 1, 2, 3, 4),
            # At the medium teacher's rate the large one is worse than it (ROUGE-L 71.3 on the validation split; at
            # this one 80.4, the medium one 80.2), and "a larger teacher is not better" would say nothing.
            settings=tiny(
                {
                    "sft": 0.004,
                    "kd": 0.004,
                    "kd-temperature-2": 0.004,
                    "kd-temperature-5": 0.002,
                    "kd-noise": 0.004,
                    "kd-untuned-teacher": 0.002,
                    "kd-large-teacher": 0.002,
                    "sft-large-student": 0.004,
                    "kd-large-student": 0.002,
                },
                teacher_learning_rates={"large": 1.5e-3},
            ),
            minutes=10,
        )
    },
    testbeds={"pronunciation-fidelity": testbed},
    headline=("greedy_exact_match", "teacher_agreement", "fidelity", "gain", "rouge_l"),
    only_named_metrics=True,
)
