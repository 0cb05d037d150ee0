"""The papers' own orders beside ours: from today's claims, and from earlier attempts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.atlas import record as kept
from reproductions.engine.atlas.agreement import Agreement, Order, agreement, order_of
from reproductions.engine.atlas.entrants import Declared
from reproductions.engine.atlas.record import maybe, pair, short
from reproductions.engine.show.view import scale_order
from reproductions.engine.store.arm import ArmResults

if TYPE_CHECKING:
    from reproductions.engine.verdicts.claims import ClaimSet


def agreements(
    known: Sequence[Declared], arms: Sequence[ArmResults], attempts: Iterable[Any] = ()
) -> Iterator[kept.AgreementRow]:
    """How far the papers' orders are found again: today's claims by scale and testbed, then each earlier attempt."""
    from reproductions.engine.show.gather import claims_of

    by_place = {(arm.testbed, arm.key): arm for arm in arms}
    claims: dict[str, ClaimSet] = {one.experiment.paper: claims_of(one.experiment) for one in known}
    judged: list[tuple[str, str, str, bool, Mapping[str, str]]] = [
        (one.experiment.paper, one.scale.name, one.scale.testbed, False, one.keys) for one in known
    ]
    for attempt in attempts:
        keys = {name: key for claim in attempt.claims for name, key in claim.keys.items()}
        judged.append((attempt.paper, attempt.scale, attempt.testbed, True, keys))
    groups: dict[tuple[bool, str, str], list[tuple[str, str, dict[str, ArmResults]]]] = {}
    for paper, scale, testbed, earlier, named in judged:
        found = {name: by_place[testbed, key] for name, key in named.items() if (testbed, key) in by_place}
        if found and paper in claims:
            task = str(next(iter(found.values())).spec["testbed"]["task"].get("name", ""))
            groups.setdefault((earlier, scale, task), []).append((paper, testbed, found))
    for earlier, scale, task in sorted(groups, key=lambda group: (group[0], scale_order(group[1]), group[2])):
        papers = groups[earlier, scale, task]
        orders = [
            order for paper, _, found in papers for order in _orders(paper, scale, claims[paper], found)
        ]
        directions = [gap for paper, _, found in papers for gap in _directions(scale, claims[paper], found)]
        beds = sorted({testbed for _, testbed, _ in papers}, key=lambda name: (len(name), name))
        if orders or directions:
            yield _agreement_row(scale, tuple(beds), earlier, agreement(orders, directions), orders)


def _orders(paper: str, scale: str, claims: ClaimSet, arms: Mapping[str, ArmResults]) -> Iterator[Order]:
    settings: dict[tuple[str, str], dict[str, float]] = {}
    for claim in claims.at(scale):
        if claim.paper is not None:
            at = settings.setdefault((claim.paper.setting or "", claim.metric), {})
            for name, number in claim.paper.numbers.items():
                at.setdefault(name, number)
    for (setting, metric), numbers in settings.items():
        ours = _means({name: arms[name] for name in numbers if name in arms}, metric)
        found = order_of(paper, setting, metric, {name: (numbers[name], ours[name]) for name in ours})
        if found is not None:
            yield found


def _directions(scale: str, claims: ClaimSet, arms: Mapping[str, ArmResults]) -> Iterator[float]:
    for claim in claims.at(scale):
        pair = claim.contrast.pair
        if pair is None or claim.contrast.relation != "greater" or not set(pair) <= set(arms):
            continue
        means = _means({name: arms[name] for name in pair}, claim.metric)
        if len(means) == 2:
            sign = 1.0 if arms[pair[0]].metrics[claim.metric].higher_is_better else -1.0
            yield sign * (means[pair[0]] - means[pair[1]]) - claim.contrast.bound


def _means(arms: Mapping[str, ArmResults], metric: str) -> dict[str, float]:
    """The figure of each arm that has a metric, over the seeds that all of those have."""
    able = {name: arm for name, arm in arms.items() if metric in arm.metrics}
    seeds = [
        seed
        for seed in next(iter(able.values())).runs
        if all(seed in arm.runs and metric in arm.runs[seed].metrics for arm in able.values())
    ] if able else []  # fmt: skip
    if not seeds:
        return {}
    return {
        name: float(np.mean([arm.runs[seed].metrics[metric] for seed in seeds])) for name, arm in able.items()
    }


def _agreement_row(
    scale: str, testbeds: tuple[str, ...], earlier: bool, found: Agreement, orders: Sequence[Order]
) -> kept.AgreementRow:
    return kept.AgreementRow(
        scale=scale,
        testbeds=testbeds,
        earlier=earlier,
        mean=maybe(found.mean),
        interval=pair(found.interval),
        mean_spearman=maybe(found.mean_spearman),
        spearman_interval=pair(found.spearman_interval),
        papers=found.papers,
        same=found.same,
        opposite=found.opposite,
        orders=tuple(
            kept.OrderRow(
                order.paper,
                order.setting,
                order.metric,
                tuple((name, theirs, short(ours)) for name, theirs, ours in order.arms),
                short(order.kendall),
                short(order.spearman),
            )
            for order in orders
        ),
    )
