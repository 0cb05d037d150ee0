"""A cohort against the trainer of each of its members alone: the same updates, whatever the terms and samplers."""

import functools
import itertools

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.losses.fused.formulas import FUSED_DIVERGENCES
from methods.modeling.core import snapshot
from methods.slots.samplers import AdaptiveReplay, DomainSampler, OnPolicy, TeacherMixed
from methods.slots.targets import NoisyTeacher
from methods.slots.terms import Divergence, NextToken
from methods.teachers.remembered import RememberedStates, remember_states
from methods.tokenizers.encoding import SKIP_PREPARATION, encode
from methods.trainers import Distiller, SFTConfig, Teacher
from methods.trainers.cohort import Cohort
from tests.methods.conftest import ONE_STEP, make_model, pair_tokenizer
from tests.methods.trainers.one_update import COMPOSITIONS, CROSS, IN_DOMAINS, ROWS, columns_of

SEEDS = (3, 4, 5)
# Seven rows in batches of four: every member sees other rows, and the last batch of an epoch is smaller.
MANY = Dataset.from_list(
    [
        {
            "prompt": f"{a}{b}|"[n % 2 :],
            "completion": b + a + "klmnopq"[: n % 8],
            "notes": "or|"[n % 3 :] + f"{b}|{a}|",
        }
        for n, (a, b) in enumerate(itertools.islice(itertools.product("abc", "xyz"), 7))
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
    "itself": lambda: {"sampler": OnPolicy(), "terms": [Divergence()], "reads": "notes", "follows": 0.3},
    "itself-as-it-stands": lambda: {"terms": [Divergence("reverse_kl")], "reads": "notes", "follows": 1.0},
    "fine-tuning-of-a-rollout": lambda: {"sampler": OnPolicy(), "terms": [NextToken()], "teachers": 0},
}
EVERYTHING = COMPOSITIONS | CROSS | MORE


def member(name, seed, tokenizer, folder, *, teacher_seed=1, tied=True, **settings):
    """A Distiller of one seed in float64: its own start, order of rows and random numbers."""
    options = dict(EVERYTHING[name]())
    domains = isinstance(options.get("sampler"), DomainSampler)
    columns = ["domain"] if domains else columns_of(options)
    rows = IN_DOMAINS if columns else MANY
    reads, follows = options.pop("reads", None), options.pop("follows", 0.0)
    columns += [reads] if reads else []
    shared = {"train_dataset": rows}
    if name not in CROSS:  # in one pass, not in TRL's five
        shared["train_dataset"] = encode(rows, tokenizer, 32, *columns)
        settings |= SKIP_PREPARATION
    if "eval_dataset" in options:
        options["eval_dataset"] = encode(ROWS, tokenizer, 32) if name not in CROSS else ROWS
    if domains:
        shared["eval_dataset"] = shared["train_dataset"]
    teachers = [make_model(seed=teacher_seed, width=24), make_model(seed=2)][: options.pop("teachers", 1)]
    if name in CROSS or options.pop("other", False):
        teachers[0] = Teacher(make_model(seed=1, width=24, vocabulary=40).double(), pair_tokenizer())
    student = make_model(seed=seed, tie_word_embeddings=tied).double()
    for one in teachers:
        if not isinstance(one, Teacher):
            one.double()
    if reads:
        teachers[0] = Teacher(snapshot(student) if follows else teachers[0], reads=reads, follows=follows)
    arguments = {
        **ONE_STEP,
        "output_dir": str(folder / str(seed)),
        "max_steps": 3,
        "learning_rate": 0.02,
        "max_grad_norm": 1e6,  # a clip would hide that a loss is divided by another number
        "per_device_train_batch_size": 4,
        "seed": seed,
        "data_seed": seed,
        "lr_scheduler_type": "cosine",
        **settings,
    }
    made = Distiller(
        student,
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


@pytest.mark.parametrize("name", ["sft", "reverse_kl", "revision"])
def test_each_gradient_is_clipped_by_its_own_length(name, tokenizer, tmp_path):
    assert gap(lambda seed: member(name, seed, tokenizer, tmp_path, max_grad_norm=0.6)) < 1e-6


@pytest.mark.parametrize("name", ["on-policy", "sometimes-on-policy", "replay"])
def test_what_students_write_stays_the_same_to_the_end(name, tokenizer, tmp_path):
    """In single precision one rounded token leads to another training; in double nothing drifts apart."""
    settings = {"max_steps": 40, "learning_rate": 4e-3, "optim": "adamw_torch_fused", "max_grad_norm": 1.0}
    assert gap(lambda seed: member(name, seed, tokenizer, tmp_path, **settings)) < 1e-6


def test_each_has_a_teacher_of_its_own(tokenizer, tmp_path):
    make = functools.partial(member, tokenizer=tokenizer, folder=tmp_path)
    assert gap(lambda seed: make("reverse_kl", seed, teacher_seed=seed)) < 1e-6
    assert gap(lambda seed: make("on-policy", seed, teacher_seed=seed)) < 1e-6


def test_heads_of_their_own_weight_decay_and_adam(tokenizer, tmp_path):
    """Decay leaves out norms by their names, and the learning rates of terms are factors of the students'."""
    settings = {"optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 1e-3, "tied": False}
    for name in ("forward_kl", "revision"):
        assert gap(lambda seed, name=name: member(name, seed, tokenizer, tmp_path, **settings)) < 1e-5


# What must not happen, and the oracle sees: each is a plausible mistake.


def over_all(cohort, model):
    return torch.nn.utils.clip_grad_norm_(model.parameters(), cohort.args.max_grad_norm)


def by_all_tokens(loss):
    def compute_loss(cohort, *args, **kwargs):
        cohort._windows = [sum(cohort._windows) / len(cohort._windows)] * len(cohort._windows)
        return loss(cohort, *args, **kwargs)

    return compute_loss


def of_the_neighbour(batches):
    def get_batch_samples(cohort, *args, **kwargs):
        samples, tokens = batches(cohort, *args, **kwargs)
        return [samples[0][1:] + samples[0][:1]], tokens

    return get_batch_samples


def from_one_source(serve):
    def serve_all(cohort, requests):
        first = next(iter(requests.values())).generator
        for request in requests.values():
            object.__setattr__(request, "generator", first)
        return serve(cohort, requests)

    return serve_all


MUTATIONS = {
    "one clip for all": ("_clip_grad_norm", lambda _: over_all),
    "one count of tokens for all": ("compute_loss", by_all_tokens),
    "a neighbour's batches": ("get_batch_samples", of_the_neighbour),
    "a neighbour's random numbers": ("_serve", from_one_source),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_oracle_sees(mutation, tokenizer, tmp_path, monkeypatch):
    name, wrong = MUTATIONS[mutation]
    monkeypatch.setattr(Cohort, name, wrong(getattr(Cohort, name)))
    kind, clip = "on-policy" if name == "_serve" else "forward_kl", 0.6 if name == "_clip_grad_norm" else 1e6
    lonely, sociable = (
        [member(kind, seed, tokenizer, tmp_path, max_grad_norm=clip) for seed in SEEDS] for _ in range(2)
    )
    starts = [learnt(one) for one, _ in lonely]
    expected = [(weights, {}, {}) for weights, *_ in alone(lonely)]
    found = [(weights, {}, {}) for weights, *_ in together(sociable)]
    assert farthest(starts, expected, found) > 1e-3


def test_what_a_teacher_remembers_is_not_asked(tokenizer, tmp_path):
    def make(seed, remembers):
        one, state = member("forward_kl", seed, tokenizer, tmp_path)
        if remembers:
            teacher = one.models.who.same[0]
            states = RememberedStates(remember_states(teacher.model, one.train_dataset))
            object.__setattr__(teacher, "states", states)
        return one, state

    cohort = Cohort([make(seed, True)[0] for seed in SEEDS])
    (teacher,) = cohort.teachers.stacks
    teacher.register_forward_pre_hook(lambda *_: pytest.fail("it was asked"))
    cohort.train()
    assert gap(lambda seed: make(seed, True)) < 1e-6


def test_members_that_do_not_fit_are_refused(tokenizer, tmp_path):
    make = functools.partial(member, tokenizer=tokenizer, folder=tmp_path)
    cases = {
        "learning_rate differ": [make("sft", 3), make("sft", 4, learning_rate=1.0)],
        "terms differ": [make("sft", 3), make("forward_kl", 4)],
        "more than one batch": [make("sft", 3, gradient_accumulation_steps=2)],
        "differ in shape": [make("sft", 3), make("sft", 4, tied=False)],
        "some of them sample": [make("forward_kl", 3), make("on-policy", 4)],
    }
    for why, members in cases.items():
        with pytest.raises(MethodError, match=why):
            Cohort([one for one, _ in members])
