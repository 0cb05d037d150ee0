"""What teachers have answered and what that cost: a file of JSON lines, each on the disk before the answer is used.

A line is texts with their cost under their request's key, an attempt that is about to be sent, or one that failed. So
a killed run pays for nothing twice, its spending stands, and what was under way when it was killed is known as lost.
Another pipeline that asks the same of the same teacher reads the answer here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from methods.elicitation.writers.protocol import Answer, Usage, joined
from methods.errors import MethodError

FIRST = {"journal": "kd-atlas answers", "version": 1}


@dataclass
class Spent:
    """What a journal says was spent: attempts sent, tokens read and written, money in the prices' unit."""

    calls: int = 0
    read: int = 0
    written: int = 0
    money: float = 0.0

    def add(self, calls: int, used: Usage, money: float) -> None:
        """Count something more, or take it off again."""
        self.calls += calls
        self.read += used.read
        self.written += used.written
        self.money += money


class AnswerJournal:
    """The answers of a file by key, and its spending; `path` None keeps them in memory alone.

    One process writes at a time; with `read_only` any may look. A line that a kill cut off is taken away, any other bad
    line is an error with its number. `lost` counts the attempts that earlier runs had under way when they were killed.
    """

    def __init__(self, path: Path | None = None, *, read_only: bool = False) -> None:
        self.path, self.spent, self.failures, self.lost = path, Spent(), dict[str, int](), 0
        self._answers: dict[str, Answer] = {}
        self._parts: dict[str, list[Answer]] = {}
        self._scores: dict[str, list[float]] = {}
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._writer_lock: FileLock | None = None
        self._read_only = read_only
        if path is None:
            return
        if not read_only:
            self._writer_lock = FileLock(f"{path}.lock", timeout=0)
        try:
            if self._writer_lock is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._writer_lock.acquire()
            self._read()
            if self._writer_lock is not None:
                self._file = path.open("ab", buffering=0)
                if not path.stat().st_size:
                    self._write(FIRST)
        except Timeout:
            raise MethodError(f"{path}: another run writes to this journal; wait for it, or end it") from None
        except OSError as error:
            self.close()
            what = "read" if read_only else "written"
            raise MethodError(f"{path}: cannot be {what}: {error.strerror or error}") from error
        except MethodError:
            self.close()
            raise

    def close(self) -> None:
        """Let another process write."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._writer_lock is not None:
            self._writer_lock.release()

    def __len__(self) -> int:
        return len(self._answers)

    def answer(self, key: str) -> Answer | None:
        """All that was asked for under a key, or None."""
        return self._answers.get(key)

    def part(self, key: str) -> Answer | None:
        """The texts that are there under a key that wants more of them, or None."""
        parts = self._parts.get(key)
        return joined(parts) if parts else None

    def answers(self) -> Iterator[Answer]:
        """Every answer."""
        yield from list(self._answers.values())

    def scores(self, key: str) -> list[float] | None:
        """The log-probabilities that were kept under a key, or None."""
        return self._scores.get(key)

    def begun(self, key: str, expected: Usage, money: float) -> None:
        """An attempt is about to be sent that will cost this at most."""
        self._write({"begun": key, **_cost(expected, money)})

    def failed(self, key: str, kind: str, used: Usage, money: float) -> None:
        """An attempt gave no answer, and cost this."""
        self._write({"failed": key, "kind": kind, **_cost(used, money)})
        with self._lock:
            self._count_failed(kind, used, money)

    def said(self, key: str, part: Answer, of: int, money: float) -> None:
        """An attempt gave some of the `of` texts of a request; they and their cost are on the disk then."""
        said = {
            name: value for name, value in asdict(part).items() if value and name not in ("request", "usage")
        }
        said |= {"texts": part.texts, "ended": part.ended}
        line = {
            "said": key,
            "of": of,
            **_cost(part.usage, money),
            "guessed": part.usage.guessed,
            "answer": said,
        }
        self._write(line, sync=True)
        with self._lock:
            self._count_said(key, part, of, money)

    def keep_scores(self, key: str, scores: list[float]) -> None:
        """Log-probabilities of a text; on the disk when this returns."""
        self._write({"score": key, "values": scores}, sync=True)
        self._scores[key] = scores

    def _write(self, line: Mapping[str, Any], *, sync: bool = False) -> None:
        with self._lock:
            if self._read_only:
                raise MethodError(f"{self.path}: opened for reading only")
            if self._file is None:
                return
            data, before = json.dumps(line).encode() + b"\n", os.fstat(self._file.fileno()).st_size
            try:
                if self._file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if sync:
                    os.fsync(self._file.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):  # half a line would spoil the one that comes behind it
                    self._file.truncate(before)
                raise MethodError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _read(self) -> None:
        assert self.path is not None
        data = self.path.read_bytes() if self.path.is_file() else b""
        whole = data.rfind(b"\n") + 1
        if whole < len(data) and not self._read_only:
            with self.path.open("r+b") as file:
                file.truncate(whole)
        under_way: dict[str, tuple[Usage, float]] = {}
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                self._take(json.loads(line), number, under_way)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise MethodError(f"{self.path}:{number}: not a line of a journal of answers") from error
        for used, money in under_way.values():
            self._count_lost(used, money)

    def _take(self, line: dict[str, Any], number: int, under_way: dict[str, tuple[Usage, float]]) -> None:
        if number == 1:
            if line != FIRST:
                raise ValueError("another kind of file")
        elif "score" in line:
            self._scores[line["score"]] = [float(value) for value in line["values"]]
        elif "begun" in line:
            if line["begun"] in under_way:  # of a run that was killed before this one
                self._count_lost(*under_way[line["begun"]])
            under_way[line["begun"]] = _used(line), float(line["money"])
        elif "failed" in line:
            under_way.pop(line["failed"], None)
            self._count_failed(line["kind"], _used(line), float(line["money"]))
        else:
            under_way.pop(line["said"], None)
            said: dict[str, Any] = {
                n: tuple(v) if isinstance(v, list) else v for n, v in line["answer"].items()
            }
            usage = replace(_used(line), guessed=bool(line["guessed"]))
            self._count_said(line["said"], Answer(**said, usage=usage), int(line["of"]), float(line["money"]))

    def _count_failed(self, kind: str, used: Usage, money: float) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1
        self.spent.add(1, used, money)

    def _count_said(self, key: str, part: Answer, of: int, money: float) -> None:
        self.spent.add(1, part.usage, money)
        parts = [*self._parts.pop(key, []), replace(part, request=key)]
        if sum(len(one.texts) for one in parts) >= of:
            self._answers[key] = joined(parts)
        else:
            self._parts[key] = parts

    def _count_lost(self, used: Usage, money: float) -> None:
        """Killed while under way: it may have been paid for."""
        self.lost += 1
        self.spent.add(1, used, money)


def _used(line: Mapping[str, Any]) -> Usage:
    return Usage(int(line["read"]), int(line["written"]))


def _cost(used: Usage, money: float) -> dict[str, Any]:
    return {"read": used.read, "written": used.written, "money": money}
