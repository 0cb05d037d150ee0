"""`kd distill`: train, go on after an interrupt, save a plain Hugging Face folder with a record of how it was made."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

from methods.assembly import trainer_for
from methods.recipe import read_recipe
from methods.replay import NAME as REPLAY
from methods.replay import ReplayWriter
from methods.teachers.store import TeacherStore
from reproductions.distill import state
from reproductions.distill.config import Config, family
from reproductions.distill.evaluate.run import FILE, START, Evaluated
from reproductions.distill.losses import Diverged, LossCallback, check_weights, logging_steps
from reproductions.distill.models import adapted, load_models, training_device
from reproductions.distill.preflight import Ready, prepare
from reproductions.distill.record import record_of
from reproductions.distill.state import STATE
from reproductions.distill.surroundings import GivenSurroundings
from reproductions.distill.watch.card import CARD, card_of
from reproductions.distill.watch.curve import LOG, PICTURE, log_of, picture_of
from reproductions.distill.watch.progress import WatchCallback
from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json, write_atomic
from reproductions.engine.work.callbacks import ClockCallback
from reproductions.engine.work.seeding import seed_everything

RECORD = "kd-distill.json"
Report = Callable[..., None]  # (phase, step, steps in all, what is known)
Say = Callable[[str], None]


def to_stderr(sentence: str) -> None:
    """What is worth knowing before the end."""
    print(sentence, file=sys.stderr)


def distil(config: Config, report: Report, say: Say = to_stderr) -> dict[str, Any]:
    """Make the student of a config, or go on making it; returns the record that is saved beside it.

    Checkpoints lie in `<output>/.kd-state` until the student is saved. `report` hears of steps, `say` of what is to be
    told in a sentence. Raises KDError where the output holds another config's student or unfinished work, where another
    process is at it, or a row of the data is not as expected; MethodError where models and method do not fit, or the
    loss is no number any more: then there is no student, and nothing to go on from.
    """
    found = finished(config)
    if found is not None:
        return found
    with state.working_on(config.output, say):
        found = finished(config)  # by another process, since
        return _distil(config, report, say) if found is None else found


def _distil(config: Config, report: Report, say: Say) -> dict[str, Any]:
    from transformers import PrinterCallback
    from transformers.utils import logging

    logging.disable_progress_bar()  # of loading and saving: the run has one of its own
    # TRL turns gradient checkpointing on by default; turning it off is still done by its old name.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    ready = prepare(config, say)
    rows, budget, output = ready.rows, config.budget, config.output
    state.check_room(
        output,
        ready.student.num_parameters(),
        adapters=config.lora is not None,
        checkpoints=(budget["steps"] - 1) // config.save_every,
    )
    (student, tokenizer), method, teachers = load_models(config)
    for its in [tokenizer, *(its for _, its in teachers.values())]:
        if its.pad_token is None:
            its.pad_token = its.eos_token
    write_atomic(
        output / STATE / "config.json", json.dumps({"hash": config.hash, "inputs": config.inputs}) + "\n"
    )
    seed_everything(config.seed)
    surroundings = GivenSurroundings(
        student=adapted(student, config),
        teachers=teachers,
        tokenizer=tokenizer,
        rows=rows,
        budget=budget,
        seed=config.seed,
        arguments=lambda kind, **more: arguments_of(config, kind, more),
        state=output / STATE,
        device=training_device(),
        report=report,
    )
    evaluated = _before(config, surroundings, ready, teachers, report)
    seed_everything(config.seed)  # whatever was measured, the training is the same
    trainer = trainer_for(method, surroundings)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(WatchCallback(report, config.method, trainer))
    trainer.add_callback(LossCallback())
    if hasattr(trainer, "listeners"):
        trainer.listeners.append(ReplayWriter(output / REPLAY, trainer))
    clock = ClockCallback(output / STATE / "clock.json")
    trainer.add_callback(clock)
    for name in state.drop_broken(output) if trainer.is_world_process_zero() else ():
        say(f"{name} was not written to its end, and is taken for none")
    checkpoint = state.newest_checkpoint(output)
    say(
        f"the first row: {rows.first[0]!r} -> {rows.first[1]!r}"
        if checkpoint is None
        else f"going on from step {state.step_of(checkpoint)}"
    )
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        check_weights(trainer.model, trainer.state.global_step, trainer.args)
    except Diverged:
        shutil.rmtree(output / STATE, ignore_errors=True)
        raise
    seconds, found = clock.seconds, None
    if evaluated is not None and trainer.is_world_process_zero():
        found = evaluated.after(trainer.accelerator.unwrap_model(trainer.model))
    record = record_of(config, trainer, surroundings, rows, seconds, found)
    _save(config, trainer, tokenizer, record, found)
    return record


def _before(
    config: Config, surroundings: GivenSurroundings, ready: Ready, teachers: dict[str, Any], report: Report
) -> Evaluated | None:
    """The evaluation of what is there before the training, where the config asks for one."""
    if config.evaluate is None:
        return None
    found = Evaluated(
        config.evaluate,
        ready.rows,
        surroundings.tokenizer,
        config.budget["completion_tokens"],
        config.output / STATE,
        report,
    )
    device = training_device()
    found.before(START, lambda: (surroundings.student().to(device), surroundings.tokenizer))
    for number, (name, (model, _)) in enumerate(teachers.items(), 1):
        if isinstance(model, TeacherStore):
            continue  # it knows nothing of these rows
        what = "teacher" if len(teachers) == 1 else f"teacher {number}"

        def asked(name: str = name) -> tuple[Any, Any]:
            one = surroundings.teacher(name)
            return one.model, one.tokenizer

        found.before(what, asked)
    return found


def finished(config: Any) -> dict[str, Any] | None:
    """The record of a student that this config made before; KDError where something else lies in its place."""
    for path, what in (
        (config.output / RECORD, "a student"),
        (config.output / STATE / "config.json", "unfinished work"),
    ):
        if path.is_file():
            found = read_json(path)
            if found.get("hash") != config.hash:
                before = found.get("inputs", {})
                changed = [name for name, now in config.inputs.items() if before.get(name, now) != now]
                why = f" (what has changed since: {', '.join(changed)})" if changed else ""
                raise KDError(
                    f"{config.output} holds {what} of another config{why}; name another output, or remove it"
                )
            if path.name == RECORD:
                return found
    if not (config.output / STATE).is_dir() and (config.output / "config.json").is_file():
        raise KDError(
            f"{config.output} holds a model that `kd distill` did not make; name another output, or remove it"
        )
    return None


def arguments_of(config: Any, kind: type, more: dict[str, Any]) -> Any:
    """Training arguments of a class by a config's budget, `more` among them."""
    import torch

    budget, cuda = config.budget, torch.cuda.is_available()
    known = {item.name for item in dataclasses.fields(kind) if item.init}
    values = {
        "output_dir": str(config.output / STATE),
        "max_steps": budget["steps"],
        "per_device_train_batch_size": budget["batch_size"],
        "gradient_accumulation_steps": budget["accumulate"],
        "learning_rate": float(budget["learning_rate"]),
        "lr_scheduler_type": budget["schedule"],
        "warmup_steps": budget["warmup_steps"],
        "weight_decay": budget["weight_decay"],
        "max_grad_norm": budget["max_grad_norm"],
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": not cuda,
        "bf16": config.precision == "bf16-autocast",
        "fp16": False,
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 1,
        "logging_strategy": "steps",
        "logging_steps": logging_steps(budget["steps"]),
        "logging_nan_inf_filter": False,  # it puts the mean of before in the place of a loss that is none
        "report_to": list(config.report_to) or "none",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": cuda,
    }
    return kind(**{name: value for name, value in (values | more).items() if name in known})


def _save(
    config: Config, trainer: Any, tokenizer: Any, record: dict[str, Any], evaluation: dict[str, Any] | None
) -> None:
    """The student as a plain folder, adapters merged in, with card, log and figures; checkpoints go then."""
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(config.output)
    tokenizer.save_pretrained(config.output)
    history = trainer.state.log_history
    write_atomic(config.output / LOG, log_of(history))
    picture = picture_of(history, f"loss of {config.method}")
    if picture is not None:
        write_atomic(config.output / PICTURE, picture)
    if evaluation is not None:
        write_atomic(config.output / FILE, json.dumps(evaluation) + "\n")
    write_atomic(config.output / CARD, _card(config, record, evaluation, picture=picture is not None))
    write_atomic(config.output / RECORD, json.dumps(record, indent=1) + "\n")
    shutil.rmtree(config.output / STATE, ignore_errors=True)


def _card(config: Config, record: dict[str, Any], evaluation: dict[str, Any] | None, *, picture: bool) -> str:
    recipe = None if config.method == "own" else read_recipe(config.method)
    return card_of(
        record,
        teachers=terms_of(config),
        title=recipe.title if recipe else "terms of its own",
        about=recipe.about if recipe else "",
        evaluation=evaluation,
        picture=picture,
    )


def terms_of(config: Any) -> list[dict[str, str]]:
    """Each teacher of a config with the terms that are known of it, for a card."""
    from catalog.records import load_teachers
    from catalog.schema import HERE

    known = load_teachers(HERE / "teachers.yaml")
    teachers = []
    for name in config.teachers:
        entry = known.get(config.teacher_terms or family(name) or "")
        said = {"terms": entry.title, "note": entry.note} if entry else {"terms": "", "note": ""}
        teachers.append({"name": name, **said})
    return teachers
