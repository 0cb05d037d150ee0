"""Supervised fine-tuning of the models a testbed hands out: teachers and the common SFT start of students."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reproductions.engine.run import Run


def fine_tune(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    settings: Mapping[str, Any],
    *,
    phase: str,
) -> PreTrainedModel:
    """Train `model` on prompt-completion rows with TRL's SFTTrainer; `settings` are SFTConfig fields and all of them.

    Only completion tokens count. Returns the model in eval mode.
    """
    from trl import SFTConfig, SFTTrainer

    arguments = run.arguments(SFTConfig, **settings)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer)
    return run.train(trainer, phase=phase).eval()
