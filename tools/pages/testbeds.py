"""A page a testbed, reproductions/testbeds/<name>.md: what it is, what plays the teacher, what its gate has shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reproductions.engine.gate.record import GateRecord, read_gate
from reproductions.engine.metrics import Metric
from reproductions.engine.show.view import STANDS_IN
from reproductions.testbeds.spec import at_seed, metrics_of, read_testbed
from tools.pages.markdown import code, link, md, table
from tools.paths import ROOT
from tools.terminal import number

UP = "../../"  # from reproductions/testbeds/ to the root
PASSED, FAILED = "✅", "❌"


def page(name: str, gates: Path | None = None, testbeds: Path | None = None) -> str:
    """The page of one testbed, as Markdown. `gates`, `testbeds`: folders in place of the atlas's."""
    spec = read_testbed(name, testbeds) if testbeds else read_testbed(name)
    record, metrics = read_gate(spec, gates), metrics_of(spec)
    lines = [
        f"# Testbed {md(name)}",
        "",
        f"<!-- Written by `make readme` from {name}.yaml and ../gates/{name}.json; a hand edit fails the tests. -->",
        "",
        md(spec["about"]),
        "",
        *_about(name, spec),
        "",
        "## Gate",
        "",
        *_gate(name, spec, record, metrics),
        "",
        "## Metrics",
        "",
        *_metrics(metrics, record),
    ]
    return "\n".join(lines) + "\n"


def _about(name: str, spec: Mapping[str, Any]) -> Iterator[str]:
    stands = str(spec.get("stands_in", ""))
    if stands:
        yield f"- teacher: {code(stands)}, {md(STANDS_IN.get(stands, stands))}"
    settings = ", ".join(f"{key}: {value}" for key, value in spec["task"].items() if key != "name")
    drawn = ""
    if "draws" in spec:
        first = at_seed(spec, 0)["task"]["draw"]
        drawn = f", drawn {spec['draws']} times: the run of seed s has draw {first} + s mod {spec['draws']}"
    yield f"- task: {code(spec['task']['name'])}{f' ({md(settings)})' if settings else ''}{drawn}"
    for kind in ("students", "teachers"):
        if spec.get(kind):
            models = "; ".join(f"{code(key)} {_model(tree)}" for key, tree in spec[kind].items())
            yield f"- {kind}: {models}"
    there = (ROOT / "reproductions" / "results" / name).is_dir()
    results = f"; [results]({UP}reproductions/results/{link(name)}/)" if there else ""
    yield f"- [{name}.yaml]({link(name)}.yaml) holds all of it{results}"


def _model(tree: Mapping[str, Any]) -> str:
    if "model" in tree:
        return ", ".join([md(tree["model"]), *_of_it(tree)])
    if "oracle" in tree:
        own = ", ".join(f"{key} {value}" for key, value in (tree["oracle"] or {}).items())
        return md(f"oracle, {own}" if own else "oracle")
    shape = ", ".join(f"{key} {value}" for key, value in tree["shape"].items())
    return md(f"{shape}, trained on {tree['base']['rows']} before" if "base" in tree else shape)


def _of_it(tree: Mapping[str, Any]) -> Iterator[str]:
    """What is taken of a published model, and what of it learns."""
    if "layers" in tree:
        yield f"blocks {', '.join(map(str, tree['layers']))} of it"
    if "drawn" in tree:
        yield "drawn anew but for the word embeddings"
    if "prompted" in tree:
        yield "asked in words"
    if "pooled" in tree:
        yield "its head reads the mean"
    if "frozen" in tree:
        yield "its word embeddings frozen"


def _gate(
    name: str, spec: Mapping[str, Any], record: GateRecord | None, metrics: Mapping[str, Metric]
) -> Iterator[str]:
    """What the gate came to; failing ones are shown like the others."""
    if record is None:
        declared = "Its gate is declared and was not run" if "gate" in spec else "It declares no gate"
        yield f"{declared}: no claim is judged here at the scales tiny and small. `make gate TESTBED={name}` runs it."
        return
    yield f"**{_headline(record)}** {_how(record, metrics)}"
    yield ""
    rows = [[f"{PASSED if one.passed else FAILED} {md(one.name)}", md(one.measured)] for one in record.checks]
    yield from table(("check", "measured"), rows)
    yield ""
    yield "What claims may need, and the checks that show it:"
    yield ""
    for prop, checks in record.properties.items():
        mark = PASSED if prop in record.covers else FAILED
        good = all(one.passed for one in record.checks if one.name in checks)
        waits = " (not while the headroom is not shown)" if good and prop not in record.covers else ""
        yield f"- {mark} {md(prop.replace('-', ' '))}: {md(', '.join(checks))}{waits}"
    if record.swept:
        yield ""
        yield from _sweep(record)
    yield ""
    arms = ", ".join(
        f"[{md(arm)}]({UP}reproductions/gates/{link(name)}/{link(about['key'])}.json)"
        for arm, about in record.arms.items()
    )
    yield f"Raw figures, never judged: {arms}. [Record]({UP}reproductions/gates/{link(name)}.json)"
    for one in reversed(record.earlier):
        failed = [check["name"] for check in one["checks"] if not check["passed"]]
        said = f"failed by {', '.join(failed)}" if failed else "passed"
        yield ""
        yield f"An earlier state of this testbed, {md(one['date'])}, {md(said)}:"
        yield ""
        yield from (
            f"- {PASSED if check['passed'] else FAILED} {md(check['name'])}: {md(check['measured'])}"
            for check in one["checks"]
        )


def _headline(record: GateRecord) -> str:
    if not record.current:
        return "Outdated: the testbed has changed since its gate was recorded, and no claim is judged here."
    if not record.passed:
        return f"{FAILED} Failed ({md(', '.join(record.failing))}): no claim is judged here."
    covered = ", ".join(name.replace("-", " ") for name in sorted(record.covers))
    return f"{PASSED} Passed: claims are judged here that need {md(covered)}."


def _how(record: GateRecord, metrics: Mapping[str, Metric]) -> str:
    title = metrics[record.metric].title if record.metric in metrics else record.metric
    unit = metrics[record.metric].unit if record.metric in metrics else ""
    rate = f", learning rate {record.learning_rate:g}" if record.learning_rate is not None else ""
    return (
        f"{md(title)}{f' ({md(unit)})' if unit else ''}, {len(record.seeds)} seeds from {record.seeds[0]} on{rate}, "
        f"{md(record.date)}. Intervals are at {100 * record.level:g} %; the smallest effect is "
        f"{number(record.smallest_effect)}."
    )


def _sweep(record: GateRecord) -> Iterator[str]:
    swept = record.swept
    yield (
        f"The learning rate was swept on validation, seeds {', '.join(map(str, swept['seeds']))}; "
        f"the best is {swept['best']:g}:"
    )
    yield ""
    rows = [
        [rate, *(number(figures[str(seed)]) for seed in swept["seeds"])]
        for rate, figures in swept["figures"].items()
    ]
    yield from table(["rate", *(f"seed {seed}" for seed in swept["seeds"])], rows, right=range(1, 4))


def _metrics(metrics: Mapping[str, Metric], record: GateRecord | None) -> Iterator[str]:
    """Every metric; beside it what the gate measured of baseline and teacher."""
    known = record.figures if record is not None else {}
    rows = [
        [
            f"{md(metric.title)} {'↑' if metric.higher_is_better else '↓'}",
            code(name),
            *(number(known.get(name, {}).get(what)) for what in ("baseline", "teacher")),
        ]
        for name, metric in metrics.items()
    ]
    yield from table(("metric", "name", "baseline", "teacher"), rows, right=(2, 3))
