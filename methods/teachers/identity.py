"""What a store was made of: hashes of the teacher, the tokenizer and the examples, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.errors import MethodError
from methods.modeling.core import core_model

KEY_BYTES = 16
VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


@dataclass(frozen=True)
class Identity:
    """Hashes, or for the teacher a name and revision ("org/model@3f2a"), where the weights are elsewhere."""

    teacher: str
    tokenizer: str
    data: str

    def refuse_unless(self, folder: Any, **expected: str | None) -> None:
        """Raises MethodError naming each of teacher, tokenizer, data that is expected to be something else."""
        mine = asdict(self)
        wrong = [
            f"its {name} is {mine[name]}, not {value}"
            for name, value in expected.items()
            if value is not None and value != mine[name]
        ]
        if wrong:
            raise MethodError(f"the teacher store {folder} is another one: {'; '.join(wrong)}")


def teacher_fingerprint(model: Any) -> str:
    """Hash of a model's config and weights; the same for the same file, whatever device it is on."""
    core = core_model(model)
    digest = hashlib.sha256()
    config = {k: v for k, v in core.config.to_dict().items() if k not in VOLATILE}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(core.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(data.numpy()))
    return digest.hexdigest()[:32]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash of which id is which token."""
    pairs = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:32]


def example_keys(batch: Mapping[str, Tensor]) -> list[tuple[bytes, int]]:
    """For each example of a collated batch: hash of its tokens and of which of them are labels, and how many are.

    Padding, its side and the other examples do not matter.
    """
    columns = (batch["input_ids"], batch["attention_mask"], batch["labels"])
    ids, mask, labels = (tensor.detach().cpu().numpy() for tensor in columns)
    keys = []
    for tokens, attended, wanted in zip(ids, mask.astype(bool), labels != -100, strict=True):
        chosen = wanted[attended][1:]
        digest = hashlib.blake2b(tokens[attended].astype("<i4").tobytes(), digest_size=KEY_BYTES)
        digest.update(b"|" + np.packbits(chosen).tobytes())
        keys.append((digest.digest(), int(chosen.sum())))
    return keys


def data_fingerprint(batches: Iterable[Mapping[str, Tensor]]) -> str:
    """Hash of a set of examples, in whatever order and batches; examples without labels count for nothing."""
    return keys_fingerprint(key for batch in batches for key, rows in example_keys(batch) if rows)


def keys_fingerprint(keys: Iterable[bytes]) -> str:
    """Hash of a set of keys."""
    return hashlib.sha256(b"".join(sorted(set(keys)))).hexdigest()[:32]
