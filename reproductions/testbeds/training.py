"""Supervised fine-tuning of the models a testbed hands out: teachers and the common SFT start of students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from reproductions.engine.errors import KDError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reproductions.engine.run import Run


def on_device(model: PreTrainedModel, run: Run) -> PreTrainedModel:
    """`model` on the device of `run`."""
    model.to(run.device)  # type: ignore[arg-type]  # transformers wraps `to` in a way that hides its signature
    return model


@lru_cache(maxsize=4)  # a worker makes many runs on the same split
def encode(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Dataset:
    """Columns `input_ids` and `labels` (-100 on the prompt) of prompt + completion + EOS, cut at `max_tokens`.

    What TRL's preparation gives, in one batched call instead of four passes row by row: for runs of ten seconds
    those passes cost more than the training. Hand it over with `SKIP_PREPARATION`. A completion that ends with EOS
    already gets no second one. Raises KDError where the tokenizer has none.
    """
    whole, begins = tokenized(dataset, tokenizer)
    ids = [row[:max_tokens] for row in whole]
    starts = [min(start, len(row)) for start, row in zip(begins, ids, strict=True)]
    labels = [[-100] * n + row[n:] for n, row in zip(starts, ids, strict=True)]
    kept = [i for i, (n, row) in enumerate(zip(starts, ids, strict=True)) if n < len(row)]
    return Dataset.from_dict({"input_ids": [ids[i] for i in kept], "labels": [labels[i] for i in kept]})


def tokenized(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[int]], list[int]]:
    """Ids of each row: prompt, completion, EOS; and how many are the prompt's. Raises KDError as `encode` does."""
    eos = eos_token(tokenizer)
    prompts, completions = list(dataset["prompt"]), list(dataset["completion"])
    whole = [p + c.removesuffix(eos) + eos for p, c in zip(prompts, completions, strict=True)]
    ids = list(tokenizer(whole)["input_ids"])
    return ids, [common(a, b) for a, b in zip(tokenizer(prompts)["input_ids"], ids, strict=True)]


def eos_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that ends a completion. Raises KDError where the tokenizer has none."""
    if tokenizer.eos_token is None:
        where = tokenizer.name_or_path or "the tokenizer"
        raise KDError(
            f"{where}: no end-of-sequence token, so nothing would end an answer; name one as eos_token in its "
            "tokenizer_config.json"
        )
    return str(tokenizer.eos_token)


# SFTConfig fields for a dataset that `encode` made.
SKIP_PREPARATION: Mapping[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def fine_tune(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    settings: Mapping[str, Any],
    *,
    max_tokens: int,
    phase: str,
) -> PreTrainedModel:
    """Train `model` on prompt-completion rows with TRL's SFTTrainer; returns it in eval mode.

    `settings` are fields of SFTConfig. Only completion tokens (and EOS) count.
    """
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=model,
        args=run.arguments(SFTConfig, **settings, **SKIP_PREPARATION),
        train_dataset=encode(dataset, tokenizer, max_tokens),
        processing_class=tokenizer,
    )
    return run.train(trainer, phase=phase).eval()
