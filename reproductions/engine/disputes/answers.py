"""Disputes answered from what was recorded: each answer's contrasts, pooled league by league, and what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from reproductions.engine.atlas import record as kept
from reproductions.engine.atlas.entrants import Declared, Entrant, League, budget, method_text
from reproductions.engine.atlas.stated import pooled_on
from reproductions.engine.atlas.statements import Pair, Statement, asked, contrasts, differing
from reproductions.engine.disputes.reading import Answer, Dispute
from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json
from reproductions.engine.plan.spec import read_testbed_of
from reproductions.engine.verdicts.gates import UNGATED
from reproductions.testbeds import metrics_of

Both = tuple[Entrant, Entrant]


def answered(
    dispute: Dispute, leagues: Mapping[str, League], known: Sequence[Declared], recorded: Collection[str]
) -> kept.DisputeRow:
    """A dispute with every answer that the leagues have. Raises KDError for an arm that its experiment does not have.

    `leagues` by name: those on testbeds that may judge. `recorded`: the keys of all results.
    """
    return kept.DisputeRow(
        id=dispute.id,
        asks=dispute.asks,
        unanswered=dispute.unanswered,
        sides=tuple(kept.SideRow(side.says, side.papers) for side in dispute.sides),
        answers=tuple(
            _answer(dispute, number, answer, leagues, known, recorded)
            for number, answer in enumerate(dispute.answers)
        ),
    )


def _answer(
    dispute: Dispute,
    number: int,
    answer: Answer,
    leagues: Mapping[str, League],
    known: Sequence[Declared],
    recorded: Collection[str],
) -> kept.AnswerRow:
    name = f"{dispute.id}/{number + 1}"
    statement = Statement(name, dispute.asks, answer.says, answer.pairs)
    rows = []
    for place, league in leagues.items():
        pairs = _pairs(statement, answer, league, known)
        row = pooled_on(answer.metric or league.primary or "", statement, pairs, place, league)
        if row is not None:
            rows.append(row)
    missing = dict.fromkeys(_missing(answer, known, recorded, bool(rows)))
    return kept.AnswerRow(answer.says, tuple(rows), tuple(missing))


def _pairs(statement: Statement, answer: Answer, league: League, known: Sequence[Declared]) -> list[Both]:
    """The contrasts of an answer in a league, each once.

    Two recipes are weighed where their arms ask the same teachers; two arms that are named themselves are weighed.
    """
    pairs = contrasts(statement, league) if statement.pairs else []
    by_key = {entrant.key: entrant for entrant in league.entrants}
    for named, keys_of, as_named in (
        (answer.arms, _keys_of_arm, True),
        (answer.recipes, _keys_of_recipe, False),
    ):
        for more, less in named:
            sides = [[by_key[key] for key in keys_of(name, known) if key in by_key] for name in (more, less)]
            pairs += [
                (one, other)
                for one, other in itertools.product(*sides)
                if one is not other and (as_named or _teachers_agree(one.arm.spec, other.arm.spec))
            ]
    return list({(one.key, other.key): (one, other) for one, other in pairs}.values())


def _teachers_agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two arms ask the same teachers, or one of them none: all else may be what is disputed."""
    first, second = asked(one), asked(other)
    return not first or not second or first == second


def _keys_of_arm(name: str, known: Sequence[Declared]) -> list[str]:
    """Keys of "experiment/arm" at every scale; [] where there is no such experiment, or it was not swept yet."""
    return [one.keys[arm] for one, arm in _arms_of(name, known) if arm in one.keys]


def _arms_of(name: str, known: Sequence[Declared]) -> list[tuple[Declared, str]]:
    paper, _, arm = name.partition("/")
    mine = [one for one in known if one.experiment.paper == paper]
    if mine and arm not in mine[0].experiment.arms:
        mine[0].experiment.arm(arm)  # the nearest arm, or a swept one's bare name
        raise KDError(f"disputes.yaml: {name} is swept; name one of its points")
    return [(one, arm) for one in mine if arm in one.specs]


def _keys_of_recipe(name: str, known: Sequence[Declared]) -> list[str]:
    return list(dict.fromkeys(one.keys[arm] for one, arm in _arms_of_recipe(name, known) if arm in one.keys))


def _arms_of_recipe(name: str, known: Sequence[Declared]) -> list[tuple[Declared, str]]:
    return [
        (one, arm)
        for one in known
        for arm in one.specs
        if one.experiment.arms[arm].tree.get("method") == name and one.experiment.arms[arm].role != "ablation"
    ]


def _missing(
    answer: Answer, known: Sequence[Declared], recorded: Collection[str], contrasted: bool
) -> Iterator[str]:
    """What would have to be run, or written down, before the answer had all the contrasts that it may have."""
    wanted: list[tuple[Declared, str]] = []
    for named, arms_of, what in (
        (answer.arms, _arms_of, "no such experiment"),
        (answer.recipes, _arms_of_recipe, "no experiment has an arm of it"),
    ):
        for name in dict.fromkeys(itertools.chain.from_iterable(named)):
            declared = arms_of(name, known)
            wanted += declared
            if not declared:
                yield f"{name}: {what}"
    for pair in answer.pairs:
        declared = _declared(pair, known)
        wanted += declared
        if not declared and not contrasted:
            yield f"no experiment has two arms that differ so in {pair.part}: {told(pair)}"
    said = set()
    for one, arm in wanted:
        same = (
            one.scale.testbed,
            method_text(one.specs[arm]),
        )  # of two papers with one arm the first is named
        able = answer.metric is None or answer.metric in metrics_of(
            read_testbed_of(one.experiment, one.scale)
        )
        if able and same not in said and one.keys.get(arm) not in recorded:
            said.add(same)
            yield f"{one.experiment.paper}/{arm} on {one.scale.testbed}: not recorded"


def _declared(pair: Pair, known: Sequence[Declared]) -> list[tuple[Declared, str]]:
    """Arms that differ as a pair says from an arm of equal budget, recorded or not; not at scale `paper`."""
    fields: dict[str, list[tuple[Declared, str]]] = {}
    for one in known:
        for arm, spec in one.specs.items():
            if one.scale.name not in UNGATED:
                field = canonical_json([one.scale.testbed, budget(spec), spec.get("sft_start")])
                fields.setdefault(field, []).append((one, arm))
    found: dict[tuple[str, str, str], tuple[Declared, str]] = {}
    for arms in fields.values():
        for both in differing(pair, [one.specs[arm] for one, arm in arms]):
            for one, arm in (arms[place] for place in both):
                found[one.experiment.paper, one.scale.name, arm] = (one, arm)
    return [found[name] for name in sorted(found)]


def told(pair: Pair) -> str:
    """A pair's two patterns on a line."""
    return f"{_pattern(pair.more)} against {_pattern(pair.less)}"


def _pattern(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_pattern(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_pattern, value))
    return "none" if value is None else str(value)
