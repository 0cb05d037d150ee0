"""Recorded runs that the code of today would make otherwise, told by the fingerprints of their components; no torch.

A change of behaviour makes every run with the component stale, and what is stale is said: results/stale.yaml maps the
component to the fingerprints that it had, each with the reason why those runs stay for now.

    divergence/forward-kl:
      b46eced4: its slope was 1 % too small until July; the runs are to be made again

A component that a run did not note has the fingerprint "none". What nobody needs any more may not stand there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import CatalogError
from catalog.reader import Lines, nearest, read_yaml_with_lines
from methods import fingerprints
from reproductions.engine.errors import KDError
from reproductions.engine.store.layout import arms_in, lines_of

RESULTS = Path(__file__).resolve().parents[2] / "results"
SAID = "stale.yaml"
NONE = "none"


@dataclass(frozen=True)
class Stale:
    """Runs of an arm that were made while components behaved otherwise: "slot/name" -> their fingerprint then."""

    file: Path
    seeds: tuple[int, ...]
    components: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"

    @property
    def what(self) -> str:
        """What is wrong and what to do, in a sentence."""
        seeds = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        lines = "; ".join(f"{name}: {{'{then}': <the reason>}}" for name, then in self.components.items())
        return (
            f"{seeds}: made before {', '.join(self.components)} behaved as now; make them again, or say in "
            f"{SAID} why they stay: {lines}"
        )


def stale_results(root: Path | None = None, figures: Path | None = None) -> list[Stale]:
    """Every recorded run whose components behave otherwise now, arm by arm. `figures`: methods/fingerprints.json."""
    return [found for file in _files(root) for found in stale_in(file, figures)]


def stale_in(file: Path, figures: Path | None = None) -> list[Stale]:
    """Those of one arm, its additions too, runs that were made alike together. `file`: the JSON of its first runs."""
    data = lines_of(file)
    try:
        method = data["spec"]["method"]
        then = {name: made.get("fingerprints", {}) for name, made in data["made_with"].items()}
        seeds: dict[str, list[int]] = {}
        for run in data["runs"]:
            seeds.setdefault(run["made_with"], []).append(int(run["seed"]))
        found = {name: fingerprints.stale(then[name], method, figures) for name in seeds}
    except (KeyError, TypeError, AttributeError) as error:
        raise KDError(f"{file}: not the results of an arm: {error!r}") from None
    return [
        Stale(file, tuple(seeds[name]), {part: then[name].get(part, NONE) for part in parts})
        for name, parts in found.items()
        if parts
    ]


def said(root: Path | None = None) -> dict[str, dict[str, str]]:
    """What is said of stale runs: component -> its fingerprint then -> the reason. CatalogError names the line."""
    return _read(root or RESULTS)[0]


def unsaid(files: Iterable[Path], root: Path | None = None, figures: Path | None = None) -> list[Stale]:
    """What is stale in these arms' files and not said, with what to do about it in `str`."""
    reasons = said(root)
    found = []
    for item in (one for file in files for one in stale_in(file, figures)):
        left = {name: then for name, then in item.components.items() if then not in reasons.get(name, {})}
        if left:
            found.append(Stale(item.file, item.seeds, left))
    return found


def idle(root: Path | None = None, figures: Path | None = None) -> list[CatalogError]:
    """What is said of runs that are not there, or not stale, each with its line."""
    reasons, lines = _read(root or RESULTS)
    needed = {part for item in stale_results(root, figures) for part in item.components.items()}
    return [
        lines.error(f"no recorded run was made with {name} as {then}: take it out", name, then)
        for name, by_then in reasons.items()
        for then in by_then
        if (name, then) not in needed
    ]


def problems(root: Path | None = None, figures: Path | None = None) -> list[str]:
    """What is stale and not said, and what is said and not stale, a sentence each; [] where all is well."""
    return [*map(str, unsaid(_files(root), root, figures)), *map(str, idle(root, figures))]


def notes(files: Iterable[Path], root: Path | None = None, figures: Path | None = None) -> list[str]:
    """What a reader of these arms' results has to know: a sentence for each component that behaves otherwise now."""
    reasons = said(root)
    if not reasons:  # then nothing is stale: a test holds it
        return []
    arms: dict[tuple[str, str], set[Path]] = {}
    for file in files:
        for item in stale_in(file, figures) if file.is_file() else ():
            for part in item.components.items():
                arms.setdefault(part, set()).add(file)
    return [
        f"{len(some)} arm{'s' if len(some) > 1 else ''} recorded before {name} behaved as now"
        f" ({reasons.get(name, {}).get(then, 'nobody says why')})"
        for (name, then), some in sorted(arms.items())
    ]


def _files(root: Path | None) -> list[Path]:
    return arms_in(root or RESULTS)


def _read(root: Path) -> tuple[dict[str, dict[str, str]], Lines]:
    if not (root / SAID).is_file():  # results of somebody's own, of which nothing is said
        return {}, Lines(root / SAID, {})
    data, lines = read_yaml_with_lines(root / SAID)
    known = set(fingerprints.recorded())
    for name, by_then in data.items():
        if name not in known and name.count("/") != 1:  # one that is gone may still have recorded runs
            raise lines.error(f'"{name}" is no component{nearest(str(name), known)}: write slot/name', name)
        if not isinstance(by_then, dict) or not by_then:
            raise lines.error(f"{name} needs lines of <fingerprint>: <the reason why the runs stay>", name)
        for then, reason in by_then.items():
            if not isinstance(reason, str) or not reason.strip():
                raise lines.error(f"{name} {then} needs a reason, a text", name, then)
    return {name: {str(then): reason for then, reason in by.items()} for name, by in data.items()}, lines
