"""What a reproduction says in the terminal: figures, budgets, and by claim paper, recorded and this run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reproductions.engine.show.view import ArmRow, Budget, ClaimRow, Outcome, PaperView, ScaleRow

if TYPE_CHECKING:
    from reproductions.engine.plan.plan import Plan

STYLES = {
    "reproduced": "green",
    "weaker": "green",
    "no difference": "bold",
    "reversed": "red",
    "open": "yellow",
    "needs": "dim",
    "not run": "dim",
}
AGREEMENT = {
    True: ("as recorded", "green"),
    False: ("differs from the recorded verdict", "red"),
    None: ("", ""),
}


def show(plan: Plan, outcome: Any, console: Console | None = None) -> None:
    """Prints an outcome of `reproduce`; where there are no figures, its message alone."""
    console = console if console is not None else Console()
    if outcome.view is None:
        Console(stderr=True).print(Text(outcome.message), soft_wrap=True)
        return
    (scale,) = outcome.view.scales
    for metrics in _groups(scale.headline, console.width):
        console.print()
        console.print(_figures_table(scale, metrics))
    console.print()
    console.print(_budget_table(scale))
    console.print()
    for claim in outcome.view.claims:
        if claim.outcomes and claim.outcomes[0].difference is not None:
            console.print(_claim(claim, _of(outcome.recorded, claim.id), outcome.agrees.get(claim.id)))
    for value in outcome.view.values:
        ours = "not run" if value.mean is None else f"{number(value.mean)} ({bounds(value.interval)})"
        told = f": paper {value.paper:g} ± {value.tolerance:g}, ours {ours}"
        console.print(
            Text.assemble((f"{value.verdict:<15}", STYLES[value.verdict]), (f" {value.id}", "bold"), told)
        )
    console.print()
    console.print(Text(outcome.message), soft_wrap=True)


def number(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:.4g}"


def signed(value: float) -> str:
    """Three significant digits with the sign."""
    return f"{value:+.3g}"


def bounds(interval: Sequence[float] | None) -> str:
    """'0.1 to 0.4', or a dash."""
    return "-" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"


def _of(recorded: PaperView | None, claim: str) -> Outcome | None:
    found = (
        [row.outcomes[0] for row in recorded.claims if row.id == claim and row.outcomes] if recorded else []
    )
    return found[0] if found else None


def _groups(metrics: Sequence[str], width: int) -> list[Sequence[str]]:
    """As many metrics side by side as fit: arms take 24 columns, an interval 16."""
    size = max(1, (width - 24) // 16)
    return [metrics[start : start + size] for start in range(0, len(metrics), size)]


def _figures_table(scale: ScaleRow, metrics: Sequence[str]) -> Table:
    """Each arm's mean, under it the 95 % interval over seeds, under that the paper's own number."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("mean, 95 % over seeds", no_wrap=True)
    higher = {metric.name: metric.higher_is_better for metric in scale.metrics}
    for name in metrics:
        table.add_column(f"{name.replace('_', ' ')} {'↑' if higher[name] else '↓'}", justify="right")
    for arm in scale.arms:
        by_metric = {figure.metric: figure for figure in arm.figures}
        cells = [by_metric.get(metric) for metric in metrics]
        if not any(cells):
            continue
        table.add_row(arm.name, *("" if cell is None else number(cell.mean) for cell in cells))
        table.add_row(
            "", *(Text("" if cell is None else bounds(cell.interval), style="dim") for cell in cells)
        )
        if any(cell is not None and cell.paper is not None for cell in cells):
            papers = [
                "" if cell is None or cell.paper is None else f"paper {number(cell.paper)}" for cell in cells
            ]
            table.add_row("", *(Text(text, style="cyan") for text in papers))
    return table


def _budget_table(scale: ScaleRow) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("budget", no_wrap=True)
    for name in ("student\ntokens", "teacher\ntokens", "rollout\ntokens", "train", "eval", "cut", "empty"):
        table.add_column(name, justify="right")
    for arm in scale.arms:
        if arm.budget is not None:
            table.add_row(arm.name, *_budget_cells(arm, arm.budget))
    return table


def _budget_cells(arm: ArmRow, budget: Budget) -> list[str]:
    tokens = (budget.student_tokens, budget.teacher_tokens, budget.generated_tokens)
    return [
        *(_thousands(count) for count in tokens),
        f"{budget.train_seconds:.1f} s",
        f"{budget.evaluate_seconds:.1f} s",
        *("-" if share is None else f"{100 * share:.1f}%" for share in (budget.truncated, budget.empty)),
    ]


def _thousands(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def _claim(claim: ClaimRow, recorded: Outcome | None, agrees: bool | None) -> RenderableType:
    """A claim: what the paper has, what was recorded, what this run gave at PERCENT, and whether the two agree."""
    ours = claim.outcomes[0]
    head = Text.assemble((f"{ours.told:<15}", STYLES[ours.kind]), (f" {claim.id}", "bold"))
    rows = Table.grid(padding=(0, 1, 0, 0))
    rows.add_column(width=9, no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("claim", f"{claim.metric}: {claim.formula}", style="dim")
    if claim.paper_better is not None and claim.paper_worse is not None:
        setting = f" ({claim.paper_setting})" if claim.paper_setting else ""
        rows.add_row("paper", Text(f"{claim.paper_better:g}, {claim.paper_worse:g}{setting}"), style="dim")
    if recorded is not None:
        rows.add_row("recorded", _evidence(recorded), style="dim")
    rows.add_row("this run", _evidence(ours), style="dim")
    if ours.matched is not None:
        matched = f"{signed(ours.matched.difference)} ({bounds(ours.matched.interval)})"
        rows.add_row(
            "matched", f"each arm at its own best temperature: {ours.matched.verdict}, {matched}", style="dim"
        )
    if ours.effect is not None:
        rows.add_row("matters", f"from {number(ours.effect)} ({ours.effect_from})", style="dim")
    told, style = AGREEMENT[agrees]
    if told:
        rows.add_row("", told, style=style)
    return Group(head, Padding(rows, (0, 0, 0, 4)))


def _evidence(outcome: Outcome) -> str:
    """ "reproduced, +3.73 (2.91 to 4.55): 73.05, 69.32; 5 seeds"."""
    if outcome.difference is None:
        return outcome.verdict
    means = ""
    if outcome.better_mean is not None and outcome.worse_mean is not None:
        means = f": {number(outcome.better_mean)}, {number(outcome.worse_mean)}"
    interval = bounds(outcome.interval)
    seeds = f"{outcome.seeds} seed{'s'[: outcome.seeds != 1]}"
    return f"{outcome.told}, {signed(outcome.difference)} ({interval}){means}; {seeds}"
