"""Workers that died, and what is done about the runs they were at: begun again, but not for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from reproductions.engine.errors import KDError


class Losses:
    """Counts them."""

    def __init__(self) -> None:
        self._runs: Counter[Hashable] = Counter()
        self._unready = 0

    def ready(self) -> None:
        """A worker is there: whatever ended others before they could take a run does not concern all of them."""
        self._unready = 0

    def unready(self, limit: int, why: str) -> None:
        """A worker ended before it could take a run. Raises KDError when more than `limit` did so in a row."""
        self._unready += 1
        if self._unready > limit:
            raise KDError(f"a worker ended before it could take a run: {why}")

    def again(self, run: Hashable, limit: int) -> bool:
        """A run was not finished by its worker: whether it is begun again, which it is `limit` times."""
        self._runs[run] += 1
        return self._runs[run] <= limit
