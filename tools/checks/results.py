"""Recorded results: is each file what its name says, does somebody name it, has what made it changed since?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from catalog.errors import CatalogError
from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json, read_json
from reproductions.engine.plan import rates
from reproductions.engine.plan.dials import plan_at, points
from reproductions.engine.plan.experiment import Experiment, load_experiment
from reproductions.engine.plan.plan import Plan, make_plan
from reproductions.engine.plan.spec import (
    SPEC_VERSION,
    at_an_edge,
    key_of,
    read_testbed_of,
    sweep_keys,
)
from reproductions.engine.show import gather
from reproductions.engine.store import stale as overtaken
from reproductions.engine.store.appended import rewritten
from reproductions.engine.store.layout import arm_path, arms_in, lines_of, strays
from reproductions.engine.store.pair import read_arm
from reproductions.engine.verdicts.attempts import read_attempts
from tools.paths import relative

Found = tuple[str, str]  # a file, and what is wrong with it


def files() -> list[Path]:
    """The JSON of every recorded arm's first runs."""
    return arms_in(gather.RESULTS)


def plans(papers: Iterable[str]) -> Iterator[Plan]:
    """Every paper at each of its scales; those that cannot be planned are left to `missing`, which says why."""
    for paper in gather.runnable(papers):
        try:
            experiment = load_experiment(paper, gather.PAPERS)
        except (CatalogError, KDError):
            continue
        for scale in experiment.scales:
            try:
                yield make_plan(paper, scale, papers_root=gather.PAPERS)
            except (CatalogError, KDError):
                continue


def paths_of(plan: Plan) -> list[Path]:
    """Where the results of a plan's arms are, or would be."""
    folder = gather.RESULTS / plan.scale.testbed
    return list(dict.fromkeys(arm_path(folder, plan.keys[arm]) for arm in plan.arms))


def paths_with_dials(plan: Plan) -> Iterator[Path]:
    """Those at the values of its scale's dials too."""
    yield from paths_of(plan)
    if not plan.unswept:
        for point in points(plan.scale):
            yield from paths_of(plan_at(plan, point))


def misnamed(paths: Iterable[Path]) -> Iterator[Found]:
    """Files whose spec, which says what was run, does not hash to their name."""
    for path in paths:
        try:
            key = key_of(read_json(path)["spec"])
        except (KDError, KeyError, TypeError) as error:
            yield relative(path), str(error) if isinstance(error, KDError) else "holds no spec"
            continue
        if key != path.stem:
            yield relative(path), f"its spec has the key {key}; results are never edited by hand"


def attempted(papers: Iterable[str]) -> Iterator[Path]:
    """Where the raw figures of earlier attempts are: they stay, whatever arms there are now."""
    for paper in papers:
        for attempt in read_attempts(paper, gather.ATTEMPTS):
            for judged in attempt.claims:
                yield from (arm_path(gather.RESULTS / attempt.testbed, key) for key in judged.keys.values())


def unreadable(paths: Iterable[Path]) -> Iterator[Found]:
    """Files whose figures do not give their metrics or digests, or whose spec is not that of their name."""
    for path in paths:
        try:
            read_arm(path)
        except KDError as error:
            yield relative(path), str(error).removeprefix(f"{path}: ").replace(f"{gather.ROOT}/", "")
        else:
            yield from misnamed([path])


def unnamed(papers: Iterable[str]) -> Iterator[Found]:
    """Result files that no experiment and no earlier attempt leads to: their arm has changed since, or is gone.

    An arm of an earlier attempt may have stood at other values of its task's settings too (dials), and one that no
    claim weighed was made for its paper before it ended.
    """
    papers = list(papers)
    every = [*papers, *gather.questions(papers)]
    former = set(attempted(every))
    ended = {
        (one.paper, one.scale): one.date for paper in every for one in read_attempts(paper, gather.ATTEMPTS)
    }
    named = {path for plan in plans(every) for path in paths_with_dials(plan)} | former
    settings: dict[str, set[str]] = {}
    for method, task in filter(None, map(_arm, former)):
        settings.setdefault(method, set()).add(task)
    for path in files():
        method, task = _arm(path) or ("", "")
        turned = method in settings and task not in settings[method]
        if path not in named and not _earlier(path) and not turned and not _made_before(path, ended):
            yield relative(path), "no experiment names an arm of this key"
    for folder in sorted(path for path in gather.RESULTS.glob("*") if path.is_dir()):
        yield from ((relative(path), what) for path, what in strays(folder))


def _made_before(path: Path, ended: Mapping[tuple[str, str], str]) -> bool:
    """Whether all runs of a file were made for papers and scales at which an attempt ended on that day or later."""
    try:
        runs = read_json(path)["runs"]
        made = [(run["made_for"]["paper"], run["made_for"]["scale"], run["finished"][:10]) for run in runs]
    except (KDError, KeyError, TypeError):
        return False
    return bool(made) and all(day <= ended.get((paper, scale), "") for paper, scale, day in made)


def changed_files() -> Iterator[Found]:
    """Committed files of results that are not what they were when they were committed; none where there is no git."""
    yield from rewritten(gather.ROOT, gather.ATTEMPTS)


def _arm(path: Path) -> tuple[str, str] | None:
    """What an arm does and on which testbed, and the settings of the task; None where its file is broken or gone."""
    try:
        spec = read_json(path)["spec"]
        return canonical_json([path.parent.name, spec["method"]]), canonical_json(spec["testbed"]["task"])
    except (KDError, KeyError, TypeError):
        return None


def _earlier(path: Path) -> bool:
    """Whether a file is of an earlier form of specs: no arm of today can have its key, and its verdicts are frozen."""
    try:
        return int(read_json(path)["spec"]["version"]) < SPEC_VERSION
    except (KDError, KeyError, TypeError, ValueError):
        return False


def stale(paths: Iterable[Path]) -> Iterator[Found]:
    """Results of runs whose components behave otherwise now than when they were made, and of which nobody says why.

    What is said in reproductions/results/stale.yaml stays, and stands on the paper's page.
    """
    for path in paths:
        try:
            found = overtaken.unsaid([path], gather.RESULTS)
        except KDError:
            continue  # reading it whole says why
        yield from ((relative(path), item.what) for item in found)


def idle_reasons() -> Iterator[Found]:
    """What reproductions/results/stale.yaml says of runs that are not stale, or not there."""
    path = relative(gather.RESULTS / overtaken.SAID)
    yield from ((path, f"line {error.line}: {error.message}") for error in overtaken.idle(gather.RESULTS))


def changed_claims(plan: Plan) -> Iterator[Found]:
    """Claims of a paper that assert something else than when the first run was made for them."""
    claims, name = gather.claims_of(plan.experiment), f"{plan.paper}/{plan.scale.name}"
    frozen: dict[str, str] = {}
    for path in paths_of(plan):
        if path.is_file():
            frozen |= lines_of(path).get("claims", {}).get(name, {})
    for claim in claims.changed(plan.scale.name, frozen):
        what = f"claim {claim} asserts something else than when the first run at scale {plan.scale.name} was made"
        yield relative(gather.claims_file(plan.paper)), what


def edges(experiment: Experiment, scale: str) -> Iterator[Found]:
    """Arms whose best rate is the last of their grid: their optimum may lie beyond it."""
    try:
        testbed = read_testbed_of(experiment, experiment.scale(scale))
        what = at_an_edge(experiment, scale, testbed, gather.TUNING)
    except (CatalogError, KDError) as error:
        what = str(error)
    if what is not None:
        yield relative(experiment.path), what


def old_sweeps(papers: Iterable[str]) -> Iterator[Found]:
    """Recorded sweeps of arms that are others now, or that lack an arm whose rate is to come from them.

    And arms whose best rate lies on the edge of a grid that may grow no more.
    """
    for paper in gather.runnable([*papers, *gather.questions(papers)]):
        try:
            experiment = load_experiment(paper, gather.PAPERS)
        except (CatalogError, KDError):
            continue
        for scale in experiment.scales:
            yield from edges(experiment, scale)
            path = rates.tuning_path(paper, scale, gather.TUNING)
            if not path.is_file():
                continue
            try:
                now = sweep_keys(experiment, scale, read_testbed_of(experiment, experiment.scale(scale)))
                record = read_json(path)
                then = (
                    record.get("keys", {}) if "version" in record else now
                )  # made before metrics left the keys
            except (CatalogError, KDError) as error:
                yield relative(path), str(error)
                continue
            others = sorted(arm for arm in {*now, *then} if now.get(arm) != then.get(arm))
            if others:
                what = f"was not made of today's {', '.join(others)}: kd tune {paper} --scale {scale}"
                yield relative(path), what
