"""A cohort against the trainer of each of its members alone: the same updates, whatever the terms and samplers."""

import functools
import itertools

import pytest
import torch
from datasets import Dataset

from methods.losses.fused.formulas import FUSED_DIVERGENCES
from methods.slots.samplers import AdaptiveReplay, DomainSampler, OnPolicy, TeacherMixed
from methods.slots.targets import NoisyTeacher
from methods.slots.terms import Divergence, NextToken
from methods.trainers import Distiller, SFTConfig, Teacher
from methods.trainers.cohort import Cohort
from tests.methods.conftest import ONE_STEP, make_model, pair_tokenizer
from tests.methods.trainers.one_update import COMPOSITIONS, CROSS, IN_DOMAINS, ROWS

SEEDS = (3, 4, 5)
# Fifteen rows in batches of four: every member sees other rows, and batches of other sizes at an epoch's end.
MANY = Dataset.from_list(
    [
        {"prompt": f"{a}{b}|"[n % 2 :], "completion": b + a + "klmnopq"[: n % 8]}
        for n, (a, b) in enumerate(itertools.product("abcde", "xyz"))
    ]
)
# Every divergence, and what the compositions of the trainer's own matrix leave out.
MORE = {
    **{
        name: functools.partial(lambda name: {"terms": [Divergence(name)]}, name)
        for name in (*FUSED_DIVERGENCES, "cross_entropy")
    },
    "sometimes-on-policy": lambda: {"sampler": OnPolicy(0.5), "terms": [Divergence("reverse_kl")]},
    "replay": lambda: {
        "sampler": AdaptiveReplay(start=0.7, capacity=8),
        "terms": [Divergence("skew_reverse_kl")],
        "eval_dataset": ROWS,
    },
    "written-by-both": lambda: {"sampler": TeacherMixed(0.3), "terms": [Divergence()]},
    "noisy-teacher": lambda: {"terms": [Divergence(target=NoisyTeacher(1.0))]},
    "fine-tuning-of-a-rollout": lambda: {"sampler": OnPolicy(), "terms": [NextToken()], "teachers": 0},
}
EVERYTHING = COMPOSITIONS | CROSS | MORE


def member(name, seed, tokenizer, folder, *, teacher_seed=1, tied=True, **settings):
    """A Distiller of one seed in float64: its own start, order of rows and random numbers."""
    options = dict(EVERYTHING[name]())
    domains = isinstance(options.get("sampler"), DomainSampler)
    shared = {"train_dataset": IN_DOMAINS, "eval_dataset": IN_DOMAINS} if domains else {"train_dataset": MANY}
    teachers = [make_model(seed=teacher_seed, width=24), make_model(seed=2)][: options.pop("teachers", 1)]
    if name in CROSS or options.pop("other", False):
        teachers[0] = Teacher(make_model(seed=1, width=24, vocabulary=40).double(), pair_tokenizer())
    for one in teachers:
        if not isinstance(one, Teacher):
            one.double()
    arguments = {
        **ONE_STEP,
        "output_dir": str(folder / str(seed)),
        "max_steps": 4,
        "learning_rate": 0.05,
        "max_grad_norm": 0.6,
        "per_device_train_batch_size": 4,
        "seed": seed,
        "data_seed": seed,
        "lr_scheduler_type": "cosine",
        **settings,
    }
    made = Distiller(
        make_model(seed=seed, tie_word_embeddings=tied).double(),
        teacher=teachers,
        args=SFTConfig(**arguments),
        processing_class=tokenizer,
        **{"max_completion_length": 7, **options},
        **shared,
    )
    made._learning.double()
    torch.manual_seed(100 + seed)
    return made, torch.get_rng_state()


def learnt(one):
    """All that a member has trained, by name."""
    modules = {"student": one.model, "terms": one._learning}
    return {
        f"{who}.{name}": p.detach().clone() for who, m in modules.items() for name, p in m.named_parameters()
    }


def alone(members):
    """What each learns by itself, and what it counted."""
    found = []
    for one, state in members:
        torch.set_rng_state(state)
        one.train()
        found.append((learnt(one), one.token_counts, one.rollout_counts))
    return found


def together(members):
    """What each learns in a cohort, and what it counted."""
    Cohort([one for one, _ in members], [state for _, state in members]).train()
    return [(learnt(one), one.token_counts, one.rollout_counts) for one, _ in members]


def farthest(members, expected, found):
    """The largest difference of an update, relative to the largest update of that member's weights."""
    gaps = []
    for (one, tokens, rollouts), (other, other_tokens, other_rollouts), start in zip(
        expected, found, members, strict=True
    ):
        assert tokens == other_tokens
        assert rollouts == other_rollouts
        size = max(float((one[name] - start[name]).abs().max()) for name in one)
        assert size > 0
        gaps.append(max(float((one[name] - other[name]).abs().max()) for name in one) / size)
    return max(gaps)


def gap(make):
    """How far a cohort's updates are from those of its members alone; `make(seed)` makes a member."""
    lonely, sociable = ([make(seed) for seed in SEEDS] for _ in range(2))
    starts = [learnt(one) for one, _ in lonely]
    return farthest(starts, alone(lonely), together(sociable))


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_member_learns_what_it_learns_alone(name, tokenizer, tmp_path):
    assert gap(lambda seed: member(name, seed, tokenizer, tmp_path)) < 1e-6
