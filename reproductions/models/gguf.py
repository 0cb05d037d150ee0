"""Weights that are shipped as GGUF: read once with a reader that is not installed, written as a model folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def importable(wheel: Path) -> Iterator[None]:
    """A pure-Python wheel can be imported inside the block: it is needed once, so it is not installed."""
    sys.path.append(str(wheel))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(wheel))


def convert(gguf: Path, into: Path) -> None:
    """Writes a GGUF file as a model folder: fp32 safetensors, config, tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    # A model read from GGUF refuses to be saved; the same weights in a model made from its config do not.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)
