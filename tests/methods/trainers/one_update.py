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

from methods.losses.fused.order import plackett_luce, student_entropy
from methods.losses.mutual_information import MutualInformation
from methods.modeling.interleaved import interleaved
from methods.modeling.rollouts import Rollouts, rollout
from methods.slots.difficulty import DifficultyTemperature, Focused
from methods.slots.features import LayerFilters
from methods.slots.samplers import (
    AdaptiveReplay,
    Corrected,
    DomainSampler,
    HalfStudent,
    Mixed,
    OnPolicy,
    Paired,
    PairedStudent,
    SpeculativeSampler,
    SwitchingSampler,
    TeacherMixed,
    Truncated,
    WithStudent,
)
from methods.slots.scores import Entropy, EntropyGap, Hellinger, SoftOr
from methods.slots.support import SampledToken, TopIds
from methods.slots.targets import AverageLogits, InterpolatedLogits
from methods.slots.targets.blends import CombinedLogits, LikeliestToken, TeacherByRow
from methods.slots.terms import (
    ClippedKL,
    Divergence,
    FirstChoices,
    HiddenMatch,
    LearnedBand,
    NextToken,
    PlainText,
    Preference,
    RankedChoices,
    SpanConsistency,
    TaskFilters,
)
from methods.slots.token_weights import (
    Gate,
    Normalised,
    Opening,
    PassRate,
    PrefixDrift,
    Sigmoid,
    TopShare,
)
from methods.slots.weights import AdaptiveSkew, student_share, teacher_share
from methods.teachers.readings import PLACE
from methods.tokenizers.dual_space import DualSpace
from methods.tokenizers.terms import ChunkLikelihood, ContinuationUnits, MergedChunks, SortedProbabilities
from methods.trainers import (
    Distiller,
    OptimisationConfig,
    PolicyConfig,
    PolicyDistiller,
    PolicyOptimiser,
    SFTConfig,
    Teacher,
    policy,
    sampling,
)
from methods.trainers.optimisation import trainer as optimisation
from tests.freezing import freeze_imports
from tests.methods.conftest import ONE_STEP, make_model, pair_tokenizer
from tests.methods.trainers import latent_update
from tests.methods.trainers.policy_update import CORPUS, POLICIES

ROWS = Dataset.from_list(
    [
        {"prompt": "ab|", "completion": "cdefgh"},
        {"prompt": "hello|", "completion": "o"},
        {"prompt": "x|", "completion": "xyzxyzxyz"},
        {"prompt": "distil|", "completion": "kd"},
    ]
)
WITH_NOTES = ROWS.add_column("notes", ["ab|cd|", "o|", "three|x|", "distil|kd|kd|"])
IN_DOMAINS = ROWS.add_column("domain", ["a", "a", "b", "b"]).add_column("pass_rate", [0.25, 0.5, 0.9, 0.1])


def anchored_skew(anchor: float) -> AdaptiveSkew:
    """An adaptive skew that knows its anchor already, so that one step shows what it does."""
    skew = AdaptiveSkew("teacher", base=0.5, anchor_steps=1)
    skew.anchor = anchor
    return skew


def focused_on(share: float) -> Focused:
    """Focusing that keeps a part of the tokens already, so that one step shows what it does."""
    focused = Focused(Hellinger())
    focused.share = share
    return focused


def hidden_match(*, filtered: bool = False, critics: bool = False) -> HiddenMatch:
    """Both blocks of the student with both of the teacher."""
    ours = LayerFilters((0, 1), 16, 24, seed=4)
    theirs = LayerFilters((0, 1), 24, 24, seed=5) if filtered else None
    distance = [MutualInformation(24, size=8, seed=s) for s in (6, 7)] if critics else "squared_error"
    return HiddenMatch([(0, 0), (1, 1)], filters=(ours, theirs), weight=0.3, distance=distance)


def contrastive() -> list[Divergence]:
    """DistiLLM-2's terms."""
    skew = anchored_skew(0.005)
    return [
        Divergence("skew_forward_kl", weight=teacher_share, sources=("teacher",), row_settings=skew),
        Divergence("detached_skew_reverse_kl", weight=student_share, sources=("student",)),
    ]


# Compositions of the one trainer: options of it, by functions, because samplers, terms and targets have a state. With
# "teachers" a number of them, from none to two; "other" makes the first one of another tokenizer.
COMPOSITIONS = {
    "sft": lambda: {"terms": [NextToken()], "teachers": 0},
    "sft-by-sequence": lambda: {"terms": [NextToken(over="sequences")], "teachers": 0},
    "word-kd": lambda: {"terms": [Divergence("forward_kl")]},
    "word-kd-mixed": lambda: {
        "terms": [Divergence("forward_kl", weight=0.5), Divergence("cross_entropy", weight=0.5)]
    },
    "plain-text": lambda: {"terms": [Divergence(), PlainText(CORPUS, weight=0.7)]},
    "filters": lambda: {
        "terms": [TaskFilters(LayerFilters((0, 1), 16, 24, seed=4))],
        "teachers": 0,
    },
    "filtered-layers": lambda: {"terms": [Divergence(), hidden_match(filtered=True)]},
    "unfiltered-layers": lambda: {"terms": [Divergence(), hidden_match()]},
    "mutual-information": lambda: {"terms": [Divergence(), hidden_match(critics=True)]},
    "domains": lambda: {
        "terms": [Divergence("cross_entropy"), Divergence("forward_kl", weight=0.2)],
        "sampler": DomainSampler(every=1),
    },
    "on-policy": lambda: {
        "sampler": OnPolicy(1.0),
        "terms": [Divergence("jensen_shannon", settings={"teacher_weight": 0.1})],
    },
    "two-sided": lambda: {
        "sampler": WithStudent(),
        "terms": [
            Divergence("skew_forward_kl", sources=("teacher",)),
            Divergence("skew_reverse_kl", sources=("student",)),
        ],
    },
    "interpolated": lambda: {"terms": [Divergence(target=InterpolatedLogits())]},
    "two-teachers": lambda: {
        "terms": [Divergence(target=AverageLogits([0.3, 0.7])), Divergence("cross_entropy", weight=0.5)],
        "teachers": 2,
    },
    "contrastive": lambda: {"sampler": PairedStudent(), "terms": contrastive()},
    "revision": lambda: {
        "sampler": Corrected(HalfStudent("data"), greedy=True),
        "terms": [
            NextToken(sources=("data",)),
            ClippedKL(LearnedBand(29, lower=0.3)),
            SpanConsistency([5, 9, 17], weight=2.0),
        ],
    },
}
# Parts of the loss for some tokens, on some ids, on answers that somebody else helped to write.
COMPOSITIONS |= {
    "fewer ids": lambda: {
        "sampler": SpeculativeSampler(6),
        "terms": [
            Divergence("reverse_kl", support=TopIds(5, "student")),
            Divergence(
                "forward_kl",
                support=TopIds(4, rest="renormalise"),
                token_weights=Gate(Entropy("teacher"), 1.0),
            ),
            Divergence("jensen_shannon", support=TopIds(4, rest="drop"), weight=0.5),
        ],
    },
    "sampled token": lambda: {
        "sampler": Truncated(3),
        "terms": [Divergence("reverse_kl", support=SampledToken(clip=2.0), token_weights=PrefixDrift())],
    },
    "chosen tokens": lambda: {
        "sampler": SwitchingSampler(0.4),
        "terms": [
            Divergence("jensen_shannon", token_weights=Sigmoid(EntropyGap())),
            Divergence(student_entropy, token_weights=TopShare(SoftOr(), 0.5), weight=0.3),
            Divergence(
                plackett_luce, support=TopIds(4, "student", "renormalise"), token_weights=Opening(Entropy())
            ),
        ],
    },
    "open prompts": lambda: {
        "terms": [Divergence(target=TeacherByRow({"a": 0, "b": 1}), token_weights=Normalised(PassRate()))],
        "teachers": 2,
    },
    "hard tokens": lambda: {
        "terms": [
            Divergence(
                "reverse_kl",
                token_weights=Normalised(focused_on(0.6)),
                row_settings=DifficultyTemperature(Hellinger()),
                temperature_squared=True,
            ),
        ],
    },
    "powers": lambda: {
        "sampler": OnPolicy(),
        "terms": [Divergence("reverse_kl", target=CombinedLogits([1.25, -0.25], student_start=0.3))],
        "teachers": 2,
    },
    "privileged": lambda: {
        "sampler": OnPolicy(),
        "terms": [Divergence("jensen_shannon", settings={"teacher_weight": 0.5})],
        "reads": "notes",
    },
    "data and own": lambda: {
        "sampler": Mixed(0.5),
        "terms": [NextToken(sources=("data",)), Divergence(target=LikeliestToken(), sources=("student",))],
    },
}
# Between two tokenizers.
CROSS = {
    "uld": lambda: {"terms": [NextToken(), SortedProbabilities()]},
    "alm": lambda: {"terms": [ChunkLikelihood(temperature=2.0, boundary="acegkoxz")]},
    "alm-balanced": lambda: {"terms": [NextToken(), ChunkLikelihood(debias=False)], "gradient_balance": True},
    "gold": lambda: {"terms": [MergedChunks(divergence="forward_kl", matched_weight=0.5)]},
    "gold-on-policy": lambda: {"terms": [MergedChunks()], "sampler": OnPolicy(1.0)},
    "simct": lambda: {"terms": [ContinuationUnits(), ContinuationUnits(units=False, weight=0.5)]},
    "dskd": lambda: {"terms": [NextToken(weight=0.5), DualSpace(seed=0)]},
}
# Better and worse answers.
COMPOSITIONS |= {
    "preference": lambda: {
        "sampler": WithStudent(),
        "terms": [
            Preference(0.7),
            Preference(0.9, reference=None, form="square", per_token=False, weight=0.1),
            Preference(1.5, form="hinge", weight=0.4),
            FirstChoices(0.5, weight=0.3),
            RankedChoices(temperature=2.0, weight=0.2),
            NextToken(sources=("teacher",), weight=0.5),
        ],
    },
    "paired": lambda: {
        "sampler": Paired(TeacherMixed(0.5)),
        "terms": [
            Divergence("forward_kl", sources=("teacher",)),
            Divergence("reverse_kl", sources=("student",), weight=0.5),
        ],
    },
}
# What no paper here combines, and no trainer could while there were ten: by what meets what.
COMPOSITIONS |= {
    "text+layers": lambda: {
        "terms": [Divergence("reverse_kl"), PlainText(CORPUS, weight=0.7), hidden_match(critics=True)],
        "sampler": OnPolicy(1.0),
    },
    "domains+contrastive": lambda: {
        "terms": contrastive(),
        "sampler": DomainSampler(every=1, sampler=PairedStudent()),
    },
    "text+bands, balanced": lambda: {
        "terms": [PlainText(CORPUS), ClippedKL(LearnedBand(29, lower=0.3)), NextToken(weight=0.5)],
        "gradient_balance": True,
    },
    "task-filters": lambda: {
        "terms": [NextToken(), HiddenMatch(filters="task", filter_learning_rate=0.1)],
        "sampler": HalfStudent("data"),
    },
}
CROSS |= {
    "uld+replay": lambda: {
        "terms": [NextToken(), SortedProbabilities()],
        "sampler": AdaptiveReplay(start=1.0),
        "eval_dataset": ROWS,
    },
    "layers across tokenizers+text": lambda: {
        "terms": [NextToken(), HiddenMatch("uniform", weight=0.3), PlainText(CORPUS, weight=0.7)],
    },
    "both tokenizers": lambda: {
        "terms": [MergedChunks(), Divergence("skew_forward_kl", weight=0.4), DualSpace(weight=0.2)],
        "teachers": 2,
    },
    "simct+domains": lambda: {
        "terms": [ContinuationUnits(), NextToken(weight=0.3)],
        "sampler": DomainSampler(every=1),
    },
    "alm+both sides": lambda: {
        "terms": [NextToken(sources=("teacher",)), ChunkLikelihood(temperature=2.0)],
        "sampler": WithStudent(),
    },
}


TRAINERS = ("minillm", "minillm-corpus", "codi", *POLICIES, *COMPOSITIONS, *CROSS)
# Of those, the ones that the slower matrices leave out.
SAMPLED = ("data and own", "text+bands, balanced", "simct+domains", "alm+both sides", "task-filters")
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
    if trainer_name == "codi":  # it has rows and no teacher of its own
        student = latent_update.thinker(kind)
        weights = {"teacher_weight": 0.7, "distillation_weight": 2.0}
        trainer = latent_update.make_trainer(
            student, folder, accumulate=accumulate, weights=weights, **settings
        )
        return trainer, {"": student}
    student, teacher = make_pair(kind)
    trained = {"": student}
    common = {**ONE_STEP, "output_dir": folder, "gradient_accumulation_steps": accumulate, **settings}
    shared = {"train_dataset": ROWS, "processing_class": tokenizer}
    if trainer_name.startswith("minillm"):
        args = PolicyConfig(**{"steps_per_generation": accumulate, **common}, max_completion_length=7)
        corpus = CORPUS if trainer_name.endswith("corpus") else None
        return PolicyDistiller(
            student, teacher=teacher, args=args, pretraining_dataset=corpus, **shared
        ), trained
    if trainer_name in POLICIES:
        parts = POLICIES[trainer_name]()
        ours = {"steps_per_generation": accumulate, **common, **parts.pop("settings")}
        count, kind = parts.pop("teachers"), "gpt2" if kind == "gpt2" else "llama"
        several = [teacher, make_model(kind, seed=2)][:count]
        args = OptimisationConfig(**ours, max_completion_length=7)
        if parts.pop("reads", False):
            several = [Teacher(one, reads="shown") for one in several]
            shown = [f"{prompt}{PLACE}|" for prompt in ROWS["prompt"]]
            shared["train_dataset"] = ROWS.add_column("shown", shown)
        return PolicyOptimiser(student, teacher=several, args=args, **parts, **shared), trained
    options = (COMPOSITIONS | CROSS)[trainer_name]()
    family = "gpt2" if kind == "gpt2" else "llama"
    teachers = [teacher, make_model(family, seed=2)][: options.pop("teachers", 1)]
    if "reads" in options:
        teachers[0] = Teacher(teachers[0], reads=options.pop("reads"))
        shared["train_dataset"] = WITH_NOTES
    if trainer_name in CROSS or options.pop("other", False):
        other = make_model(family, seed=1, width=24, vocabulary=40)
        teachers[0] = Teacher(other, pair_tokenizer())
    if isinstance(options.get("sampler"), DomainSampler):
        shared["train_dataset"] = shared["eval_dataset"] = IN_DOMAINS
    if columns_of(options):
        shared["train_dataset"] = IN_DOMAINS
    options = {"max_completion_length": 7, **options}
    trainer = Distiller(student, teacher=teachers, args=SFTConfig(**common), **options, **shared)
    trained["terms"] = torch.nn.ModuleList(t for t in options["terms"] if isinstance(t, torch.nn.Module))
    return trainer, trained


def columns_of(options: dict) -> list[str]:
    """The columns that terms read beside the tokens."""
    return [column for term in options["terms"] for column in term.columns]


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
    freeze_imports()  # a process of ranks has no tests that would
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


def greedy_rollouts() -> None:
    """Sampling differs between ranks by design; greedy rollouts make the partitions comparable."""
    for module in (policy, sampling):
        module.rollout = functools.partial(rollout, greedy=True)
    sampling.interleaved = functools.partial(interleaved, greedy=True)
    optimisation.rollout = greedy_in_turn


def greedy_in_turn(model, prompts, *, max_new_tokens: int, **settings) -> Rollouts:
    """Greedy from a first token that tells apart the completions of all ranks, so that a group has several."""
    first = int(os.environ.get("RANK", 0)) * len(prompts)
    begun = [[*prompt, 3 + 5 * ((first + place) % 4)] for place, prompt in enumerate(prompts)]
    made = rollout(model, begun, max_new_tokens=max_new_tokens - 1, **{**settings, "greedy": True})
    ids, mask = made.prompt_ids[:, -1:], made.prompt_mask[:, -1:]
    return Rollouts(
        made.prompt_ids[:, :-1],
        made.prompt_mask[:, :-1],
        torch.cat([ids, made.completion_ids], 1),
        torch.cat([mask, made.completion_mask], 1),
        made.truncated,
        made.empty,
    )


if __name__ == "__main__":
    from tests.methods.conftest import letter_tokenizer

    greedy_rollouts()
    updates = {
        f"{trainer}/{kind}/{name}": delta
        for trainer in TRAINERS
        if trainer not in SAMPLED
        for kind in ("llama", "gpt2", "lora")
        for name, delta in one_update(trainer, kind, letter_tokenizer(), batch=2, accumulate=1).items()
    }
    if int(os.environ["RANK"]) == 0:
        save_file({name: delta.contiguous() for name, delta in updates.items()}, sys.argv[1])
