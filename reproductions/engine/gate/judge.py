"""From a gate's runs to its record; and the record made anew from the raw figures, to be held against what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import cache_root, significant
from reproductions.engine.gate.contrasts import check_gate
from reproductions.engine.gate.measured import DIGITS, LEVEL
from reproductions.engine.gate.record import (
    GateRecord,
    gate_folder,
    gate_path,
    identity_of,
    read_gate,
    write_record,
)
from reproductions.engine.gate.runs import (
    GatePlan,
    figures_of,
    measured_of,
    plan_of,
    recorded_runs,
    results_of,
)
from reproductions.engine.gate.spec import Gate, gate_of
from reproductions.engine.store.arm import ArmResults
from reproductions.engine.store.layout import strays
from reproductions.engine.store.pair import add_all
from reproductions.engine.store.stale import unsaid

if TYPE_CHECKING:
    from reproductions.engine.work.sessions.executors.base import Executor
    from reproductions.engine.work.sessions.progress import Reporter
    from reproductions.engine.work.sessions.session import Failure

DONE, DIFFERS, BAD, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class GateOutcome:
    """What running a gate came to.

    Exit code 0: every check came out as recorded, or the gate passed and nothing was recorded; 1: one did not, or the
    gate failed; 2: a run failed; 130: interrupted.
    """

    exit_code: int
    message: str
    record: GateRecord | None = None
    recorded: GateRecord | None = None
    failures: tuple[Failure, ...] = ()

    @property
    def agrees(self) -> dict[str, bool | None]:
        """Check -> whether it came out as recorded for this very testbed; None where nothing is."""
        then = self.recorded if self.recorded is not None and self.recorded.current else None
        known = {check.name: check.passed for check in then.checks} if then else {}
        now = self.record.checks if self.record else ()
        return {
            check.name: known[check.name] == check.passed if check.name in known else None for check in now
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "exit_code": self.exit_code,
            "message": self.message,
            "passed": None if self.record is None else self.record.passed,
            "covers": [] if self.record is None else sorted(self.record.covers),
            "agrees": self.agrees,
            "record": None if self.record is None else self.record.as_dict(),
            "failures": [vars(failure) for failure in self.failures],
        }


def declared(testbed: str, testbeds: Path | None = None) -> Gate:
    """The gate of a testbed. Raises KDError where it declares none."""
    gate = gate_of(testbed, testbeds)
    if gate is None:
        raise KDError(f"the testbed {testbed} declares no gate: its YAML needs the key `gate`")
    return gate


def run_gate(
    gate: Gate,
    *,
    record: bool = False,
    fresh: bool = False,
    workers: int | None = None,
    reporter: Reporter | None = None,
    say: Callable[[str], None] = print,
    root: Path | None = None,
    papers: Path | None = None,
    cache: Path | None = None,
    executor: Executor | None = None,
) -> GateOutcome:
    """Makes what is missing of a gate's runs and checks what they measured; `record` writes it into the checkout.

    With `record`, runs whose raw figures are recorded already are not made again. `root`: the folder of the records;
    `papers`: that of the experiments, none of which may judge what the gate is built on. `executor`: where the
    workers of its runs are started; its sweep is made on this machine. Raises KDError on bad input.
    """
    from reproductions.engine.work.environment import commit
    from reproductions.engine.work.sessions.machine import cores
    from reproductions.engine.work.sessions.progress import default_reporter
    from reproductions.engine.work.sessions.session import make_runs

    check_gate(gate, papers)
    before, place = read_gate(gate.testbed, root), cache or cache_root()
    swept: Mapping[str, Any] = {}
    if gate.swept:
        swept = _sweep(gate, before, place, workers or cores(), say)
    rate = float(swept["best"]) if swept else gate.rates[0]
    plan = plan_of(gate, rate, place)
    have = recorded_runs(gate, plan, gate_folder(gate.name, root)) if record else {}
    plan = replace(plan, have=frozenset(have))
    made = make_runs(
        plan, workers, reporter or default_reporter(as_json=False), fresh=fresh, executor=executor
    )
    if made.interrupted:
        kept = f"{len(made.runs)} of {len(plan.runs)} runs are finished and kept"
        return GateOutcome(INTERRUPTED, f"interrupted: {kept}; the same command goes on from there")
    if made.failures or len(made.runs) < len(plan.runs):
        where = ", ".join(failure.file for failure in made.failures)
        message = f"{len(made.failures)} of {len(plan.runs)} runs failed; tracebacks: {where}"
        return GateOutcome(BAD, message, failures=made.failures)
    arms = results_of(plan, {**made.runs, **have})
    if record:
        _keep(gate, plan, arms, root)
    earlier = earlier_than(gate, before)
    found = judged(
        gate, plan, arms, swept=swept, date=_date(arms), commit=commit()["commit"], earlier=earlier
    )
    known = (
        before is not None and before.current
    )  # else there is nothing to agree with, and failing is a failure
    code = DONE if found.passed or (known and not record) else DIFFERS
    outcome = GateOutcome(code, found.why, found, before)
    if record:
        path = write_record(found, root)
        return GateOutcome(code, f"{found.why}; recorded: {path}", found, before)
    if False in outcome.agrees.values():
        differing = [name for name, same in outcome.agrees.items() if same is False]
        return GateOutcome(DIFFERS, f"{found.why}; not as recorded: {', '.join(differing)}", found, before)
    return outcome


def judged(
    gate: Gate,
    plan: GatePlan,
    arms: Mapping[str, ArmResults],
    *,
    swept: Mapping[str, Any],
    date: str,
    commit: str | None,
    earlier: tuple[Mapping[str, Any], ...] = (),
) -> GateRecord:
    """The record that follows from the raw figures."""
    measured = measured_of(gate, arms)
    return GateRecord(
        testbed=gate.name,
        metric=gate.metric,
        date=date,
        seeds=gate.seeds,
        learning_rate=float(plan.specs["baseline"]["training"]["learning_rate"]),
        level=LEVEL,
        smallest_effect=significant(measured.smallest, DIGITS),
        figures={
            metric: {what: significant(value, DIGITS) for what, value in pair.items()}
            for metric, pair in figures_of(gate, arms).items()
        },
        checks=tuple(one.decide(measured) for one in gate.checks.values()),
        properties=gate.properties,
        arms={arm: {"key": plan.keys[arm], "seeds": list(plan.seeds_of(arm))} for arm in plan.arms},
        identity=identity_of(gate.testbed),
        swept=swept,
        commit=commit,
        earlier=earlier,
    )


def earlier_than(gate: Gate, before: GateRecord | None) -> tuple[Mapping[str, Any], ...]:
    """What was recorded of the testbed's gates before: it stays listed, a gate that failed most of all."""
    if before is None:
        return ()
    if before.current:
        return before.earlier
    then = replace(before, current=True)
    about = {"date": before.date, "passed": then.passed, "metric": before.metric, "identity": before.identity}
    checks = [
        {"name": check.name, "passed": check.passed, "measured": check.measured} for check in before.checks
    ]
    return (*before.earlier, {**about, "checks": checks, "arms": json.loads(json.dumps(before.arms))})


def problems(gate: Gate, root: Path | None = None) -> list[str]:
    """What of a recorded gate does not follow from its raw figures; [] also where none is recorded, or an older one."""
    recorded = read_gate(gate.testbed, root)
    if recorded is None or not recorded.current:
        return []
    path, folder = gate_path(gate.name, root), gate_folder(gate.name, root)
    try:
        plan = plan_of(gate, float(recorded.learning_rate or gate.rates[0]))
        # Metrics that the testbed got since are measured by the next `kd gate --record`; here is no figure of them.
        then_known = {*recorded.figures, gate.metric}
        known = {arm: tuple(m for m in names if m in then_known) for arm, names in plan.measures.items()}
        plan = replace(plan, measures=known)
        again = judged(
            gate,
            plan,
            results_of(plan, recorded_runs(gate, plan, folder)),
            swept=recorded.swept,
            date=recorded.date,
            commit=recorded.commit,
            earlier=recorded.earlier,
        )
    except KDError as error:
        return [str(error)]
    now, then = again.as_dict(), recorded.as_dict()
    named = {arm["key"] for arm in recorded.arms.values()}
    named |= {arm["key"] for one in recorded.earlier for arm in one["arms"].values()}
    kept = _files(folder)
    return [
        *(f"{path}: {name} does not follow from the raw figures" for name in now if now[name] != then[name]),
        *(f"{file}: the record of the gate names no such arm" for file in kept if file.stem not in named),
        *(f"{file}: {what}" for file, what in strays(folder) if file.parent != folder),
        *map(str, unsaid(file for file in kept if file.suffix == ".json" and file.stem in named)),
    ]


def _files(folder: Path) -> list[Path]:
    """Of each arm its first runs, JSON and Parquet, and the folder of its additions."""
    return sorted(path for path in folder.glob("*") if path.suffix in (".json", ".parquet") or path.is_dir())


def _sweep(
    gate: Gate, before: GateRecord | None, cache: Path, workers: int, say: Callable[[str], None]
) -> Mapping[str, Any]:
    """The sweep that the record holds, where it is of this very testbed; else made."""
    from reproductions.engine.gate.sweep import sweep

    if before is not None and before.current and before.swept:
        return before.swept
    return sweep(gate, cache, workers, say)


def _keep(gate: Gate, plan: GatePlan, arms: Mapping[str, ArmResults], root: Path | None) -> None:
    """Adds the runs to the raw figures of the gate."""
    add_all(gate_folder(gate.name, root), (arms[arm] for arm in plan.arms))


def _date(arms: Mapping[str, ArmResults]) -> str:
    """The day on which the last run ended."""
    finished = [run.finished for arm in arms.values() for run in arm.runs.values() if run.finished]
    return max(finished, default="")[:10]
