"""Which metrics a plan asks of each arm: those of the headline and of the claims that weigh it; no other is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reproductions.engine.plan.experiment import Experiment, Scale

if TYPE_CHECKING:
    from reproductions.engine.verdicts.claims import ClaimSet

MATCHED = "matched_"  # before a metric's name: each arm sampled at its own best temperature, where a testbed has that


def claims_of(experiment: Experiment) -> ClaimSet:
    """The claims of an experiment. Raises KDError with file, line and the nearest valid name."""
    from reproductions.engine.verdicts.reading import read_claims

    return read_claims(
        experiment.data,
        experiment.lines,
        arms=experiment.titles,
        sweep=experiment.sweep,
        scales=list(experiment.scales),
        metrics=(*experiment.headline, *experiment.metrics) if experiment.data.get("headline") else None,
    )


def measures_of(
    experiment: Experiment, scale: Scale, testbed: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """Metrics by arm, in the testbed's order; what a testbed cannot measure is left to the deciding of the claim."""
    from reproductions.testbeds import metrics_of

    wanted: dict[str, set[str]] = {arm: set(experiment.headline) for arm in scale.arms}
    claims = claims_of(experiment)
    asked = [(arm, claim.metric) for claim in claims.at(scale.name) for arm in claim.contrast.weights]
    if scale.name == "paper":
        asked += [(value.arm, value.metric) for value in claims.values]
    for name, metric in asked:
        arm = experiment.arm(name).name
        if arm in wanted:
            wanted[arm] |= {metric, MATCHED + metric}
    known = metrics_of(testbed)
    return {arm: tuple(metric for metric in known if metric in metrics) for arm, metrics in wanted.items()}
