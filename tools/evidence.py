"""What the reproductions say about a paper: its folder, what was recorded, how each claim was judged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reproductions.engine.claims import Claim
    from reproductions.engine.judge import ValueJudgement

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ROOT / "reproductions" / "papers"
SCALES = ("tiny", "small", "paper")


@dataclass(frozen=True)
class EqualSeconds:
    """The same comparison where both arms stop at the training seconds of the faster one."""

    difference: float
    interval: tuple[float, float] | None
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """One claim at one scale, judged from recorded figures; a positive difference speaks for the claim."""

    scale: str
    verdict: str
    better_mean: float | None
    worse_mean: float | None
    difference: float | None
    interval: tuple[float, float] | None
    p_holm: float | None
    seeds: int
    equal_seconds: EqualSeconds | None
    explanation: str


@dataclass(frozen=True)
class ClaimRow:
    """One claim with the paper's numbers and ours, as README, `show` and `verify` print it."""

    id: str
    statement: str
    source: str
    metric: str
    better: str
    worse: str
    margin: float
    paper_better: float | None
    paper_worse: float | None
    paper_setting: str
    outcomes: tuple[Outcome, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


def folder(paper_id: str) -> Path:
    """Where a paper's reproduction lives; the folder is a Python package, hence the underscores."""
    return PAPERS / paper_id.replace("-", "_")


def has_experiment(paper_id: str) -> bool:
    """Whether there is something to run."""
    return (folder(paper_id) / "experiment.py").is_file()


def scales(paper_id: str) -> list[tuple[str, float]]:
    """The scales a paper can be run at and the minutes each takes on two cores, 0 where unknown."""
    if not has_experiment(paper_id):
        return []
    from reproductions.engine.experiment import load_experiment

    declared = load_experiment(paper_id, PAPERS).scales
    return [(name, scale.minutes) for name, scale in declared.items()]


def result_files(paper_id: str) -> list[Path]:
    """Committed results, smallest scale first."""
    found = (folder(paper_id) / "results").glob("*.json")
    return sorted(found, key=lambda path: (SCALES.index(path.stem) if path.stem in SCALES else 9, path.stem))


def reports(paper_id: str) -> list[tuple[str, Path | None, Path | None]]:
    """Per recorded scale: its name, report and plot, where the engine wrote them."""
    found = []
    for path in result_files(paper_id):
        report, plot = path.with_suffix(".md"), path.with_suffix(".png")
        found.append((path.stem, report if report.is_file() else None, plot if plot.is_file() else None))
    return found


def judged_papers(paper_ids: Iterable[str]) -> list[str]:
    """Those of the ids whose results are recorded."""
    return [paper_id for paper_id in _with_folder(paper_ids) if result_files(paper_id)]


def runnable_papers(paper_ids: Iterable[str]) -> list[str]:
    """Those of the ids that have an experiment."""
    return [paper_id for paper_id in _with_folder(paper_ids) if has_experiment(paper_id)]


def _with_folder(paper_ids: Iterable[str]) -> list[str]:
    """One look at the folder for all: a thousand ids are asked for, most have nothing."""
    try:
        present = set(os.listdir(PAPERS))  # noqa: PTH208 - names only, and fast
    except OSError:
        return []
    return [paper_id for paper_id in paper_ids if paper_id.replace("-", "_") in present]


def claims(paper_id: str) -> list[ClaimRow]:
    """Every claim of a paper, judged again at each recorded scale (no torch); empty where none can be run."""
    path = folder(paper_id) / "claims.yaml"
    if not (path.is_file() and has_experiment(paper_id)):
        return []
    from reproductions.engine.claims import judge, load_claims

    written = load_claims(path)
    outcomes: dict[str, list[Outcome]] = {claim.id: [] for claim in written.claims}
    for result in result_files(paper_id):
        for found in judge(paper_id, result.stem, PAPERS):
            outcomes[found.claim].append(
                Outcome(
                    scale=found.scale,
                    verdict=found.verdict,
                    better_mean=found.better_mean,
                    worse_mean=found.worse_mean,
                    difference=found.difference,
                    interval=found.interval,
                    p_holm=found.p_holm,
                    seeds=found.seeds,
                    equal_seconds=_equal_seconds(found.equal_seconds),
                    explanation=written.explanation(found.claim, found.scale),
                )
            )
    return [_row(claim, tuple(outcomes[claim.id])) for claim in written.claims]


def values(paper_id: str) -> list[ValueJudgement]:
    """The paper's own numbers beside ours, where its own scale was run."""
    path = folder(paper_id) / "results" / "paper.json"
    if not path.is_file():
        return []
    from reproductions.engine.claims import load_claims
    from reproductions.engine.judge import judge_values
    from reproductions.engine.results import read_results

    return judge_values(load_claims(folder(paper_id) / "claims.yaml"), "paper", read_results(path))


def _equal_seconds(found: Mapping[str, Any] | None) -> EqualSeconds | None:
    return None if found is None else EqualSeconds(found["difference"], found["interval"], found["seconds"])


def _row(claim: Claim, outcomes: tuple[Outcome, ...]) -> ClaimRow:
    numbers = claim.paper_numbers or {}
    return ClaimRow(
        id=claim.id,
        statement=claim.statement,
        source=f"arXiv {claim.source.label}, {claim.source.where}",
        metric=claim.metric,
        better=claim.better,
        worse=claim.worse,
        margin=claim.margin,
        paper_better=numbers.get("better"),
        paper_worse=numbers.get("worse"),
        paper_setting=numbers.get("setting", ""),
        outcomes=outcomes,
    )
