"""`kd distill --plan`: what a training will read, compute and take, before a weight is loaded."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from methods.recipe import ITSELF, OPTIMISES, POLICIES, SIBLING, components_of, readings_of
from methods.teachers.readings import PLACE, READS, with_readings
from methods.teachers.store import TeacherStore
from reproductions.distill import state
from reproductions.distill.config import Config, family
from reproductions.distill.data import lengths
from reproductions.distill.preflight import Ready, prepare
from reproductions.distill.record import of_the_data, parts_of
from reproductions.distill.watch.progress import duration
from reproductions.engine.show.methods import methods

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "own": 4.0}
PROBE, PROBES = (
    1024,
    7,
)  # rows and columns of the matrices that the machine is timed with, and how often it is
SHARE_OF_PEAK = (0.15, 0.6)  # what a training reaches of that: slow for small models and short rows
ACTIVATIONS = (
    34  # values a token, layer and unit of width that a backward pass keeps (arXiv 2205.05198, section 4.1)
)
WRITING = 3  # a token that is written, with its cache, takes so many times the time of one that is read


def plan_of(config: Config, known: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that can be told beforehand, as plain data. Raises what the training would begin with."""
    state.check_writable(config)
    ready, budget = prepare(config, say), config.budget
    rows, sequences = ready.rows, budget["steps"] * budget["batch_size"] * budget["accumulate"]
    held = rows.counts["held_out"] + (rows.counts.get("evaluated", 0) if config.evaluate else 0)
    kept = len(rows.train) + held
    each = (rows.lengths["tokens"] - rows.lengths["tokens_left_out"]) / max(1, kept)
    tokens = _tokens(config, ready, sequences, each)
    memory = _memory(config, ready)
    needed = state.room_needed(
        ready.student.num_parameters(),
        adapters=config.lora is not None,
        checkpoints=(budget["steps"] - 1) // config.save_every,
    )
    if needed > (free := state.free_at(config.output)):
        say(f"warning: {config.output}: {size_of(free)} free, and up to {size_of(needed)} are needed")
    evaluation, speed = _evaluation(config, ready, each), _speed()
    cost = None if config.method == "own" else methods([config.method])[0].cost
    return {
        "method": config.method,
        "computes": [" ".join(part) for part in components_of(ready.method)],
        "rows": dict(rows.counts) | {"trained_on": len(rows.train)},
        "limits": [budget["prompt_tokens"], budget["completion_tokens"]],
        "shape": rows.shape,
        "chat": rows.chat,
        "bad_rows": rows.bad,
        "told": rows.told,
        "unused_fields": rows.unused,
        "lengths": rows.lengths,
        "first": list(rows.first),
        "teacher_reads": _reading(ready),
        "steps": budget["steps"],
        "sequences": sequences,
        "epochs": round(sequences / max(1, len(rows.train)), 3),
        "tokens": tokens,
        "memory_bytes": memory,
        "disk_bytes": needed,
        "evaluation": evaluation,
        "seconds": _seconds(_training_work(ready, tokens) + _evaluation_work(ready, evaluation), speed),
        "seconds_of_the_evaluation": _seconds(_evaluation_work(ready, evaluation), speed),
        "cost_beside_sft": cost,
        "teachers": [terms_known(config, name, known) for name in config.teachers],
        "output": str(config.output),
    }


def _reading(ready: Ready) -> str | None:
    """What a teacher with prompts of its own reads of the first row; None for others."""
    reads, siblings = readings_of(ready.method), ready.method["trainer"]["name"] in OPTIMISES
    if reads is None:
        return None
    read = with_readings(ready.rows.train.select([0]), reads, siblings=siblings)[0][READS]
    return str(read).replace(PLACE, f"{{{SIBLING}}}")


def _writes(method: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the student writes while it learns, and whether a teacher writes beforehand."""
    samplers = [name for slot, name in components_of(method) if slot == "sampler"]
    itself = method["trainer"]["name"] in POLICIES or any(n != "domains" for n in samplers)
    return itself, not isinstance(method["data"], str)


def _tokens(config: Config, ready: Ready, sequences: int, each: float) -> dict[str, int]:
    """Tokens by who reads or writes them; what is written is a most."""
    student, before = _writes(ready.method)
    alone = readings_of(ready.method) is not None  # elsewhere the student's own copy scores, and is not told
    readers = [name for name in ready.method["teachers"] if name != ITSELF or alone]
    made = {"student": round(sequences * each), "teacher": round(sequences * each * len(readers))}
    written = config.budget["completion_tokens"]
    if student:
        made["generated at most"] = sequences * written
    if before:
        made["labels at most"] = len(ready.rows.train) * written
    return made


def _memory(config: Config, ready: Ready) -> dict[str, int]:
    """Bytes while training: weights, gradients and Adam's moments of the student, teachers, roughly activations."""
    count, shape = ready.student.num_parameters(), ready.student.config
    trained = count if config.lora is None else _adapters(config, ready.student)
    made = {
        "student": 4 * count + (0 if config.lora is None else 4 * trained),
        "gradients and Adam": 12 * trained,
    }
    if ITSELF in ready.method["teachers"]:
        made["the student before the training"] = 4 * count
    made["teachers"] = sum(
        round(size * (loading.bits / 8 if loading.bits else BYTES[loading.dtype]))
        for size, loading in zip(_sizes(ready), config.teachers_loaded, strict=True)
    )
    longest = sum(
        min(ready.rows.lengths[side]["quantiles"]["100%"], ready.rows.lengths[side]["limit"])
        for side in ("prompt", "completion")
    )
    width, layers = getattr(shape, "hidden_size", 0), getattr(shape, "num_hidden_layers", 0)
    size = 2 if config.precision == "bf16-autocast" else 4
    made["activations, roughly"] = (
        size * ACTIVATIONS * config.budget["batch_size"] * longest * width * layers // 2
    )
    return made


def _sizes(ready: Ready) -> list[int]:
    """Parameters of each teacher; none of one whose answers are kept."""
    models = [model for model, _ in ready.teachers.values()]
    return [0 if isinstance(model, TeacherStore) else model.num_parameters() for model in models]


def _adapters(config: Config, model: Any) -> int:
    """Parameters of LoRA's two matrices on every layer that gets them."""
    from torch import nn

    assert config.lora is not None
    targets, head = config.lora["targets"], model.get_output_embeddings()
    chosen = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and layer is not head
        and (not targets or any(name == one or name.endswith(f".{one}") for one in targets))
    ]
    return sum(config.lora["rank"] * (layer.in_features + layer.out_features) for layer in chosen)


def _evaluation(config: Config, ready: Ready, each: float) -> dict[str, int]:
    """What each model reads and writes of the held-out rows, in tokens, the writing at its most; empty without."""
    if config.evaluate is None or ready.rows.evaluation is None:
        return {}
    rows, wanted = len(ready.rows.evaluation), config.evaluate
    answers = min(rows, wanted.answers) if wanted.scores else 0
    return {
        "rows": rows,
        "models": 2 + sum(size > 0 for size in _sizes(ready)),  # the student before and after
        "read": round(rows * each),
        "written at most": answers * config.budget["completion_tokens"],
    }


def _evaluation_work(ready: Ready, evaluation: Mapping[str, int]) -> float:
    """Operations of an evaluation, of lm-eval's tasks none."""
    if not evaluation:
        return 0.0
    sizes = 2 * ready.student.num_parameters() + sum(_sizes(ready))
    return 2.0 * sizes * (evaluation["read"] + WRITING * evaluation["written at most"])


def _training_work(ready: Ready, tokens: Mapping[str, int]) -> float:
    """Operations of a training, and of what a teacher writes before it."""
    student = ready.student.num_parameters()
    largest = max(_sizes(ready), default=student)
    work = 6 * student * tokens["student"] + 2 * largest * tokens["teacher"]
    work += 2 * WRITING * student * tokens.get("generated at most", 0)
    return float(work + 2 * WRITING * largest * tokens.get("labels at most", 0))


def _seconds(work: float, speed: float) -> list[float]:
    """From and to: so many operations at a share of this machine's speed; only their size is right."""
    return [float(f"{work / speed / share:.2g}") for share in reversed(SHARE_OF_PEAK)]


def _speed() -> float:
    """Operations a second of this machine in a product of matrices: a middle one, as others may be at work on it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left = torch.ones(PROBE, PROBE, device=device)
    (left @ left).sum().item()
    took = []
    for _ in range(PROBES):
        begun = time.perf_counter()
        (left @ left).sum().item()
        took.append(time.perf_counter() - begun)
    return 2 * PROBE**3 / max(statistics.median(took), 1e-9)


def terms_known(config: Any, name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """A teacher of a config with what is known of its terms."""
    entry = known.get(config.teacher_terms or family(name) or "")
    if entry is None:
        return {"name": name, "terms": None, "allows_training": "unknown", "note": "look them up"}
    return {"name": name, "terms": entry.title, "allows_training": entry.allows_training, "note": entry.note}


def lines_of(plan: Mapping[str, Any]) -> list[str]:
    """The plan for a reader."""
    rows, limits = plan["rows"], "{} + {} tokens".format(*plan["limits"])
    lines = [f"{plan['method']}: {', '.join(plan['computes'])}"]
    form = "in the student's chat template" if plan["chat"] else "as plain text"
    lines.append(
        f"data: {plan['shape']}, {form}; {', '.join(parts_of(rows, limits))}, {rows['trained_on']:,} to train on"
    )
    lines += of_the_data(plan["bad_rows"], plan["told"], plan["unused_fields"])
    lines += lengths.lines_of(plan["lengths"])
    lines.append(f"the first row: {plan['first'][0]!r} -> {plan['first'][1]!r}")
    if plan["teacher_reads"]:
        lines.append(f"before the same answer the teacher reads: {plan['teacher_reads']!r}")
    lines.append(
        f"{plan['steps']:,} steps of {plan['sequences'] // plan['steps']:,} sequences: {plan['epochs']:g} epochs"
    )
    lines.append("tokens: " + ", ".join(f"{who} {count:,}" for who, count in plan["tokens"].items() if count))
    if measured := plan["evaluation"]:
        lines.append(
            f"evaluation: {measured['models']} models read {measured['read']:,} tokens each, and write at most "
            f"{measured['written at most']:,}"
        )
    memory = plan["memory_bytes"]
    parts = ", ".join(f"{what} {size_of(count)}" for what, count in memory.items() if count)
    lines.append(f"memory: about {size_of(sum(memory.values()))} ({parts})")
    lines.append(f"disk: up to {size_of(plan['disk_bytes'])} in {plan['output']}")
    low, high = plan["seconds"]
    beside = f"; {plan['cost_beside_sft']:g} x SFT where it was measured" if plan["cost_beside_sft"] else ""
    of_it = [duration(seconds) for seconds in plan["seconds_of_the_evaluation"]]
    parts = f", of it {of_it[0]} to {of_it[1]} for the evaluation" if plan["evaluation"] else ""
    lines.append(f"time: very roughly {duration(low)} to {duration(high)} on this machine{parts}{beside}")
    for one in plan["teachers"]:
        said = one["terms"] or "terms unknown"
        lines.append(
            f"teacher {one['name']}: {said}, training on its outputs: {one['allows_training']}; {one['note']}"
        )
    return lines


def size_of(count: float) -> str:
    """'3.4 GiB', '120 MiB'."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
