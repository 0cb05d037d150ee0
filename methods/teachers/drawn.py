"""Ids drawn from a teacher and how often each came: few bytes a token, and on average the teacher itself.

The most probable ids of a store leave a tail that nobody knows; drawn ids leave none, and the gradient of the forward
KL to them is an unbiased estimate of that to the whole teacher. Of other divergences it is not.
Source: Sparse Logit Sampling (random sampling KD), arXiv 2503.16870.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.losses.fused.linear import Head
from methods.modeling.core import hidden_states
from methods.teachers.codec import CountCodec, Ragged
from methods.teachers.files import StoreWriter
from methods.teachers.fill import LOGITS, Batches, Progress, identified, labelled, logits, missing, on_device
from methods.teachers.identity import example_keys
from methods.teachers.store import DRAWN


def fill_drawn(
    folder: str | Path,
    teacher: Any,
    batches: Batches,
    *,
    tokenizer: Any,
    rounds: int = 50,
    temperature: float = 1.0,
    seed: int = 0,
    teacher_id: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a store of `rounds` draws from the teacher at each completion token of `batches`; returns its totals.

    Draws depend on `seed` and the example alone, so that a run that was killed ends with the same store. See
    `methods.teachers.fill.fill` for the rest. Raises MethodError for no rounds, or more than 254.
    """
    identity, teacher, head = identified(teacher, batches, tokenizer, teacher_id)
    codec = CountCodec(len(head.weight), rounds=rounds)
    content = {
        "kind": DRAWN,
        "vocabulary": codec.vocabulary,
        "rounds": rounds,
        "seed": seed,
        "ranks": False,
        "temperature": temperature,
    }
    with StoreWriter(folder, identity, content) as writer, torch.no_grad():
        for batch in batches:
            new = missing(batch, writer.keys)
            if new is None:
                continue
            keys, new = example_keys(new), on_device(new, teacher)
            states = hidden_states(teacher, new["input_ids"], new["attention_mask"])[:, :-1]
            for (key, count), example, wanted in zip(keys, states, labelled(new), strict=True):
                if count:
                    rows = _drawn(example[wanted], head, rounds, temperature, seeded(seed, key))
                    total = int(rows.counts.sum())
                    writer.add(key, codec.encode(rows), count, ids=total, covered=count)
            if progress is not None:
                progress(len(writer.keys))
        return writer.finish()


def seeded(seed: int, key: bytes) -> torch.Generator:
    """Random numbers of one example, whatever was asked before it."""
    number = int.from_bytes(key[:7], "little") ^ (seed * 0x9E3779B1)
    return torch.Generator().manual_seed(number)


def draws(probabilities: Tensor, rounds: int, generator: torch.Generator) -> Tensor:
    """Ids (T, rounds) drawn from `probabilities` (T, V) with putting back."""
    uniform = torch.rand((len(probabilities), rounds), generator=generator, dtype=torch.float64)
    cumulative = probabilities.double().cumsum(-1)
    uniform = uniform.to(cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, uniform, right=True).clamp_max(probabilities.shape[-1] - 1)


def counted(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and counts (T, K) of draws (T, R), each id once; columns behind a row's last repeat its first, with 0."""
    ids = drawn.sort(-1).values
    begins = torch.ones_like(ids, dtype=torch.bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    column = begins.cumsum(-1) - 1
    width = int(column.max()) + 1 if len(ids) else 1
    counts = torch.zeros((len(ids), width), dtype=torch.long, device=ids.device)
    counts.scatter_add_(-1, column, torch.ones_like(ids))
    return ids[:, :1].repeat(1, width).scatter_(-1, column, ids), counts


def _drawn(states: Tensor, head: Head, rounds: int, temperature: float, generator: torch.Generator) -> Ragged:
    size = max(1, LOGITS // len(head.weight))
    drawn = torch.cat(
        [
            draws((logits(part, head) / temperature).softmax(-1), rounds, generator)
            for part in states.split(size)
        ]
    )
    return ragged(*counted(drawn), rounds)


def ragged(ids: Tensor, counts: Tensor, rounds: int) -> Ragged:
    """Ids and counts (T, K) as the codec takes them."""
    told, often = ids.cpu().numpy(), counts.cpu().numpy()
    kept = often > 0
    return Ragged(kept.sum(1), told[kept], np.log(often[kept] / rounds), np.full(len(told), -np.inf))
