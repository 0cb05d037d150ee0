"""What a few steps of training with a component do to a fixed toy student: the figures behind `methods.fingerprints`.

Each component is tried with as little else of the library as possible: where the divergence is not what is tried, it is
`probe`, which belongs to nobody; the teacher reads other tokens only where a term is about those. Weights and
arithmetic are float64, so that another processor gives the same figures.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch

from methods.assembly import trainer_for
from methods.classes.suits import ENCODERS
from methods.elicitation import behaviour as elicitation
from methods.errors import MethodError
from methods.losses.fused.formulas import Block, by_row
from methods.modeling.rollouts import Rollouts, left_pad
from methods.recipe import ITSELF, OF_CLASSES, OWN_STEPS, PRIVILEGED, PRIVILEGED_POLICY, canonical_method
from methods.registry import components, find, load, registered
from methods.slots.term import PAIR
from methods.toy import ToyClasses, ToySurroundings, stops_often

PROBE = "probe"
POLICY = "policy-optimisation"
# Trains nothing, so that there is nothing to see.
WITHOUT = frozenset({("trainer", "teacher-alone")})
# What a component needs that has no default, and what makes each of its settings do something in a few steps; several
# where one choice excludes another.
SETTINGS: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]] = {
    ("advantage", "by-column"): (
        {"values": ["a", "b"], "parts": [{"name": "constant"}, {"name": "log-ratio"}]},
    ),
    ("advantage", "clipped"): ({"advantage": {"name": "log-ratio"}, "low": -1.0, "high": 1.0},),
    ("advantage", "margin-shifted"): ({"advantage": {"name": "log-ratio"}, "margin": 0.8, "threshold": 0.5},),
    ("advantage", "only"): ({"advantage": {"name": "constant"}, "where": {"name": "highest-entropy"}},),
    ("advantage", "perplexity-weighted"): (
        {"advantage": {"name": "constant"}, "where": {"name": "reward-below", "threshold": 1.4}},
    ),
    ("advantage", "powered"): ({"advantage": {"name": "log-ratio"}, "power": 0.5},),
    ("advantage", "prefix-weighted"): ({"advantage": {"name": "constant"}},),
    ("advantage", "return-to-go"): ({"advantage": {"name": "log-ratio"}, "discount": 0.8},),
    ("advantage", "reward-within-budget"): ({"limit": 10.0, "baseline": "mean"},),
    ("advantage", "scaled-by-ratio"): ({"advantage": {"name": "constant"}},),
    ("advantage", "step-weighted"): ({"advantage": {"name": "constant"}},),
    ("advantage", "sum"): ({"parts": [{"name": "constant"}, {"name": "log-ratio"}]},),
    ("condition", "during"): ({"begin": 0.5},),
    ("condition", "another-right"): ({"threshold": 0.4},),
    ("condition", "group-unsolved"): ({"threshold": 1.4},),
    ("condition", "reward-below"): ({"threshold": 0.5},),
    ("condition", "reward-from"): ({"threshold": 0.5},),
    ("condition", "sign"): ({"advantage": {"name": "log-ratio"}},),
    ("data", "agreed-answers"): ({"after": "s", "samples": 12, "temperature": 0.3, "share": 0.2, "seed": 1},),
    ("data", "beam-search"): ({"beams": 4, "pick": "closest"},),
    ("data", "right-answers"): (
        {
            "verifier": {"name": "task"},
            "samples": 6,
            "temperature": 0.3,
            "threshold": 0.3,
            "most": 4,
            "seed": 1,
        },
    ),
    ("data", "guide-answers"): (
        {
            "verifier": {"name": "task"},
            "ahead": 2,
            "num_generations": 2,
            "samples": 4,
            "temperature": 0.8,
            "threshold": 0.3,
            "seed": 1,
        },
    ),
    ("data", "own-answers"): ({"samples": 2, "temperature": 0.3, "seed": 1},),
    ("data", "pass-rates"): (
        {"verifier": {"name": "task"}, "samples": 6, "temperature": 0.3, "threshold": 0.3, "seed": 1},
    ),
    ("data", "self-guided"): ({"keep": 2, "rounds": 3, "inner": 3},),
    ("data", "teacher-traces"): (
        {
            "by": "most",
            "verifier": {"name": "task"},
            "samples": 8,
            "threshold": 0.2,
            "margin": 0.05,
            "unit": 2,
            "seed": 1,
        },
    ),
    ("data", "label"): ({"temperature": 0.8, "prompts": 7, "samples": 2, "seed": 1},),
    ("divergence", "concrete-score"): ({}, {"first": "teacher", "second": "uniform"}),
    ("divergence", "entropic-matching"): ({}, {"growth": "log-sigmoid"}),
    ("divergence", "plackett-luce"): ({}, {"released": True}),
    ("row-settings", "adaptive-skew"): ({"side": "teacher", "anchor_steps": 1, "base": 0.9, "floor": 0.6},),
    ("row-settings", "difficulty-temperature"): ({"score": "hellinger"},),
    ("sampler", "adaptive-replay"): (
        {"start": 0.7, "rise": 0.3, "tolerance": -9.0, "validations": 4, "capacity": 3},
    ),
    ("sampler", "continued"): ({"share": 0.7, "share_end": 0.2},),
    ("sampler", "corrected"): ({"sampler": {"name": "half-student", "source": "data"}},),
    ("sampler", "domains"): ({"every": 1},),
    ("sampler", "gated-length"): ({"lengths": [1, 3, 6], "level": 1.0, "every": 1},),
    ("sampler", "handing-over"): ({"factor": 1.2, "recent": 2},),
    ("sampler", "mixed"): (
        {"data_start": 0.9, "data_end": 0.1, "shape": "geometric"},
        {"data_start": 1.0, "data_end": 0.3, "shape": "step", "at": 0.5, "source": "teacher"},
    ),
    ("sampler", "nucleus"): ({"top_p": 0.6, "top_k": 4},),
    ("sampler", "on-policy"): ({"fraction": 0.6},),
    ("sampler", "paired"): ({"sampler": {"name": "teacher-mixed", "teacher_mix": 1.0}},),
    ("sampler", "speculative"): ({"top_k": 6},),
    ("sampler", "switching"): ({"threshold": 0.3},),
    ("sampler", "teacher-mixed"): ({"teacher_mix": 0.5},),
    ("sampler", "truncated"): ({"tokens": 2, "grown": 6},),
    ("score", "entropy"): ({"normalised": True}, {"of": "teacher"}),
    ("score", "gap"): ({"divergence": "jensen_shannon"},),
    ("score", "log-ratio"): ({}, {"absolute": True}),
    ("score", "surprisal"): ({}, {"of": "student"}),
    ("score", "soft-or"): ({}, {"product": True, "entropy_power": 0.5, "gap_power": 2.0}),
    ("support", "recalibrated-top-k"): ({"k": 3},),
    ("support", "sampled"): ({"drawn_from": "teacher"}, {"clip": 1.0}),
    ("support", "top-k"): (
        {"k": 3},
        {"k": 3, "of": "student", "rest": "renormalise"},
        {"k": 3, "rest": "drop"},
        {"k": 3, "rest": "excess"},
    ),
    ("target", "average-logits"): ({"weights": [0.7, 0.3]},),
    ("target", "combined-logits"): ({"coefficients": [1.5, -0.5], "student_start": 0.2, "student_end": 0.9},),
    ("target", "drawn-ids"): ({"rounds": 4}, {"rounds": 4, "anew": True}),
    ("target", "interpolated-logits"): ({"start": 0.1, "step_size": 2.0, "momentum": 0.9},),
    ("target", "noisy-teacher"): ({"deviation": 1.0},),
    ("target", "top-ids-and-label"): ({"k": 3},),
    ("target", "teacher-by-row"): ({"indices": {"a": 0, "b": 1, "c": 1, "d": 0, "e": 1, "data": 1}},),
    ("term", "attention-match"): ({"layers": [[0, 1]]},),
    ("term", "relation-match"): ({"of": "attention"}, {"of": "values", "layers": [[0, 1]], "heads": 1}),
    ("term", "replaced-blocks"): ({"rate": 0.4, "until": 0.9, "outside_learns": True},),
    ("term", "token-states-match"): ({"layers": [[0, 1]]},),
    ("term", "ensembled-labels"): ({"every": 1, "least": 0, "threshold": 0.4, "ramp": 3},),
    ("term", "chunk-likelihood"): ({"temperature": 2.0, "boundary": ",", "epsilon": 1e-3},),
    ("term", "continuation-units"): ({"divergence": "jensen_shannon", "teacher_weight": 0.3},),
    ("term", "hidden-match"): (
        {"layers": [[0, 1]]},
        {"layers": [[0, 1]], "weight": 0.05, "filters": "task", "size": 6, "filter_learning_rate": 0.2},
    ),
    ("term", "logit-match"): ({}, {"entries": "student"}, {"entries": "teacher"}),
    ("term", "merged-chunks"): ({"matched_weight": 0.6, "teacher_weight": 0.3},),
    ("term", "plain-text"): ({"max_length": 7},),
    ("term", "preference"): ({}, {"form": "square", "reference": None, "beta": 2.0, "weight": 0.02}),
    ("token-weights", "by-score"): ({"score": "entropy", "power": 2.0, "most": 9.0},),
    ("token-weights", "complement"): ({"token_weights": {"name": "first", "tokens": 2}},),
    ("token-weights", "except-tokens"): ({"tokens": [",", "<eos>"]},),
    ("token-weights", "first"): ({"tokens": 1, "grown": 4},),
    ("token-weights", "focused"): (
        {
            "score": "hellinger",
            "change": 0.6,
            "tolerance": 1e-4,
            "momentum": 0.1,
            "warm_up": 0.3,
            "least": 0.5,
        },
    ),
    ("token-weights", "gate"): ({"score": {"name": "entropy", "of": "teacher"}, "level": 2.0},),
    ("token-weights", "normalised"): ({"token_weights": {"name": "first", "tokens": 2}},),
    ("token-weights", "opening"): ({"score": "entropy", "share": 0.5},),
    ("token-weights", "pass-rate"): ({"fall": 2.0}, {"between": [0.2, 0.5]}),
    ("token-weights", "prefix-drift"): ({}, {"form": "ratio", "floor": 0.2}),
    ("token-weights", "shuffled"): ({"token_weights": {"name": "first", "tokens": 2}},),
    ("token-weights", "verified"): ({"k": 1, "floor": 0.2}, {"k": 1, "form": "speculative"}),
    ("token-weights", "sigmoid"): ({"score": "entropy-gap", "centre": 0.1, "width": 0.5},),
    ("token-weights", "top-share"): (
        {"score": "entropy", "share": 0.5},
        {"score": "entropy", "share": 0.5, "drawn": True},
    ),
    ("token-weights", "where"): ({"where": {"name": "highest-entropy"}},),
    ("trainer", "latent-reasoning"): ({"thoughts": 2},),
    ("trainer", "minillm"): ({"steps_per_generation": 2, "discount": 0.9, "reward_clip": 2.0},),
    ("trainer", PRIVILEGED): ({"reads": "{completion}|{thoughts}", "follows": 0.5},),
    ("trainer", PRIVILEGED_POLICY): (
        {
            "reads": "{prompt}{sibling}|{thoughts}",
            "follows": 0.5,
            "sibling_reward": 0.5,
            "num_generations": 4,
            "steps_per_generation": 1,
            "num_iterations": 2,
            "epsilon_high": 0.3,
        },
    ),
    ("trainer", "policy-optimisation"): (
        {
            "num_generations": 2,
            "steps_per_generation": 1,
            "num_iterations": 2,
            "epsilon_high": 0.3,
            "teacher_mix": 0.3,
            "anchor_teacher_share": 0.2,
        },
    ),
}

# What is about encoders: its toy tells words apart.
LABELLED = {
    ("trainer", OF_CLASSES),
    ("data", "self-guided"),
    *(("term", name) for name in (*ENCODERS, "ensembled-labels")),
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
        labelled = (slot, name) in LABELLED
        surroundings = ToyClasses() if labelled else ToySurroundings()
        if name in OWN_STEPS and not labelled:
            stops_often(surroundings.student(), surroundings.tokenizer)
        method = canonical_method(example(slot, name, settings))
        trainer = trainer_for(method | ({"trainer": {"name": OF_CLASSES}} if labelled else {}), surroundings)
        if slot == "reward":  # an untrained student is never right
            trainer.writer = written
        if name == "step-weighted":
            trainer.writer = in_turns
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
    with (
        torch.random.fork_rng(devices=[]),
        registered("divergence", PROBE, probe),
        registered("reward", PROBE, ProbeReward),
    ):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        mine = not gc.get_freeze_count()
        if mine:  # Trainer collects garbage when it starts: half of the time, among all that is imported
            gc.freeze()
        try:
            yield
        finally:
            if mine:
                gc.unfreeze()
            torch.set_default_dtype(precision)


def probe(block: Block, skew: float | torch.Tensor = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || skew p + (1 - skew) q), written once more: no change of the library's formulas shows in it."""
    skew = by_row("skew", skew, block)
    mixture = skew * block.p + (1 - skew) * block.q
    return (block.p * (block.log_p - mixture.log())).sum(-1), (skew - 1) * block.p * block.q / mixture


class ProbeReward:
    """A figure of a text's letters, which differs between the completions of a prompt; none for some."""

    def __init__(self, size: int = 11):
        self.size = size

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        figures = [sum(map(ord, text)) % self.size for text in completions]
        return [None if figure == 10 else figure / 9 for figure in figures]


def written(rows: Sequence[Mapping[str, Any]], trainer: Any) -> tuple[Rollouts, None, None]:
    """The row's answer, whole, without its first and without its last letter, and its thoughts, as if sampled."""
    answers = [row["completion"] for row in rows]
    texts = [
        (a, a[1:], a[:-1], row["thoughts"])[n % 4]
        for n, (a, row) in enumerate(zip(answers, rows, strict=True))
    ]
    encode = trainer.processing_class
    prompts, said = (encode(part)["input_ids"] for part in ([row["prompt"] for row in rows], texts))
    ids, mask = left_pad(prompts, encode.pad_token_id, trainer.model.device)
    width = max(map(len, said)) + 1
    ended = [[*row, encode.eos_token_id] for row in said]
    own = torch.tensor([row + [encode.pad_token_id] * (width - len(row)) for row in ended])
    there = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ended])
    none = torch.zeros(len(rows), dtype=torch.bool)
    return Rollouts(ids, mask, own, there, none, none), None, None


def in_turns(rows: Sequence[Mapping[str, Any]], trainer: Any) -> tuple[Rollouts, None, torch.Tensor]:
    """What the student samples, three tokens a turn."""
    sampled = trainer.rollouts(rows)
    places = torch.arange(sampled.completion_ids.shape[1])
    return sampled, None, (places // 3).expand(sampled.completion_ids.shape)


def example(slot: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method that uses a component and as little else as possible."""
    entry, own = find(slot, name), dict(settings)
    tree, plain = {"name": entry.name, **own}, {"divergence": PROBE}
    if slot == "divergence":
        return {"terms": [{"divergence": name, **own}]}
    if slot == "term":
        teacher = "other" if getattr(load("term", entry.name), "reads", None) == PAIR else "main"
        teacher = (
            "second" if name == "replaced-blocks" else teacher
        )  # of encoders the one as wide as the student
        beside = [plain] if (slot, name) in LABELLED else []  # what teaches a classifier's head
        pairs = {"sampler": "with-student"} if getattr(load("term", entry.name), "pairs", False) else {}
        return {"teacher": teacher, "terms": [{"term": name, **own}, *beside], **pairs}
    if slot == "score":
        return {
            "teacher": ["main", "second"],
            "terms": [{**plain, "token_weights": {"name": "by-score", "score": tree}}],
        }
    if (
        slot == "support"
    ):  # a formula of the library's: a mask says that ids are left out, which is not the probe's
        own = {"divergence": "reverse-kl", "support": tree}
        return {"terms": [own, {**own, "divergence": "forward-kl", "weight": 0.5}]}
    probes = [PROBE, {"name": PROBE, "size": 7}]
    policy: dict[str, Any] = {"trainer": {"name": POLICY, "num_generations": 2}, "rewards": probes}
    if slot == "advantage":
        return {**policy, "teacher": ["main", "second"], "advantage": tree}
    if slot == "condition":
        return {**policy, "advantage": {"name": "only", "advantage": {"name": "constant"}, "where": tree}}
    if slot == "reward":
        return {**policy, "advantage": {"name": "group-reward", "baseline": "none"}, "rewards": [tree]}
    if (slot, name) == ("token-weights", "where"):
        return {**policy, "terms": [{**plain, "token_weights": tree}]}
    if slot in ("target", "token-weights", "row-settings"):
        teachers = "main" if slot == "row-settings" else ["main", "second"]
        return {"teacher": teachers, "terms": [{**plain, slot.replace("-", "_"): tree}]}
    if slot == "schedule":
        return {"terms": [{**plain, "weight": {"schedule": name, **own}}]}
    if slot == "sampler":  # the source of each example shows too
        weights = {"data": 0.5, "teacher": 2.0, "student": 1.0}
        return {
            "sampler": tree,
            "terms": [{**plain, "sources": [s], "weight": w} for s, w in weights.items()],
        }
    if (slot, name) == (
        "data",
        "guide-answers",
    ):  # what a later checkpoint says, and how likely that was to it
        given = {"num_generations": 4, "given_completions": 1, "given_column": "guide", "given_gate": 9.0}
        trainer = {**policy["trainer"], **given, "given_ratio": "written", "epsilon": None}
        data = {"use": name, **own}
        return {**policy, "trainer": trainer, "advantage": {"name": "group-reward"}, "data": data}
    if slot == "data":
        seen = {"token_weights": {"name": "pass-rate"}} if name == "pass-rates" else {}
        return {"data": {"use": name, **own}, "terms": [{**plain, **seen}]}
    parts: dict[str, dict[str, Any]] = {
        "distillation": {"terms": [plain]},
        PRIVILEGED: {"terms": [plain], **({"teacher": ITSELF} if own.get("follows") else {})},
        OF_CLASSES: {"terms": [{"term": "next-token", "weight": 0.5}, plain]},
        POLICY: {"advantage": {"name": "group-reward"}, "rewards": probes},
        PRIVILEGED_POLICY: {
            **({"teacher": ITSELF} if own.get("follows") else {}),
            "advantage": {"name": "scaled-by-ratio", "advantage": {"name": "group-reward"}},
            "rewards": probes,
        },
    }
    return {"trainer": tree} | parts.get(name, {})


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
