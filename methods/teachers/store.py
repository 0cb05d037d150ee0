"""A teacher that was asked once: its answers to fixed data, read from disk in the place of the model.

    fill("store", teacher, trainer.get_train_dataloader(), tokenizer=tokenizer)    # methods.teachers.fill
    Distiller(student, teacher=TeacherStore("store"), ...)

Examples are found by their tokens, so shuffling, padding and micro-batches do not matter; an example that is not there
is an error. Either the teacher's most probable ids and a tail (`TopK`, one temperature, no mixing of logits), or ids
drawn from it (the same without a tail, for the forward KL alone), or its last hidden states and head, with which every
divergence is exact.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.teachers.codec import CountCodec, Ragged, TopKCodec
from methods.teachers.files import ENTRY, INDEX, RECORDS, read_header
from methods.teachers.identity import Identity, example_keys, tokenizer_fingerprint
from methods.teachers.top_k import TopK

TOP_K, HIDDEN, DRAWN = "top_k", "hidden", "drawn"
RANKS, HEAD = "ranks.npy", "head.safetensors"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class TeacherStore:
    """A finished store. Raises MethodError if it is not finished, or of another teacher, tokenizer or data.

    `teacher`, `tokenizer` and `data` are what it must have been made of: fingerprints (`methods.teachers.identity`), or
    the teacher's name and revision if it was filled under one. A trainer checks its tokenizer by itself.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        teacher: str | None = None,
        tokenizer: str | None = None,
        data: str | None = None,
    ):
        self.folder = Path(folder)
        header = read_header(self.folder)
        self.identity = Identity(**header["identity"])
        self.identity.refuse_unless(self.folder, teacher=teacher, tokenizer=tokenizer, data=data)
        if not header["complete"]:
            raise MethodError(
                f"the teacher store {self.folder} is not finished: fill it again, it goes on where it was"
            )
        self.content, self.totals = header["content"], header["totals"]
        self.kind, self.vocabulary = self.content["kind"], int(self.content["vocabulary"])
        entries = np.fromfile(self.folder / INDEX, ENTRY)
        if len(entries) != self.totals["examples"]:
            raise MethodError(
                f"{self.folder / INDEX} has {len(entries)} entries, not {self.totals['examples']}"
            )
        self._entries = entries
        self._places = {key.tobytes(): place for place, key in enumerate(entries["key"])}
        self._records = (
            np.memmap(self.folder / RECORDS, np.uint8, "r") if len(entries) else np.empty(0, np.uint8)
        )
        self._codec = None if self.kind == HIDDEN else read_codec(self.folder, self.content)
        self._head: Head | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises MethodError unless this tokenizer wrote the ids."""
        self.identity.refuse_unless(self.folder, tokenizer=tokenizer_fingerprint(tokenizer))

    def rows(self, batch: Mapping[str, Tensor]) -> TopK | tuple[Tensor, Head]:
        """The teacher at the N completion tokens of a collated batch, in order, on its device.

        Raises MethodError for an example that the store does not hold, and for a damaged record.
        """
        keys = [key for key, rows in example_keys(batch) if rows]
        records, device = [self.record(key) for key in keys], batch["input_ids"].device
        if self._codec is None:
            return self._hidden(records, device)
        if not records:
            nothing = torch.empty(0, 1, device=device)
            return self._top_k(nothing.long(), nothing, nothing[:, 0])
        return self._top_k(*(part.to(device) for part in padded(self._codec.decode(records))))

    def record(self, key: bytes) -> memoryview:
        """The bytes of one example."""
        place = self._places.get(key)
        if place is None:
            raise MethodError(
                f"the teacher store {self.folder} does not hold this example: it answers for the data that it was "
                "filled with, tokenised and cut the same way, not for other prompts nor for a student's own samples"
            )
        entry = self._entries[place]
        start = int(entry["offset"])
        data = memoryview(self._records.data[start : start + int(entry["size"])])
        if zlib.crc32(data) != entry["checksum"]:
            raise MethodError(f"{self.folder / RECORDS} is damaged at byte {start}: fill the store anew")
        return data

    def _top_k(self, ids: Tensor, log_probs: Tensor, tail: Tensor) -> TopK:
        return TopK(ids, log_probs, tail, self.vocabulary, float(self.content["temperature"]))

    def _hidden(self, records: list[memoryview], device: torch.device) -> tuple[Tensor, Head]:
        dtype, width = DTYPES[self.content["dtype"]], int(self.content["width"])
        if self._head is None or self._head.weight.device != device:
            self._head = read_head(self.folder, self.content, device)
        flat = bytearray(b"".join(records))
        states = torch.frombuffer(flat, dtype=dtype) if flat else torch.empty(0, dtype=dtype)
        return states.view(-1, width).to(device), self._head


def padded(rows: Ragged) -> tuple[Tensor, Tensor, Tensor]:
    """`ids`, `log_probs` (N, K) and `tail` (N,) as `TopK` wants them, in fp32."""
    counts, n, k = rows.counts, len(rows.counts), int(rows.counts.max())
    row = np.repeat(np.arange(n), counts)
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    log_probs = np.full((n, k), -np.inf, np.float32)
    log_probs[row, column] = rows.log_probs
    ids = np.repeat(rows.ids[np.cumsum(counts) - counts], k).reshape(n, k)
    ids[row, column] = rows.ids
    return torch.from_numpy(ids), torch.from_numpy(log_probs), torch.from_numpy(rows.tail.astype(np.float32))


def read_codec(folder: Path, content: Mapping[str, Any]) -> TopKCodec:
    """The codec of a store of top-k or of drawn ids."""
    if content["kind"] == DRAWN:
        return CountCodec(int(content["vocabulary"]), rounds=int(content["rounds"]))
    ranks = np.load(folder / RANKS, allow_pickle=False) if content["ranks"] else None
    settings = {name: content[name] for name in ("vocabulary", "max_k", "gain", "resolution")}
    return TopKCodec(**settings, ranks=ranks)


def read_head(folder: Path, content: Mapping[str, Any], device: torch.device) -> Head:
    """The teacher's LM head of a store of hidden states."""
    tensors = load_file(folder / HEAD, device=str(device))
    return Head(tensors["weight"], tensors.get("bias"), content["scale"], content["soft_cap"])
