"""What a few steps of training with a component do to a fixed toy student: the figures behind `methods.fingerprints`.

Each component is tried with as little else of the library as possible: where the divergence is not what is tried, it is
`probe`, which belongs to nobody; the teacher reads other tokens only where a term is about those. Weights and
arithmetic are float64, so that another processor gives the same figures.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from methods.assembly import THOUGHT_TOKENS, Asked, trainer_for
from methods.elicitation import behaviour as elicitation
from methods.errors import MethodError
from methods.losses.fused.formulas import Block, by_row
from methods.recipe import canonical_method
from methods.registry import components, find, load, registered
from methods.slots.term import PAIR

STEPS = 4  # what looks back at the loss of the step before last does something
WORDS = ("ab", "hello", "x", "distil", "teach", "loss", "token", "kd", "mode", "gap")
SPECIAL = ("<pad>", "<bos>", "<eos>")
MERGES = (("l", "l"), ("s", "s"), ("o", "l"), ("k", "o"), ("a", "e"), ("t", "s"), ("a", "g"), ("ss", "o"))
PROBE = "probe"
# Trains nothing, so that there is nothing to see.
WITHOUT = frozenset({("trainer", "teacher-alone")})
# What a component needs that has no default, and what makes each of its settings do something in a few steps; several
# where one choice excludes another.
SETTINGS: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]] = {
    ("data", "beam-search"): ({"beams": 4, "pick": "closest"},),
    ("data", "label"): ({"temperature": 0.8, "prompts": 7, "samples": 2, "seed": 1},),
    ("row-settings", "adaptive-skew"): ({"side": "teacher", "anchor_steps": 1, "base": 0.9, "floor": 0.6},),
    ("sampler", "adaptive-replay"): (
        {"start": 0.7, "rise": 0.3, "tolerance": -9.0, "validations": 4, "capacity": 3},
    ),
    ("sampler", "corrected"): ({"sampler": {"name": "half-student", "source": "data"}},),
    ("sampler", "domains"): ({"every": 1},),
    ("sampler", "on-policy"): ({"fraction": 0.6},),
    ("sampler", "teacher-mixed"): ({"teacher_mix": 0.5},),
    ("target", "average-logits"): ({"weights": [0.7, 0.3]},),
    ("target", "interpolated-logits"): ({"start": 0.1, "step_size": 2.0, "momentum": 0.9},),
    ("target", "noisy-teacher"): ({"deviation": 1.0},),
    ("term", "chunk-likelihood"): ({"temperature": 2.0, "boundary": ",", "epsilon": 1e-3},),
    ("term", "continuation-units"): ({"divergence": "jensen_shannon", "teacher_weight": 0.3},),
    ("term", "hidden-match"): (
        {"layers": [[0, 1]]},
        {"layers": [[0, 1]], "weight": 0.05, "filters": "task", "size": 6, "filter_learning_rate": 0.2},
    ),
    ("term", "merged-chunks"): ({"matched_weight": 0.6, "teacher_weight": 0.3},),
    ("term", "plain-text"): ({"max_length": 7},),
    ("trainer", "latent-reasoning"): ({"thoughts": 2},),
    ("trainer", "minillm"): ({"steps_per_generation": 2, "discount": 0.9, "reward_clip": 2.0},),
}

Figures = list[list[float]]


def behaviour(slot: str, name: str, settings: Mapping[str, Any] | None = None) -> Figures:
    """What a few steps of plain gradient descent have done: to the student, to what the terms learnt, to the counts.

    The first two as the length of the way that the weights have gone and two projections of it ([] where nothing is
    learnt but the student), the last as tokens and rollouts by kind; three more lists for each further entry of
    SETTINGS. `settings` come on top of those.
    """
    tried = SETTINGS.get((slot, name), ({},))
    return [figures for own in tried for figures in _tried(slot, name, {**own, **(settings or {})})]


def _tried(slot: str, name: str, settings: Mapping[str, Any]) -> Figures:
    with _toy_world():
        surroundings = ToySurroundings()
        trainer = trainer_for(canonical_method(example(slot, name, settings)), surroundings)
        student = [surroundings.student()]
        learnt = [module for _, module in sorted(getattr(trainer, "trained_along", dict)().items())]
        before = [_copied(student), _copied(learnt)]
        trainer.train()
        moved = [_moved(before[0], _copied(student)), _moved(before[1], _copied(learnt))]
    counts = {**trainer.token_counts, **getattr(trainer, "rollout_counts", {})}
    figures = [*moved, [float(counts[kind]) for kind in sorted(counts)]]
    if not all(isfinite(value) for group in figures for value in group):
        raise MethodError(f"{slot} {name}: the toy's training diverges; try other SETTINGS: {figures}")
    return figures


@contextmanager
def _toy_world() -> Iterator[None]:
    """Float64, known random numbers, and the probe among the divergences; all of it put back."""
    precision = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), registered("divergence", PROBE, probe):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        gc.freeze()  # Trainer collects garbage when it starts: half of the time, among all that is imported
        try:
            yield
        finally:
            gc.unfreeze()
            torch.set_default_dtype(precision)


def probe(block: Block, skew: float | torch.Tensor = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || skew p + (1 - skew) q), written once more: no change of the library's formulas shows in it."""
    skew = by_row("skew", skew, block)
    mixture = skew * block.p + (1 - skew) * block.q
    return (block.p * (block.log_p - mixture.log())).sum(-1), (skew - 1) * block.p * block.q / mixture


def example(slot: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method that uses a component and as little else as possible."""
    entry, own = find(slot, name), dict(settings)
    tree, plain = {"name": entry.name, **own}, {"divergence": PROBE}
    if slot == "divergence":
        return {"terms": [{"divergence": name, **own}]}
    if slot == "term":
        teacher = "other" if getattr(load("term", entry.name), "reads", None) == PAIR else "main"
        return {"teacher": teacher, "terms": [{"term": name, **own}]}
    if slot in ("target", "token-weights", "row-settings"):
        teachers = ["main", "second"] if slot == "target" else "main"
        return {"teacher": teachers, "terms": [{**plain, slot.replace("-", "_"): tree}]}
    if slot == "schedule":
        return {"terms": [{**plain, "weight": {"schedule": name, **own}}]}
    if slot == "sampler":  # the source of each example shows too
        weights = {"data": 0.5, "teacher": 2.0, "student": 1.0}
        return {
            "sampler": tree,
            "terms": [{**plain, "sources": [s], "weight": w} for s, w in weights.items()],
        }
    if slot == "data":
        return {"data": {"use": name, **own}, "terms": [plain]}
    return {"trainer": tree} | ({"terms": [plain]} if name == "distillation" else {})


def measured(only: Callable[[str, str], bool] = lambda slot, name: True) -> dict[str, Figures]:
    """The figures of every component of the library that does something, "slot/name" -> figures."""
    wanted = [key for key in sorted(components()) if key not in WITHOUT and only(*key)]
    return {
        f"{slot}/{name}": elicitation.figures(name) if slot == elicitation.SLOT else behaviour(slot, name)
        for slot, name in wanted
    }


def _copied(modules: list[Any]) -> torch.Tensor:
    """All weights of some modules, one behind the other."""
    weights = [p.detach().flatten() for module in modules for _, p in sorted(module.named_parameters())]
    return torch.cat(weights).clone() if weights else torch.zeros(0)


def _moved(before: torch.Tensor, after: torch.Tensor) -> list[float]:
    """The way from one to the other: its length, and its projections on two fixed directions."""
    if not len(before):
        return []
    draws = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (2, len(before)), generator=draws).to(before) * 2 - 1
    way = after - before
    return [float(way.norm()), *(float(value) for value in signs @ way)]


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
        model.generation_config.eos_token_id = list(range(0, len(tokenizer), 4))  # untrained, it seldom stops
        return Asked(name, model.eval().requires_grad_(False), tokenizer, self.completion_tokens)

    def rows(self, name: str) -> Dataset:
        rows = [
            {
                "prompt": f"{word}|",
                "thoughts": f"{word[0]},",
                "completion": answer(word),
                "domain": "abcde"[n % 5],
            }
            for n, word in enumerate(WORDS)
        ]
        return Dataset.from_list(rows)

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
