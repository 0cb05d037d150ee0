"""LatentDistiller on four unequal rows, for the matrix of one_update.py."""

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from methods.modeling.latent_reasoning import attach_latent
from methods.trainers.latent import LatentDistiller
from methods.trainers.trl_compat import SFTConfig
from tests.methods.conftest import ONE_STEP, letter_tokenizer, make_model

BEGIN, END = 27, 28
ROWS = [
    {"prompt_ids": [3, 4, 2], "thought_ids": [5, 6, 7, 8], "marker_ids": [26], "answer_ids": [9, 1]},
    {"prompt_ids": [10, 11, 12, 13, 2], "thought_ids": [], "marker_ids": [25, 26], "answer_ids": [14, 15, 1]},
    {"prompt_ids": [16], "thought_ids": [17], "marker_ids": [26], "answer_ids": [1]},
    {"prompt_ids": [7, 8], "thought_ids": [9] * 9, "marker_ids": [26], "answer_ids": [3, 4, 5, 6, 1]},
]
KINDS = ("llama", "gpt2", "lora")


def thinker(kind: str, *, steps: int = 3, width: int | None = None):
    """A small model with latent thoughts, all of whose parameters are away from their symmetric start."""
    model = make_model("gpt2" if kind == "gpt2" else "llama", seed=0, tie_word_embeddings=kind == "tied")
    if kind == "lora":
        torch.manual_seed(5)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = get_peft_model(model, config)
    torch.manual_seed(6)
    latent = attach_latent(model, steps=steps, begin_id=BEGIN, end_id=END, width=width)
    for parameter in latent.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def make_trainer(model, folder: str, *, batch: int = 4, accumulate: int = 1, weights=None, **settings):
    """SGD of rate 1 without clipping, one step."""
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate}
    return LatentDistiller(
        model,
        args=SFTConfig(**{**ONE_STEP, **sizes, "output_dir": folder, **settings}),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=letter_tokenizer(),
        **weights or {},
    )
