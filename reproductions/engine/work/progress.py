"""What is shown while runs are made: live bars and a filling table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Task = tuple[str, int]


@dataclass(frozen=True)
class Shown:
    """What is to be done: all (arm, seed) tasks, and those that earlier sessions finished."""

    paper: str
    scale: str
    tasks: tuple[Task, ...]
    arms: tuple[str, ...]
    headline: tuple[str, ...]
    done: Mapping[Task, Mapping[str, Any]]  # metrics and seconds of finished runs
    workers: int
    minutes: float


class Reporter(Protocol):
    """Hears what happens. Events are dicts with a key "event": started, step, waiting, finished, failed, note."""

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


class Tracker:
    """Where a reproduction stands, and how long it will still take."""

    def __init__(self, plan: Shown) -> None:
        self.plan = plan
        self.metrics: dict[Task, Mapping[str, float]] = {
            task: run["metrics"] for task, run in plan.done.items()
        }
        self.seconds: dict[Task, float] = {task: run["seconds"] for task, run in plan.done.items()}
        self.began: dict[Task, float] = {}
        self.failed: set[Task] = set()

    def event(self, event: Mapping[str, Any]) -> None:
        """Updates from an event."""
        if event["event"] not in ("started", "finished", "failed"):
            return
        task = (event["arm"], event["seed"])
        if event["event"] == "started":
            self.began[task] = time.monotonic()
            return
        self.began.pop(task, None)
        if event["event"] == "finished":
            self.metrics[task], self.seconds[task] = event["metrics"], event["seconds"]
        else:
            self.failed.add(task)

    def remaining_seconds(self) -> float | None:
        """Seconds to the end: from finished runs of the same arm, else of all arms, else from the scale's minutes."""
        known = seconds_by_arm(self.seconds.items())
        if known:
            unknown = sum(known.values()) / len(known)
        elif self.plan.minutes > 0:
            unknown = 2 * 60 * self.plan.minutes / len(self.plan.tasks)  # the minutes are for two cores
        else:
            return None
        work = 0.0
        for task in self.plan.tasks:
            if task in self.metrics or task in self.failed:
                continue
            expected = known.get(task[0], unknown)
            elapsed = time.monotonic() - self.began[task] if task in self.began else 0.0
            work += max(expected - elapsed, 0.0)
        return work / max(1, min(self.plan.workers, len(self.plan.tasks)))

    def summary(self) -> str:
        """'12/35 runs, about 3 min left'."""
        text = f"{len(self.metrics)}/{len(self.plan.tasks)} runs"
        if self.failed:
            text += f", {len(self.failed)} failed"
        left = self.remaining_seconds()
        if left is not None and len(self.metrics) + len(self.failed) < len(self.plan.tasks):
            text += f", about {duration(left)} left"
        return text

    def means(self, arm: str, metric: str) -> tuple[float | None, int]:
        """Mean over the finished seeds, and how many they are."""
        found = [
            values[metric] for task, values in self.metrics.items() if task[0] == arm and metric in values
        ]
        return (sum(found) / len(found) if found else None), len(found)


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
        elif event["event"] == "waiting":
            self._say(f"{name}: waits for the {event['phase']} that another worker is making")
        elif event["event"] == "finished":
            figures = ", ".join(
                f"{metric} {event['metrics'][metric]:.4g}"
                for metric in self._tracker.plan.headline
                if metric in event["metrics"]
            )
            took = duration(event["seconds"])
            self._say(f"{name}: finished in {took}: {figures} [{self._tracker.summary()}]")
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
        elif kind == "waiting" and task in self._tasks:
            self._bars.reset(self._tasks[task], total=None, phase=f"waits for {event['phase']}")
        elif kind in ("finished", "failed"):
            if task in self._tasks:
                self._bars.remove_task(self._tasks.pop(task))
            if kind == "failed":
                name = f"{event['arm']} seed {event['seed']}"
                message = f"{name} failed: {event['message']}\n  traceback: {event['file']}"
                self._live.console.print(Text(message, style="red"), soft_wrap=True)

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


def duration(seconds: float) -> str:
    """'8 s', '3 min', '2 h 10 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def seconds_by_arm(done: Iterable[tuple[Task, float]]) -> dict[str, float]:
    """Mean seconds of an arm's finished runs."""
    by_arm: dict[str, list[float]] = defaultdict(list)
    for (arm, _), seconds in done:
        by_arm[arm].append(seconds)
    return {arm: sum(times) / len(times) for arm, times in by_arm.items()}
