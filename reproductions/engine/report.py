"""What a reproduction says: in the terminal and as Markdown. Everything is computed from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reproductions.engine.files import write_atomic
from reproductions.engine.judge import Judgement, ValueJudgement, runs_by_seed
from reproductions.engine.statistics import mean_over_seeds

if TYPE_CHECKING:
    from reproductions.engine.claims import ClaimSet

STYLES = {"reproduced": "green", "not reproduced": "red", "inconclusive": "yellow", "not run": "dim"}


@dataclass(frozen=True)
class Row:
    """An arm's figure: mean and 95 % interval over seeds, and the paper's own number where it states one."""

    arm: str
    metric: str
    mean: float
    interval: tuple[float, float] | None
    seeds: int
    paper: float | None


@dataclass(frozen=True)
class Budget:
    """What an arm used, mean of its runs."""

    arm: str
    student_tokens: float
    teacher_tokens: float
    generated_tokens: float
    train_seconds: float
    evaluate_seconds: float
    truncated: float | None  # share of generated completions that hit the length limit
    empty: float | None


@dataclass(frozen=True)
class Report:
    """All that is shown of results."""

    claims: ClaimSet
    results: Mapping[str, Any]
    rows: tuple[Row, ...]
    headline: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    values: tuple[ValueJudgement, ...]

    @property
    def scale(self) -> str:
        """The scale of the results."""
        return self.results["scale"]

    @property
    def shown(self) -> list[str]:
        """The headline metrics measured at this scale; all of them where the headline names none of them."""
        measured = self.results["metrics"]
        return [name for name in self.headline if name in measured] or list(measured)


def rows(claims: ClaimSet, results: Mapping[str, Any]) -> list[Row]:
    """One row for each arm and metric of the results, in their order."""
    found = []
    for arm in results["config"]["arms"]:
        runs = runs_by_seed(results, arm)
        for metric in results["metrics"]:
            if not runs:
                continue
            summary = mean_over_seeds([run["metrics"][metric] for run in runs.values()])
            paper = claims.paper_number(arm, metric)
            found.append(Row(arm, metric, summary.difference, summary.interval, len(runs), paper))
    return found


def budgets(results: Mapping[str, Any]) -> list[Budget]:
    """What each arm used, mean of its runs."""
    found = []
    for arm in results["config"]["arms"]:
        runs = list(runs_by_seed(results, arm).values())
        if not runs:
            continue

        def mean(group: str, name: str, runs: Sequence[Mapping[str, Any]] = runs) -> float:
            return float(np.mean([run[group].get(name, 0) for run in runs]))

        completions = mean("rollouts", "completions")
        found.append(
            Budget(
                arm,
                mean("tokens", "student"),
                mean("tokens", "teacher"),
                mean("tokens", "generated"),
                mean("seconds", "train"),
                mean("seconds", "evaluate"),
                mean("rollouts", "truncated") / completions if completions else None,
                mean("rollouts", "empty") / completions if completions else None,
            )
        )
    return found


def show(report: Report, message: str, console: Console | None = None) -> None:
    """Prints tables, verdicts and where the results are."""
    console = console if console is not None else Console()
    for metrics in _groups(report.shown, console.width):
        console.print()
        console.print(_figures_table(report, metrics))
    console.print()
    console.print(_budget_table(report.results))
    console.print()
    for judgement in report.judgements:
        console.print(_claim_text(report, judgement))
    for value in report.values:
        console.print(_value_text(value))
    console.print()
    console.print(Text(message), soft_wrap=True)


def write(path: Path, report: Report) -> None:
    """Writes the plot and the Markdown report beside the results file."""
    from reproductions.engine.plots import plot

    plot(report, path.with_suffix(".png"))
    write_atomic(path.with_suffix(".md"), markdown(report, path.with_suffix(".png").name))


def markdown(report: Report, picture: str) -> str:
    """The report as Markdown."""
    results, claims = report.results, report.claims
    environment = results["environment"]
    seeds = len({run["seed"] for run in results["runs"]})
    lines = [
        f"# {results['paper']} at scale {results['scale']}",
        "",
        f"Generated from `{results['scale']}.json`; do not edit. Testbed {_cell(results['testbed'])}, {seeds} seeds, "
        f"config {results['config_hash']}, data {_cell(results['data_revision'])}.",
        f"Made on {_cell(str(environment.get('device')))}, {environment.get('workers')} workers of "
        f"{environment.get('threads')} threads, torch {environment.get('torch')}, TRL {environment.get('trl')}, "
        f"commit {str(environment.get('commit'))[:12]}, finished {environment.get('finished')}.",
        "",
        f"![figures per seed and learning curves]({picture})",
        "",
        "## Figures",
        "",
        "Mean and 95 % interval over seeds; the paper's own number of the same metric was measured in its setting.",
        "",
        "| arm | metric | mean | 95 % interval | paper |",
        "|---|---|---:|---|---:|",
    ]
    for row in report.rows:
        title = results["metrics"][row.metric]["title"]
        lines.append(
            f"| {_cell(row.arm)} | {_cell(title)} | {number(row.mean)} | {bounds(row.interval)} "
            f"| {'' if row.paper is None else number(row.paper)} |"
        )
    lines += [
        "",
        "## Claims",
        "",
        "Why one did not come out, where somebody knows: `findings` in claims.yaml.",
        "",
    ]
    by_id = {claim.id: claim for claim in claims.claims}
    for judgement in report.judgements:
        claim = by_id[judgement.claim]
        lines += [
            f"- **{judgement.verdict}**: {_cell(claim.statement)} "
            f"([arXiv {claim.source.label}](https://arxiv.org/abs/{claim.source.label}), "
            f"{_cell(claim.source.where)})",
            f"  {_cell('; '.join(_evidence(report, judgement)))}",
        ]
    lines += [f"- {_cell(_value_text(value).plain)}" for value in report.values]
    lines += [
        "",
        "## Budgets",
        "",
        "Mean of an arm's runs; shared teachers and starts are listed in the results file, not here.",
        "",
        "| arm | student tokens | teacher tokens | generated tokens | train s | evaluate s | truncated | empty |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for budget in budgets(results):
        lines.append("| " + " | ".join([_cell(budget.arm), *_budget_cells(budget)]) + " |")
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:.4g}"


def signed(value: float) -> str:
    """Three significant digits with the sign."""
    return f"{value:+.3g}"


def bounds(interval: Sequence[float] | None) -> str:
    """'0.1 to 0.4', or a dash."""
    return "-" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"


def _groups(metrics: Sequence[str], width: int) -> list[Sequence[str]]:
    """As many metrics side by side as fit: arms take 24 columns, an interval 16."""
    size = max(1, (width - 24) // 16)
    return [metrics[start : start + size] for start in range(0, len(metrics), size)]


def _figures_table(report: Report, metrics: Sequence[str]) -> Table:
    """Each arm's mean, under it the 95 % interval over seeds, under that the paper's own number."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("mean, 95 % over seeds", no_wrap=True)
    for name in metrics:
        arrow = "↑" if report.results["metrics"][name]["higher_is_better"] else "↓"
        table.add_column(f"{name.replace('_', ' ')} {arrow}", justify="right")
    by_place = {(row.arm, row.metric): row for row in report.rows}
    arms = [arm for arm in report.results["config"]["arms"] if (arm, metrics[0]) in by_place]
    for arm in arms:
        cells = [by_place[arm, metric] for metric in metrics]
        table.add_row(arm, *(number(cell.mean) for cell in cells))
        table.add_row("", *(Text(bounds(cell.interval), style="dim") for cell in cells))
        if any(cell.paper is not None for cell in cells):
            paper = ("" if cell.paper is None else f"paper {number(cell.paper)}" for cell in cells)
            table.add_row("", *(Text(text, style="cyan") for text in paper))
    return table


def _budget_table(results: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("budget", no_wrap=True)
    for name in ("student\ntokens", "teacher\ntokens", "rollout\ntokens", "train", "eval", "cut", "empty"):
        table.add_column(name, justify="right")
    for budget in budgets(results):
        table.add_row(budget.arm, *_budget_cells(budget, unit=" s"))
    return table


def _budget_cells(budget: Budget, unit: str = "") -> list[str]:
    tokens = (budget.student_tokens, budget.teacher_tokens, budget.generated_tokens)
    shares = (budget.truncated, budget.empty)
    return [
        *(_thousands(count) for count in tokens),
        f"{budget.train_seconds:.1f}{unit}",
        f"{budget.evaluate_seconds:.1f}{unit}",
        *("-" if share is None else f"{100 * share:.1f}%" for share in shares),
    ]


def _thousands(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def _claim_text(report: Report, judgement: Judgement) -> Text:
    text = Text()
    text.append(f"{judgement.verdict:<15}", style=STYLES[judgement.verdict])
    text.append(f" {judgement.claim}\n", style="bold")
    text.append("\n".join(f"{'':<16}{part}" for part in _evidence(report, judgement)), style="dim")
    return text


def _evidence(report: Report, judgement: Judgement) -> list[str]:
    """What the verdict rests on, a line each: the two means, the difference, the paper's numbers."""
    claim = next(claim for claim in report.claims.claims if claim.id == judgement.claim)
    if judgement.difference is None:
        return [f"{claim.metric}: {claim.better} and {claim.worse} were not both run"]
    means = f"{claim.better} {number(judgement.better_mean)}, {claim.worse} {number(judgement.worse_mean)}"
    difference = f"{signed(judgement.difference)} ({bounds(judgement.interval)})"
    if judgement.p_holm is not None:
        difference += f", p {judgement.p_holm:.2g}"
    if claim.margin:
        difference += f", margin {claim.margin:g}"
    lines = [f"{claim.metric}: {means}", difference]
    equal = judgement.equal_seconds
    if equal is not None:
        lines.append(f"at equal seconds: {signed(equal['difference'])} ({bounds(equal['interval'])})")
    numbers = claim.paper_numbers or {}
    if "better" in numbers and "worse" in numbers:
        setting = f" ({numbers['setting']})" if "setting" in numbers else ""
        lines.append(f"paper: {numbers['better']:g}, {numbers['worse']:g}{setting}")
    return lines


def _value_text(value: ValueJudgement) -> Text:
    text = Text()
    text.append(f"{value.verdict:<15}", style=STYLES[value.verdict])
    text.append(f" {value.value}", style="bold")
    ours = "not run" if value.mean is None else f"{number(value.mean)} ({bounds(value.interval)})"
    text.append(f": paper {value.paper:g} ± {value.tolerance:g}, ours {ours}")
    return text


def _cell(text: str) -> str:
    """Text from a data file, harmless inside Markdown."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
