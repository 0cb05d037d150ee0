"""Training seconds, without what happens in between: learning curves, teachers that are made on the way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from reproductions.engine.work.budget import Budget


class Clock:
    """Counts into a budget. On one CPU thread it is that thread's own time, whatever else the machine does."""

    def __init__(self, device: torch.device, budget: Budget) -> None:
        self._device, self._budget = device, budget
        self._off = self._off_cpu = 0.0
        self._began = (0.0, 0.0)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """What happens inside counts as training."""
        self._off = self._off_cpu = 0.0
        self._synchronise()
        self._began = self._now(), time.process_time()
        yield
        self._synchronise()
        began, cpu = self._began
        self._count(self._now() - began - self._off, time.process_time() - cpu - self._off_cpu)

    @contextlib.contextmanager
    def aside(self) -> Iterator[float]:
        """What happens inside does not; gives the training seconds so far."""
        self._synchronise()
        clock, cpu = self._now(), time.process_time()
        yield max(self._so_far(clock - self._began[0] - self._off), 0.0)
        self._synchronise()
        self._off += self._now() - clock
        self._off_cpu += time.process_time() - cpu

    def _count(self, seconds: float, cpu: float) -> None:
        self._budget.train_seconds += seconds
        self._budget.train_cpu_seconds += cpu

    def _so_far(self, seconds: float) -> float:
        """Training seconds with those since it began."""
        return self._budget.train_seconds + seconds

    def _now(self) -> float:
        import torch

        single = self._device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time() if single else time.perf_counter()

    def _synchronise(self) -> None:
        """A GPU works behind our back; the clock is read when it has caught up."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)


class CohortClock(Clock):
    """One clock for runs that are trained together: each counts an equal share."""

    def __init__(self, device: torch.device, budgets: Sequence[Budget]) -> None:
        super().__init__(device, budgets[0])
        self._budgets = budgets

    def _count(self, seconds: float, cpu: float) -> None:
        for budget in self._budgets:
            budget.train_seconds += seconds / len(self._budgets)
            budget.train_cpu_seconds += cpu / len(self._budgets)

    def _so_far(self, seconds: float) -> float:
        return self._budget.train_seconds + seconds / len(self._budgets)
