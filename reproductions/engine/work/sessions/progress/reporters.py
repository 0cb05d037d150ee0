"""What is shown while runs are made: live bars and a filling table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from reproductions.engine.work.sessions.progress.tracker import Shown, Task, Tracker, duration


class Reporter(Protocol):
    """Hears what happens. Events are dicts with a key "event".

    started, step, finished, failed, lost (its worker died, the run is begun again); making, waiting and shared (it is
    there now; `made`: by this run) are about what runs have in common, `name`, of the kind `phase`; note.
    """

    def begin(self, plan: Shown) -> None:
        """Before the first task."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Something happened."""

    def end(self) -> None:
        """After the last task, or when interrupted."""


class SilentReporter:
    """Says nothing."""

    def begin(self, plan: Shown) -> None:
        """Nothing."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class PlainReporter:
    """One line per event; steps are not events worth a line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._tracker: Tracker | None = None

    def begin(self, plan: Shown) -> None:
        """Says what is to be done."""
        self._tracker = Tracker(plan)
        self._say(f"{plan.paper} at scale {plan.scale}: {self._tracker.summary()}, {plan.workers} worker(s)")

    def event(self, event: Mapping[str, Any]) -> None:
        """Says what happened."""
        if self._tracker is None or event["event"] == "step":
            return
        self._tracker.event(event)
        if event["event"] == "note":
            self._say(event["message"])
            return
        name = f"{event['arm']} seed {event['seed']}"
        if event["event"] == "started":
            self._say(f"{name}: started")
        elif event["event"] == "making":
            self._say(f"{name}: makes the {event['phase']}")
        elif event["event"] == "waiting":
            self._say(f"{name}: waits for the {event['phase']} that another worker is making")
        elif event["event"] == "shared" and event["made"]:
            took = duration(event["seconds"])
            self._say(f"{name}: made the {event['phase']} in {took} [{self._tracker.summary()}]")
        elif event["event"] == "finished":
            figures = ", ".join(
                f"{metric} {event['metrics'][metric]:.4g}"
                for metric in self._tracker.plan.headline
                if metric in event["metrics"]
            )
            took = duration(event["seconds"])
            self._say(f"{name}: finished in {took}: {figures} [{self._tracker.summary()}]")
        elif event["event"] == "lost":
            self._say(f"{name}: begins again: {event['message']}")
        elif event["event"] == "failed":
            self._say(f"{name}: FAILED: {event['message']} (traceback: {event['file']})")

    def end(self) -> None:
        """Nothing."""

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class LiveReporter:
    """A bar with ETA for each active run, an overall ETA, and the table that fills in as runs end."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console if console is not None else Console()
        self._bars = Progress(
            TextColumn("{task.description}"),
            TextColumn("[dim]{task.fields[phase]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            expand=True,
        )
        self._tasks: dict[Task, TaskID] = {}
        self._tracker: Tracker | None = None
        self._live: Live | None = None

    def begin(self, plan: Shown) -> None:
        """Starts the display."""
        self._tracker = Tracker(plan)
        self._live = Live(
            console=self._console, get_renderable=self._picture, refresh_per_second=4, transient=True
        )
        self._live.start()

    def event(self, event: Mapping[str, Any]) -> None:
        """Updates the display; failures and notes stay on the screen above it."""
        if self._tracker is None or self._live is None:
            return
        self._tracker.event(event)
        kind = event["event"]
        if kind == "note":
            self._live.console.print(Text(event["message"]))
            return
        task = (event["arm"], event["seed"])
        if kind == "started":
            name = f"{event['arm']} [dim]seed {event['seed']}[/]"
            self._tasks[task] = self._bars.add_task(name, total=None, phase="starts")
        elif kind == "step" and task in self._tasks:
            total = event["total"] or None
            bar = self._tasks[task]
            shown = next(item for item in self._bars.tasks if item.id == bar)
            if shown.fields["phase"] != event["phase"]:
                # A new phase is a new count: without the reset its ETA would come from the last one's speed.
                self._bars.reset(bar, total=total, phase=event["phase"])
            self._bars.update(bar, total=total, completed=event["step"])
        elif kind in ("making", "waiting", "shared") and task in self._tasks:
            phase = {"making": event["phase"], "waiting": f"waits for {event['phase']}"}.get(kind, "goes on")
            self._bars.reset(self._tasks[task], total=None, phase=phase)
        elif kind in ("finished", "failed", "lost"):
            if task in self._tasks:
                self._bars.remove_task(self._tasks.pop(task))
            if kind == "failed":
                name = f"{event['arm']} seed {event['seed']}"
                message = f"{name} failed: {event['message']}\n  traceback: {event['file']}"
                self._live.console.print(Text(message, style="red"), soft_wrap=True)
            elif kind == "lost":
                message = f"{event['arm']} seed {event['seed']} begins again: {event['message']}"
                self._live.console.print(Text(message, style="yellow"), soft_wrap=True)

    def end(self) -> None:
        """Takes the display away; the report follows."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self) -> RenderableType:
        assert self._tracker is not None
        plan = self._tracker.plan
        head = Text.assemble((plan.paper, "bold"), f" at scale {plan.scale}: {self._tracker.summary()}")
        return Group(head, self._bars, self._table())

    def _table(self) -> Table:
        assert self._tracker is not None
        plan = self._tracker.plan
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("arm", no_wrap=True)
        table.add_column("seeds", justify="right")
        for metric in plan.headline:
            table.add_column(metric.replace("_", " "), justify="right")
        for arm in plan.arms:
            wanted = sum(1 for task in plan.tasks if task[0] == arm)
            means = [self._tracker.means(arm, metric) for metric in plan.headline]
            done = sum(1 for task in self._tracker.metrics if task[0] == arm)
            cells = ["·" if mean is None else f"{mean:.4g}" for mean, _ in means]
            table.add_row(arm, f"{done}/{wanted}", *cells)
        return table


def default_reporter(*, as_json: bool = False) -> Reporter:
    """Live on a terminal, plain lines elsewhere; on stderr when stdout carries JSON."""
    stream = sys.stderr if as_json else sys.stdout
    console = Console(file=stream)
    return (
        LiveReporter(console)
        if console.is_terminal and not console.is_dumb_terminal
        else PlainReporter(stream)
    )
