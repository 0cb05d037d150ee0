"""From the files of a reproduction to its view. The only module of this room that knows how results are stored.

`runnable`, `questions`, `has_experiment`, `digests` and `gather` are what `files` asks for; none of them imports torch.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.show.digits import pair, rounded, short
from reproductions.engine.show.view import (
    ArmRow,
    Budget,
    ClaimRow,
    Curve,
    EqualSeconds,
    Figure,
    Matched,
    Metric,
    Outcome,
    PaperView,
    ScaleRow,
    ValueRow,
    scale_order,
)

if TYPE_CHECKING:
    from reproductions.engine.plan.plan import Plan
    from reproductions.engine.store.arm import RunResults
    from reproductions.engine.store.results import Results
    from reproductions.engine.verdicts.claims import Claim, ClaimSet
    from reproductions.engine.verdicts.decide import Decision
    from reproductions.engine.verdicts.gates import Gate

ROOT = Path(__file__).resolve().parents[3]
PAPERS = ROOT / "reproductions" / "papers"
RESULTS = ROOT / "reproductions" / "results"
RECIPES = ROOT / "methods" / "recipes"
TESTBEDS = ROOT / "reproductions" / "testbeds"
TUNING = ROOT / "reproductions" / "tuning"
GATES = ROOT / "reproductions" / "gates"
ATTEMPTS = ROOT / "reproductions" / "attempts"


def experiment_file(paper_id: str) -> Path:
    """Where claims, arms and scales are."""
    return PAPERS / f"{paper_id}.yaml"


def claims_file(paper_id: str) -> Path:
    """Where what the paper states is written down: in its experiment."""
    return experiment_file(paper_id)


def has_experiment(paper_id: str) -> bool:
    """Whether there is something to run."""
    return experiment_file(paper_id).is_file()


def runnable(paper_ids: Iterable[str]) -> list[str]:
    """Those of the ids that have an experiment; one look at the folder for all of them."""
    try:
        present = set(os.listdir(PAPERS))  # noqa: PTH208 - names only, and fast
    except OSError:
        return []
    return [name for name in paper_ids if f"{name}.yaml" in present]


def questions(paper_ids: Iterable[str]) -> list[str]:
    """Experiments that are none of these papers': questions of our own, sorted."""
    from reproductions.engine.plan.experiment import list_papers

    return sorted(set(list_papers(PAPERS)) - set(paper_ids))


def digests(paper_id: str, results: Sequence[str] = ()) -> tuple[str, str]:
    """Of what decides the claims and of the results: a view made under the same two is the same view.

    The first is over the experiment, the Python beside it, the recipes and testbeds that it names, the gates of these
    and its sweeps; the second over the files of raw figures that a view was made from (`results` names the first of
    each arm, from the root; its additions count too), and what is said of those that are stale. Byte by byte, so that
    hundreds of papers take no time; `gather` and `kd verify` read them.
    """
    path = experiment_file(paper_id)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    named = [RECIPES / f"{name}.yaml" for name in sorted(set(re.findall(r"\bmethod: ([\w-]+)", text)))]
    for name in sorted(set(re.findall(r"\btestbed: ([\w-]+)", text))):
        named += [TESTBEDS / f"{name}.yaml", *(gate for gate in [GATES / f"{name}.json"] if gate.is_file())]
    named += [*sorted(TUNING.glob(f"*/{paper_id}.json")), *_attempt_paths(paper_id)]
    named += [code for code in [path.with_suffix(".py")] if code.is_file()]
    return _digest([path, *named]), _digest(_raw([ROOT / name for name in results]), *_stale(results))


def _raw(arms: Sequence[Path]) -> list[Path]:
    """The files of arms, there or not: all JSON, all Parquet, then what was added to them."""
    from reproductions.engine.store.layout import files_of, table_of

    added = [file for path in arms for file in files_of(path.parent, path.stem)[2:]]
    return [*arms, *map(table_of, arms), *added]


def _attempt_paths(paper_id: str) -> list[Path]:
    from reproductions.engine.verdicts.attempts import paths

    return paths(paper_id, ATTEMPTS)


def _stale(results: Sequence[str]) -> list[str]:
    """What is said of those runs that today's code would make otherwise; nearly always nothing."""
    from reproductions.engine.store.stale import notes

    return notes([ROOT / name for name in results], RESULTS)


def claims_of(experiment: Any) -> ClaimSet:
    """The claims of an experiment. Raises KDError with file, line and the nearest valid name."""
    from reproductions.engine.plan import measures

    return measures.claims_of(experiment)


def recorded(plan: Plan, root: Path | None = None) -> Results | None:
    """The recorded results of a paper at a scale, whole; None where there are none. KDError lists what is missing."""
    from reproductions.engine.store.results import recorded_results

    folder = (root or RESULTS) / plan.scale.testbed
    asked = {"looks": plan.scale.looks, "measures": plan.measures, "how": plan.how}
    return recorded_results(plan.paper, plan.scale.name, plan.keys, plan.scale.seeds, folder, **asked)


def gate_on(testbed: str) -> Gate | None:
    """The record of a testbed's gate; None where there is none."""
    try:
        from reproductions.engine.gate.record import read_gate
    except ImportError:
        return None
    found: Gate | None = read_gate(testbed, GATES)
    return found


def gather(paper_id: str) -> PaperView:
    """A paper's view, every claim decided again from the raw figures. Raises KDError where a file is broken."""
    from reproductions.engine.plan.experiment import load_experiment
    from reproductions.engine.plan.plan import make_plan
    from reproductions.engine.show.former import attempt_row
    from reproductions.engine.verdicts.attempts import current, read_attempts

    experiment = load_experiment(paper_id, PAPERS)
    plans = {name: make_plan(paper_id, name, papers_root=PAPERS) for name in experiment.scales}
    results = {name: recorded(plan) for name, plan in plans.items()}
    read = read_attempts(paper_id, ATTEMPTS)
    rows = tuple(
        attempt_row(found, claims_of(experiment), results, RESULTS, gate_on(found.testbed)) for found in read
    )
    now = current(experiment.data, experiment.lines, read)
    return replace(view_of(plans, results, RESULTS), attempts=rows, attempt=now)


def decided(plan: Plan, results: Results) -> list[Decision]:
    """Every claim of a plan's scale, decided from results."""
    from reproductions.engine.verdicts.decide import decide

    gate, cap = gate_on(plan.scale.testbed), len(plan.scale.seeds)
    return decide(claims_of(plan.experiment), plan.scale.name, results, gate, cap=cap)


def view_of(
    plans: Mapping[str, Plan], results: Mapping[str, Results | None], dials: Path | None = None
) -> PaperView:
    """The view of a paper from its plans and what there is of results, by scale.

    `dials`: the root of results under which values of the scales' dials are recorded; without it they are left out.
    """
    from reproductions.engine.gate.contrasts import check_plan
    from reproductions.engine.show.dials import recorded as recorded_dials
    from reproductions.engine.show.dials import rows
    from reproductions.engine.verdicts.decide import decide, decide_values

    experiment = next(iter(plans.values())).experiment
    claims = claims_of(experiment)
    for scale, plan in plans.items():
        check_plan(plan, claims.at(scale))  # what a gate is built on is judged nowhere
    outcomes: dict[str, list[Outcome]] = {claim.id: [] for claim in claims.claims}
    for scale in sorted(plans, key=scale_order):
        if results[scale] is not None:
            plan = plans[scale]
            gate, cap = gate_on(plan.scale.testbed), len(plan.scale.seeds)
            for found in decide(claims, scale, results[scale], gate, cap=cap):
                outcomes[found.claim].append(_outcome(found, claims, plan))
    turned = {scale: recorded_dials(plans[scale], dials) for scale in plans if dials and results[scale]}
    files = {
        scale: tuple(
            name
            for plan in [plans[scale], *(one.plan for one in turned.get(scale, ()))]
            for name in _files(plan)
        )
        if results[scale] is not None
        else ()
        for scale in plans
    }
    about = digests(experiment.paper, [name for some in files.values() for name in some])
    values = decide_values(claims, "paper", results["paper"]) if results.get("paper") is not None else []
    by_id = {value.id: value for value in claims.values}
    return PaperView(
        paper=experiment.paper,
        scales=tuple(
            replace(
                _scale(plans[name], claims, results[name], files[name]),
                dials=tuple(rows(plans[name], claims, results[name], turned[name]))
                if turned.get(name)
                else (),
            )
            for name in sorted(plans, key=scale_order)
        ),
        claims=tuple(_row(claim, experiment.bare, tuple(outcomes[claim.id])) for claim in claims.claims),
        values=tuple(
            ValueRow(
                found.value,
                by_id[found.value].arm,
                by_id[found.value].metric,
                found.paper,
                found.tolerance,
                short(found.mean),
                pair(found.interval),
                found.seeds,
                found.verdict,
            )
            for found in values
        ),
        places=_places(experiment.paper, plans),
        claims_digest=about[0],
        results_digest=about[1],
    )


def _files(plan: Plan) -> tuple[str, ...]:
    folder = RESULTS / plan.scale.testbed
    return tuple(dict.fromkeys(_relative(folder / f"{plan.keys[arm]}.json") for arm in plan.arms))


def _outcome(found: Decision, claims: ClaimSet, plan: Plan) -> Outcome:
    equal, matched = found.equal_seconds, found.matched
    return Outcome(
        scale=found.scale,
        verdict=found.verdict,
        better_mean=short(found.better_mean),
        worse_mean=short(found.worse_mean),
        difference=short(found.difference),
        interval=pair(found.interval),
        seeds=found.seeds,
        equal_seconds=None
        if equal is None
        else EqualSeconds(rounded(equal["difference"]), pair(equal["interval"]), equal["seconds"]),
        explanation=claims.explanation(found.claim, found.scale),
        testbed=plan.scale.testbed,
        look=found.look,
        next_look=found.next_look,
        p=short(found.p),
        p_equal=short(found.p_equal),
        effect=short(found.effect),
        effect_from=found.effect_from,
        groups=found.groups,
        matched=None
        if matched is None
        else Matched(
            matched["verdict"],
            rounded(matched["difference"]),
            pair(matched["interval"]),
            matched["seeds"],
        ),
        metric=claims.claim(found.claim).on(found.scale).metric,
    )


def _row(claim: Claim, bare: Mapping[str, str], outcomes: tuple[Outcome, ...]) -> ClaimRow:
    pair = claim.contrast.pair or ("", "")
    numbers = claim.paper.numbers if claim.paper is not None else {}
    return ClaimRow(
        id=claim.id,
        statement=claim.statement,
        source=claim.source.told,
        metric=claim.metric,
        better=pair[0],
        worse=pair[1],
        margin=claim.contrast.bound if claim.contrast.relation == "greater" else 0.0,
        paper_better=numbers.get(pair[0]),
        paper_worse=numbers.get(pair[1]),
        paper_setting=(claim.paper.setting or "") if claim.paper is not None else "",
        outcomes=outcomes,
        formula=claim.contrast.formula,
        within=claim.contrast.bound if claim.contrast.relation == "within" else None,
        source_url=claim.source.url,
    )


def _scale(plan: Plan, claims: ClaimSet, results: Results | None, files: tuple[str, ...]) -> ScaleRow:
    from reproductions.engine.show.recipes import recipe_line

    declared = {arm: plan.experiment.arms[arm] for arm in plan.arms}
    recipes = {arm: recipe_line(plan.specs[arm]) for arm in plan.arms}
    if results is None:
        arms = tuple(
            ArmRow(arm, entry.title, entry.role, recipe=recipes[arm], key=plan.keys[arm])
            for arm, entry in declared.items()
        )
        metrics: tuple[Metric, ...] = ()
        headline: tuple[str, ...] = ()
    else:
        wanted = dict.fromkeys([*plan.experiment.headline, *plan.experiment.metrics, *_claimed(claims)])
        known = results.metrics
        metrics = tuple(
            Metric(name, known[name].title, known[name].unit, known[name].higher_is_better)
            for name in wanted
            if name in known
        )
        headline = tuple(name for name in plan.experiment.headline if name in known) or tuple(
            metric.name for metric in metrics
        )
        arms = tuple(
            replace(_arm(entry, recipes[arm], claims, results, metrics, headline), key=plan.keys[arm])
            for arm, entry in declared.items()
        )
    return ScaleRow(
        name=plan.scale.name,
        testbed=plan.scale.testbed,
        minutes=plan.scale.minutes,
        seeds=len(plan.scale.seeds),
        arms=arms,
        metrics=metrics,
        headline=headline,
        stands_in=str(plan.testbed.get("stands_in", "")),
        made="; ".join([_made(results, metrics), *_stale(files)]) if results is not None else "",
        results=files,
    )


def _claimed(claims: ClaimSet) -> list[str]:
    return [metric for claim in claims.claims for metric in (claim.metric, *claim.metrics.values())]


def _arm(
    arm: Any,
    recipe: str,
    claims: ClaimSet,
    results: Results,
    metrics: Sequence[Metric],
    headline: Sequence[str],
) -> ArmRow:
    from reproductions.engine.verdicts.statistics import over_seeds
    from reproductions.engine.verdicts.words import DESCRIBED

    runs = list(results.runs(arm.name).values())
    figures = []
    for metric in metrics:
        values = [run.metrics[metric.name] for run in runs if metric.name in run.metrics]
        if not values:
            continue
        summary = over_seeds(values)
        figures.append(
            Figure(
                metric.name,
                rounded(summary.difference),
                pair(summary.interval(DESCRIBED)),
                claims.paper_number(arm.name, metric.name),
                tuple(map(rounded, values)) if metric.name in headline else (),
            )
        )
    return ArmRow(
        arm.name,
        arm.title,
        arm.role,
        len(runs),
        recipe,
        tuple(figures),
        _budget(runs),
        tuple(_curves(runs, headline[:1])),
    )


def _budget(runs: Sequence[RunResults]) -> Budget | None:
    if not runs:
        return None

    def mean(group: str, name: str) -> float:
        return _mean(float(getattr(run, group).get(name, 0)) for run in runs)

    completions = mean("rollouts", "completions")
    return Budget(
        rounded(mean("tokens", "student")),
        rounded(mean("tokens", "teacher")),
        rounded(mean("tokens", "generated")),
        rounded(mean("seconds", "train")),
        rounded(mean("seconds", "evaluate")),
        rounded(mean("rollouts", "truncated") / completions) if completions else None,
        rounded(mean("rollouts", "empty") / completions) if completions else None,
    )


def _curves(runs: Sequence[RunResults], metrics: Iterable[str]) -> Iterable[Curve]:
    """Means over the seeds, where all of them measured at the same steps."""
    steps = {tuple(point["step"] for point in run.curve) for run in runs}
    if len(steps) != 1:
        return
    for metric in metrics:
        columns = list(zip(*(run.curve for run in runs), strict=True))
        if any(metric not in point["metrics"] for column in columns for point in column):
            continue
        points = tuple(
            (
                float(column[0]["step"]),
                rounded(_mean(point["train_seconds"] for point in column)),
                rounded(_mean(point["metrics"][metric] for point in column)),
            )
            for column in columns
        )
        if points:
            yield Curve(metric, points)


def _places(paper_id: str, plans: Mapping[str, Plan]) -> tuple[tuple[str, str], ...]:
    named = [("experiment", experiment_file(paper_id)), ("recipe", RECIPES / f"{paper_id}.yaml")]
    beds = dict.fromkeys(plan.scale.testbed for plan in plans.values())
    named += [("testbed", TESTBEDS / f"{name}.yaml") for name in beds]
    named += [("sweep", path) for path in sorted(TUNING.glob(f"*/{paper_id}.json"))]
    return tuple((name, _relative(path)) for name, path in named if path.is_file())


def _made(results: Results, metrics: Sequence[Metric]) -> str:
    """How the results came about, as far as these metrics go: what all runs share, in a sentence."""
    runs = [run for arm in results.arms for run in results.runs(arm).values()]
    about = [run.made_with for run in runs]

    def all_of(name: str) -> str:
        return ", ".join(sorted({str(item[name]) for item in about if item.get(name) is not None}))

    commits = ", ".join(sorted({str(item["commit"])[:12] for item in about if item.get("commit")}))
    finished = max((run.finished for run in runs if run.finished), default=None)
    parts = [
        all_of("device"),
        f"{all_of('threads')} thread(s)",
        f"torch {all_of('torch')}",
        f"TRL {all_of('trl')}",
    ]
    parts += [f"commit {commits}"] if commits else []
    parts += [f"finished {finished}"] if finished else []
    shown = {metric.name for metric in metrics}
    second = [
        shown & part["metrics"].keys() for run in runs for part in run.made or () if part.get("retrained")
    ]
    if any(second):
        names = ", ".join(sorted(set().union(*second)))
        count = sum(map(bool, second))
        parts.append(f"{names} of {count} runs by a second training on another kind of processor")
    return ", ".join(part for part in parts if part)


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _digest(paths: Iterable[Path], *said: str) -> str:
    digest = hashlib.sha256("".join(said).encode())
    for path in paths:
        content = path.read_bytes() if path.is_file() else b""
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
