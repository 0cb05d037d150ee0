"""What the toy shows of a component: every setting of it, and nothing of what it is not built on."""

import random

import numpy as np
import pytest
import torch

from methods.behaviour import SETTINGS, WITHOUT, behaviour, measured
from methods.errors import MethodError
from methods.fingerprints import recorded, same
from methods.losses.fused import kernels, raw
from methods.registry import components, find, registered
from methods.slots.samplers import HalfStudent, OnPolicy
from methods.slots.targets import AverageLogits, OneTeacher, linear

# How memory is used, which changes no figure; and what cannot be set alone.
NOT_SHOWN = {"batch_size", "chunk_size"}
ELSEWHERE = {
    ("data", "right-answers", "distinct"): "the toy's student says nothing twice",
    ("data", "right-answers", "greedy"): "the toy's student is never right in its likeliest answers",
    **{
        ("data", "self-guided", name): "of nine texts the same four stay: elicitation/test_self_guided.py"
        for name in ("outer", "rounds", "inner", "inner_rate", "outer_rate", "held", "seed")
    },
    ("term", "first-choices", "index"): "the toy's terms have one teacher",
    ("term", "logit-match", "index"): "the toy's terms have one teacher",
    ("term", "ranked-choices", "index"): "the toy's terms have one teacher",
    ("term", "dual-space", "attention"): "without it both sides must have the same tokens",
    (
        "term",
        "sampled-kl",
        "to",
    ): "another teacher, or the student's start, is a matter of the policy trainer",
    ("term", "token-states-match", "filters"): "the toy's models have two widths",
    ("term", "task-filters", "filters"): "a module, handed over by code",
    (
        "advantage",
        "group-reward",
        "own",
    ): "nothing is given in the toy's groups: trainers/optimisation/test_trainer.py",
    (
        "advantage",
        "margin-shifted",
        "between",
    ): "the toy's groups are of two, one a side: slots/advantages/test_outcomes.py",
    **{
        (
            "trainer",
            "policy-optimisation",
            name,
        ): "the toy's groups are of two: trainers/optimisation/test_enumeration.py"
        for name in ("given_completions", "given_shape")
    },
    **{
        (
            "trainer",
            "policy-optimisation",
            name,
        ): "the toy's groups are of two: trainers/optimisation/test_given.py"
        for name in ("given_column", "given_gate", "given_ratio")
    },
}
# Another value, where it is no number and no yes or no.
OTHERS = {
    **{
        ("data", name, "verifier"): {"name": "task", "by": "other"}
        for name in ("guide-answers", "right-answers", "pass-rates", "teacher-traces")
    },
    ("advantage", "by-column", "column"): "thoughts",
    ("advantage", "by-column", "parts"): [{"name": "log-ratio"}, {"name": "constant"}],
    ("advantage", "by-column", "values"): ["b", "a"],
    ("advantage", "group-reward", "baseline"): "leave-one-out",
    ("advantage", "group-reward", "reward"): 0,
    ("advantage", "log-ratio", "over"): 1,
    ("advantage", "log-ratio", "under"): "start",
    ("advantage", "entropy-scaled", "where"): {"name": "highest-entropy"},
    ("advantage", "margin-shifted", "moves"): "right",
    ("advantage", "margin-shifted", "reward"): 0,
    ("advantage", "only", "over"): "kept",
    ("advantage", "only", "where"): {"name": "lowest-probability"},
    **{("advantage", name, "over"): 1 for name in ("prefix-weighted", "scaled-by-ratio", "step-weighted")},
    **{
        ("advantage", "reward-and-log-ratio", name): value
        for name, value in (("baseline", "none"), ("over", 1), ("reward", 0))
    },
    ("advantage", "reward-within-budget", "baseline"): "none",
    ("advantage", "sum", "parts"): [{"name": "constant"}],
    **{("condition", name, "reward"): 0 for name in ("group-unsolved", "reward-below", "reward-from")},
    ("condition", "another-right", "reward"): 1,
    ("advantage", "perplexity-weighted", "of"): 1,
    ("advantage", "perplexity-weighted", "where"): {"name": "reward-from", "threshold": 0.1},
    ("condition", "sign", "sign"): "negative",
    ("reward", "exact-answer", "after"): ",",
    ("reward", "exact-answer", "column"): "thoughts",
    ("reward", "shared-beginning", "column"): "thoughts",
    ("reward", "task", "by"): "other",
    ("data", "agreed-answers", "after"): "d",
    ("data", "agreed-answers", "prefix"): "x",
    ("data", "agreed-answers", "share"): 0.9,
    ("data", "beam-search", "pick"): "mode",
    ("data", "guide-answers", "baseline"): "leave-one-out",
    ("data", "guide-answers", "loss_type"): "dr_grpo",
    ("data", "guide-answers", "num_generations"): 4,
    ("data", "own-answers", "prefix"): "x",
    ("data", "right-answers", "prefix"): "x",
    ("data", "teacher-traces", "by"): "gap",
    ("divergence", "concrete-score", "first"): "uniform",
    ("divergence", "concrete-score", "second"): "teacher",
    ("divergence", "entropic-matching", "growth"): "linear",
    ("row-settings", "adaptive-skew", "side"): "student",
    ("row-settings", "adaptive-skew", "base"): 0.8,
    ("row-settings", "difficulty-temperature", "score"): "entropy",
    ("sampler", "adaptive-replay", "tolerance"): 9.0,
    ("score", "entropy", "of"): "student",
    ("score", "gap", "divergence"): "forward_kl",
    ("score", "surprisal", "of"): "teacher",
    ("score", "soft-or", "divergence"): "jensen_shannon",
    ("sampler", "gated-length", "lengths"): [1, 2, 6],
    ("sampler", "gated-length", "level"): 9.0,
    ("sampler", "mixed", "sampler"): {"name": "truncated", "tokens": 1},
    ("sampler", "mixed", "shape"): "linear",
    ("sampler", "mixed", "source"): "data",
    ("sampler", "corrected", "sampler"): {"name": "on-policy"},
    ("sampler", "domains", "column"): "prompt",
    ("sampler", "domains", "sampler"): {"name": "on-policy"},
    ("sampler", "half-student", "source"): "data",
    ("sampler", "paired", "other"): "data",
    ("sampler", "paired", "sampler"): {"name": "on-policy"},
    ("sampler", "paired", "source"): "data",
    ("sampler", "paired-student", "source"): "data",
    ("sampler", "with-student", "source"): "data",
    ("support", "sampled", "drawn_from"): "teacher",
    ("support", "top-k", "of"): "student",
    ("support", "top-k", "rest"): "renormalise",
    ("target", "average-logits", "weights"): [0.5, 0.5],
    ("target", "combined-logits", "coefficients"): [1.0, -0.5],
    ("target", "teacher-by-row", "column"): "source",
    ("target", "teacher-by-row", "indices"): dict.fromkeys("abcde", 0),
    ("term", "chunk-likelihood", "boundary"): "|",
    ("term", "chunk-likelihood", "divergence"): "total_variation",
    ("term", "clipped-kl", "band"): [0.1, 0.9],
    ("term", "clipped-kl", "start"): [0.1, 0.9],
    ("term", "continuation-units", "divergence"): "forward_kl",
    ("term", "continuation-units", "unit_score"): "logit",
    ("term", "dual-space", "divergence"): "reverse_kl",
    ("term", "dual-space", "spaces"): ["student"],
    ("term", "hidden-match", "distance"): "cosine",
    ("term", "hidden-match", "filters"): None,
    **{
        ("term", name, "layers"): [[1, 1]]
        for name in ("attention-match", "hidden-match", "relation-match", "token-states-match")
    },
    ("term", "logit-match", "entries"): "uniform",
    ("term", "merged-chunks", "divergence"): "forward_kl",
    ("term", "merged-chunks", "merge"): "last",
    ("term", "first-choices", "form"): "square",
    ("term", "next-token", "over"): "sequences",
    ("term", "next-token", "sources"): ["student"],
    ("term", "ranked-choices", "weights"): "uniform",
    ("term", "relation-match", "of"): "keys",
    ("term", "relation-match", "heads"): 4,
    ("term", "replaced-blocks", "form"): "falling",
    ("term", "replaced-blocks", "rate"): 0.8,
    ("term", "subclass-match", "split"): "clusters",
    ("term", "subclass-match", "subclasses"): 2,
    ("term", "preference", "form"): "square",
    ("term", "preference", "reference"): None,
    ("term", "span-consistency", "spans"): [],
    ("term", "task-filters", "size"): 5,
    **{("token-weights", name, "score"): "gap" for name in ("by-score", "opening", "sigmoid", "top-share")},
    ("token-weights", "except-tokens", "tokens"): ["a"],
    ("token-weights", "focused", "momentum"): 1.0,
    ("token-weights", "focused", "score"): "entropy",
    ("token-weights", "focused", "tolerance"): 9.0,
    ("token-weights", "gate", "score"): "entropy",
    **{
        ("token-weights", name, "token_weights"): {"name": "first", "tokens": 1}
        for name in ("complement", "normalised", "shuffled")
    },
    ("token-weights", "pass-rate", "between"): [0.1, 0.3],
    ("token-weights", "pass-rate", "column"): "skill",
    ("token-weights", "prefix-drift", "form"): "share",
    ("token-weights", "verified", "form"): "top-k",
    ("term", "sampled-kl", "estimator"): "k3",
    ("token-weights", "where", "where"): {"name": "lowest-probability"},
    ("term", "ensembled-labels", "threshold"): 0.9,
    ("trainer", "minillm", "steps_per_generation"): 1,
    ("trainer", "policy-optimisation", "loss_type"): "grpo",
    ("trainer", "policy-optimisation", "num_generations"): 4,
    ("trainer", "privileged-distillation", "reads"): "{prompt}|{completion}",
    ("trainer", "privileged-policy", "loss_type"): "grpo",
    ("trainer", "privileged-policy", "num_generations"): 2,
    ("trainer", "privileged-policy", "reads"): "{prompt}|{completion}",
    ("trainer", "privileged-policy", "sibling_reward"): 0.1,
}
# Components of elicitation train nothing: tests/methods/elicitation/test_behaviour.py.
ALL = sorted(key for key in set(components()) - WITHOUT if key[0] != "elicitation")


def other(key, value):
    """Another value of a setting: half as much, or one more."""
    if key in OTHERS:
        return OTHERS[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1 if value < 4 else value // 2
    if isinstance(value, dict) and "name" in value:
        return {"name": "entropy-scaled"}
    assert isinstance(value, float), f"{key}: OTHERS needs another value than {value!r}"
    return value / 2 if value else 0.1


@pytest.mark.parametrize(("slot", "name"), ALL)
def test_every_setting_of_a_component_shows_in_its_figures(slot, name):
    own, before = SETTINGS.get((slot, name), ({},))[-1], recorded()[f"{slot}/{name}"]
    for setting, parameter in find(slot, name).parameters.items():
        key = slot, name, setting
        if setting in NOT_SHOWN or key in ELSEWHERE:
            continue
        value = other(key, own.get(setting, parameter.default))
        assert not same(before, behaviour(slot, name, {setting: value})), f"{key} = {value!r} shows nowhere"


def test_the_exceptions_are_settings_that_there_are():
    known = {(*key, setting) for key, entry in components().items() for setting in entry.parameters}
    assert set(OTHERS) <= known
    assert set(SETTINGS) <= set(components()) and set(components()) >= WITHOUT


def test_figures_do_not_depend_on_what_ran_before_and_leave_it_alone():
    torch.manual_seed(5)
    torch.rand(3), np.random.rand(2), random.random()
    state = torch.get_rng_state()
    assert same(behaviour("sampler", "on-policy"), recorded()["sampler/on-policy"])
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(MethodError, match="no divergence"):
        find("divergence", "probe")


def test_a_training_that_diverges_is_no_figure():
    with pytest.raises(MethodError, match="term hidden-match: the toy's training diverges"):
        behaviour("term", "hidden-match", {"weight": 1e9})


def changed(*slots):
    """The components of some slots whose figures are not the recorded ones."""
    found, known = measured(lambda slot, name: slot in slots), recorded()
    return {name for name, figures in found.items() if not same(figures, known[name])}


def test_a_slope_that_is_one_per_cent_off_shows_in_its_divergence_alone(monkeypatch):
    right = raw.ForwardKL.slopes

    def steeper(self, logits, *rest):
        right(self, logits, *rest)
        logits.mul_(1.01)

    monkeypatch.setattr(raw.ForwardKL, "slopes", steeper)
    assert changed("divergence", "target", "sampler", "schedule", "trainer") == {"divergence/forward-kl"}


def test_the_same_formulas_by_another_way_show_nowhere(monkeypatch):
    monkeypatch.setattr(kernels, "raw_divergence", lambda divergence, parameters: None)
    assert changed("divergence") == set()


def test_a_sampler_that_ignores_its_fraction_shows_in_itself_alone():
    class Always(OnPolicy):
        def __init__(self, fraction=1.0, *, temperature=1.0):
            super().__init__(1.0, temperature=temperature)

    with registered("sampler", "on-policy", Always):
        assert changed("sampler") == {"sampler/on-policy"}


def test_what_is_built_on_a_sampler_changes_with_it():
    class Hot(HalfStudent):
        def __init__(self, source="teacher", *, temperature=1.0):
            super().__init__(source, temperature=2.0)

    with registered("sampler", "half-student", Hot):
        assert changed("sampler") == {"sampler/half-student", "sampler/corrected"}


def test_a_target_that_ignores_a_teacher_shows_in_itself_alone():
    class First(AverageLogits):
        def __call__(self, rows):
            return linear(rows.teachers[0])

    with registered("target", "average-logits", First):
        assert changed("target") == {"target/average-logits"}


def test_a_teacher_that_is_another_shows_in_whatever_asks_it(monkeypatch):
    monkeypatch.setattr(OneTeacher, "__call__", lambda self, rows: rows.teachers[-1])
    assert changed("target") == {"target/likeliest-token", "target/noisy-teacher", "target/teacher"}
