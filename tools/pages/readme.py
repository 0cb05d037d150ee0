"""`kd readme`: README.md, made from the catalog and the recorded results; nothing in it is typed by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from catalog.queries import crosstab
from catalog.schema import Catalog, Paper
from reproductions.distill.methods import SETTINGS
from tools import evidence
from tools.evidence import ClaimRow
from tools.pages.atlas import MARKS, NEWEST, Coverage, Overview, judging, overview, tally
from tools.paths import ROOT
from tools.terminal import interval, number

README = ROOT / "README.md"
BENCHMARKS = ROOT / "benchmarks"
TEMPLATES = Path(__file__).parent / "templates"
DIVERGENCE_NAMES = {"forward_kl": "forward KL", "jensen_shannon": "JSD(0.5)"}
BAR = 10  # signs of a coverage bar
FOLDED = 30  # so many names beyond which a leaf's list is folded away


def render(catalog: Catalog | None = None, claims: Mapping[str, Sequence[ClaimRow]] | None = None) -> str:
    """The README's text; both arguments are read from the repository where they are not given."""
    atlas = overview(catalog, claims)
    # Markdown, not HTML: the filters `md`, `code` and `link` escape for it, and a test renders hostile text.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    environment.filters.update(md=md, number=number, interval=interval, tally=tally)
    environment.filters.update(link=link, bar=bar, name=name)
    split, unplaced = placed(atlas)
    text = environment.get_template("README.md.j2").render(
        atlas=atlas,
        catalog=atlas.catalog,
        counts=crosstab(atlas.core, "elicitation", "algorithm"),
        newest=atlas.papers[:NEWEST],
        split=split,
        unplaced=unplaced,
        anchor=anchor,
        folded=FOLDED,
        marks=MARKS,
        judging=judging(MARKS),
        distill_methods=list(SETTINGS),
        reports={paper: _reports(paper) for paper in atlas.claims},
        benchmarks=benchmarks(),
        step_benchmarks=step_benchmarks(),
        rollout_benchmarks=rollout_benchmarks(),
        store_benchmarks=store_benchmarks(),
        speculative_benchmarks=speculative_benchmarks(),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def placed(atlas: Overview) -> tuple[dict[str, dict[str, dict[str, list[Paper]]]], list[Paper]]:
    """For every leaf the papers described there and those only named; and the papers without any leaf."""
    seen: set[str] = set()
    split: dict[str, dict[str, dict[str, list[Paper]]]] = {}
    for axis, values in atlas.leaves.items():
        split[axis] = {}
        for value, papers in values.items():
            described = [paper for paper in papers if paper.id not in seen]
            split[axis][value] = {
                "described": described,
                "named": [paper for paper in papers if paper.id in seen],
            }
            seen |= {paper.id for paper in described}
    return split, [paper for paper in atlas.core if paper.id not in seen]


def md(text: object) -> str:
    """Text that Markdown shows as it is: one line in which no cell, link, code span or tag can start."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line)


def link(url: str) -> str:
    """A link's address: https or a path of this repository; nothing in it can close the brackets around it."""
    if re.match(r"[^/?#]*:", url) and not url.startswith("https://"):
        return "#"
    return re.sub(r"[^\w./:?=&%#~+,;@-]", lambda found: f"%{ord(found[0]):02X}", url, flags=re.ASCII)


def name(paper_id: str) -> str:
    """A paper's short name, linked to where it is described."""
    return f"[{paper_id}](#p-{paper_id})"


def anchor(place: str) -> str:
    """What a link to `#place` leads to."""
    return f'<a id="{place}"></a>'


def bar(coverage: Coverage) -> str:
    """'█▌░░░░░░░░': the share of a leaf's papers that is covered, to an eighth of a sign; never none where any is."""
    eighths = coverage.covered * BAR * 8 // coverage.papers if coverage.papers else 0
    whole, part = divmod(max(eighths, 1 if coverage.covered else 0), 8)
    drawn = "█" * whole + ("▏▎▍▌▋▊▉"[part - 1] if part else "")
    return drawn + "░" * (BAR - len(drawn))


def _reports(paper_id: str) -> list[dict[str, str]]:
    """Report and plot of each recorded scale, as links from the README."""
    shown = []
    for scale, report, plot in evidence.reports(paper_id):
        paths = {"report": report, "plot": plot}
        links = {name: path.relative_to(ROOT).as_posix() for name, path in paths.items() if path is not None}
        shown.append({"scale": scale, "report": "", "plot": "", **links})
    return shown


def benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each divergence that `make bench` recorded: implementations down, vocabularies across."""
    tables = []
    for record in _records("fused-*.json", folder):
        for divergence, cases in _by_divergence(record):
            first = cases[0]
            about = f"{record['device']}, {first['dtype']}, {first['positions'] // 2} completion positions"
            widths = (
                f"hidden sizes {first['student_width']} and {first['teacher_width']}; {_versions(record)}"
            )
            columns = [divergence, *(f"vocabulary {case['vocabulary']:,}" for case in cases)]
            tables.append(_table(f"{about}, {widths}", columns, cases, _measured))
    return tables


def step_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each divergence that `kd bench --step` recorded: trainers down, vocabularies across."""
    tables = []
    for record in _records("step-*.json", folder):
        for divergence, cases in _by_divergence(record):
            first = cases[0]
            shapes = " and ".join(
                f"{layers} layers of {width}" for width, layers in (first["student"], first["teacher"])
            )
            about = f"{record['device']}, {first['batch']} sequences of {first['length']} tokens, {shapes}"
            columns = [divergence]
            columns += [
                f"vocabulary {case['vocabulary']:,}, {'on-policy' if case['on_policy'] else 'fixed data'}"
                for case in cases
            ]
            tables.append(_table(f"{about}; {_versions(record)}", columns, cases, _measured))
    return tables


def rollout_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each file that `kd bench --rollouts` recorded: implementations down, models across."""
    tables = []
    for record in _records("rollouts-*.json", folder):
        columns = ["tokens a second"]
        for case in record["cases"]:
            how = "greedy" if case["greedy"] else "sampled"
            columns.append(f"{Path(case['model']).name}, {case['batch']} prompts, {how}")
        about = f"{record['device']}; {_versions(record)}"
        tables.append(
            _table(about, columns, record["cases"], lambda result: f"{result['tokens_per_second']:,.0f}")
        )
    return tables


def store_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """What `kd bench --store` recorded: a table of codecs for each set of distributions, and one of whole steps."""
    tables = []
    for record in _records("store-*.json", folder):
        for case in record["cases"]:
            rows = [
                (
                    found["codec"],
                    [f"{found['bytes']:.1f}", f"{found['error']:.4f}", f"{found['worst']:.4f}"]
                    + [f"{found[way]:,.0f}" for way in ("encode", "decode")],
                )
                for found in case["results"]
                if found["bytes"] is not None
            ]
            about = f"{case['rows']}, {case['tokens']:,} tokens, vocabulary {case['vocabulary']:,}"
            columns = ["codec", "bytes a token", "KL error, nats", "largest", "tokens/s written", "read"]
            tables.append({"about": f"{about}; {record['device']}", "columns": columns, "rows": rows})
        if record["steps"]:
            columns = ["a step, times that without a teacher"]
            columns += [f"vocabulary {step['vocabulary']:,}" for step in record["steps"]]
            times = [
                {name: s / step["seconds"]["no teacher"] for name, s in step["seconds"].items()}
                for step in record["steps"]
            ]
            rows = [(name, [f"{each[name]:.3f}" for each in times]) for name in times[0]]
            tables.append({"about": "Forward, loss and backward", "columns": columns, "rows": rows})
    return tables


def speculative_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each recorded measurement of speculative decoding: drafts down, figures across."""
    tables = []
    for record in _records("speculative-*.json", folder):
        rows = [
            (
                draft,
                [
                    f"{found['plain_tokens_per_second']:,.0f}",
                    f"{found['speculative_tokens_per_second']:,.0f}",
                    "{:.2f} ({:.2f} to {:.2f})".format(found["speed_up"], *found["speed_up_range"]),
                    f"{found['acceptance']:.1%}",
                    f"{found['draft_cost']:.2f}",
                    f"{found['foretold_speed_up']:.2f}",
                ],
            )
            for draft, found in record["figures"].items()
        ]
        columns = ["draft, decoding", "tokens/s, plain", "speculative", "speed-up (range)", "accepted"]
        columns += ["cost of a draft's token", "speed-up foretold"]
        about = f"{record['what']}; {record['words']} words, medians of {record['rounds']} rounds"
        tables.append({"about": about, "columns": columns, "rows": rows})
    return tables


def _by_divergence(record: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each divergence's name and its cases."""
    for divergence in dict.fromkeys(case["divergence"] for case in record["cases"]):
        cases = [case for case in record["cases"] if case["divergence"] == divergence]
        yield DIVERGENCE_NAMES.get(divergence, divergence), cases


def _records(pattern: str, folder: Path | None) -> Iterator[dict[str, Any]]:
    for path in sorted((folder or BENCHMARKS).glob(pattern)):
        yield json.loads(path.read_text(encoding="utf-8"))


def _versions(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in record["versions"].items() if number)


def _table(
    about: str,
    columns: list[str],
    cases: Sequence[Mapping[str, Any]],
    cell: Callable[[Mapping[str, Any]], str],
) -> dict[str, Any]:
    """Implementations down, cases across."""
    rows: dict[str, list[str]] = {}
    for case in cases:
        for result in case["results"]:
            rows.setdefault(result["implementation"], []).append(cell(result))
    return {"about": about, "columns": columns, "rows": list(rows.items())}


def _measured(result: Mapping[str, Any]) -> str:
    if result["seconds"] is None:
        return result["note"]
    peak = result["peak_bytes"]
    memory = "" if peak is None else ", out of memory" if peak < 0 else f", {peak / 1e9:.2f} GB"
    return f"{number(result['seconds'])} s{memory}"
