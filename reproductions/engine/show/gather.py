"""From the files of a reproduction to its view. The only module of this room that knows how results are stored.

`runnable`, `has_experiment`, `digests` and `gather` are what `files` asks for; none of them imports torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.show.view import (
    ArmRow,
    Budget,
    ClaimRow,
    Curve,
    EqualSeconds,
    Figure,
    Interval,
    Metric,
    Outcome,
    PaperView,
    ScaleRow,
    ValueRow,
    scale_order,
)

if TYPE_CHECKING:
    from reproductions.engine.claims import Claim, ClaimSet
    from reproductions.engine.experiment import Experiment
    from reproductions.engine.judge import Judgement

ROOT = Path(__file__).resolve().parents[3]
PAPERS = ROOT / "reproductions" / "papers"
DIGITS = 6  # significant digits of a shown figure: fresh and committed views are then the same


def folder(paper_id: str) -> Path:
    """Where a paper's reproduction lives; the folder is a Python package, hence the underscores."""
    return PAPERS / paper_id.replace("-", "_")


def has_experiment(paper_id: str) -> bool:
    """Whether there is something to run."""
    return (folder(paper_id) / "experiment.py").is_file()


def claims_file(paper_id: str) -> Path:
    """Where what the paper states is written down."""
    return folder(paper_id) / "claims.yaml"


def experiment_file(paper_id: str) -> Path:
    """Where arms and scales are."""
    return folder(paper_id) / "experiment.py"


def result_files(paper_id: str) -> list[Path]:
    """Committed raw figures, smallest scale first."""
    found = (folder(paper_id) / "results").glob("*.json")
    return sorted(found, key=lambda path: scale_order(path.stem))


def runnable(paper_ids: Iterable[str]) -> list[str]:
    """Those of the ids that have an experiment; one look at the folder for all of them."""
    try:
        present = set(os.listdir(PAPERS))  # noqa: PTH208 - names only, and fast
    except OSError:
        return []
    return [name for name in paper_ids if name.replace("-", "_") in present and has_experiment(name)]


def digests(paper_id: str) -> tuple[str, str]:
    """Of the claims and of the results: a view made under the same two is the same view."""
    written = [claims_file(paper_id), experiment_file(paper_id)]
    return _digest(path for path in written if path.is_file()), _digest(result_files(paper_id))


def gather(paper_id: str) -> PaperView:
    """A paper's view, every claim judged again from the raw figures. Raises KDError where a file is broken."""
    from reproductions.engine.claims import judge, load_claims
    from reproductions.engine.experiment import load_experiment
    from reproductions.engine.results import read_results

    experiment = load_experiment(paper_id, PAPERS)
    if not claims_file(paper_id).is_file():
        return PaperView(
            paper_id, tuple(_scales(experiment, None, {})), (), (), _places(paper_id), *digests(paper_id)
        )
    written = load_claims(claims_file(paper_id), experiment)
    outcomes: dict[str, list[Outcome]] = {claim.id: [] for claim in written.claims}
    results = {}
    for path in result_files(paper_id):
        for found in judge(paper_id, path.stem, PAPERS):  # refuses results of another configuration
            outcomes[found.claim].append(_outcome(found, written))
        results[path.stem] = read_results(path)
    return PaperView(
        paper=paper_id,
        scales=tuple(_scales(experiment, written, results)),
        claims=tuple(_row(claim, tuple(outcomes[claim.id])) for claim in written.claims),
        values=tuple(_values(written, results)),
        places=_places(paper_id),
        claims_digest=digests(paper_id)[0],
        results_digest=digests(paper_id)[1],
    )


def _outcome(found: Judgement, written: ClaimSet) -> Outcome:
    equal = found.equal_seconds
    return Outcome(
        scale=found.scale,
        verdict=found.verdict,
        better_mean=_short(found.better_mean),
        worse_mean=_short(found.worse_mean),
        difference=_short(found.difference),
        interval=_pair(found.interval),
        p_holm=_short(found.p_holm),
        seeds=found.seeds,
        equal_seconds=None
        if equal is None
        else EqualSeconds(_rounded(equal["difference"]), _pair(equal["interval"]), equal["seconds"]),
        explanation=written.explanation(found.claim, found.scale),
    )


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
        formula=f"{claim.better} - {claim.worse} > {claim.margin:g}",
        source_url=f"https://arxiv.org/abs/{claim.source.label}",
    )


def _scales(
    experiment: Experiment, written: ClaimSet | None, results: Mapping[str, Mapping[str, Any]]
) -> Iterable[ScaleRow]:
    for name in sorted(experiment.scales, key=scale_order):
        scale, found = experiment.scales[name], results.get(name)
        declared = experiment.arms_at(name)
        if found is None or written is None:
            arms = tuple(ArmRow(arm, entry.title, entry.role) for arm, entry in declared.items())
            yield ScaleRow(name, scale.testbed, scale.minutes, len(scale.seeds), arms)
            continue
        metrics = tuple(
            Metric(metric, about["title"], about["unit"], about["higher_is_better"])
            for metric, about in found["metrics"].items()
        )
        headline = tuple(metric for metric in experiment.headline if metric in found["metrics"])
        yield ScaleRow(
            name=name,
            testbed=scale.testbed,
            minutes=scale.minutes,
            seeds=len(scale.seeds),
            arms=tuple(_arms(declared, written, found, headline)),
            metrics=metrics,
            headline=headline or tuple(found["metrics"]),
            made=_made(found),
            results=(_relative(folder(experiment.paper) / "results" / f"{name}.json"),),
        )


def _arms(
    declared: Mapping[str, Any], written: ClaimSet, results: Mapping[str, Any], headline: tuple[str, ...]
) -> Iterable[ArmRow]:
    from reproductions.engine import report
    from reproductions.engine.judge import runs_by_seed

    rows, budgets = report.rows(written, results), {found.arm: found for found in report.budgets(results)}
    for name, arm in declared.items():
        runs = list(runs_by_seed(results, name).values())
        figures = tuple(
            Figure(
                row.metric,
                _rounded(row.mean),
                _pair(row.interval),
                row.paper,
                tuple(_rounded(run["metrics"][row.metric]) for run in runs) if row.metric in headline else (),
            )
            for row in rows
            if row.arm == name
        )
        used = budgets.get(name)
        budget = (
            None
            if used is None
            else Budget(
                _rounded(used.student_tokens),
                _rounded(used.teacher_tokens),
                _rounded(used.generated_tokens),
                _rounded(used.train_seconds),
                _rounded(used.evaluate_seconds),
                _short(used.truncated),
                _short(used.empty),
            )
        )
        yield ArmRow(
            name, arm.title, arm.role, len(runs), "", figures, budget, tuple(_curves(runs, headline[:1]))
        )


def _curves(runs: list[Mapping[str, Any]], metrics: Iterable[str]) -> Iterable[Curve]:
    """Means over the seeds, where all of them measured at the same steps."""
    steps = {tuple(point["step"] for point in run["curve"]) for run in runs}
    if len(steps) != 1:
        return
    for metric in metrics:
        columns = list(zip(*(run["curve"] for run in runs), strict=True))
        if any(metric not in point["metrics"] for column in columns for point in column):
            continue
        points = tuple(
            (
                float(column[0]["step"]),
                _rounded(_mean(point["train_seconds"] for point in column)),
                _rounded(_mean(point["metrics"][metric] for point in column)),
            )
            for column in columns
        )
        if points:
            yield Curve(metric, points)


def _values(written: ClaimSet, results: Mapping[str, Mapping[str, Any]]) -> Iterable[ValueRow]:
    """The paper's own numbers beside ours, where its own scale was run."""
    from reproductions.engine.judge import judge_values

    if "paper" not in results:
        return
    by_id = {value.id: value for value in written.values}
    for found in judge_values(written, "paper", results["paper"]):
        value = by_id[found.value]
        yield ValueRow(
            id=found.value,
            arm=value.arm,
            metric=value.metric,
            paper=found.paper,
            tolerance=found.tolerance,
            mean=_short(found.mean),
            interval=_pair(found.interval),
            seeds=found.seeds,
            verdict=found.verdict,
        )


def _places(paper_id: str) -> tuple[tuple[str, str], ...]:
    named = [("claims", claims_file(paper_id)), ("experiment", experiment_file(paper_id))]
    named += [("results", path) for path in result_files(paper_id)]
    return tuple((name, _relative(path)) for name, path in named if path.is_file())


def _made(results: Mapping[str, Any]) -> str:
    about = results["environment"]
    return (
        f"{about.get('device')}, {about.get('workers')} workers of {about.get('threads')} threads, "
        f"torch {about.get('torch')}, TRL {about.get('trl')}, commit {str(about.get('commit'))[:12]}, "
        f"config {results['config_hash']}, finished {about.get('finished')}"
    )


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _short(value: float | None) -> float | None:
    return None if value is None else _rounded(value)


def _pair(bounds: Interval | None) -> Interval | None:
    return None if bounds is None else (_rounded(bounds[0]), _rounded(bounds[1]))
