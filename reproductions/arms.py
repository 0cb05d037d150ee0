"""Arms that many papers share: SFT, sequence-level KD, and white-box distillation put together from slots.

Each takes the run first and reads its hyper-parameters from the scale's settings: `training` holds what all arms share,
`arms[<name>]` what is an arm's own (its learning rate), `labelling` how a teacher writes answers. Every arm starts from
the student that the testbed's SFT made with `sft_start`, so that all take equal steps.
Where a paper does otherwise, its scale paper says so: `start: pretrained` among an arm's own, `plain_text` for a
language-modelling loss on the testbed's corpus beside every distillation, `lora` for arms that train adapters only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

VERSION = 1  # goes up when what these arms compute changes: runs that papers share no longer count then

if TYPE_CHECKING:
    from datasets import Dataset

    from methods.slots.samplers import Sampler
    from methods.slots.terms import Term
    from reproductions.engine.run import Run


def sft(run: Run, dataset: Dataset | None = None) -> Any:
    """Supervised fine-tuning on the testbed's training rows, or on `dataset`."""
    from methods.slots.terms import NextToken
    from methods.trainers import Distiller, SFTConfig

    rows = run.testbed.train if dataset is None else dataset
    args = arguments(run, SFTConfig)
    return trained(run, Distiller(start(run), terms=[NextToken()], args=args, **encoded(run, rows)))


def seqkd(run: Run) -> Any:
    """Supervised fine-tuning on answers that the teacher wrote for the same prompts."""
    return sft(run, teacher_answers(run))


def distil(
    run: Run,
    *,
    terms: Sequence[Term] | None = None,
    sampler: Sampler | None = None,
    teacher: Any = None,
    dataset: Dataset | None = None,
    student: Any = None,
    callbacks: Sequence[Any] = (),
) -> Any:
    """White-box distillation with the given terms (forward KL without any) and sampler.

    From the testbed's teacher, on its training rows and the arm's student, where nothing else is given.
    """
    from methods.slots.terms import Divergence, PlainText
    from methods.trainers import Distiller, SFTConfig

    made: list[Term] = [Divergence()] if terms is None else list(terms)
    if "plain_text" in run.settings:
        settings = run.settings["plain_text"]
        weight, length = settings["text_weight"], settings["text_length"]
        made.append(PlainText(run.testbed.pretraining, weight=weight, max_length=length))
    trainer = Distiller(
        start(run) if student is None else student,
        teacher=run.testbed.teacher(run) if teacher is None else teacher,
        args=arguments(run, SFTConfig),
        terms=made,
        sampler=sampler,
        max_completion_length=run.testbed.max_completion_tokens,
        callbacks=list(callbacks),
        eval_dataset=encoded(run, run.testbed.validation)["train_dataset"],
        **encoded(run, run.testbed.train if dataset is None else dataset),
    )
    return trained(run, trainer)


def divergence(run: Run, *, name: str, **settings: Any) -> Any:
    """One divergence from the teacher on the training rows."""
    from methods.slots.terms import Divergence

    return distil(run, terms=[Divergence(name, settings=settings)])


def on_policy(run: Run, *, name: str, fraction: float = 1.0, **settings: Any) -> Any:
    """One divergence from the teacher, on the student's own answers in `fraction` of the steps."""
    from methods.slots.samplers import OnPolicy
    from methods.slots.terms import Divergence

    return distil(run, terms=[Divergence(name, settings=settings)], sampler=OnPolicy(fraction))


def teacher_answers(run: Run) -> Dataset:
    """The teacher's answers to the training prompts by settings["labelling"]; made once for all seeds and papers."""
    from datasets import Dataset

    rows = run.cached_json("seqkd-labels", run.settings["labelling"], partial(_label, run))
    return Dataset.from_list(rows)


def _label(run: Run) -> list[dict[str, str]]:
    from methods.elicitation.labelling import label_with_teacher

    settings = dict(run.settings["labelling"])
    labels, report = label_with_teacher(
        run.testbed.teacher(run),
        run.testbed.tokenizer,
        list(run.testbed.train["prompt"])[: settings.pop("prompts")],
        max_new_tokens=run.testbed.max_completion_tokens,
        **settings,
    )
    run.ledger.add_tokens({"teacher": report.teacher_tokens, "generated": report.generated_tokens})
    run.ledger.add_rollouts({name: getattr(report, name) for name in ("completions", "truncated", "empty")})
    return labels.to_list()


def start(run: Run) -> Any:
    """The student that the run's arm begins with, under a LoRA adapter where the settings ask for one."""
    own = run.settings.get("arms", {}).get(run.arm, {})
    pretrained = own.get("start", "sft") == "pretrained"
    student = run.testbed.student(run) if pretrained else run.testbed.sft_start(run)
    if "lora" not in run.settings:
        return student
    from peft import LoraConfig, get_peft_model

    return get_peft_model(student, LoraConfig(task_type="CAUSAL_LM", **run.settings["lora"]))


def trained(run: Run, trainer: Any) -> Any:
    """The trained student, with what an adapter learnt in its own weights."""
    student = run.train(trainer)
    return student.merge_and_unload() if hasattr(student, "merge_and_unload") else student


def arguments(run: Run, config_class: Callable[..., Any]) -> Any:
    """Training arguments for rows that `encoded` made: what all arms share, then this arm's own."""
    from reproductions.testbeds.training import SKIP_PREPARATION

    own = dict(run.settings.get("arms", {}).get(run.arm, {}))
    own.pop("start", None)
    return run.arguments(config_class, **own, **SKIP_PREPARATION)  # type: ignore[arg-type]


def encoded(run: Run, dataset: Dataset) -> dict[str, Any]:
    """Tokenised rows of prompt and completion, and the tokenizer, as the fixed-data trainers take them."""
    from reproductions.testbeds.training import encode

    limit = run.testbed.max_prompt_tokens + run.testbed.max_completion_tokens
    return {
        "train_dataset": encode(dataset, run.testbed.tokenizer, limit),
        "processing_class": run.testbed.tokenizer,
    }
