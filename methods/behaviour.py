"""What two steps of training with a component do to a fixed toy student: the figures behind `methods.fingerprints`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from methods.assembly import THOUGHT_TOKENS, Asked, trainer_for
from methods.recipe import canonical_method
from methods.registry import components, find

WORDS = ("ab", "hello", "x", "distil", "teach", "loss", "token", "kd", "mode", "gap")
# What a component needs that has no default, and what it is tried with where its defaults do nothing in two steps.
SETTINGS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("sampler", "adaptive-replay"): {"start": 0.9, "capacity": 8},
    ("sampler", "corrected"): {"sampler": {"name": "half-student", "source": "data"}},
    ("sampler", "domains"): {"every": 1},
    ("sampler", "teacher-mixed"): {"teacher_mix": 0.5},
    ("target", "noisy-teacher"): {"deviation": 1.0},
    ("row-settings", "adaptive-skew"): {"side": "teacher", "anchor_steps": 1},
    ("term", "hidden-match"): {"layers": [[0, 0]]},
    ("term", "span-consistency"): {"spans": "ends-in-punctuation"},
    ("trainer", "minillm"): {"steps_per_generation": 1},
    ("trainer", "latent-reasoning"): {"thoughts": 2},
}


def behaviour(slot: str, name: str) -> list[float]:
    """What the student's weights have moved by after two steps of plain gradient descent: length, two projections.

    And the length of what the terms learnt for themselves, where they learn.
    """
    method = canonical_method(example(slot, name))
    surroundings = ToySurroundings()
    before = {name: p.detach().clone() for name, p in surroundings.student().named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trainer = trainer_for(method, surroundings)
        trainer.train()
    after = dict(surroundings.student().named_parameters())
    learnt = [p.detach().flatten() for term in getattr(trainer, "terms", ()) for p in _parameters(term)]
    moved = torch.cat([(after[name].detach() - was).flatten().double() for name, was in before.items()])
    draws = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (2, len(moved)), generator=draws) * 2 - 1
    own = [float(torch.cat(learnt).double().norm())] if learnt else []
    return [float(moved.norm()), *(float(value) for value in signs.double() @ moved), *own]


def _parameters(term: Any) -> list[torch.Tensor]:
    """What a term learnt for itself."""
    return list(term.parameters()) if isinstance(term, torch.nn.Module) else []


def example(slot: str, name: str) -> dict[str, Any]:
    """A method that uses a component and as little else as possible."""
    entry, own = find(slot, name), dict(SETTINGS.get((slot, name), {}))
    tree = {"name": entry.name, **own}
    teacher = {"term": "next-token"} if slot == "data" else {"divergence": "forward-kl"}
    if slot == "divergence":
        return {"terms": [{"divergence": name, **own}]}
    if slot == "term":
        return {"terms": [{"term": name, **own}]}
    if slot in ("target", "token-weights", "row-settings"):
        divergence = "skew-forward-kl" if slot == "row-settings" else "forward-kl"
        several = {"teacher": ["main", "second"]} if name == "average-logits" else {}
        return several | {"terms": [{"divergence": divergence, slot.replace("-", "_"): tree}]}
    if slot == "schedule":
        return {"terms": [{"divergence": "forward-kl", "weight": {"schedule": name, **own}}]}
    if slot == "sampler":
        return {"sampler": tree, "terms": [teacher]}
    if slot == "data":
        return {"data": {"use": name, **own}, "terms": [teacher]}
    return {"trainer": tree} | ({"terms": [teacher]} if name == "distillation" else {})


def measured(only: Callable[[str, str], bool] = lambda slot, name: True) -> dict[str, list[float]]:
    """The figures of every component of the library, "slot/name" -> figures."""
    return {
        f"{slot}/{name}": behaviour(slot, name) for slot, name in sorted(components()) if only(slot, name)
    }


class ToySurroundings:
    """Models of a few hundred weights over letters, and ten rows; see `methods.assembly.Surroundings`."""

    seed = 0
    training: Mapping[str, Any] = {}
    start: Mapping[str, Any] = {}
    prompt_tokens, completion_tokens = 10, 10
    pair_limits = (20, 20)

    def __init__(self) -> None:
        self.tokenizer = _tokenizer()
        self._student = _model(self.tokenizer, seed=1, width=12)
        self._folder = tempfile.TemporaryDirectory(prefix="kd-atlas-toy-")

    def student(self) -> Any:
        return self._student

    def teacher(self, name: str) -> Asked:
        model = _model(self.tokenizer, seed=2 if name == "main" else 3, width=16)
        model.generation_config.eos_token_id = list(
            range(0, len(self.tokenizer), 4)
        )  # untrained, it seldom stops
        return Asked(name, model.eval().requires_grad_(False), self.tokenizer, self.completion_tokens)

    def rows(self, name: str) -> Dataset:
        rows = [
            {"prompt": f"{word}|", "thoughts": f"{word[0]},", "completion": word[::-1], "domain": "ab"[n % 2]}
            for n, word in enumerate(WORDS)
        ]
        return Dataset.from_list(rows)

    def corpus(self) -> Dataset:
        return Dataset.from_list([{"text": f"{word}|{word}"} for word in WORDS])

    def arguments(self, config_class: type, **more: Any) -> Any:
        return config_class(
            output_dir=str(Path(self._folder.name)),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=0.5,
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


def _tokenizer() -> PreTrainedTokenizerFast:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pad, bos, eos = special = ["<pad>", "<bos>", "<eos>"]
    tokens = [*special, *THOUGHT_TOKENS, "|", ",", *letters]
    core = Tokenizer(models.WordLevel({token: n for n, token in enumerate(tokens)}, unk_token=pad))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
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
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
