"""Where a reproduction stands and how long it will still take, from the events of its workers."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Task = tuple[str, int]


@dataclass(frozen=True)
class Shown:
    """What is to be done: all (arm, seed) tasks, and those that earlier sessions finished.

    `to_make`: kind -> how many teachers, starts and texts the runs need that nobody has made yet.
    """

    paper: str
    scale: str
    tasks: tuple[Task, ...]
    arms: tuple[str, ...]
    headline: tuple[str, ...]
    done: Mapping[Task, Mapping[str, Any]]  # metrics and seconds of finished runs
    workers: int
    minutes: float
    to_make: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Making:
    """Something that a run makes for others too; `steps`: (clock, step, steps in all) of the first and the last."""

    name: str
    kind: str
    began: float
    steps: tuple[tuple[float, int, int], ...] = ()

    def expected(self) -> float | None:
        """Seconds that it takes from its beginning to its end, once some of its steps are known."""
        if len(self.steps) < 2:
            return None
        (first, start, _), (last, step, total) = self.steps
        return first - self.began + (last - first) * (total - start) / (step - start)


class Tracker:
    """Hears every event; `now` is the clock, in seconds."""

    def __init__(self, plan: Shown, now: Callable[[], float] = time.monotonic) -> None:
        self.plan, self.now = plan, now
        self.metrics: dict[Task, Mapping[str, float]] = {
            task: run["metrics"] for task, run in plan.done.items()
        }
        self.seconds: dict[Task, float] = {task: run["seconds"] for task, run in plan.done.items()}
        self.began: dict[Task, float] = {}
        self.failed: set[Task] = set()
        self.made: dict[str, tuple[str, float]] = {}  # name -> kind and seconds
        self._making: dict[Task, list[_Making]] = defaultdict(list)  # the innermost last
        self._waiting: dict[Task, tuple[str, float]] = {}  # for what, and since when
        self._away: dict[Task, float] = defaultdict(float)  # seconds of a run that went into what is shared

    def event(self, event: Mapping[str, Any]) -> None:
        """Updates from an event."""
        kind = event["event"]
        if kind == "note":
            return
        task = (event["arm"], event["seed"])
        if kind == "started":
            self.began[task] = self.now()
        elif kind == "making":
            # Whoever made it may have died: then a run that waited for it makes it.
            _, began = self._waiting.pop(task, ("", self.now()))
            self._making[task].append(_Making(event["name"], event["phase"], began))
        elif kind == "waiting":
            self._waiting[task] = event["name"], self.now()
        elif kind == "step":
            self._step(task, event["step"], event["total"])
        elif kind == "shared":
            self._shared(task, event)
        elif kind in ("finished", "failed", "lost"):
            for gone in (self.began, self._making, self._waiting, self._away):
                gone.pop(task, None)
            if kind == "finished":
                self.metrics[task], self.seconds[task] = event["metrics"], event["seconds"]
            elif kind == "failed":
                self.failed.add(task)

    def _step(self, task: Task, step: int, total: int) -> None:
        if not self._making[task]:
            return
        making, here = self._making[task][-1], (self.now(), step, total)
        if not making.steps or making.steps[0][2] != total or making.steps[-1][1] > step:
            making.steps = (here,)  # another training begins
        elif step > making.steps[0][1]:
            making.steps = making.steps[0], here

    def _shared(self, task: Task, event: Mapping[str, Any]) -> None:
        """It is there: made by this run, or by the one that it waited for."""
        began = self.now()
        if event["name"] == self._waiting.get(task, ("",))[0]:
            began = self._waiting.pop(task)[1]
        elif self._making[task]:
            began = self._making[task].pop().began
        if event["made"]:
            self.made[event["name"]] = event["phase"], event["seconds"]
        if not self._making[task]:  # else it was made for something else that is in the making
            self._away[task] += self.now() - began

    def remaining_seconds(self) -> float | None:
        """Seconds to the end: what the runs still take and what is still made for them; None where nothing is known.

        A run takes what finished ones of its arm took, else those of all arms, else its part of the scale's minutes.
        """
        known = seconds_by_arm(self.seconds.items())
        if known:
            unknown = sum(known.values()) / len(known)
        elif self.plan.minutes > 0:
            unknown = 2 * 60 * self.plan.minutes / len(self.plan.tasks)  # the minutes are for two cores
        else:
            return None
        work = self._still_to_make()
        for task in self.plan.tasks:
            if task not in self.metrics and task not in self.failed:
                work += max(known.get(task[0], unknown) - self._elapsed(task), 0.0)
        return work / max(1, min(self.plan.workers, len(self.plan.tasks)))

    def _elapsed(self, task: Task) -> float:
        """Seconds that a run has worked for itself."""
        if task not in self.began:
            return 0.0
        since = [making.began for making in self._making[task][:1]]
        since += [self._waiting[task][1]] if task in self._waiting else []
        return (min(since) if since else self.now()) - self.began[task] - self._away[task]

    def _still_to_make(self) -> float:
        """Seconds of work in what is shared; a worker that waits for something spends them too."""
        making = [item for items in self._making.values() for item in items]
        waiting = Counter(name for name, _ in self._waiting.values())
        usual = _mean_by_kind([(kind, seconds) for kind, seconds in self.made.values()])
        usual = _mean_by_kind([(m.kind, e) for m in making if (e := m.expected()) is not None]) | usual
        work = 0.0
        for item in making:
            expected = item.expected()
            expected = usual.get(item.kind, 0.0) if expected is None else expected
            work += max(expected - (self.now() - item.began), 0.0) * (1 + waiting[item.name])
        begun = Counter(kind for kind, _ in self.made.values()) + Counter(item.kind for item in making)
        for kind, count in self.plan.to_make.items():
            work += max(count - begun[kind], 0) * usual.get(kind, 0.0)
        return work

    def summary(self) -> str:
        """'0/35 runs, 1/6 teachers and starts, about 5 min left'; what teachers write counts among them."""
        text = f"{len(self.metrics)}/{len(self.plan.tasks)} runs"
        if self.failed:
            text += f", {len(self.failed)} failed"
        making = sum(map(len, self._making.values()))
        wanted = max(sum(self.plan.to_make.values()), len(self.made) + making)
        ended = len(self.metrics) + len(self.failed) == len(self.plan.tasks)
        if len(self.made) < wanted and not ended:
            text += f", {len(self.made)}/{wanted} teachers and starts"
        left = self.remaining_seconds()
        if left is not None and not ended:
            text += f", about {duration(left)} left"
        return text

    def means(self, arm: str, metric: str) -> tuple[float | None, int]:
        """Mean over the finished seeds, and how many they are."""
        found = [
            values[metric] for task, values in self.metrics.items() if task[0] == arm and metric in values
        ]
        return (sum(found) / len(found) if found else None), len(found)


def duration(seconds: float) -> str:
    """'8 s', '3 min', '2 h 10 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def seconds_by_arm(done: Iterable[tuple[Task, float]]) -> dict[str, float]:
    """Mean seconds of an arm's finished runs."""
    return _mean_by_kind((arm, seconds) for (arm, _), seconds in done)


def _mean_by_kind(found: Iterable[tuple[str, float]]) -> dict[str, float]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for kind, seconds in found:
        by_kind[kind].append(seconds)
    return {kind: sum(times) / len(times) for kind, times in by_kind.items()}
