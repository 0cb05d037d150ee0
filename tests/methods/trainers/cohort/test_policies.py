"""Policies of several seeds trained together against each alone: the same completions, updates and counts."""

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.modeling.core import snapshot
from methods.slots.advantages import (
    AnotherRight,
    GroupReward,
    LogRatio,
    LowestProbability,
    Only,
    ScaledByRatio,
    Where,
)
from methods.slots.terms import Divergence, PlainText, SampledKL
from methods.teachers.readings import PLACE
from methods.trainers import PolicyConfig, PolicyDistiller, Teacher
from methods.trainers.cohort import PolicyCohort
from methods.trainers.optimisation import OptimisationConfig, PolicyOptimiser
from tests.methods.conftest import ONE_STEP, make_model

SEEDS = (3, 4, 5)
# Prompts of two lengths: padding, which differs between members.
ROWS = Dataset.from_list(
    [
        {"prompt": f"{letter}|"[n % 2 :] * (1 + n % 3), "completion": letter}
        for n, letter in enumerate("abcdefgh")
    ]
)
CORPUS = Dataset.from_list([{"text": "abcdefghij"[n : n + 3 + n % 4]} for n in range(7)])


def figures(completion_ids, **_):
    """A figure that differs between completions of one prompt."""
    return [sum(i % 5 for i in ids) / 10 for ids in completion_ids]


ARMS = {
    "log-ratio": (lambda: {"advantage": LogRatio()}, {"num_generations": 1}),
    "group-reward": (
        lambda: {
            "advantage": GroupReward(),
            "rewards": [figures],
            "terms": [SampledKL("k3", to="start", weight=0.04)],
        },
        {"num_generations": 2, "loss_type": "grpo"},
    ),
    "given": (
        lambda: {"advantage": GroupReward("mean", own=True), "rewards": [figures]},
        {"num_generations": 4, "given_completions": 1, "loss_type": "dr_grpo", "epsilon": None},
    ),
    "gated": (
        lambda: {"advantage": GroupReward(), "rewards": [figures]},
        {"num_generations": 4, "given_completions": 1, "given_gate": 0.8, "given_ratio": "own"},
    ),
    "buffered": (
        lambda: {"advantage": Only(LogRatio(), LowestProbability(0.5))},
        {"num_generations": 1, "steps_per_generation": 2, "num_iterations": 2},
    ),
    "mixed": (
        lambda: {
            "advantage": LogRatio(),
            "terms": [Divergence("reverse_kl"), PlainText(CORPUS, weight=0.3)],
        },
        {"num_generations": 1, "teacher_mix": 0.4},
    ),
    "privileged": (
        lambda: {
            "advantage": ScaledByRatio(GroupReward()),
            "rewards": [figures],
            "terms": [Divergence("reverse_kl", token_weights=Where(AnotherRight(0.8)))],
            "sibling_reward": 0.8,
        },
        {"num_generations": 4, "steps_per_generation": 2},
    ),
}
READING = {"privileged": {"reads": "shown", "follows": 0.4}}  # with the student as its own teacher
# MiniLLM, its ablations, and its corpus.
MINILLM = {
    "minillm": {"steps_per_generation": 2, "num_iterations": 2},
    "minillm-no-teacher-mix": {"teacher_mix": 0.0},
    "minillm-no-length-norm": {"length_normalization": False, "num_iterations": 2},
    "minillm-no-single-step": {"single_step_decomposition": False, "discount": 0.9, "reward_clip": 0.5},
    "minillm-with-corpus": {"steps_per_generation": 2, "pretraining_dataset": CORPUS},
}
EVERYTHING = (*ARMS, *MINILLM)


def member(arm, seed, tokenizer, folder, *, teacher_seed=1, **settings):
    """A policy of one seed in float64: its own start, order of prompts and random numbers."""
    arguments = {
        **ONE_STEP,
        "output_dir": str(folder / str(seed)),
        "max_steps": 6,
        "learning_rate": 0.02,
        "max_grad_norm": 1e6,  # a clip would hide a loss of another size
        "per_device_train_batch_size": 4,
        "max_completion_length": 6,
        "seed": seed,
        "data_seed": seed,
    }
    student, teacher = make_model(seed=seed).double(), make_model(seed=teacher_seed, width=24).double()
    shared = {"train_dataset": ROWS, "processing_class": tokenizer}
    if arm in READING:
        teacher = Teacher(snapshot(student), **READING[arm])
        shown = [f"{prompt}{PLACE}|{prompt}" for prompt in ROWS["prompt"]]
        shared["train_dataset"] = ROWS.add_column("shown", shown)
    if arm in ARMS:
        parts, own = ARMS[arm]
        args = OptimisationConfig(**{**arguments, **own, **settings})
        made = PolicyOptimiser(student, args=args, teacher=[teacher], **parts(), **shared)
    else:
        own = dict(MINILLM[arm])
        shared["pretraining_dataset"] = own.pop("pretraining_dataset", None)
        args = PolicyConfig(**{**arguments, **own, **settings})
        made = PolicyDistiller(student, args=args, teacher=teacher, **shared)
    torch.manual_seed(100 + seed)
    return made, torch.get_rng_state()


def members(arm, tokenizer, folder, *, own_teachers=False, **settings):
    return [
        member(arm, seed, tokenizer, folder, teacher_seed=seed if own_teachers else 1, **settings)
        for seed in SEEDS
    ]


def weights_of(one):
    return torch.cat([p.detach().flatten() for p in one.model.parameters()])


def learnt(one):
    return weights_of(one), one.token_counts, one.rollout_counts, one.state.global_step


def alone(given):
    found = []
    for one, state in given:
        torch.set_rng_state(state)
        one.train()
        found.append(learnt(one))
    return found


def together(given):
    PolicyCohort([one for one, _ in given], [state for _, state in given]).train()
    return [learnt(one) for one, _ in given]


def gap(arm, tokenizer, folder, **settings):
    """The largest difference of an update, relative to the largest update of that member's weights."""
    lonely, sociable = (members(arm, tokenizer, folder / name, **settings) for name in "ab")
    starts = [weights_of(one) for one, _ in lonely]
    gaps = []
    for start, (weights, *counts), (found, *counted) in zip(
        starts, alone(lonely), together(sociable), strict=True
    ):
        update = (weights - start).abs().max()
        assert update > 1e-3
        gaps.append(float((found - weights).abs().max() / update) if counted == counts else 1.0)
    for one, _ in sociable:
        owned = {p.untyped_storage().data_ptr() for p in one.model.parameters()}
        assert len(owned) == len(list(one.model.parameters())), "its weights are its own again"
    return max(gaps)


@pytest.mark.parametrize("arm", EVERYTHING)
def test_each_learns_what_it_learns_alone(arm, tokenizer, tmp_path):
    assert gap(arm, tokenizer, tmp_path) < 1e-6


@pytest.mark.parametrize("arm", ["log-ratio", "mixed", "minillm"])
def test_each_has_a_teacher_of_its_own(arm, tokenizer, tmp_path):
    assert gap(arm, tokenizer, tmp_path, own_teachers=True) < 1e-6


@pytest.mark.parametrize("arm", ["buffered", "minillm"])
def test_nothing_drifts_apart_to_the_end(arm, tokenizer, tmp_path):
    """Epochs of one generation each, a schedule, Adam, decay and a clip that bites."""
    settings = {
        **{"max_steps": 40, "learning_rate": 4e-3, "lr_scheduler_type": "cosine"},
        **{"optim": "adamw_torch_fused", "weight_decay": 0.1, "max_grad_norm": 0.5},
    }
    assert gap(arm, tokenizer, tmp_path, own_teachers=True, **settings) < 1e-6


# What must not happen, and the oracle sees: each is a plausible mistake.


def of_the_neighbour(name):
    """A member gets what the one beside it asked for."""

    def wrong(right):
        def ask(cohort, place, model, *args, **settings):
            beside = cohort.members[(place + 1) % len(SEEDS)]
            if name == "prompts":
                prompts = [[7, *prompt] for prompt in args[0]]
                return right(cohort, place, model, prompts, **settings)
            if name == "teacher":
                return right(cohort, place, model, *args, **{**settings, "teacher": beside.teacher_model()})
            return right(cohort, place, model, *args, **{**settings, "generator": SHARED})

        return ask

    return wrong


def reads_the_neighbour_s(right):
    def ask(cohort, place, model, batch):
        beside = cohort.members[(place + 1) % len(SEEDS)]
        own = cohort.members[place].teacher_model()
        return right(cohort, place, beside.teacher_model() if model is own else model, batch)

    return ask


def one_clip(right):
    return lambda cohort, model: torch.nn.utils.clip_grad_norm_(model.parameters(), cohort.args.max_grad_norm)


def keeps_its_state(right):
    """Random numbers that a rollout draws from the global state are drawn again by the next one."""

    def ask(cohort, place, *args, **settings):
        state = torch.get_rng_state()
        made = right(cohort, place, *args, **settings)
        torch.set_rng_state(state)
        return made

    return ask


def takes_no_step(right):
    def prepare(cohort, place, rows):
        made = right(cohort, place, rows)
        cohort.members[place]._step = 0
        return made

    return prepare


SHARED = torch.Generator()
MUTATIONS = {
    "other prompts": ("_ask_rollouts", of_the_neighbour("prompts"), {}),
    "a neighbour's teacher writes": ("_ask_rollouts", of_the_neighbour("teacher"), {}),
    "a neighbour's teacher reads": ("_ask_states", reads_the_neighbour_s, {}),
    "one source of random numbers": ("_ask_rollouts", of_the_neighbour("generator"), {}),
    "the same random numbers again": ("_ask_rollouts", keeps_its_state, {}),
    "one clip for all": ("_clip_grad_norm", one_clip, {"max_grad_norm": 0.5}),
    "the first slice for ever": ("_prepare", takes_no_step, {}),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_oracle_sees(mutation, tokenizer, tmp_path, monkeypatch):
    name, wrong, settings = MUTATIONS[mutation]
    SHARED.manual_seed(0)
    monkeypatch.setattr(PolicyCohort, name, wrong(getattr(PolicyCohort, name)))
    assert gap("minillm", tokenizer, tmp_path, own_teachers=True, **settings) > 1e-3


def test_one_teacher_for_all_is_read_as_one(tokenizer, tmp_path):
    given = members("minillm", tokenizer, tmp_path)
    cohort = PolicyCohort([one for one, _ in given])
    cohort.train()
    ((_, stacked),) = cohort._stacks.values()
    assert stacked.size == 1
    given = members("minillm", tokenizer, tmp_path, own_teachers=True)
    cohort = PolicyCohort([one for one, _ in given])
    cohort.train()
    ((_, stacked),) = cohort._stacks.values()
    assert stacked.size == len(SEEDS)


def test_who_cannot_be_trained_together_is_told_why(tokenizer, tmp_path):
    make = lambda *args, **settings: member(*args, tokenizer, tmp_path, **settings)[0]  # noqa: E731
    one = make("log-ratio", 3)
    cases = {
        "sample in different ways": [one, make("log-ratio", 4, temperature=0.7)],
        "teacher_mix differ": [one, make("log-ratio", 5, teacher_mix=0.2)],
        "learning_rate differ": [one, make("log-ratio", 6, learning_rate=0.1)],
        "their trainers differ": [one, make("minillm", 7)],
        "more than one batch": [make("log-ratio", 8, gradient_accumulation_steps=2)],
    }
    mixed = [make("minillm", seed) for seed in SEEDS]
    mixed[1].teacher = make_model("gpt2", seed=1).double()
    cases["their teachers write along, and GPT2LMHeadModel is no plain"] = mixed
    for why, given in cases.items():
        with pytest.raises(MethodError, match=why):
            PolicyCohort(given)


def test_teachers_that_cannot_be_one_are_asked_one_by_one(tokenizer, tmp_path):
    def of_another_kind(folder):
        given = members("minillm-no-teacher-mix", tokenizer, folder)
        for one, _ in given:
            one.teacher = make_model("gpt2", seed=1).double().eval()
        return given

    expected, found = alone(of_another_kind(tmp_path / "a")), together(of_another_kind(tmp_path / "b"))
    for (weights, *counts), (other, *counted) in zip(expected, found, strict=True):
        assert counts == counted
        assert (weights - other).abs().max() < 1e-6


def test_what_one_raises_is_raised(tokenizer, tmp_path):
    given = members("log-ratio", tokenizer, tmp_path)
    cohort = PolicyCohort([one for one, _ in given])

    def breaks(record, advantages):
        raise ValueError("in the second")

    given[1][0].listeners.append(breaks)
    with pytest.raises(ValueError, match="in the second"):
        cohort.train()
