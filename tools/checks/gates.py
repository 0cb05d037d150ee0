"""Gates of testbeds: declared as they must be, recorded as their raw figures say, and judged by nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from catalog.errors import CatalogError
from reproductions.engine.errors import KDError
from reproductions.engine.gate.contrasts import check_gate
from reproductions.engine.gate.judge import problems
from reproductions.engine.gate.record import ROOT as GATES
from reproductions.engine.gate.record import read_gate
from reproductions.engine.gate.spec import gate_of
from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.show import gather
from reproductions.testbeds.spec import ROOT as TESTBEDS
from reproductions.testbeds.spec import list_testbeds
from tools.paths import relative

Found = tuple[str, str]  # a file, and what is wrong with it


def of_papers(papers: Iterable[str]) -> list[str]:
    """The testbeds of some papers' experiments; those that cannot be read are left to `missing`, which says why."""
    found: dict[str, None] = {}
    for paper in gather.runnable(papers):
        try:
            found |= dict.fromkeys(
                scale.testbed for scale in load_experiment(paper, gather.PAPERS).scales.values()
            )
        except (CatalogError, KDError):
            continue
    return [name for name in found if name in list_testbeds()]


def wrong(testbeds: Iterable[str]) -> Iterator[Found]:
    """What is wrong with these testbeds' gates: how one is declared or recorded, who judges what it is built on."""
    for name in testbeds:
        path = relative(TESTBEDS / f"{name}.yaml")
        try:
            gate = gate_of(name)
            if gate is None:
                continue
            read_gate(gate.testbed)
        except KDError as error:
            yield path, str(error)
            continue
        yield from ((path, line) for line in problems(gate))
        try:
            check_gate(gate, gather.PAPERS)
        except (CatalogError, KDError) as error:
            yield path, str(error)


def orphans() -> Iterator[Found]:
    """Records and raw figures of testbeds that are gone or declare no gate."""
    known = {name for name in list_testbeds() if _declares(name)}
    for path in sorted(GATES.glob("*")) if GATES.is_dir() else ():
        if path.stem not in known and (path.is_dir() or path.suffix == ".json"):
            yield relative(path), f"no testbed {path.stem} declares a gate"


def _declares(name: str) -> bool:
    try:
        return gate_of(name) is not None
    except KDError:
        return True  # one that is broken is said elsewhere
