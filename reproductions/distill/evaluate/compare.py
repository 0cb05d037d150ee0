"""`kd compare`: several methods on a user's own task, at equal budget, on the same held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from catalog.reader import read_yaml_with_lines
from methods.recipe import canonical_method, read_recipe, teachers_of
from methods.registry import RegistryError
from reproductions.distill.config import Config, load_config
from reproductions.distill.evaluate import table
from reproductions.distill.evaluate.run import FILE, START, STUDENT, measured_in
from reproductions.distill.method import OWN_METHOD, why_no_engine
from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json

ALPHA = 0.05  # over all comparisons with the first method


def configs_of(
    paths: Sequence[Path], names: Sequence[str] = (), say: Callable[[str], None] = lambda _: None
) -> dict[str, Config]:
    """The configs to compare, by name: files, or one file with each of some methods, in folders below its output.

    Where the file does not say how it evaluates, it is as by default. Its `rollouts` are for those of the methods whose
    answers an engine can write; `say` is told the others in a sentence. Raises CatalogError, RegistryError, and KDError
    where they would not be given the same rows and budget.
    """
    found: dict[str, Config] = {}
    called = list(names or (path.stem for path in paths))
    twice = [name for name in dict.fromkeys(called) if called.count(name) > 1]
    if twice or (names and len(paths) > 1):
        what = f"{twice[0]} is given twice" if twice else f"{len(paths)} configs with --methods"
        raise KDError(
            f"{what}: name each method once, and give configs of different names, or one with --methods"
        )
    for path in paths:
        given, _ = read_yaml_with_lines(path)
        base = {} if given.get("evaluate") else {"evaluate": True}
        changes = {name: base | _changes(given, name) for name in names}
        apart = _without_engine(path, changes) if given.get("rollouts") is not None else {}
        if apart:
            say("rollouts do not concern " + "; ".join(f"{name} ({why})" for name, why in apart.items()))
        for name in names:
            found[name] = load_config(path, changes[name] | ({"rollouts": None} if name in apart else {}))
        if not names:
            found[path.stem] = load_config(path, base)
    if len(found) < 2:
        raise KDError("nothing to compare: give two configs, or one with --methods a,b")
    _check_equal(found)
    return found


def _without_engine(path: Path, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Which methods of a config with `rollouts` are trained without, and why; none where all would be: that is told."""
    reasons = {
        name: why_no_engine(load_config(path, {**own, "rollouts": None}).tree)
        for name, own in changes.items()
    }
    apart = {name: why for name, why in reasons.items() if why is not None}
    return apart if len(apart) < len(changes) else {}


def _changes(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What differs from a config where another method takes its place."""
    recipe = read_recipe(name)
    made: dict[str, Any] = {**dict.fromkeys(OWN_METHOD), "method": name}
    made["output"] = f"{given.get('output')}/{name}"
    if given.get("method") != name:
        made["settings"] = None
    needed = len(teachers_of(canonical_method(recipe.method())))
    teachers = given.get("teacher")
    if not needed:
        made["teacher"] = None
    elif isinstance(teachers, list) and len(teachers) > needed and needed == 1:
        made["teacher"] = teachers[0]
    return made


def _check_equal(found: Mapping[str, Config]) -> None:
    """Raises KDError for what would make the comparison one of something else than methods."""
    (first, base), *others = found.items()
    outputs = {base.output}
    for name, config in others:
        for what, ours, theirs in (
            ("student", base.inputs["student"], config.inputs["student"]),
            ("data", base.data, config.data),
            ("evaluate", base.evaluate, config.evaluate),
            ("seed", base.seed, config.seed),
            *(("budget", _budget(one), _budget(other)) for one, other in ((base, config),)),
        ):
            if ours != theirs:
                raise KDError(
                    f"{first} and {name} differ in {what}, so that methods would not be what is compared"
                )
        if config.output in outputs:
            raise KDError(f"{name}: its output is another one's too: {config.output}")
        outputs.add(config.output)


def _budget(config: Config) -> tuple[Any, ...]:
    budget = config.budget
    return (
        budget["steps"],
        budget["batch_size"] * budget["accumulate"],
        budget["prompt_tokens"],
        budget["completion_tokens"],
    )


def compare(
    found: Mapping[str, Config],
    report: Callable[..., None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Makes every student that is not there yet, and sets them side by side. Raises what a training raises, before one
    begins wherever that can be known.
    """
    from reproductions.distill.preflight import prepare
    from reproductions.distill.run import distil
    from reproductions.distill.state import check_writable
    from reproductions.distill.training import RECORD

    for name, config in found.items():
        if not (config.output / RECORD).is_file():
            try:
                check_writable(config)
                prepare(config, lambda _: None)
            except (KDError, RegistryError) as error:
                raise KDError(f"{name}: {error}") from error
    records, figures = {}, {}
    measured: dict[str, Any] = {}  # start and teachers are the same for most, and measured once
    for name, config in found.items():
        say(f"{name}:")
        records[name] = distil(config, report, say, measured)
        figures[name] = read_json(config.output / FILE)
        measured |= measured_in(figures[name])
    return league(records, figures)


def league(
    records: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Start, teachers and every student on the rows that all were measured on, best loss first, as plain data.

    `beside` are the differences from the first method, with intervals that hold for all of them together (Bonferroni).
    """
    first = next(iter(figures))
    base = figures[first]
    for name, own in figures.items():
        if any(own[part] != base[part] for part in ("rows", "answers", "tokens", "clusters", "prompts")):
            raise KDError(f"{first} and {name} were not measured on the same rows")
    models: dict[str, Any] = {START: base["models"][START]}
    for own in figures.values():
        models |= {who: one for who, one in own["models"].items() if who not in (START, STUDENT, *models)}
    models |= {name: own["models"][STUDENT] for name, own in figures.items()}
    together = {**base, "models": models}
    level = 1 - ALPHA / max(1, len(figures) - 1)
    summed = table.summary(together)
    order = sorted(figures, key=lambda name: summed[name][table.LOSS]["value"])
    others = [who for who in models if who not in figures]
    return {
        "rows": base["rows"],
        "answers": base["answers"],
        "figures": {who: summed[who] for who in [*others, *order]},
        "beside": {first: {name: _beside(together, first, name, level) for name in order if name != first}},
        "level": level,
        "steps": {name: records[name]["steps"] for name in order},
        "seconds": {name: records[name]["seconds"] for name in order},
        "tokens": {name: records[name]["tokens"] for name in order},
    }


def _beside(together: Mapping[str, Any], first: str, name: str, level: float) -> dict[str, Any]:
    ours, theirs = (table.columns_of(together, who) for who in (name, first))
    made = {}
    for metric, (values, sizes) in ours.items():
        clusters = together["clusters"][: len(values)]
        gap = table.difference(values, theirs[metric][0], sizes, clusters, level)
        made[metric] = {part: table.significant(value) for part, value in gap.as_dict().items()}
        made[metric]["decided"] = gap.decided
    return made


def lines_of(found: Mapping[str, Any]) -> list[str]:
    """The league for a reader: figures with their distance from the start, what each took, and who beats the first."""
    rows = table.rows_of(found["figures"])
    rows[0] += ["seconds", "tokens"]
    for row in rows[1:]:
        name = row[0]
        spent = found["tokens"].get(name)
        row += [f"{found['seconds'][name]:g}", f"{sum(spent.values()):,}"] if spent else ["", ""]
    lines = [
        f"on {found['rows']} answers that nothing was trained on;",
        "in brackets the distance from the start (95 %)",
    ]
    lines += ["", *table.lines_of(rows), ""]
    for first, others in found["beside"].items():
        lines.append(f"beside {first}, intervals that hold together ({found['level']:.1%} each):")
        for name, metrics in others.items():
            head = f"  {name}: "
            for metric, gap in metrics.items():
                bounds = "" if gap["low"] is None else f" [{gap['low']:+.3g}, {gap['high']:+.3g}]"
                better = table.BETTER.get(metric, 1) * gap["value"] > 0
                word = ("better" if better else "worse") if gap["decided"] else "undecided"
                lines.append(f"{head}{metric} {gap['value']:+.3g}{bounds} {word}")
                head = " " * len(head)
    lines += [
        "one training each: another seed may order them otherwise;",
        "learning rates as the configs have them",
    ]
    return lines
