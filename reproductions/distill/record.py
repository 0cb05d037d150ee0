"""What a student was made of and how it went: the record beside it, and its lines for a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reproductions.distill.config import Config
from reproductions.distill.data import lengths
from reproductions.distill.data.rows import Rows
from reproductions.distill.evaluate import table
from reproductions.distill.surroundings import GivenSurroundings
from reproductions.distill.watch.losses import start_and_end
from reproductions.engine.work.environment import environment_of, now
from reproductions.models.sources import shipped_as

LABELS = ("completions", "truncated", "empty")
ROSE = 2.0  # a loss that ends at so many times its start


def record_of(
    config: Config,
    trainer: Any,
    found: GivenSurroundings,
    rows: Rows,
    seconds: float,
) -> dict[str, Any]:
    """Everything that is known of a finished training, as plain data; seconds are of the training alone.

    Every process of a training calls this: what they counted is summed.
    """
    import torch

    shipped = {name: shipped_as(name) for name in (config.student, *config.teachers)}
    return {
        "hash": config.hash,
        "method": config.method,
        "computes": config.tree,
        "teachers": list(config.teachers),
        "student": config.student,
        "data": str(config.data),
        "inputs": config.inputs,
        "weights": {name: file for name, file in shipped.items() if file is not None},
        "rows": rows.counts | {"trained_on": len(trainer.train_dataset)},
        "unused_fields": rows.unused,
        "shape": rows.shape,
        "chat": rows.chat,
        "bad_rows": rows.bad,
        "told": rows.told,
        "lengths": rows.lengths,
        "labels": {name: found.labels[name] for name in LABELS} if found.labels else {},
        "settings": dict(config.settings),
        "budget": dict(config.budget),
        "lora": None if config.lora is None else dict(config.lora),
        "precision": config.precision,
        "seed": config.seed,
        "steps": trainer.state.global_step,
        "loss": start_and_end(trainer.state.log_history, trainer.state.max_steps),
        "seconds": round(seconds, 1),
        "tokens": dict(Counter(of_all_ranks(trainer, "token_counts")) + found.tokens),
        "rollouts": of_all_ranks(trainer, "rollout_counts"),
        "rollouts_by": None if config.engine is None else f"vllm, {config.engine.mode}",
        "evaluation": None,
        "finished": now(),
        "environment": environment_of(
            trainer.accelerator.device.type, torch.get_num_threads(), config.data.digest, config.tree
        ),
    }


def of_the_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of an evaluation."""
    tasks = {table.TASKS: table.tasks_of(evaluation)} if table.TASKS in evaluation else {}
    return {"evaluation": table.summary(evaluation), **tasks}


def of_all_ranks(trainer: Any, name: str) -> dict[str, int]:
    """What a trainer has counted, summed over its processes."""
    import torch

    counts = getattr(trainer, name, {})
    local = torch.tensor(list(counts.values()), device=trainer.accelerator.device, dtype=torch.long)
    total = trainer.accelerator.reduce(local, "sum").tolist() if counts else []
    return dict(zip(counts, total, strict=True))


def summary(record: Mapping[str, Any]) -> list[str]:
    """What was done, with whatever was left out counted."""
    tokens = ", ".join(f"{name} {count:,}" for name, count in record["tokens"].items())
    rows, budget, labels, made = (record[name] for name in ("rows", "budget", "labels", "rollouts"))
    limits = f"{budget['prompt_tokens']} + {budget['completion_tokens']} tokens"
    lines = [f"{record['method']}: {record['steps']} steps in {record['seconds']:g} s; tokens: {tokens}"]
    lines += of_the_loss(record["loss"], record["steps"])
    lines.append(f"rows: {', '.join(parts_of(rows, limits))}, {rows['trained_on']:,} trained on")
    lines += of_the_data(record.get("bad_rows", {}), record.get("told", {}), record["unused_fields"])
    told = lengths.lines_of(record["lengths"]) if record.get("lengths") else []  # none in a record of before
    lines += [line for line in told if "longer" in line or "left out" in line]
    if labels:
        lines.append(
            f"labels: {labels['completions']:,} written, left out: {labels['truncated']:,} cut at "
            f"{budget['completion_tokens']} tokens, {labels['empty']:,} empty"
        )
    if made.get("completions"):
        lines.append(
            f"rollouts: {made['completions']:,}, of them {made['truncated']:,} cut at "
            f"{budget['completion_tokens']} tokens, {made['empty']:,} empty"
        )
        if made["truncated"] == made["completions"]:
            lines.append(
                "warning: no rollout came to its end, so the student never saw how an answer ends; raise "
                "completion_tokens, or begin with a student that has learned to end (method: sft)"
            )
    if record.get("evaluation"):
        lines += ["", *table.lines_of(table.rows_of(record["evaluation"]))]
        lines += [table.about_tasks(record[table.TASKS])] if table.TASKS in record else []
    return lines


def parts_of(rows: Mapping[str, int], limits: str) -> list[str]:
    """What became of rows, by count."""
    words = (
        ("unreadable", "left out as unreadable"),
        ("answers", "answers in them"),
        ("too_long", f"left out as longer than {limits}"),
        ("unwritten", "left out as answers without a character that the student's tokenizer has"),
        ("equal_to_evaluated", "left out as rows of the evaluation"),
        ("evaluated", "to evaluate on"),
        ("evaluation_left_out", "of the evaluation's own left out as unreadable or too long"),
        ("held_out", "held out for validation"),
    )
    parts = [f"{rows['read']:,} read"]
    told = [name for name, _ in words if rows.get(name) or (name == "too_long" and name in rows)]
    return parts + [f"{rows[name]:,} {what}" for name, what in words if name in told]


def of_the_data(bad: Mapping[str, int], told: Mapping[str, int], unused: Sequence[str]) -> list[str]:
    """What else there is to say of rows: why some cannot be read, what was found, what nothing reads."""
    lines = []
    if bad:
        lines.append(f"unreadable: {', '.join(f'{count:,} {kind}' for kind, count in bad.items())}")
    if told:
        lines.append(f"in the data: {', '.join(f'{count:,} {what}' for what, count in told.items())}")
    return lines + ([f"fields of the data that nothing reads: {', '.join(unused)}"] if unused else [])


def of_the_loss(loss: Mapping[str, Any] | None, steps: int) -> list[str]:
    """What the loss was at the start and at the end, and a warning where it rose."""
    if loss is None:
        return []
    first, last = loss["steps"]
    begin = "step 1" if first == 1 else f"steps 1 to {first}"
    end = f"step {steps}" if last == steps else f"steps {last} to {steps}"
    lines = [f"loss: {loss['start']:g} at {begin}, {loss['end']:g} at {end}"]
    if loss["end"] > ROSE * loss["start"] > 0:
        lines.append("warning: the loss rose; a lower learning_rate, or more warmup_steps, may keep it down")
    return lines
