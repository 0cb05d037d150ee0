"""Everything that the atlas says as a whole, from recorded results, experiments and statements. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reproductions.engine.atlas import record as kept
from reproductions.engine.atlas.entrants import (
    Declared,
    League,
    Names,
    declared,
    leagues,
    names_of,
    read_all,
)
from reproductions.engine.atlas.orders import agreements
from reproductions.engine.atlas.stated import pooled
from reproductions.engine.atlas.statements import Statement, read_statements
from reproductions.engine.atlas.tables import PAIR_LEVEL, table
from reproductions.engine.disputes.answers import answered
from reproductions.engine.disputes.reading import Dispute, read_disputes
from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.store.arm import ArmResults
from reproductions.testbeds.spec import ROOT, list_testbeds, read_testbed


def compute(root: Path | None = None) -> kept.Record:
    """The record of what is committed under a root. Raises KDError or CatalogError where a file is broken."""
    root = root or kept.ROOT
    folder = root / "reproductions"
    papers = sorted(path.stem for path in (folder / "papers").glob("*.yaml"))
    known = [one for paper in papers for one in declared(load_experiment(paper, folder / "papers"))]
    attempts = _attempts(papers, folder)
    beds = folder / "testbeds"
    arms = at_own_values(
        read_all(folder / "results"), names_of(known, attempts), beds if beds.is_dir() else None
    )
    stated = folder / "statements.yaml"
    statements = read_statements(stated) if stated.is_file() else ()
    disputed = folder / "disputes.yaml"
    return record_of(
        known,
        arms,
        statements,
        disputes=read_disputes(disputed) if disputed.is_file() else (),
        may_judge=lambda testbed: _passed(testbed, folder / "gates"),
        attempts=attempts,
        made_from=kept.inputs(root),
    )


def at_own_values(arms: Sequence[ArmResults], names: Names, testbeds: Path | None = None) -> list[ArmResults]:
    """The arms that an experiment or an earlier attempt names, and those on the very task of their testbed.

    At another value of a dial no gate was passed and nothing is judged, also where no experiment has that dial now.
    `testbeds`: the folder of their files, where it is not the atlas's.
    """
    root = testbeds or ROOT
    there = {arm.testbed for arm in arms} & set(list_testbeds(root))
    tasks = {name: read_testbed(name, root)["task"] for name in there}
    return [
        arm
        for arm in arms
        if arm.key in names.by_key
        or arm.testbed not in tasks
        or arm.spec["testbed"]["task"] == tasks[arm.testbed]
    ]


def record_of(
    known: Sequence[Declared],
    arms: Sequence[ArmResults],
    statements: Sequence[Statement],
    *,
    disputes: Sequence[Dispute] = (),
    may_judge: Callable[[str], bool] = lambda testbed: True,
    attempts: Sequence[Any] = (),
    made_from: str = "",
) -> kept.Record:
    """The record of these experiments, results, statements, disputes and earlier attempts.

    `attempts` are those of engine/verdicts/attempts.py. `may_judge`: whether a testbed's gate has passed; disputes are
    answered on such alone.
    """
    found = [league for league in leagues(arms, names_of(known, attempts)) if league.primary]
    named = _named(found)
    judging = {name: league for name, league in named.items() if may_judge(league.testbeds[0])}
    return kept.Record(
        made_from=made_from,
        level=PAIR_LEVEL,
        tables=tuple(table(name, league) for name, league in named.items()),
        statements=tuple(
            row for statement in statements for name, league in named.items() for row in pooled(statement, name, league)
        ),
        agreement=tuple(agreements(known, arms, attempts)),
        disputes=tuple(answered(dispute, judging, known, {arm.key for arm in arms}) for dispute in disputes),
    )  # fmt: skip


def _named(found: Sequence[League]) -> dict[str, League]:
    """Leagues by a name that a reader can tell apart: the testbed's, with the budget where it has several."""
    names: dict[str, League] = {}
    for league in found:
        name = league.testbeds[0]
        if league.student != "main":
            name += f", {league.student} student"
        if name in names:
            name += f", {league.budget.told}"
        names[name if name not in names else f"{name} ({len(names) + 1})"] = league
    return names


def _passed(testbed: str, gates: Path) -> bool:
    from reproductions.engine.gate.record import read_gate

    gate = read_gate(testbed, gates) if testbed in list_testbeds() else None
    return gate is not None and gate.passed


def _attempts(papers: Sequence[str], folder: Path) -> list[Any]:
    from reproductions.engine.verdicts.attempts import read_attempts

    return [attempt for paper in papers for attempt in read_attempts(paper, folder / "attempts")]
