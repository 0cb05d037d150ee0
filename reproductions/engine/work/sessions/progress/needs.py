"""What runs need that has to be made first: teachers, starts and texts, as far as a plan can tell. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import digest, read_json
from reproductions.engine.plan.plan import Plan, Task

Kept = tuple[
    str, dict[str, Any]
]  # kind, and the artifact's key: of something needed the part that a plan knows


def to_make(missing: Iterable[tuple[Plan, Task, Collection[str]]]) -> dict[str, int]:
    """Kind -> how many these runs need that the cache does not hold; only for the estimate of what is left.

    A run is told by its plan, arm and seed, and the metrics that are measured: they may ask teachers too.
    """
    wanted: dict[str, Kept] = {}
    cache = None
    for plan, (arm, seed), metrics in missing:
        cache = plan.cache
        draw = seed % plan.testbed.get("draws", 1)  # what is made once is made once for each draw of the task
        for what, kind, key in _needs(plan.specs[arm], seed, _measuring(plan, metrics)):
            wanted[digest([what, kind, key, draw], 16)] = kind, key
    there = [] if cache is None else list(_kept(cache / "artifacts"))
    found: Counter[str] = Counter()
    for kind, key in wanted.values():
        place = next(
            (n for n, (k, kept) in enumerate(there) if k == kind and key.items() <= kept.items()), None
        )
        if place is None:
            found[kind] += 1
        else:
            del there[place]  # it is of one draw
    return dict(found)


def _measuring(plan: Plan, metrics: Collection[str]) -> dict[str, Any]:
    """The teachers that metrics ask."""
    from reproductions.testbeds import teachers_measured_with

    named = plan.testbed.get("teachers", {})
    return {
        name: named[name] for name in teachers_measured_with(plan.testbed, tuple(metrics)) if name in named
    }


def _needs(
    spec: Mapping[str, Any], seed: int, more: Mapping[str, Any]
) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """What as data, its kind and the known part of its key; `more`: teachers that no spec names."""
    bed = spec["testbed"]
    about = {"data_revision": bed["revision"]} if "revision" in bed else {}
    for tree in ({**bed["teachers"], **more}).values():
        if "training" in tree:
            own = {"training": tree["training"], "seed": tree.get("seed", 0)}
            kind = "teacher-other-tokens" if "merges" in tree.get("tokenizer", {}) else "teacher"
            yield tree, kind, {**_named(tree), **own, **about}
    for tree in bed["students"].values():
        if "base" in tree:
            yield tree, "base", {**_named(tree), "seed": tree["base"].get("seed", 0), **about}
    if "sft_start" in spec:
        (student,) = bed["students"].values()
        own = {"training": spec["sft_start"], "seed": seed}
        yield student, "sft-start", {**_named(student), **own, **about}
    for step in _steps(spec["method"]["data"]):
        if "elicit" in step:
            drawn = 0 if step.get("once") else seed
            yield step, "rows-elicited", {"step": step, "seed": drawn, **about}
        else:
            yield step, f"rows-{step['use']}", {"step": step, **about}


def _named(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tree[name] for name in ("shape", "model", "base") if name in tree}


def _steps(tree: Any) -> Iterator[dict[str, Any]]:
    """The data steps in a canonical data tree."""
    if isinstance(tree, Mapping):
        if "use" in tree or "elicit" in tree:
            yield dict(tree)
        for item in tree.values():
            yield from _steps(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from _steps(item)


def _kept(folder: Path) -> Iterator[Kept]:
    """Kind and key of everything in the cache."""
    for path in folder.glob("*/meta.json"):
        try:
            meta = read_json(path)
            yield meta["kind"], dict(meta["key"])
        except (KDError, KeyError, TypeError, ValueError):
            continue  # not whole: whoever needs it makes it again
