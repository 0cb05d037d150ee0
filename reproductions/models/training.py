"""Supervised fine-tuning of the models that a testbed hands out: teachers and the common SFT start of students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from methods.tokenizers.encoding import SKIP_PREPARATION, encode

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reproductions.engine.work.run import Run


def on_device(model: PreTrainedModel, run: Run) -> PreTrainedModel:
    """`model` on the device of `run`."""
    model.to(run.device)  # type: ignore[arg-type]  # transformers wraps `to` in a way that hides its signature
    return model


def fine_tune(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    settings: Mapping[str, Any],
    *,
    max_tokens: int,
    phase: str,
) -> PreTrainedModel:
    """Train `model` on prompt-completion rows with TRL's SFTTrainer; returns it in eval mode.

    `settings` are fields of SFTConfig. Only completion tokens (and EOS) count.
    """
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=model,
        args=run.arguments(SFTConfig, **settings, **SKIP_PREPARATION),
        train_dataset=encode(dataset, tokenizer, max_tokens),
        processing_class=tokenizer,
    )
    return run.train(trainer, phase=phase).eval()


def fine_tune_classes(
    classes: Sequence[str], model: Any, rows: Dataset, tokenizer: Any, run: Run, settings: Any, **how: Any
) -> Any:
    """`fine_tune` of a classifier on rows of texts and names of `classes`, by the trainer that every arm has.

    `settings` are fields of TrainingArguments.
    """
    from transformers import TrainingArguments

    from methods.classes.encoding import encoded_texts
    from methods.classes.trainer import ClassDistiller
    from methods.slots.terms import NextToken

    number = {name: place for place, name in enumerate(classes)}
    labels = [number[name] for name in rows["completion"]]
    dataset, _ = encoded_texts(list(rows["prompt"]), labels, {"": tokenizer}, how["max_tokens"])
    args = run.arguments(TrainingArguments, **settings)
    trainer = ClassDistiller(
        model, terms=[NextToken()], args=args, train_dataset=dataset, processing_class=tokenizer
    )
    return run.train(trainer, phase=how["phase"]).eval()


def fine_tune_cohort(
    models: Sequence[PreTrainedModel],
    datasets: Sequence[Dataset],
    tokenizers: Sequence[PreTrainedTokenizerBase],
    runs: Sequence[Run],
    settings: Mapping[str, Any],
    *,
    max_tokens: int,
    phase: str,
) -> list[PreTrainedModel]:
    """`fine_tune` of several models, each on its rows with its run's seed, as one batched model where they can.

    Seconds are shared out equally among the runs' budgets.
    """
    from methods.slots.terms import NextToken
    from methods.trainers import Distiller, SFTConfig
    from methods.trainers.cohort import Cohort, unfit
    from reproductions.engine.work.cohort import train_members
    from reproductions.engine.work.seeding import seed_everything

    own = list(zip(models, datasets, tokenizers, runs, strict=True))
    rows = {id(data): encode(data, tokenizer, max_tokens) for _, data, tokenizer, _ in own}
    members = []
    for model, data, tokenizer, run in own:
        seed_everything(run.seed)
        args = run.arguments(SFTConfig, **settings, **SKIP_PREPARATION)
        trained: Any = {"train_dataset": rows[id(data)], "processing_class": tokenizer}
        members.append(Distiller(model, terms=[NextToken()], args=args, **trained))
    if unfit(members) is not None:
        made = []
        for model, data, tokenizer, run in own:
            seed_everything(run.seed)
            made.append(fine_tune(model, data, tokenizer, run, settings, max_tokens=max_tokens, phase=phase))
        return made
    train_members(runs, Cohort(members), phase=phase)
    return [member.accelerator.unwrap_model(member.model).eval() for member in members]
