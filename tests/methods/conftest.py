"""Tiny models and a tokenizer that the method tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Of a trainer: one step of plain gradient descent, whose change is the gradient.
ONE_STEP = dict(  # noqa: C408
    max_steps=1, learning_rate=1.0, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, use_cpu=True,
    bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", logging_strategy="no",
    disable_tqdm=True, seed=3,
)  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return letter_tokenizer()


def letter_tokenizer(letters: str = LETTERS) -> PreTrainedTokenizerFast:
    """One token a letter, `|` ends a prompt; pad 0, eos 1."""
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", "|", *letters])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """A teacher's tokenizer over the same letters: two neighbours of the alphabet in one token where they meet."""
    pairs = [a + b for a, b in zip(LETTERS[::2], LETTERS[1::2], strict=True)][:9]
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", "|", *pairs, *LETTERS])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*pairs, "."])), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def make_model(
    kind: str = "llama", *, seed: int = 0, vocabulary: int = 29, width: int = 16, layers: int = 2, **extra
):
    torch.manual_seed(seed)
    if kind == "gpt2":  # learned absolute positions: catches a trainer that forgets position ids
        config = GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=2, n_positions=64,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, eos_token_id=1, bos_token_id=1, pad_token_id=0, **extra,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, eos_token_id=1, bos_token_id=1,
            pad_token_id=0, **extra,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    for (
        parameter
    ) in model.parameters():  # larger than the default, so that distributions are far from uniform
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model
