"""What every training of `kd distill` shares, whatever it learns: what was there before, its steps, what it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from methods.modeling.sharding import check_gathers
from methods.recipe import read_recipe
from reproductions.distill import state
from reproductions.distill.config import family
from reproductions.distill.evaluate.run import FILE
from reproductions.distill.state import STATE
from reproductions.distill.watch.card import CARD, card_of
from reproductions.distill.watch.curve import LOG, PICTURE, log_of, picture_of
from reproductions.distill.watch.last_step import LastStepCallback
from reproductions.distill.watch.losses import Diverged, LossCallback, check_weights, logging_steps
from reproductions.distill.watch.progress import WatchCallback
from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json, write_atomic
from reproductions.engine.signals import patient
from reproductions.engine.work.callbacks import ClockCallback

RECORD = "kd-distill.json"
Report = Callable[..., None]  # (phase, step, steps in all, what is known)
Say = Callable[[str], None]


def quiet() -> None:
    """No bars and warnings but our own."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # of loading and saving: the run has one of its own
    # TRL turns gradient checkpointing on by default; turning it off is still done by its old name.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def begin(config: Any) -> None:
    """The output folder is this config's from now on."""
    about = {"hash": config.hash, "inputs": config.inputs}
    write_atomic(config.output / STATE / "config.json", json.dumps(about) + "\n")


def once(config: Any, say: Say, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The record of what the config made before, else of what `make` makes now, one process at a time."""
    found = finished(config)
    if found is not None:
        return found
    state.check_writable(config)
    with state.working_on(config.output, say):
        found = finished(config)  # by another process, since
        return make() if found is None else found


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


def train(config: Any, trainer: Any, report: Report, say: Say, *, first: Sequence[str]) -> float:
    """Trains from the newest whole checkpoint, or from the start, to the end; the seconds that it took in all.

    `first` is the first row as it is learnt, which is said at the start. SIGTERM and SIGHUP save the step under way
    and raise KeyboardInterrupt then, a second one at once; of several processes the first does. Raises Diverged where
    the loss or a weight is no number any more: nothing is left to go on from then. Raises MethodError where what
    DeepSpeed shards could not be saved in the end.
    """
    from transformers import PrinterCallback

    check_gathers(trainer, say)
    output, clock = config.output, ClockCallback(config.output / STATE / "clock.json")
    trainer.remove_callback(PrinterCallback)
    last = LastStepCallback()
    for callback in (WatchCallback(report, config.method, trainer), LossCallback(), clock, last):
        trainer.add_callback(callback)
    for name in state.drop_broken(output) if trainer.is_world_process_zero() else ():
        say(f"{name} was not written to its end, and is taken for none")
    checkpoint = state.newest_checkpoint(output)
    say(
        f"the first row: {first[0]!r} -> {first[1]!r}"
        if checkpoint is None
        else f"going on from step {state.step_of(checkpoint)}"
    )
    alone = trainer.accelerator.num_processes == 1  # several would have to agree on the step
    try:
        with patient(last.ask) if alone else contextlib.nullcontext():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if last.asked and trainer.state.global_step < trainer.state.max_steps:
            raise KeyboardInterrupt
        check_weights(trainer.model, trainer.state.global_step, trainer.args)
    except Diverged:
        shutil.rmtree(output / STATE, ignore_errors=True)
        raise
    return clock.seconds


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


def save(
    config: Any,
    trainer: Any,
    student: Any,
    tokenizer: Any,
    record: dict[str, Any],
    evaluation: dict[str, Any] | None,
    loads: str = "AutoModelForCausalLM",
) -> None:
    """The student as a plain folder, adapters merged in, with card, log and figures; checkpoints go then.

    `student` is what `whole_student` gave: None on all processes but the one that writes. `loads` is transformers'
    class that reads it.
    """
    if student is None:
        return
    if hasattr(student, "merge_and_unload"):
        student = student.merge_and_unload()
    student.save_pretrained(config.output)
    tokenizer.save_pretrained(config.output)
    history = trainer.state.log_history
    write_atomic(config.output / LOG, log_of(history))
    picture = picture_of(history, f"loss of {config.method}")
    if picture is not None:
        write_atomic(config.output / PICTURE, picture)
    if evaluation is not None:
        write_atomic(config.output / FILE, json.dumps(evaluation) + "\n")
    write_atomic(config.output / CARD, _card(config, record, evaluation, picture is not None, loads))
    write_atomic(config.output / RECORD, json.dumps(record, indent=1) + "\n")
    shutil.rmtree(config.output / STATE, ignore_errors=True)


def _card(
    config: Any, record: dict[str, Any], evaluation: dict[str, Any] | None, picture: bool, loads: str
) -> str:
    recipe = None if config.method == "own" else read_recipe(config.method)
    return card_of(
        record,
        teachers=_terms(config),
        title=recipe.title if recipe else "terms of its own",
        about=recipe.about if recipe else "",
        evaluation=evaluation,
        picture=picture,
        loads=loads,
    )


def _terms(config: Any) -> list[dict[str, str]]:
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
