"""`kd distill` of a classifier: train, go on after an interrupt, save a plain folder, table and card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods.classes.model import classes_of
from methods.modeling.checks import learned_positions
from methods.modeling.sharding import whole_student
from methods.recipe import teachers_of
from reproductions.distill import state
from reproductions.distill.classes import data, measure
from reproductions.distill.classes.config import ClassesConfig
from reproductions.distill.evaluate.table import lines_of, summary
from reproductions.distill.method import Nowhere
from reproductions.distill.models import named_in, training_device
from reproductions.distill.record import of_all_ranks, of_the_data, of_the_loss, parts_of
from reproductions.distill.state import STATE
from reproductions.distill.surroundings import named_teachers
from reproductions.distill.training import Report, Say, arguments_of, begin, once, quiet, save, train
from reproductions.distill.watch.losses import start_and_end
from reproductions.engine.files import read_json, write_atomic
from reproductions.engine.work.environment import environment_of, now
from reproductions.engine.work.seeding import seed_everything
from reproductions.models.sources import load_classifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

START, STUDENT, TEACHER = "start", "student", "teacher"
LOADS = "AutoModelForSequenceClassification"


def distil_classes(config: ClassesConfig, report: Report, say: Say) -> dict[str, Any]:
    """Make the classifier of a config, or go on making it; returns the record that is saved beside it.

    Of several processes the first has it, the others an empty one.

    As `reproductions.distill.run.distil`, whose errors it raises. Raises KDError for rows without text or label, or
    with a label that is none of the teacher's classes.
    """
    return once(config, say, lambda: _distil(config, report, say))


def _distil(config: ClassesConfig, report: Report, say: Say) -> dict[str, Any]:
    quiet()
    split = data.split_of(config)
    made = _models(config, split)
    state.check_room(
        config.output,
        made.student.num_parameters(),
        adapters=False,
        checkpoints=(config.budget["steps"] - 1) // config.save_every,
    )
    begin(config)
    measured, device = _Measured(config, split.held, made.labels["held"], report), training_device()
    found = {START: measured(START, made.student.to(device), made.tokenizer)}
    for number, (model, its) in enumerate(made.teachers, 1):
        name = TEACHER if len(made.teachers) == 1 else f"{TEACHER} {number}"
        found[name] = measured(name, model.to(device), its)
    seed_everything(config.seed)  # whatever was measured, the training is the same
    trainer, cut = _trainer(config, split, made)
    for who, count in cut.items():
        if count:
            limit, texts = config.budget["tokens"], f"{count:,} of {len(split.train.texts):,} texts"
            say(f"note: {texts} have more than {limit} tokens and are cut for {who}")
    for sentence in data.lacks(split.train, made.tokenizer, [its for _, its in made.teachers]):
        say(sentence)
    seconds = train(config, trainer, report, say, first=(split.train.texts[0], split.train.labels[0]))
    student = whole_student(
        trainer, lambda: load_classifier(config.student, made.classes, loading=config.student_loaded)[0]
    )
    tokens = of_all_ranks(trainer, "token_counts")
    if student is None:  # the first process writes
        return {}
    found[STUDENT] = measured(STUDENT, student.to(device), made.tokenizer)
    first = next((name for name in found if name.startswith(TEACHER)), None)
    evaluation = measure.evaluation_of(found, made.labels["held"], first)
    record = _record(config, trainer, split, cut["the student"], made.classes, seconds, evaluation, tokens)
    save(config, trainer, student, made.tokenizer, record, evaluation, LOADS)
    return record


@dataclass(frozen=True)
class _Made:
    """Models with their tokenizers, the classes and each row's number of one."""

    student: Any
    tokenizer: Any
    teachers: list[tuple[Any, Any]]  # in the config's order
    classes: list[str]
    labels: dict[str, list[int]]  # of the rows that are trained on, and of those held out


def _models(config: ClassesConfig, split: data.Split) -> _Made:
    teachers: list[tuple[Any, Any]] = []
    for place, (name, loading) in enumerate(zip(config.teachers, config.teachers_loaded, strict=True)):
        with named_in(config, "teacher", place):
            teachers.append(load_classifier(name, loading=loading))
        _check_positions(config, name, teachers[-1][0])
    classes = classes_of(teachers[0][0]) if teachers else data.classes_in(split.train)
    labels = {"train": data.ids_of(split.train, classes), "held": data.ids_of(split.held, classes)}
    seed_everything(config.seed)  # a new head is drawn by it
    with named_in(config, "student"):
        student, tokenizer = load_classifier(config.student, classes, loading=config.student_loaded)
    _check_positions(config, config.student, student)
    return _Made(student, tokenizer, teachers, classes, labels)


def _check_positions(config: ClassesConfig, name: Any, model: Any) -> None:
    longest, limit = config.budget["tokens"], learned_positions(model)
    if limit is not None and longest > limit:
        raise config.lines.error(
            f"budget: texts have up to {longest} tokens, and {name} has positions for {limit}: take a smaller limit",
            "budget",
        )


def _trainer(config: ClassesConfig, split: data.Split, made: _Made) -> tuple[Any, dict[str, int]]:
    """The trainer, and how many texts are cut for whom."""
    from transformers import TrainingArguments

    from methods.classes.assembly import Texts, class_distiller

    method, named = named_teachers(config.tree, teachers_of(config.tree), made.teachers)
    nowhere: Any = Nowhere(made.tokenizer)
    nowhere.seed = config.seed
    texts = Texts(split.train.texts, made.labels["train"], config.budget["tokens"])
    teachers = [named[name] for name in method["teachers"]]
    args = arguments_of(config, TrainingArguments, {})
    return class_distiller(method, nowhere, made.student, made.tokenizer, teachers, texts, args)


class _Measured:
    """Models on the held-out texts; what was measured before an interrupt is not measured again."""

    def __init__(self, config: ClassesConfig, rows: data.Labelled, labels: list[int], report: Any) -> None:
        self._config, self._rows, self._labels, self._report = config, rows, labels, report

    def __call__(
        self, who: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, Any]:
        path = self._config.output / STATE / f"measured-{who.replace(' ', '-')}.json"
        if path.is_file():
            return read_json(path)
        self._report(f"measuring the {who}", 0, 0)
        limit, size = self._config.budget["tokens"], self._config.batch_size
        found = measure.measured(model, tokenizer, self._rows.texts, self._labels, limit, size)
        if state.first_process():
            write_atomic(path, json.dumps(found))
        return found


def _record(
    config: ClassesConfig,
    trainer: Any,
    split: data.Split,
    cut: int,
    classes: list[str],
    seconds: float,
    evaluation: dict[str, Any],
    tokens: dict[str, int],
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
        "tokens": tokens,
        "evaluation": summary(evaluation),
        "table": measure.rows_of(evaluation),
        "classes_said": evaluation["beside"][STUDENT]["classes_said"],
        "finished": now(),
        "environment": environment_of(
            trainer.accelerator.device.type, torch.get_num_threads(), config.data.digest, config.tree
        ),
    }


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
    if record["classes_said"] == 1:
        lines.append(
            "warning: the student says one class of every held-out text: it needs more steps, or a higher learning_rate"
        )
    table, beside = record["table"], len(measure.BESIDE)
    figures, sizes = [row[:-beside] for row in table], [[row[0], *row[-beside:]] for row in table]
    return [*lines, "", *lines_of(figures), "", *lines_of(sizes)]
