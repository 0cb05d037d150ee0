"""Start, teachers and student on held-out texts: right answers, agreement with the teacher, size and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from methods.classes.model import logits_of
from reproductions.distill.evaluate import table

TIMED = 20  # texts that are read one by one
BESIDE = ("macro F1", "parameters", "ms a text")  # figures without an interval
TITLES = {table.LOSS: "loss (nats)", "accuracy": "accuracy %", "agreement": "as the teacher"}


def measured(
    model: Any, tokenizer: Any, texts: Sequence[str], labels: Sequence[int], limit: int, size: int
) -> dict[str, Any]:
    """What a classifier says of the texts: its class of each, nats of the right one; parameters, and seconds a text.

    Seconds are the median over single texts, tokenisation left out.
    """
    batches = _batches(tokenizer, texts, limit, size)
    log_p = torch.cat([logits.log_softmax(-1) for logits in logits_of(model, batches)])
    right = torch.tensor(labels)
    seconds = []
    for batch in list(_batches(tokenizer, texts[: TIMED + 1], limit, 1)):
        begun = time.perf_counter()
        next(iter(logits_of(model, iter([batch]))))
        seconds.append(time.perf_counter() - begun)
    return {
        "classes": log_p.argmax(-1).tolist(),
        "nats": (-log_p.gather(1, right.unsqueeze(1)).squeeze(1)).tolist(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds_a_text": statistics.median(seconds[1:] or seconds),  # the first one warms up
    }


def _batches(
    tokenizer: Any, texts: Sequence[str], limit: int, size: int
) -> Iterator[Mapping[str, torch.Tensor]]:
    for begin in range(0, len(texts), size):
        part = list(texts[begin : begin + size])
        yield tokenizer(part, truncation=True, max_length=limit, padding=True, return_tensors="pt")


def evaluation_of(found: Mapping[str, Any], labels: Sequence[int], teacher: str | None) -> dict[str, Any]:
    """All that was measured, by model, as `evaluate.table` reads it: figures of every row."""
    models = {}
    for who, one in found.items():
        scores = {"accuracy": [100.0 * (a == b) for a, b in zip(one["classes"], labels, strict=True)]}
        if teacher is not None:
            theirs = found[teacher]["classes"]
            scores["agreement"] = [100.0 * (a == b) for a, b in zip(one["classes"], theirs, strict=True)]
        models[who] = {"nats": one["nats"], "scores": scores}
    return {
        "rows": len(labels),
        "tokens": [1] * len(labels),
        "clusters": list(range(len(labels))),
        "models": models,
        "beside": {
            who: {
                "macro_f1": macro_f1(one["classes"], labels),
                "parameters": one["parameters"],
                "ms_a_text": 1000 * one["seconds_a_text"],
                "classes_said": len(set(one["classes"])),
            }
            for who, one in found.items()
        },
    }


def macro_f1(said: Sequence[int], right: Sequence[int]) -> float:
    """Mean over the classes that occur of F1, in percent."""
    ours, theirs = np.asarray(said), np.asarray(right)
    scores = []
    for one in np.union1d(ours, theirs):
        both = float(((ours == one) & (theirs == one)).sum())
        scores.append(2 * both / float((ours == one).sum() + (theirs == one).sum()))
    return 100 * float(np.mean(scores))


def rows_of(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """Head and lines of the table, with what has no interval at the right."""
    made = table.rows_of(table.summary(evaluation))
    made[0] = [TITLES.get(name, name) for name in ["", *next(iter(table.summary(evaluation).values()))]]
    made[0] += BESIDE
    for row in made[1:]:
        beside = evaluation["beside"][row[0]]
        row += [f"{beside['macro_f1']:.1f}", size_of(beside["parameters"]), f"{beside['ms_a_text']:.1f}"]
    return made


def size_of(parameters: int) -> str:
    """'22.7 M', '4,096'."""
    return f"{parameters / 1e6:.1f} M" if parameters >= 100_000 else f"{parameters:,}"
