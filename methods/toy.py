"""The toy that shows how a component behaves: letters, models of a few hundred weights, ten rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from methods.assembly import THOUGHT_TOKENS, Asked

STEPS = 4  # what looks back at the loss of the step before last does something
WORDS = ("ab", "hello", "x", "distil", "teach", "loss", "token", "kd", "mode", "gap")
SPECIAL = ("<pad>", "<bos>", "<eos>")
MERGES = (("l", "l"), ("s", "s"), ("o", "l"), ("k", "o"), ("a", "e"), ("t", "s"), ("a", "g"), ("ss", "o"))
CLASSES = ("early", "late")


class ToySurroundings:
    """Models of a few hundred weights over letters, and ten rows; see `methods.assembly.Surroundings`."""

    seed = 0
    training: Mapping[str, Any] = {}
    start: Mapping[str, Any] = {}
    prompt_tokens, completion_tokens = 10, 10
    pair_limits = (20, 20)

    def __init__(self) -> None:
        self.tokenizer = _letters()
        self._student = _model(self.tokenizer, seed=1, width=12)
        self._folder = tempfile.TemporaryDirectory(prefix="kd-atlas-toy-")

    def student(self) -> Any:
        return self._student

    def teacher(self, name: str) -> Asked:
        """Three are known: "main", "second", and "other", which reads other tokens."""
        tokenizer = _pieces() if name == "other" else self.tokenizer
        model = _model(tokenizer, seed=102 + ("main", "second", "other").index(name), width=16)
        stops_often(model, tokenizer)
        return Asked(name, model.eval().requires_grad_(False), tokenizer, self.completion_tokens)

    def rows(self, name: str) -> Dataset:
        rows = [
            {
                "prompt": f"{word}|",
                "thoughts": f"{word[0]},",
                "completion": answer(word),
                "domain": "abcde"[n % 5],
                "pass_rate": n / 10,
                "skill": (9 - n) / 20,
            }
            for n, word in enumerate(WORDS)
        ]
        return Dataset.from_list(rows)

    def scorer(self, name: str | None) -> Callable[..., list[float]]:
        """How many tokens of an answer are among some, in percent; among others for another score."""
        rest = 0 if name is None else 1

        def percent(prompts: Sequence[str], answers: Sequence[Sequence[int]]) -> list[float]:
            return [100 * sum(i % 3 == rest for i in ids) / max(1, len(ids)) for ids in answers]

        return percent

    def corpus(self) -> Dataset:
        return Dataset.from_list([{"text": f"{word}|{word}"} for word in WORDS])

    def arguments(self, config_class: type, **more: Any) -> Any:
        return config_class(
            output_dir=str(Path(self._folder.name)),
            max_steps=STEPS,
            per_device_train_batch_size=4,
            learning_rate=0.25,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            **more,
        )

    def keep(self, kind: str, key: Mapping[str, Any], make: Callable[[ToySurroundings], Any]) -> Any:
        return make(self)

    def keep_module(
        self,
        kind: str,
        key: Mapping[str, Any],
        make: Callable[[ToySurroundings], Any],
        read: Callable[..., Any],
    ) -> Any:
        return make(self)

    def train(self, trainer: Any, phase: str) -> Any:
        trainer.train()
        return trainer.accelerator.unwrap_model(trainer.model)

    def spent(self, report: Any) -> None:
        """Nobody asks."""


class ToyClasses(ToySurroundings):
    """Two encoders of two and three blocks, and the same words by whether they begin early in the alphabet."""

    classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self._student = _encoder(self.tokenizer, seed=1, width=12, blocks=2)

    def teacher(self, name: str) -> Asked:
        """Of one kind; "second" is as wide as the student."""
        model = _encoder(self.tokenizer, seed=102, width=12 if name == "second" else 16, blocks=3)
        return Asked(name, model.eval().requires_grad_(False), self.tokenizer, self.completion_tokens)

    def rows(self, name: str) -> Dataset:
        return Dataset.from_list(
            [{"prompt": word, "completion": CLASSES[word > "h"]} for word in WORDS if len(word) > 1]
        )


def _encoder(tokenizer: Any, *, seed: int, width: int, blocks: int) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=24, num_hidden_layers=blocks,
        num_attention_heads=2, max_position_embeddings=24, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id, id2label=dict(enumerate(CLASSES)),
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def stops_often(model: Any, tokenizer: Any) -> None:
    """Untrained, a model seldom stops."""
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 4))


def answer(word: str) -> str:
    """The word backwards, with a comma behind its second letter: the end of a span, the boundary of a chunk."""
    if word == "kd":  # the second of the main teacher's beam: its closest answer is not its best
        return "mhm,"
    return f"{word[::-1][:2]},{word[::-1][2:]}" if len(word) > 3 else word[::-1]


def _alphabet() -> list[str]:
    return ["|", ",", *(chr(code) for code in range(ord("a"), ord("z") + 1))]


def _letters() -> PreTrainedTokenizerFast:
    """A letter, a token: the student's."""
    tokens = [*SPECIAL, *THOUGHT_TOKENS, *_alphabet()]
    core = Tokenizer(models.WordLevel({token: n for n, token in enumerate(tokens)}, unk_token=SPECIAL[0]))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return _wrapped(core)


def _pieces() -> PreTrainedTokenizerFast:
    """Some tokens of two and three letters, in another order: for a teacher with a tokenisation of its own."""
    tokens = [*_alphabet()[::-1], *("".join(pair) for pair in MERGES), *SPECIAL, *THOUGHT_TOKENS]
    core = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, list(MERGES)))
    core.decoder = decoders.Fuse()
    return _wrapped(core)


def _wrapped(core: Tokenizer) -> PreTrainedTokenizerFast:
    pad, bos, eos = SPECIAL
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, bos_token=bos, eos_token=eos, padding_side="left"
    )
    made.add_special_tokens({"additional_special_tokens": list(THOUGHT_TOKENS)})
    return made


def _model(tokenizer: PreTrainedTokenizerFast, *, seed: int, width: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float64",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).double()
