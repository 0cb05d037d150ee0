"""BabyLlama (Timiryasov and Tastet, arXiv 2308.02019): learn from two large teachers that saw no more than the student.

Two models, six and twelve times as large as the student, are trained for four epochs on a small corpus. The student
starts at random and sees the same corpus for six: half cross entropy, half KL at temperature 2 to the average of the
teachers' logits.
The paper says: the student ends above the same student without distillation, and above both of its teachers.
"""

from functools import partial
from typing import Any

from reproductions.arms import distil, sft
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import TINY_TUNING, tiny


def no_distillation(run):
    """Cross entropy alone, from a random start."""
    return sft(run, corpus(run))


def distilled(run, teachers):
    """alpha cross entropy + (1 - alpha) T^2 KL to the average of the teachers' logits, from a random start."""
    from methods.slots.targets import AverageLogits
    from methods.slots.terms import Divergence

    alpha, temperature = run.settings["label_weight"], run.settings["temperature"]
    soft = (1 - alpha) * temperature**2
    return distil(
        run,
        terms=[
            Divergence("cross_entropy", weight=alpha),
            Divergence("forward_kl", weight=soft, temperature=temperature, target=AverageLogits()),
        ],
        teacher=[teacher(run, name) for name in teachers],
        student=run.testbed.student(run),
        dataset=corpus(run),
    )


def teacher(run, name, rate=None):
    """One of the teachers, trained on the student's own corpus; the same for all seeds and arms."""
    settings = run.settings
    training = settings["training"] | {
        "max_steps": round(settings["training"]["max_steps"] * settings["teacher_share_of_steps"]),
        "learning_rate": rate or settings["teacher_learning_rates"][name],
    }
    return run.testbed.corpus_teacher(run, corpus(run), training=training, **settings["teachers"][name])


def alone(run, name):
    """A teacher as an arm, with the rate of its own sweep, which is the one that it teaches with."""
    return teacher(run, name, run.settings["arms"][run.arm]["learning_rate"])


def corpus(run):
    """The small corpus that everybody learns from."""
    return run.testbed.train.select(range(min(len(run.testbed.train), run.settings["corpus_words"])))


def testbed():
    """Pronunciation, whose students may start at random and whose teachers may see as little as they do."""
    from reproductions.testbeds.more_teachers import PronunciationSizes
    from reproductions.testbeds.pronunciation import load

    return load(PronunciationSizes)


RATES = {
    "no-kd": 0.008,
    "teacher-six": 0.004,
    "teacher-twelve": 0.002,
    "one-six": 0.008,
    "one-twelve": 0.008,
    "two-teachers": 0.008,
}
# As the official code: alpha 0.5, T 2, weight decay 0.1, a cosine after a warm-up, six epochs of the student and four
# of the teachers; 3,400 words make six epochs out of 640 steps. The ratios of sizes are the paper's.
BABYLLAMA: dict[str, Any] = {
    "corpus_words": 3_400,
    "label_weight": 0.5,
    "temperature": 2.0,
    "teacher_share_of_steps": 4 / 6,
    "teacher_learning_rates": {name: RATES[f"teacher-{name}"] for name in ("six", "twelve")},
    "teachers": {"six": {"shape": "medium", "seed": 1}, "twelve": {"shape": "twelve", "seed": 2}},
}
# Four rates for every arm, the teachers among them: at first two, and 4e-3 for teachers of either size.
TUNING = TINY_TUNING | {"learning_rates": [1e-3, 2e-3, 4e-3, 8e-3]}
SETTINGS = tiny(RATES, tuning=TUNING, **BABYLLAMA)
SETTINGS["training"] = SETTINGS["training"] | {"max_steps": 640, "warmup_steps": 40, "weight_decay": 0.1}

EXPERIMENT = Experiment(
    paper="babyllama",
    title="Baby Llama: Knowledge Distillation from an Ensemble of Teachers Trained on a Small Dataset",
    arms={
        "no-kd": Arm("no distillation", no_distillation, "baseline"),
        "teacher-six": Arm("teacher, 6 x", partial(alone, name="six"), "baseline"),
        "teacher-twelve": Arm("teacher, 12 x", partial(alone, name="twelve"), "baseline"),
        "one-six": Arm("one teacher, 6 x", partial(distilled, teachers=["six"]), "ablation"),
        "one-twelve": Arm("one teacher, 12 x", partial(distilled, teachers=["twelve"]), "ablation"),
        "two-teachers": Arm("two teachers", partial(distilled, teachers=["six", "twelve"]), "method"),
    },
    scales={"tiny": Scale("pronunciation-sizes", seeds=(0, 1, 2, 3, 4), settings=SETTINGS, minutes=5)},
    testbeds={"pronunciation-sizes": testbed},
    headline=("rouge_l", "exact_match", "greedy_exact_match", "ece"),
)
