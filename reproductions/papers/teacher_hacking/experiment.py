"""Teacher hacking (Tiapkin et al., arXiv 2502.02671): closer to the teacher, further from what the teacher stands for.

An oracle is the truth; an imperfect teacher learnt from some of its answers; students learn from that teacher, on a
fixed set of its answers over many epochs, or on answers that teacher or student sample anew. The proxy is the distance
to the teacher, golden the distance to the oracle, both on words that nobody was trained on.
The paper says: on fixed data golden turns and rises although the student goes on fitting the teacher; with answers
sampled anew it does not; more prompts, or more answers to each, mitigate it.
The control distils the oracle itself on as little data: what rises there is overfitting, not the teacher's fault.
"""

from functools import partial

from reproductions.arms import distil
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.settings import TINY_TRAINING, TINY_TUNING, tiny

TEACHER = "imperfect"


def hacking(run, *, sampler=None, prompts=1, samples=1, oracle=False):
    """Forward KL from the imperfect teacher (or the oracle) on its fixed answers, or on what `sampler` makes of them.

    `prompts` and `samples` multiply the number of prompts and of answers to each.
    """
    testbed = run.testbed
    data = fixed_answers(run, prompts=prompts * run.settings["prompts"], samples=samples)
    return distil(
        run,
        teacher=testbed.teacher(run) if oracle else testbed.teacher(run, TEACHER),
        sampler=None if sampler is None else sampler(),
        dataset=data,
    )


def fixed_answers(run, *, prompts, samples):
    """The imperfect teacher's answers to the first prompts of the training data, `samples` to each; made once."""
    from datasets import Dataset

    from methods.elicitation.labelling import label_with_teacher

    testbed = run.testbed
    sampling = dict(run.settings["labelling"])
    sampling.pop("prompts", None)
    asked = list(testbed.train["prompt"])[:prompts] * samples

    def build():
        teacher, limit = testbed.teacher(run, TEACHER), testbed.max_completion_tokens
        rows, report = label_with_teacher(teacher, testbed.tokenizer, asked, max_new_tokens=limit, **sampling)
        run.ledger.add_tokens({"teacher": report.teacher_tokens, "generated": report.generated_tokens})
        run.ledger.add_rollouts({n: getattr(report, n) for n in ("completions", "truncated", "empty")})
        return rows.to_list()

    key = {"prompts": prompts, "samples": samples, "sampling": sampling}
    key["teacher"] = testbed.teacher_key(run, TEACHER)
    return Dataset.from_list(run.cached_json("hacking-answers", key, build))


def online_teacher():
    """Fresh answers of the teacher."""
    from methods.slots.samplers import TeacherMixed

    return TeacherMixed(1.0)


def online_student():
    """Fresh answers of the student."""
    from methods.slots.samplers import OnPolicy

    return OnPolicy(1.0)


SETTINGS = {
    # 1600 steps of 32 pass 341 times over 150 prompts; a constant rate, so that steps late and early weigh the same.
    # At first 400 steps and 600 prompts: golden still fell at the end of every arm, so nothing could be told apart.
    # Looked at since: fixed answers alone (seed 100, validation split), to 4000 steps and at 150 prompts.
    "training": TINY_TRAINING
    | {"max_steps": 1600, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10},
    "prompts": 150,
    "checkpoint": 0.25,
    # Rates are chosen by what a person without an oracle can see.
    "tuning": TINY_TUNING | {"metric": "proxy"},
    # Set once, so that the teacher is nearer to the oracle than the student's start, before any student was trained.
    "teacher_data": {"prompts": 6000, "temperature": 1.0, "batch_size": 512, "seed": 1},
    "imperfect_teacher": {
        "max_steps": 1000,
        "per_device_train_batch_size": 32,
        "learning_rate": 4e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 50,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
    },
}

EXPERIMENT = Experiment(
    paper="teacher-hacking",
    title="On Teacher Hacking in Language Model Distillation",
    arms={
        "offline": Arm("fixed answers", hacking, "baseline"),
        "online-teacher": Arm("teacher's answers, fresh", partial(hacking, sampler=online_teacher), "method"),
        "online-student": Arm("student's answers, fresh", partial(hacking, sampler=online_student), "method"),
        "offline-prompts": Arm("fixed answers, 8 times the prompts", partial(hacking, prompts=8), "method"),
        "offline-samples": Arm("fixed answers, 8 to a prompt", partial(hacking, samples=8), "method"),
        "offline-oracle": Arm("fixed answers, oracle as teacher", partial(hacking, oracle=True), "ablation"),
    },
    scales={
        "tiny": Scale(
            "pronunciation-hacking",
            seeds=(0, 1, 2, 3, 4),
            settings=tiny(
                {
                    "offline": 0.002,
                    "online-teacher": 0.002,
                    "online-student": 0.002,
                    "offline-prompts": 0.004,
                    "offline-samples": 0.002,
                    "offline-oracle": 0.002,
                },
                **SETTINGS,
            ),
            minutes=45,
        )
    },
    headline=("golden", "golden_rise", "proxy", "proxy_rise", "golden_seen", "proxy_seen", "rouge_l"),
    only_named_metrics=True,
)
