"""A contrast that a gate is built on is never judged there: what must differ by construction is no evidence.

Two contrasts are one where the methods of their two arms are, in the canonical form and either way round; where a
contrast has one method twice, by what else its arms differ in (training without the learning rate, student, start).
Only the experiments that use the testbed are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import CatalogError
from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json
from reproductions.engine.gate.spec import Gate, gate_of
from reproductions.engine.plan.experiment import PAPERS_ROOT, Experiment, list_papers, load_experiment
from reproductions.engine.plan.spec import read_testbed_of, spec_of

if TYPE_CHECKING:
    from reproductions.engine.plan.plan import Plan

Spec = Mapping[str, Any]
Sides = frozenset[str]
BESIDE_METHOD = ("student", "start", "sft_start", "lora", "precision", "code")
SECTIONS = ("orderings", "contrasts", "equivalences", "thresholds")


def sides(one: Spec, other: Spec) -> Sides:
    """What tells the two arms of a contrast apart: the same set for the same contrast, whichever arm comes first."""
    if one["method"] != other["method"]:
        return frozenset(canonical_json(spec["method"]) for spec in (one, other))
    return frozenset(
        canonical_json([spec["method"], _beside(spec, instead)])
        for spec, instead in ((one, other), (other, one))
    )


def _beside(spec: Spec, other: Spec) -> dict[str, Any]:
    """What an arm has besides its method that the other has not."""
    found = {name: spec.get(name) for name in BESIDE_METHOD if spec.get(name) != other.get(name)}
    mine, theirs = dict(spec.get("training", {})), dict(other.get("training", {}))
    for training in (mine, theirs):
        training.pop("learning_rate", None)
    changed = {name: mine.get(name) for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)}
    return {**found, **({"training": changed} if changed else {})}


def check_plan(plan: Plan, claims: Iterable[Any], root: Path | None = None) -> None:
    """Refuses to judge a paper where a claim weighs what the testbed's gate is built on. Raises KDError.

    `claims`: those of the paper at the plan's scale; `root`: the testbeds, where they are not the atlas's. It costs
    nothing on a testbed without a gate.
    """
    if "gate" not in plan.testbed:
        return
    gate = gate_of(plan.testbed, root or _testbeds(plan.experiment))
    if gate is not None:
        _refuse(gate, plan.experiment, plan.specs, claims)


def check_gate(gate: Gate, papers: Path | None = None) -> None:
    """The same for every claim of every experiment that is judged on the gate's testbed. Raises KDError."""
    for experiment, scale in using(gate.name, papers):
        try:
            bed = read_testbed_of(experiment, experiment.scale(scale))
            claims = list(_claims(experiment, scale))
            arms = {arm for claim in claims for arm in claim.contrast.weights}
            # Any rate will do: it is no part of what tells two arms apart, and a sweep may not be made yet.
            specs = {arm: spec_of(experiment, scale, arm, bed, learning_rate=1.0) for arm in arms}
        except CatalogError as error:
            raise KDError(str(error)) from None
        _refuse(gate, experiment, specs, claims)


def using(testbed: str, papers: Path | None = None) -> Iterator[tuple[Experiment, str]]:
    """The experiments with a scale on a testbed, and that scale; others are not even parsed."""
    names = re.compile(rf"\btestbed:\s*[\"']?{re.escape(testbed)}(?![\w-])")
    for paper in list_papers(papers):
        if not names.search(((papers or PAPERS_ROOT) / f"{paper}.yaml").read_text(encoding="utf-8")):
            continue
        try:
            experiment = load_experiment(paper, papers)
        except CatalogError as error:
            raise KDError(str(error)) from None
        for name, scale in experiment.scales.items():
            if scale.testbed == testbed:
                yield experiment, name


def _refuse(gate: Gate, experiment: Experiment, specs: Mapping[str, Spec], claims: Iterable[Any]) -> None:
    if not gate.contrasts:
        return
    own = gate.specs(gate.rates[0])
    built_on = {sides(own[better], own[worse]): check for check, (better, worse) in gate.contrasts.items()}
    for claim in claims:
        arms = list(claim.contrast.weights)
        if len(arms) != 2 or not all(arm in specs for arm in arms):
            continue
        check = built_on.get(sides(specs[arms[0]], specs[arms[1]]))
        if check is not None:
            what = (
                f"the claim weighs {arms[0]} against {arms[1]}, and so does the gate of {gate.name} "
                f"({gate.place('checks', check)}, {check}): a contrast that a gate is built on is never judged there"
            )
            raise KDError(str(experiment.error(what, *_place(experiment, claim.id))))


def _place(experiment: Experiment, claim: str) -> tuple[str, ...]:
    """Where a claim stands in its file."""
    section = experiment.data.get("claims") or {}
    kind = next((name for name in SECTIONS if claim in (section.get(name) or {})), "")
    return ("claims", kind, claim) if kind else ("claims",)


def _claims(experiment: Experiment, scale: str) -> Iterator[Any]:
    from reproductions.engine.verdicts.reading import read_claims

    if "claims" not in experiment.data:
        return
    claims = read_claims(
        experiment.data,
        experiment.lines,
        arms=experiment.titles,
        sweep=experiment.sweep,
        scales=list(experiment.scales),
    )
    yield from claims.at(scale)


def _testbeds(experiment: Experiment) -> Path | None:
    """The testbeds beside an experiment's folder, where there are some."""
    beside = experiment.path.parent.parent / "testbeds"
    return beside if beside.is_dir() else None
