"""`kd distill`: train, go on after an interrupt, save a plain Hugging Face folder with a record of how it was made."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

from methods.assembly import looks_at_validation, trainer_for
from methods.recipe import teachers_of
from methods.tokenizers.encoding import eos_token
from reproductions.distill.config import Config
from reproductions.distill.rows import Rows, read_rows
from reproductions.distill.surroundings import GivenSurroundings, named_teachers
from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json, write_atomic
from reproductions.engine.work.callbacks import ClockCallback, ProgressCallback
from reproductions.engine.work.seeding import seed_everything
from reproductions.models.sources import load_pretrained

RECORD, STATE = "kd-distill.json", ".kd-state"


def distil(config: Config, report: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Make the student of a config, or go on making it; returns the record that is saved beside it.

    Checkpoints lie in `<output>/.kd-state` until the student is saved. Raises KDError where the output holds another
    config's student or unfinished work, or a row of the data is not as expected.
    """
    finished = _finished(config)
    if finished is not None:
        return finished
    from transformers import PrinterCallback
    from transformers.utils import logging

    logging.disable_progress_bar()  # of loading and saving: the run has one of its own
    # TRL turns gradient checkpointing on by default; turning it off is still done by its old name.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    seed_everything(config.seed)
    student, tokenizer = load_pretrained(config.student)
    end = eos_token(tokenizer)
    loaded = [load_pretrained(name) for name in config.teachers]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = end
    budget = config.budget
    rows = read_rows(
        config.data,
        tokenizer,
        prompt_tokens=budget["prompt_tokens"],
        completion_tokens=budget["completion_tokens"],
        validate=looks_at_validation(config.tree),
        seed=config.seed,
    )
    method, teachers = named_teachers(config.tree, teachers_of(config.tree), loaded)
    for _, its in loaded:
        if its is not None and its.pad_token is None:
            its.pad_token = its.eos_token
    surroundings = GivenSurroundings(
        student=_adapted(student, config),
        teachers=teachers,
        tokenizer=tokenizer,
        rows=rows,
        budget=budget,
        seed=config.seed,
        arguments=lambda kind, **more: _arguments(config, kind, more),
        state=config.output / STATE,
    )
    write_atomic(
        config.output / STATE / "config.json",
        json.dumps({"hash": config.hash, "inputs": config.inputs}) + "\n",
    )
    trainer = trainer_for(method, surroundings)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback(report, config.method))
    clock = ClockCallback(config.output / STATE / "clock.json")
    trainer.add_callback(clock)
    trainer.train(resume_from_checkpoint=_last_checkpoint(config))
    return _save(config, trainer, tokenizer, surroundings, rows, clock.seconds)


def _finished(config: Config) -> dict[str, Any] | None:
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


def _adapted(student: Any, config: Config) -> Any:
    if config.lora is None:
        return student
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    return get_peft_model(
        student,
        LoraConfig(
            r=lora["rank"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            target_modules=lora["targets"] or "all-linear",
        ),
    )


def _arguments(config: Config, kind: type, more: dict[str, Any]) -> Any:
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
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": cuda,
    }
    return kind(**{name: value for name, value in (values | more).items() if name in known})


def _last_checkpoint(config: Config) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint

    return get_last_checkpoint(str(config.output / STATE))


def _save(
    config: Config, trainer: Any, tokenizer: Any, found: GivenSurroundings, rows: Rows, seconds: float
) -> dict[str, Any]:
    """The student as a plain folder, adapters merged in; checkpoints go once it is there."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(config.output)
    tokenizer.save_pretrained(config.output)
    record = {
        "hash": config.hash,
        "method": config.method,
        "computes": config.tree,
        "teachers": list(config.teachers),
        "student": config.student,
        "data": str(config.data),
        "inputs": config.inputs,
        "rows": rows.counts | {"trained_on": len(trainer.train_dataset)},
        "unused_fields": rows.unused,
        "labels": dict(found.labels),
        "settings": dict(config.settings),
        "budget": dict(config.budget),
        "seed": config.seed,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "tokens": dict(Counter(getattr(trainer, "token_counts", {})) + found.tokens),
        "rollouts": getattr(trainer, "rollout_counts", {}),
    }
    write_atomic(config.output / RECORD, json.dumps(record, indent=1) + "\n")
    shutil.rmtree(config.output / STATE, ignore_errors=True)
    return record
