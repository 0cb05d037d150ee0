"""Every component of the loss and of the loop is registered under the name that recipes use, and can be built."""

import inspect

import pytest

from methods.registry import build, canonical, components, load

NAMES = {
    "divergence": "forward-kl reverse-kl jensen-shannon total-variation adaptive-kl skew-forward-kl skew-reverse-kl "
    "detached-skew-reverse-kl cross-entropy plackett-luce student-entropy",
    "term": "next-token plain-text clipped-kl span-consistency hidden-match task-filters sorted-probabilities "
    "chunk-likelihood merged-chunks continuation-units dual-space sampled-kl preference first-choices "
    "ranked-choices",
    "sampler": "on-policy teacher-mixed with-student half-student adaptive-replay paired-student paired corrected "
    "domains speculative switching handing-over nucleus mixed truncated continued gated-length",
    "target": "teacher average-logits interpolated-logits noisy-teacher combined-logits teacher-by-row likeliest-token",
    "support": "top-k sampled sampled-or-not",
    "token-weights": "by-score gate sigmoid top-share opening first prefix-drift pass-rate except-tokens normalised",
    "score": "entropy entropy-gap gap log-ratio soft-or",
    "row-settings": "adaptive-skew",
    "schedule": "student-share teacher-share linear",
    "trainer": "distillation minillm latent-reasoning policy-optimisation",
    "advantage": "group-reward log-ratio centred-log-ratio "
    "return-to-go sum only clipped powered constant entropy-scaled by-column "
    "scaled-by-ratio step-weighted prefix-weighted reward-within-budget perplexity-weighted "
    "margin-shifted reward-and-log-ratio",
    "condition": "sign reward-below reward-from group-unsolved lowest-probability highest-entropy during",
    "reward": "exact-answer shared-beginning task",
}
REQUIRED = {
    "paired": {"sampler": "on-policy"},
    "teacher-mixed": {"teacher_mix": 0.5},
    "noisy-teacher": {"deviation": 1.0},
    "adaptive-skew": {"side": "teacher"},
    "domains": {"every": 3},
    "truncated": {"tokens": 3},
    "gated-length": {"lengths": [2, 4], "level": 1.0},
    "teacher-by-row": {"indices": {"a": 0}},
    "top-k": {"k": 4},
    "by-score": {"score": "entropy"},
    "gate": {"score": "gap", "level": 1.0},
    "sigmoid": {"score": "entropy-gap"},
    "top-share": {"score": "soft-or", "share": 0.5},
    "opening": {"score": "entropy"},
    "first": {"tokens": 3},
    "except-tokens": {"tokens": ["|"]},
    "normalised": {"token_weights": {"name": "first", "tokens": 2}},
    "corrected": {"sampler": {"name": "half-student", "source": "data"}},
}


@pytest.mark.parametrize("slot", NAMES)
def test_the_names_are_those_of_the_contract(slot):
    assert {name for where, name in components() if where == slot} >= set(NAMES[slot].split())


@pytest.mark.parametrize(
    ("slot", "name"),
    [
        (s, n)
        for s in ("term", "sampler", "target", "row-settings", "support", "token-weights", "score")
        for n in NAMES[s].split()
    ],
)
def test_a_component_is_made_of_plain_data(slot, name):
    tree = canonical(slot, {"name": name, **REQUIRED.get(name, {})})
    made = build(slot, tree, corpus=[{"text": "a"}], seed=5)
    assert isinstance(made, load(slot, name)) and components()[slot, name].summary
    if slot == "term":
        assert made.weight > 0 and made.reads in ("nothing", "ids", "pair", "first")
    if "seed" in inspect.signature(type(made)).parameters:
        assert made.seed == 5


def test_another_sampler_stands_inside_one():
    tree = canonical(
        "sampler", {"name": "domains", "every": 2, "sampler": {"name": "on-policy", "fraction": 0.5}}
    )
    assert build("sampler", tree).sampler.fraction == 0.5
