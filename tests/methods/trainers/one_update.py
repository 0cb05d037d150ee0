"""One optimizer step of each trainer on the same four unequal examples, whatever the micro-batches and ranks.

Imported by test_invariance.py and run by it on two gloo ranks:
`python -m tests.methods.trainers.one_update OUT.safetensors`.
"""

import functools
import os
import sys
import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from methods.losses.mutual_information import MutualInformation
from methods.modeling.rollouts import rollout
from methods.slots.contrastive import (
    AdaptiveSkew,
    PairedStudent,
    detached_skew_reverse_kl,
    student_share,
    teacher_share,
)
from methods.slots.revision import ClippedKL, Corrected, LearnedBand, SpanConsistency
from methods.slots.samplers import HalfStudent, OnPolicy, WithStudent
from methods.slots.targets import AverageLogits, InterpolatedLogits
from methods.tokenizers.dual_space import DualSpace
from methods.trainers import cross_tokenizer, distillation, minillm
from methods.trainers.cross_tokenizer import (
    ChunkLikelihood,
    ContinuationUnits,
    CrossTokenizerTrainer,
    MergedChunks,
    NextToken,
    SortedProbabilities,
)
from methods.trainers.distillation import DistillationTrainer, Term
from methods.trainers.domain_distillation import DomainDistillationTrainer
from methods.trainers.hidden_matching import FilterTrainer, HiddenMatchingTrainer, LayerFilters
from methods.trainers.minillm import MiniLLMConfig, MiniLLMTrainer
from methods.trainers.plain_text_distillation import PlainTextDistillationTrainer
from methods.trainers.sft import SFTConfig, SFTTrainer
from methods.trainers.word_kd import WordKDTrainer
from tests.methods.conftest import ONE_STEP, make_model, pair_tokenizer
from tests.methods.trainers import codi_update

ROWS = Dataset.from_list(
    [
        {"prompt": "ab|", "completion": "cdefgh"},
        {"prompt": "hello|", "completion": "o"},
        {"prompt": "x|", "completion": "xyzxyzxyz"},
        {"prompt": "distil|", "completion": "kd"},
    ]
)
CORPUS = Dataset.from_list([{"text": text} for text in ("plain", "text|of", "unequal", "le")])
# Compositions of the white-box trainer; functions, because targets have a state.
COMPOSITIONS = {
    "on-policy": lambda: {
        "sampler": OnPolicy(1.0),
        "terms": [Term("jensen_shannon", settings={"teacher_weight": 0.1})],
    },
    "two-sided": lambda: {
        "sampler": WithStudent(),
        "terms": [
            Term("skew_forward_kl", sources=("teacher",)),
            Term("skew_reverse_kl", sources=("student",)),
        ],
    },
    "interpolated": lambda: {"terms": [Term(target=InterpolatedLogits())]},
    "two-teachers": lambda: {
        "terms": [Term(target=AverageLogits([0.3, 0.7])), Term("cross_entropy", weight=0.5)]
    },
}


def anchored_skew(anchor: float) -> AdaptiveSkew:
    """An adaptive skew that knows its anchor already, so that one step shows what it does."""
    skew = AdaptiveSkew("teacher", base=0.5, anchor_steps=1)
    skew.anchor = anchor
    return skew


COMPOSITIONS["contrastive"] = lambda: {
    "sampler": PairedStudent(),
    "terms": [
        Term(
            "skew_forward_kl",
            weight=teacher_share,
            sources=("teacher",),
            row_settings=anchored_skew(0.005),
        ),
        Term(detached_skew_reverse_kl, weight=student_share, sources=("student",)),
    ],
}
COMPOSITIONS["revision"] = lambda: {
    "sampler": Corrected(HalfStudent("data"), greedy=True),
    "terms": [Term("cross_entropy", sources=("data",))],
    "auxiliaries": [ClippedKL(LearnedBand(29, lower=0.3)), SpanConsistency([5, 9, 17], weight=2.0)],
}
HIDDEN = ("filters", "filtered-layers", "unfiltered-layers", "mutual-information")
# Terms of the trainer for two tokenizers.
CROSS = {
    "uld": lambda: {"terms": [NextToken(), SortedProbabilities()]},
    "alm": lambda: {"terms": [ChunkLikelihood(temperature=2.0)], "boundary_bytes": b"acegkoxz"},
    "alm-balanced": lambda: {"terms": [NextToken(), ChunkLikelihood(debias=False)], "gradient_balance": True},
    "gold": lambda: {"terms": [MergedChunks(divergence="forward_kl", matched_weight=0.5)]},
    "gold-on-policy": lambda: {
        "terms": [MergedChunks()],
        "sampler": OnPolicy(1.0),
        "max_completion_length": 7,
    },
    "simct": lambda: {"terms": [ContinuationUnits(), ContinuationUnits(units=False, weight=0.5)]},
    "dskd": lambda: {"terms": [NextToken(weight=0.5), DualSpace(16, 24)]},
}
TRAINERS = (
    "sft",
    "word-kd",
    "word-kd-mixed",
    "minillm",
    "minillm-corpus",
    "plain-text",
    *HIDDEN,
    "domains",
    "codi",
    *COMPOSITIONS,
    *CROSS,
)
MODELS = ("llama", "gpt2", "wide-teacher-vocabulary", "lora", "tied")


def make_pair(kind: str):
    """A student and a teacher of the matrix's `kind`."""
    teacher = make_model("gpt2" if kind == "gpt2" else "llama", seed=1, width=24)
    student = make_model("gpt2" if kind == "gpt2" else "llama", seed=0, tie_word_embeddings=kind == "tied")
    if kind == "wide-teacher-vocabulary":
        teacher = make_model("llama", seed=1, width=24, vocabulary=37)
    if kind == "lora":
        torch.manual_seed(5)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        student = get_peft_model(student, config)
    return student, teacher


def make_trainer(trainer_name: str, kind: str, tokenizer, folder: str, *, accumulate: int = 1, **settings):
    """A trainer of the matrix on the four rows, and what it trains: the student as "", other modules by name."""
    if trainer_name == "codi":  # CODITrainer has rows and no teacher of its own
        student = codi_update.thinker(kind)
        weights = {"teacher_weight": 0.7, "distillation_weight": 2.0}
        trainer = codi_update.make_trainer(
            student, folder, accumulate=accumulate, weights=weights, **settings
        )
        return trainer, {"": student}
    student, teacher = make_pair(kind)
    trained = {"": student}
    common = {**ONE_STEP, "output_dir": folder, "gradient_accumulation_steps": accumulate, **settings}
    shared = {"train_dataset": ROWS, "processing_class": tokenizer}
    if trainer_name.startswith("minillm"):
        args = MiniLLMConfig(**{"steps_per_generation": accumulate, **common}, max_completion_length=7)
        corpus = CORPUS if trainer_name.endswith("corpus") else None
        trainer = MiniLLMTrainer(student, teacher=teacher, args=args, pretraining_dataset=corpus, **shared)
    elif trainer_name in HIDDEN:
        trained["filters"] = LayerFilters((0, 1), 16, 24, seed=4)
        if trainer_name == "mutual-information":
            trained["critics"] = torch.nn.ModuleList(MutualInformation(24, size=8, seed=s) for s in (6, 7))
        trainer = _hidden_trainer(trainer_name, student, teacher, trained, SFTConfig(**common), shared)
    elif trainer_name == "plain-text":
        trainer = PlainTextDistillationTrainer(
            student, teacher=teacher, args=SFTConfig(**common), corpus=CORPUS, text_weight=0.7, **shared
        )
    elif trainer_name == "domains":
        trainer = _domain_trainer(student, teacher, tokenizer, SFTConfig(**common), shared)
    elif trainer_name in COMPOSITIONS:
        second = make_model("gpt2" if kind == "gpt2" else "llama", seed=2)
        options = COMPOSITIONS[trainer_name]()
        trained["auxiliaries"] = torch.nn.ModuleList(options.get("auxiliaries", ()))
        trainer = DistillationTrainer(
            student,
            teacher=[teacher, second] if trainer_name == "two-teachers" else teacher,
            args=SFTConfig(**common),
            max_completion_length=7,
            **options,
            **shared,
        )
    elif trainer_name in CROSS:
        options = CROSS[trainer_name]()
        trained["terms"] = torch.nn.ModuleList(t for t in options["terms"] if isinstance(t, torch.nn.Module))
        trainer = CrossTokenizerTrainer(
            student,
            teacher=make_model("gpt2" if kind == "gpt2" else "llama", seed=1, width=24, vocabulary=40),
            teacher_tokenizer=pair_tokenizer(),
            args=SFTConfig(**common),
            **options,
            **shared,
        )
    elif trainer_name == "sft":
        trainer = SFTTrainer(student, args=SFTConfig(**common), **shared)
    else:
        weight = 0.5 if trainer_name.endswith("mixed") else 1.0
        trainer = WordKDTrainer(
            student, args=SFTConfig(**common), teacher=teacher, distillation_weight=weight, **shared
        )
    return trainer, trained


def parameters(trained: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """All that is trained, by name, as it is now."""
    return {
        f"{who}.{name}": whole(p.detach()).clone()
        for who, module in trained.items()
        for name, p in module.named_parameters()
        if p.requires_grad
    }


def one_update(
    trainer_name: str, kind: str, tokenizer, *, batch: int, accumulate: int
) -> dict[str, torch.Tensor]:
    """Change of every trained parameter after one SGD step of rate 1 without clipping."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, trained = make_trainer(
            trainer_name, kind, tokenizer, folder, accumulate=accumulate, per_device_train_batch_size=batch
        )
        before = parameters(trained)
        trainer.train()
    return {name: now - before[name] for name, now in parameters(trained).items()}


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """All of a parameter, of which FSDP gives each rank a shard."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def _domain_trainer(student, teacher, tokenizer, args, shared):
    rows = []
    for row in ROWS:
        asked, answer = (tokenizer(row[column])["input_ids"] for column in ("prompt", "completion"))
        rows.append({"input_ids": [*asked, *answer, 1], "labels": [*[-100] * len(asked), *answer, 1]})
    domains = {"a": Dataset.from_list(rows[:2]), "b": Dataset.from_list(rows[2:])}
    terms = [Term("cross_entropy"), Term("forward_kl", weight=0.2)]
    return DomainDistillationTrainer(
        student,
        teacher=teacher,
        args=args,
        terms=terms,
        domains=domains,
        validation=domains,
        every=1,
        **shared,
    )


def _hidden_trainer(trainer_name, student, teacher, extra, args, shared):
    filters = extra["filters"]
    if trainer_name == "filters":
        return FilterTrainer(student, filters=filters, args=args, **shared)
    teacher_filters = LayerFilters((0, 1), 24, 24, seed=5) if trainer_name == "filtered-layers" else None
    return HiddenMatchingTrainer(
        student,
        teacher=teacher,
        args=args,
        layers=[(0, 0), (1, 1)],
        student_filters=filters,
        teacher_filters=teacher_filters,
        hidden_weight=0.3,
        distance=extra.get("critics", "squared_error"),
        **shared,
    )


def greedy_rollouts() -> None:
    """Sampling differs between ranks by design; greedy rollouts make the partitions comparable."""
    for module in (minillm, distillation, cross_tokenizer):
        module.rollout = functools.partial(rollout, greedy=True)


if __name__ == "__main__":
    from tests.methods.conftest import letter_tokenizer

    greedy_rollouts()
    updates = {
        f"{trainer}/{kind}/{name}": delta
        for trainer in TRAINERS
        for kind in ("llama", "gpt2", "lora")
        for name, delta in one_update(trainer, kind, letter_tokenizer(), batch=2, accumulate=1).items()
    }
    if int(os.environ["RANK"]) == 0:
        save_file({name: delta.contiguous() for name, delta in updates.items()}, sys.argv[1])
