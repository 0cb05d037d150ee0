"""Supervised fine-tuning of the models that a testbed hands out: teachers and the common SFT start of students."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from methods.tokenizers.encoding import SKIP_PREPARATION, encode

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reproductions.engine.work.run import Run


def on_device(model: PreTrainedModel, run: Run) -> PreTrainedModel:
    """`model` on the device of `run`."""
    model.to(run.device)  # type: ignore[arg-type]  # transformers wraps `to` in a way that hides its signature
    return model


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
