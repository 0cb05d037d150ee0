"""Ask a teacher once about every example and keep what it said; a run that was killed goes on where it was."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.linear import Head, head_of
from methods.modeling.core import core_model, freeze, hidden_states
from methods.teachers.codec import Ragged, TopKCodec, ranks_by_count
from methods.teachers.files import HEADER, StoreWriter, read_header, write_atomically
from methods.teachers.identity import (
    Identity,
    data_fingerprint,
    example_keys,
    teacher_fingerprint,
    tokenizer_fingerprint,
)
from methods.teachers.store import DTYPES, HEAD, HIDDEN, RANKS, TOP_K, read_codec

LOGITS = 16 * 2**20  # of them are made at a time
CALIBRATION_ROWS = 4096  # tells which ids are common
Batches = Iterable[Mapping[str, Tensor]]  # collated; read more than once
Progress = Callable[[int], None]  # examples done


def fill(
    folder: str | Path,
    teacher: Any,
    batches: Batches,
    *,
    tokenizer: Any,
    max_k: int = 256,
    gain: float = 2e-3,
    resolution: float = 0.125,
    temperature: float = 1.0,
    teacher_id: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a store of the teacher's most probable ids for the completion tokens of `batches`; returns its totals.

    `batches` is read more than once: a trainer's dataloader, or a list of collated batches. `max_k`, `gain` (nats that
    an id must bring) and `resolution` (nats between levels, at the top) are the codec's; `temperature` divides the
    logits.
    `teacher_id` (name@revision) stands in for the hash of the weights. Raises MethodError where the folder holds a
    store of another teacher, tokenizer, data or settings; an unfinished one of the same is completed.
    """
    identity, teacher, head = identified(teacher, batches, tokenizer, teacher_id)
    folder, vocabulary = Path(folder), len(head.weight)
    codec = TopKCodec(vocabulary, min(max_k, vocabulary), gain, resolution)

    def ask(batch: Mapping[str, Tensor]) -> Iterable[tuple[Ragged, np.ndarray]]:
        rows = labelled(batch)
        states = hidden_states(teacher, batch["input_ids"], batch["attention_mask"])[:, :-1]
        for example, wanted in zip(states, rows, strict=True):
            if wanted.any():
                yield _most_probable(example[wanted], head, codec, temperature)

    with torch.no_grad():
        codec = _calibrated(
            folder, codec, lambda: (found[0] for b in batches for found in ask(on_device(b, teacher)))
        )
        with StoreWriter(folder, identity, top_k_content(codec, temperature)) as writer:
            for batch in batches:
                new = missing(batch, writer.keys)
                if new is None:
                    continue
                keys = [key for key, rows in example_keys(new) if rows]
                for key, (rows, entropy) in zip(keys, ask(on_device(new, teacher)), strict=True):
                    add_top_k(writer, codec, key, rows, entropy)
                if progress is not None:
                    progress(len(writer.keys))
            return writer.finish()


def fill_hidden(
    folder: str | Path,
    teacher: Any,
    batches: Batches,
    *,
    tokenizer: Any,
    dtype: str = "bfloat16",
    teacher_id: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a store of the teacher's last hidden states and its head, both in `dtype`; see `fill`.

    2 * width bytes a token in bfloat16. In float32 a training is that of the live teacher.
    """
    if dtype not in DTYPES:
        raise MethodError(f"hidden states are stored in {' or '.join(DTYPES)}, not {dtype}")
    identity, teacher, head = identified(teacher, batches, tokenizer, teacher_id)
    content = {
        "kind": HIDDEN,
        "vocabulary": len(head.weight),
        "width": head.weight.shape[-1],
        "dtype": dtype,
        "scale": head.scale,
        "soft_cap": head.soft_cap,
    }
    with StoreWriter(folder, identity, content) as writer, torch.no_grad():
        parts = {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
        tensors = {name: t.detach().to(DTYPES[dtype]).cpu().contiguous() for name, t in parts.items()}
        write_atomically(writer.folder / HEAD, save(tensors))
        for batch in batches:
            new = missing(batch, writer.keys)
            if new is None:
                continue
            new = on_device(new, teacher)
            states = hidden_states(teacher, new["input_ids"], new["attention_mask"])[:, :-1]
            states = states.to(DTYPES[dtype]).cpu()
            for (key, rows), example, wanted in zip(
                example_keys(new), states, labelled(new).cpu(), strict=True
            ):
                if rows:
                    record = example[wanted].contiguous().view(torch.uint8).numpy().tobytes()
                    writer.add(key, record, rows, ids=rows * len(head.weight), covered=rows)
            if progress is not None:
                progress(len(writer.keys))
        return writer.finish()


def add_top_k(
    writer: StoreWriter, codec: TopKCodec, key: bytes, rows: Ragged, entropy: np.ndarray | None = None
) -> None:
    """Encode one example's rows, read them back, and write them with what was lost; `entropy` (n,) of the teacher."""
    record = codec.encode(rows)
    error, spread = round_trip(codec, rows, record, entropy)
    writer.add(
        key,
        record,
        len(rows.counts),
        ids=int(rows.counts.sum()),
        covered=float(np.exp(rows.log_probs).sum()),
        error=float(error.sum()),
        worst=float(error.max()),
        spread=float("nan") if spread is None else float(spread.sum()),
    )


def round_trip(
    codec: TopKCodec, rows: Ragged, record: bytes, entropy: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Per row, in nats: KL(merged teacher, merged record), and KL(teacher, record with its tail spread evenly).

    The first is what a student of the record cannot see; the second takes the whole vocabulary, needs the `entropy`
    of the teacher and is an upper bound for a reader that knows nothing about the tail.
    """
    back, row = codec.decode([record]), np.repeat(np.arange(len(rows.counts)), rows.counts)
    ours, theirs = np.lexsort((rows.ids, row)), np.lexsort((back.ids, row))
    if not np.array_equal(rows.ids[ours], back.ids[theirs]):
        raise MethodError("the codec did not give back the ids that it was given")  # never, or a bug
    log_p, log_r = rows.log_probs[ours], back.log_probs[theirs]
    p, rest, some = np.exp(log_p), np.exp(rows.tail), np.isfinite(rows.tail)
    n = len(rows.counts)
    kept = np.bincount(row, p * log_r, n)
    tail = np.where(some, rest * np.where(some, back.tail, 0), 0)
    merged = np.bincount(row, p * log_p, n) + np.where(some, rest * np.where(some, rows.tail, 0), 0)
    error = np.maximum(merged - kept - tail, 0)
    if entropy is None:
        return error, None
    even = tail - rest * np.log(np.maximum(codec.vocabulary - rows.counts, 1))
    return error, np.maximum(-entropy - kept - even, 0)


def top_k_content(codec: TopKCodec, temperature: float) -> dict[str, Any]:
    """The header's description of a top-k store."""
    return {
        "kind": TOP_K,
        "vocabulary": codec.vocabulary,
        "max_k": codec.max_k,
        "gain": codec.gain,
        "resolution": codec.resolution,
        "ranks": codec.ranks is not None,
        "temperature": temperature,
    }


def with_ranks(folder: Path, codec: TopKCodec, count: Callable[[], np.ndarray]) -> TopKCodec:
    """The codec with the ranks that the folder has, or those by `count` (V,) of each id, which are then kept there."""
    if not (folder / HEADER).exists():
        folder.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.save(file, ranks_by_count(count()), allow_pickle=False)
        write_atomically(folder / RANKS, file.getvalue())
    else:
        content = read_header(folder)["content"]
        if content["kind"] != TOP_K or content["vocabulary"] != codec.vocabulary:
            return codec  # another store: the writer says so
    ranks = read_codec(folder, {**top_k_content(codec, 1.0), "ranks": True}).ranks
    return TopKCodec(codec.vocabulary, codec.max_k, codec.gain, codec.resolution, ranks)


def _calibrated(folder: Path, codec: TopKCodec, asked: Callable[[], Iterable[Ragged]]) -> TopKCodec:
    def count() -> np.ndarray:
        counts, rows = np.zeros(codec.vocabulary, np.int64), 0
        for found in asked():
            np.add.at(counts, found.ids, 1)
            rows += len(found.counts)
            if rows >= CALIBRATION_ROWS:
                break
        return counts

    return with_ranks(folder, codec, count)


def _most_probable(
    states: Tensor, head: Head, codec: TopKCodec, temperature: float
) -> tuple[Ragged, np.ndarray]:
    """Rows worth keeping, and the entropy (n,) of the whole distribution."""
    size, ids, log_probs, tails, entropies = max(1, LOGITS // codec.vocabulary), [], [], [], []
    for part in states.split(size):
        log_p = (logits(part, head) / temperature).log_softmax(-1)
        top, chosen = log_p.topk(codec.max_k, -1)
        p = log_p.exp()
        entropies.append(-(p * log_p.clamp(min=-1e4)).sum(-1))
        tails.append(p.scatter(-1, chosen, 0).sum(-1).log())
        ids.append(chosen)
        log_probs.append(top)
    all_ids, all_log_probs, tail, entropy = (
        torch.cat(parts).cpu().numpy() for parts in (ids, log_probs, tails, entropies)
    )
    return codec.select(all_ids, all_log_probs, tail), entropy.astype(np.float64)


def logits(states: Tensor, head: Head) -> Tensor:
    """Logits (n, V) of a head in fp32 (float64 where the states are)."""
    made = states.to(head.weight.dtype) @ head.weight.t()
    made = made if made.dtype == torch.float64 else made.float()
    made = head.scale * (made if head.bias is None else made + head.bias)
    return made if head.soft_cap is None else head.soft_cap * (made / head.soft_cap).tanh()


def identified(
    teacher: Any, batches: Batches, tokenizer: Any, teacher_id: str | None
) -> tuple[Identity, Any, Head]:
    """What a store is made of, the teacher frozen, and its head. Raises MethodError where there is nothing to ask."""
    data = data_fingerprint(batches)
    if not any(rows for batch in islice(batches, 1) for _, rows in example_keys(batch)):
        raise MethodError(
            "there is nothing to ask the teacher about: the first batch has no completion tokens"
        )
    identity = Identity(teacher_id or teacher_fingerprint(teacher), tokenizer_fingerprint(tokenizer), data)
    frozen = core_model(freeze(teacher))
    return identity, frozen, head_of(frozen)


def labelled(batch: Mapping[str, Tensor]) -> Tensor:
    """Which places (B, T - 1) predict a completion token."""
    return batch["labels"][:, 1:] != -100


def missing(batch: Mapping[str, Tensor], known: set[bytes]) -> dict[str, Tensor] | None:
    """The examples of a batch that are not known yet; None where all are."""
    keys = example_keys(batch)
    new = torch.tensor([bool(rows) and key not in known for key, rows in keys])
    # The same example twice in one batch: the writer takes the first.
    return (
        {name: batch[name][new] for name in ("input_ids", "attention_mask", "labels")} if new.any() else None
    )


def on_device(batch: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """What a model reads of a batch, where the model is."""
    return {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "labels")}
