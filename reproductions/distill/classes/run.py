"""`kd distill` of a classifier: train, go on after an interrupt, save a plain folder, table and card."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from methods.assembly import term_of
from methods.classes.model import classes_of
from methods.recipe import read_recipe, teachers_of
from methods.trainers.teachers import Teacher
from reproductions.distill import state
from reproductions.distill.classes import data, measure
from reproductions.distill.classes.config import ClassesConfig
from reproductions.distill.evaluate.table import lines_of, summary
from reproductions.distill.losses import Diverged, LossCallback, check_weights, start_and_end
from reproductions.distill.method import Nowhere
from reproductions.distill.models import training_device
from reproductions.distill.record import of_all_ranks, of_the_data, of_the_loss, parts_of
from reproductions.distill.run import RECORD, arguments_of, finished, terms_of
from reproductions.distill.state import STATE
from reproductions.distill.surroundings import named_teachers
from reproductions.distill.watch.card import CARD, card_of
from reproductions.distill.watch.curve import LOG, PICTURE, log_of, picture_of
from reproductions.distill.watch.progress import WatchCallback
from reproductions.engine.files import write_atomic
from reproductions.engine.work.callbacks import ClockCallback
from reproductions.engine.work.environment import environment_of, now
from reproductions.engine.work.seeding import seed_everything
from reproductions.models.sources import load_classifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

START, STUDENT, TEACHER = "start", "student", "teacher"
LOADS = "AutoModelForSequenceClassification"


def distil_classes(
    config: ClassesConfig, report: Callable[..., None], say: Callable[[str], None]
) -> dict[str, Any]:
    """Make the classifier of a config, or go on making it; returns the record that is saved beside it.

    As `reproductions.distill.run.distil`, whose errors it raises. Raises KDError for rows without text or label, or
    with a label that is none of the teacher's classes.
    """
    found = finished(config)
    if found is not None:
        return found
    with state.working_on(config.output, say):
        found = finished(config)  # by another process, since
        return _distil(config, report, say) if found is None else found


def _distil(config: ClassesConfig, report: Callable[..., None], say: Callable[[str], None]) -> dict[str, Any]:
    from transformers import PrinterCallback
    from transformers.utils import logging

    from methods.classes.trainer import THEIRS, ClassDistiller

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    split = data.split_of(config)
    teachers = [
        load_classifier(name, loading=loading)
        for name, loading in zip(config.teachers, config.teachers_loaded, strict=True)
    ]
    classes = classes_of(teachers[0][0]) if teachers else data.classes_in(split.train)
    ids = {name: data.ids_of(rows, classes) for name, rows in (("train", split.train), ("held", split.held))}
    seed_everything(config.seed)  # a new head is drawn by it
    student, tokenizer = load_classifier(config.student, classes, loading=config.student_loaded)
    state.check_room(
        config.output,
        student.num_parameters(),
        adapters=False,
        checkpoints=(config.budget["steps"] - 1) // config.save_every,
    )
    write_atomic(
        config.output / STATE / "config.json",
        json.dumps({"hash": config.hash, "inputs": config.inputs}) + "\n",
    )
    method, named = named_teachers(config.tree, teachers_of(config.tree), teachers)
    ordered = [named[name] for name in method["teachers"]]
    tokenizers = {"": tokenizer} | {
        THEIRS.format(number): its
        for number, (_, its) in enumerate(ordered)
        if its.get_vocab() != tokenizer.get_vocab()
    }
    limit = config.budget["tokens"]
    rows, cut = data.encoded(split.train, ids["train"], tokenizers, limit)
    say(f"the first row: {split.train.texts[0]!r} -> {split.train.labels[0]!r}")
    if cut[""]:
        say(f"note: {cut['']:,} of {len(rows):,} texts have more than {limit} tokens and are cut")
    device = training_device()
    measured = _Measured(config, split.held, ids["held"], report)
    found = {START: measured(START, student.to(device), tokenizer)}
    for number, (model, its) in enumerate(teachers, 1):
        name = TEACHER if len(teachers) == 1 else f"{TEACHER} {number}"
        found[name] = measured(name, model.to(device), its)
    seed_everything(config.seed)
    nowhere: Any = Nowhere(tokenizer)
    nowhere.seed = config.seed
    trainer = ClassDistiller(
        student,
        terms=[term_of(tree, nowhere, method["teachers"]) for tree in method["terms"]],
        args=_arguments(config),
        train_dataset=rows,
        processing_class=tokenizer,
        teacher=[Teacher(model, its) for model, its in ordered],
    )
    trainer.remove_callback(PrinterCallback)
    clock = ClockCallback(config.output / STATE / "clock.json")
    for callback in (WatchCallback(report, config.method, trainer), LossCallback(), clock):
        trainer.add_callback(callback)
    for name in state.drop_broken(config.output) if trainer.is_world_process_zero() else ():
        say(f"{name} was not written to its end, and is taken for none")
    checkpoint = state.newest_checkpoint(config.output)
    if checkpoint is not None:
        say(f"going on from step {state.step_of(checkpoint)}")
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        check_weights(trainer.model, trainer.state.global_step, trainer.args)
    except Diverged:
        shutil.rmtree(config.output / STATE, ignore_errors=True)
        raise
    student = trainer.accelerator.unwrap_model(trainer.model)
    found[STUDENT] = measured(STUDENT, student, tokenizer)
    first = next((name for name in found if name.startswith(TEACHER)), None)
    evaluation = measure.evaluation_of(found, ids["held"], first)
    record = _record(config, trainer, split, cut[""], classes, clock.seconds, evaluation)
    _save(config, trainer, student, tokenizer, record, evaluation)
    return record


class _Measured:
    """Models on the held-out texts; what was measured before an interrupt is kept."""

    def __init__(self, config: ClassesConfig, rows: data.Labelled, labels: list[int], report: Any) -> None:
        self._config, self._rows, self._labels, self._report = config, rows, labels, report

    def __call__(
        self, who: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, Any]:
        self._report(f"measuring the {who}", 0, 0)
        limit, size = self._config.budget["tokens"], self._config.batch_size
        return measure.measured(model, tokenizer, self._rows.texts, self._labels, limit, size)


def _arguments(config: ClassesConfig) -> Any:
    from transformers import TrainingArguments

    return arguments_of(config, TrainingArguments, {})


def _record(
    config: ClassesConfig,
    trainer: Any,
    split: data.Split,
    cut: int,
    classes: list[str],
    seconds: float,
    evaluation: dict[str, Any],
) -> dict[str, Any]:
    import torch

    return {
        "hash": config.hash,
        "task": "classification",
        "method": config.method,
        "computes": config.tree,
        "classes": classes,
        "teachers": list(config.teachers),
        "student": config.student,
        "data": str(config.data),
        "inputs": config.inputs,
        "rows": {**split.counts, "cut": cut},
        "shape": "texts with labels",
        "bad_rows": dict(split.train.bad),
        "told": dict(split.train.told),
        "settings": dict(config.settings),
        "budget": dict(config.budget),
        "lora": None,
        "precision": config.precision,
        "seed": config.seed,
        "steps": trainer.state.global_step,
        "loss": start_and_end(trainer.state.log_history, trainer.state.max_steps),
        "seconds": round(seconds, 1),
        "tokens": of_all_ranks(trainer, "token_counts"),
        "evaluation": summary(evaluation),
        "table": measure.rows_of(evaluation),
        "finished": now(),
        "environment": environment_of(
            trainer.accelerator.device.type, torch.get_num_threads(), config.data.digest, config.tree
        ),
    }


def _save(
    config: ClassesConfig, trainer: Any, student: Any, tokenizer: Any, record: dict[str, Any], found: Any
) -> None:
    if not trainer.is_world_process_zero():
        return
    student.save_pretrained(config.output)
    tokenizer.save_pretrained(config.output)
    history = trainer.state.log_history
    write_atomic(config.output / LOG, log_of(history))
    picture = picture_of(history, f"loss of {config.method}")
    if picture is not None:
        write_atomic(config.output / PICTURE, picture)
    write_atomic(config.output / "evaluation.json", json.dumps(found) + "\n")
    recipe = None if config.method == "own" else read_recipe(config.method)
    card = card_of(
        record,
        teachers=terms_of(config),
        title=recipe.title if recipe else "terms of its own",
        about=recipe.about if recipe else "",
        evaluation=found,
        picture=picture is not None,
        loads=LOADS,
    )
    write_atomic(config.output / CARD, card)
    write_atomic(config.output / RECORD, json.dumps(record, indent=1) + "\n")
    shutil.rmtree(config.output / STATE, ignore_errors=True)


def summary_of(record: dict[str, Any]) -> list[str]:
    """What was done, for a reader."""
    tokens = ", ".join(f"{name} {count:,}" for name, count in record["tokens"].items())
    limit = f"{record['budget']['tokens']} tokens"
    lines = [f"{record['method']}: {record['steps']} steps in {record['seconds']:g} s; tokens: {tokens}"]
    lines += of_the_loss(record["loss"], record["steps"])
    rows = ", ".join(parts_of(record["rows"], limit))
    cut = f", {record['rows']['cut']:,} of them cut at {limit}" if record["rows"]["cut"] else ""
    lines.append(f"rows: {rows}, {record['rows']['trained_on']:,} trained on{cut}")
    lines += of_the_data(record["bad_rows"], record["told"], [])
    return [*lines, "", *lines_of(record["table"])]
