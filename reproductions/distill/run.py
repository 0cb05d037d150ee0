"""`kd distill`: train, go on after an interrupt, save a plain Hugging Face folder with a record of how it was made."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from methods.assembly import trainer_for
from methods.modeling.sharding import whole_student
from methods.replay import NAME as REPLAY
from methods.replay import ReplayWriter
from methods.slots.advantages import START as START_MODEL
from methods.teachers.store import TeacherStore
from reproductions.distill import state
from reproductions.distill.config import Config
from reproductions.distill.evaluate.run import START, Evaluated
from reproductions.distill.models import adapted, load_models, load_student, training_device
from reproductions.distill.preflight import Ready, prepare
from reproductions.distill.record import of_the_evaluation, record_of
from reproductions.distill.state import STATE, first_process
from reproductions.distill.surroundings import GivenSurroundings
from reproductions.distill.training import Report, Say, arguments_of, begin, once, quiet, save, train
from reproductions.engine.errors import KDError
from reproductions.engine.work.seeding import seed_everything


def to_stderr(sentence: str) -> None:
    """What is worth knowing before the end."""
    print(sentence, file=sys.stderr)


def distil(
    config: Config, report: Report, say: Say = to_stderr, measured: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make the student of a config, or go on making it; returns the record that is saved beside it.

    Checkpoints lie in `<output>/.kd-state` until the student is saved. `report` hears of steps, `say` of what is to be
    told in a sentence; `measured` are figures that are known already, as `evaluate.run.measured_in` gives them. Raises
    KDError where the output holds another config's student or unfinished work, where another process is at it, or a row
    of the data is not as expected; MethodError where models and method do not fit. Where the loss is no number any more
    (MethodError), or no completion of a policy ever had an advantage (KDError), there is no student, and nothing to go
    on from.
    """
    return once(config, say, lambda: _distil(config, report, say, measured or {}))


def _distil(config: Config, report: Report, say: Say, measured: Mapping[str, Any]) -> dict[str, Any]:
    quiet()
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
    begin(config)
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
    evaluated = _before(config, surroundings, ready, teachers, measured, report, say)
    seed_everything(config.seed)  # whatever was measured, the training is the same
    trainer = trainer_for(method, surroundings)
    if config.engine is not None:
        from methods.trainers.engine import roll_out_with

        roll_out_with(trainer, config.engine, budget["prompt_tokens"] + budget["completion_tokens"])
    if hasattr(trainer, "listeners"):
        if first_process() and state.newest_checkpoint(output) is None:
            (output / REPLAY).unlink(missing_ok=True)  # of a training that left no student
        trainer.listeners.append(ReplayWriter(output / REPLAY, trainer))
    seconds, found = train(config, trainer, report, say, first=rows.first), None
    if hasattr(trainer, "had_advantage"):
        _check_learnt(trainer, output)
    made = whole_student(trainer, lambda: adapted(load_student(config)[0], config))
    record = record_of(config, trainer, surroundings, rows, seconds)
    if evaluated is not None and made is not None:  # no other process waits for it
        found = evaluated.after(made.to(training_device()))
        record |= of_the_evaluation(found)
    save(config, trainer, made, tokenizer, record, found)
    return record


def _check_learnt(trainer: Any, output: Path) -> None:
    """Raises KDError where no completion ever had an advantage and no term taught anything: nothing to go on from.

    A term that asks the start alone draws the student back to it, and teaches nothing while nothing moves it away. One
    with a condition taught where that ever held, which the trainer has noted beside advantages.
    """
    import torch

    from methods.slots.advantages import wheres_of

    if any(
        getattr(term, "asks", ()) != (START_MODEL,) and not any(wheres_of(term)) for term in trainer.terms
    ):
        return
    may_have = trainer.had_advantage is not False  # a checkpoint of before may not say
    if trainer.accelerator.reduce(torch.tensor(float(may_have), device=trainer.accelerator.device)):
        return
    if trainer.is_world_process_zero():
        shutil.rmtree(output / STATE, ignore_errors=True)
    raise KDError(
        "nothing was learnt: no completion ever had an advantage, in each group all rewards were equal, and no "
        "condition of a term ever held. "
        f"{output / REPLAY} has completions with their rewards (`kd replay`); a student that is never right needs an "
        "easier reward, or a start that is right sometimes"
    )


def _before(
    config: Config,
    surroundings: GivenSurroundings,
    ready: Ready,
    teachers: dict[str, Any],
    measured: Mapping[str, Any],
    report: Report,
    say: Say,
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
        measured,
    )
    device = training_device()
    began = _made_of(config, "student") | {"lora": config.lora}
    found.before(START, began, lambda: (surroundings.student().to(device), surroundings.tokenizer))
    for number, (name, (model, _)) in enumerate(teachers.items(), 1):
        what = "teacher" if len(teachers) == 1 else f"teacher {number}"
        if isinstance(model, TeacherStore):
            say(f"the {what} is not evaluated: its kept answers are of other rows")
            continue

        def asked(name: str = name) -> tuple[Any, Any]:
            one = surroundings.teacher(name)
            return one.model, one.tokenizer

        found.before(what, _made_of(config, f"teacher {number}"), asked)
    return found


def _made_of(config: Config, who: str) -> dict[str, Any]:
    """What the config's inputs say of one of its models, under names that do not say which of them it is."""
    of = {f"{part}{who}": part.strip() or "model" for part in ("", "loading of ", "base of ")}
    return {of[name]: value for name, value in config.inputs.items() if name in of}
