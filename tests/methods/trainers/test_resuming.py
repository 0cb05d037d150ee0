"""A training that goes on from a checkpoint ends bit by bit like one that nothing interrupted, for every trainer."""

import logging
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from methods.slots.difficulty import DifficultyTemperature, Focused
from methods.slots.samplers import AdaptiveReplay, DomainSampler, GatedLength, student_examples
from methods.slots.scores import Entropy, Hellinger
from methods.slots.terms import Divergence, NextToken, PlainText
from methods.slots.token_weights import Normalised, TopShare
from methods.slots.weights import AdaptiveSkew
from methods.tokenizers.terms import MergedChunks, SortedProbabilities
from methods.trainers import Distiller, SFTConfig
from tests.methods.conftest import make_model
from tests.methods.trainers.one_update import (
    COMPOSITIONS,
    CORPUS,
    CROSS,
    ROWS,
    SAMPLED,
    TRAINERS,
    make_trainer,
    parameters,
)


class InTurn:
    """The given examples in one step, the student's own in the next."""

    def __init__(self):
        self.calls = 0

    def __call__(self, window, step):
        self.calls += 1
        return list(window) if self.calls % 2 else student_examples(window, step)

    def state(self):
        return {"calls": self.calls}

    def restore(self, state):
        self.calls = state["calls"]


class Counting:
    """A hook that remembers the tokens of all windows."""

    def __init__(self):
        self.tokens = 0

    def begin_step(self, window):
        self.tokens += sum(int((batch["labels"] != -100).sum()) for batch in window.batches)

    def state(self):
        return {"tokens": self.tokens}

    def restore(self, state):
        self.tokens = state["tokens"]


# What the matrix of one step has no need of: pieces that remember something over many.
REMEMBERING = {
    "replay": lambda: {
        "sampler": AdaptiveReplay(start=0.8, rise=0.1, validations=3, capacity=3),
        "terms": [Divergence("skew_forward_kl")],
        "eval_dataset": ROWS,
    },
    "replay in domains+text": lambda: {
        "sampler": DomainSampler(every=2, sampler=AdaptiveReplay(start=0.8, validations=3, capacity=3)),
        "terms": [Divergence("total_variation"), PlainText(CORPUS)],
        "hooks": [Counting()],
    },
    "growing answers": lambda: {
        "sampler": GatedLength([1, 3, 7], 0.5, every=2),
        "terms": [Divergence("reverse_kl", token_weights=TopShare(Entropy(), 0.5, drawn=True))],
    },
    "focusing": lambda: {
        "terms": [
            Divergence(
                token_weights=Normalised(
                    Focused(Hellinger(), change=0.3, tolerance=1e-3, momentum=0.5, warm_up=0.2)
                ),
                row_settings=DifficultyTemperature(Hellinger()),
                temperature_squared=True,
            )
        ],
    },
    "curriculum": lambda: {
        "terms": [
            Divergence("skew_forward_kl", row_settings=AdaptiveSkew("teacher", base=0.5, anchor_steps=4))
        ],
    },
}
CROSS_REMEMBERING = {
    "gold-in-turn": lambda: {
        "terms": [NextToken(), MergedChunks()],
        "sampler": InTurn(),
    },
    "uld+remembering replay": lambda: {
        "terms": [NextToken(), SortedProbabilities()],
        "sampler": AdaptiveReplay(start=0.8, rise=0.1, validations=3, capacity=3),
        "eval_dataset": ROWS,
    },
}
NAMES = [name for name in (*TRAINERS, *REMEMBERING, *CROSS_REMEMBERING) if name not in SAMPLED]
STEPS, WITHIN, NEXT_EPOCH = 7, 3, 6  # four steps an epoch


@pytest.fixture(autouse=True)
def remembering(monkeypatch):
    for known, more in ((COMPOSITIONS, REMEMBERING), (CROSS, CROSS_REMEMBERING)):
        for name, compose in more.items():
            monkeypatch.setitem(known, name, compose)


def trained(name, kind, tokenizer, folder, resume=None, **settings):
    trainer, modules = make_trainer(
        name, kind, tokenizer, str(folder), **{
            "per_device_train_batch_size": 1, "max_steps": STEPS, "learning_rate": 0.01, "optim": "adamw_torch",
            "save_strategy": "steps", "save_steps": 1, **settings,
        },
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*begin anew")
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    counts = [dict(getattr(trainer, what, {})) for what in ("token_counts", "rollout_counts")]
    counts += [hook.state() for hook in getattr(trainer, "hooks", ())]
    return parameters(modules), counts


@pytest.mark.parametrize("kind", ["llama", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_ends_like_one_that_was_not_interrupted(name, kind, tokenizer, tmp_path):
    # Four steps from each buffer of what samples so, eight an epoch.
    rollouts = {"steps_per_generation": 2, "num_iterations": 2, "max_steps": 11}
    settings = rollouts if name.startswith(("minillm", "policy")) else {}
    if name.startswith("policy"):  # a group of four in each buffer
        settings = {**settings, "per_device_train_batch_size": 2}
    places = (WITHIN, 10) if settings else (WITHIN, NEXT_EPOCH)
    places += (4, 8) if name.startswith("policy") else ()  # before a generation, before an epoch
    whole, counts = trained(name, kind, tokenizer, tmp_path / "whole", **settings)
    for place in places:
        checkpoint = tmp_path / "whole" / f"checkpoint-{place}"
        resumed, same = trained(name, kind, tokenizer, tmp_path / "resumed", checkpoint, **settings)
        assert same == counts
        for parameter, value in whole.items():
            assert torch.equal(resumed[parameter], value), f"from step {place}: {parameter}"


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_the_embedding_does_not_miss_in_a_checkpoint(tied, tokenizer, tmp_path, caplog):
    """It stands there once; a head of its own that is not there is told."""
    arguments = {
        "output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True,
        "max_steps": 2, "save_steps": 1, "save_strategy": "steps", "logging_strategy": "no",
    }  # fmt: skip

    def one():
        return Distiller(
            make_model(seed=0, tie_word_embeddings=tied), terms=[NextToken()], args=SFTConfig(**arguments),
            train_dataset=ROWS, processing_class=tokenizer,
        )  # fmt: skip

    one().train()
    checkpoint = tmp_path / "checkpoint-1"
    weights = load_file(checkpoint / "model.safetensors")
    assert ("lm_head.weight" in weights) is not tied
    weights.pop("lm_head.weight", None)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    logger = logging.getLogger("transformers.trainer")
    logger.addHandler(caplog.handler)
    try:
        one().train(resume_from_checkpoint=str(checkpoint))
    finally:
        logger.removeHandler(caplog.handler)
    assert ("missing keys" in caplog.text) is not tied


def test_a_checkpoint_without_its_memory_says_so(tokenizer, tmp_path):
    trained("sft", "llama", tokenizer, tmp_path)
    (tmp_path / "checkpoint-3" / "memory-0.safetensors").unlink()
    trainer, _ = make_trainer("sft", "llama", tokenizer, str(tmp_path), max_steps=4, optim="adamw_torch")
    assert isinstance(trainer, Distiller)
    with pytest.warns(UserWarning, match="memory-0.safetensors is missing"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
