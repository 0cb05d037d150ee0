"""What a component asks: a teacher, or several behind a router, with a journal, caps and a seed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from methods.elicitation.writers.budget import FREE, NO_CAPS, Caps, Ledger, Prices, Stopped
from methods.elicitation.writers.journal import AnswerJournal
from methods.elicitation.writers.pace import Crew
from methods.elicitation.writers.pool import Pool
from methods.elicitation.writers.protocol import Answer, Request, Scorer, Usage, Writer, failed
from methods.errors import MethodError, NotYet

Told = Callable[[int, int], None]
PENDING = "not asked yet"
GRACE = 60.0  # seconds that what is under way has to come in after Ctrl-C


@dataclass(frozen=True)
class Estimate:
    """What requests would cost: how many are answered already, and of the rest the most and the likely."""

    requests: int
    known: int
    most: Usage
    most_money: float
    likely: Usage
    likely_money: float


class Session:
    """Asks a teacher, each request once: what a journal holds is never asked for again.

    `journal` is a file, or None for memory alone; `caps` hold over the whole journal; `prices` are those of all
    teachers, or by identity. `seed` is mixed into every request that is sampled, so that another seed draws everything
    anew and greedy answers serve all seeds. `told` hears, within each `ask`, how many of how many are there. With
    `ask_nobody` only the journal answers, and what it lacks is failed as "not asked yet": for a look at what is there.
    """

    def __init__(
        self,
        writer: Writer | Pool,
        journal: Path | AnswerJournal | None = None,
        *,
        seed: int = 0,
        caps: Caps = NO_CAPS,
        prices: Prices | Mapping[str, Prices] = FREE,
        told: Told | None = None,
        ask_nobody: bool = False,
    ) -> None:
        self.pool = writer if isinstance(writer, Pool) else Pool({"teacher": writer})
        if not isinstance(journal, AnswerJournal):
            journal = AnswerJournal(journal, read_only=ask_nobody)
        self.journal: AnswerJournal = journal
        self.ledger = Ledger(self.journal, caps)
        self.seed, self.told, self.ask_nobody = seed, told, ask_nobody
        self._prices = prices
        self._counts = {"asked": 0, "journal": 0, "answered": 0, "failed": 0}

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """An answer for each request, in order; equal ones are asked once.

        A request that no teacher could answer has a failed answer, which is not kept: the next run asks again. Raises
        CapReached, or MethodError for what concerns every request; what came until then is in the journal.
        """
        drawn = [self.drawn(request) for request in requests]
        found: dict[int, Answer] = {}
        waiting: dict[int, list[Writer]] = {}  # places, and who can be asked about each, in order
        for place, request in enumerate(drawn):
            writers = self.pool.candidates(request)
            known = (self.journal.answer(request.key(writer.identity)) for writer in writers)
            answer = next((answer for answer in known if answer is not None), None)
            if answer is not None:
                found[place] = answer
            elif self.ask_nobody:
                found[place] = failed(request, PENDING)
            else:
                waiting[place] = writers
        self._counts["asked"] += len(drawn)
        self._counts["journal"] += len(drawn) - len(waiting) if not self.ask_nobody else 0
        self._tell(len(found), len(drawn))
        while waiting:
            work: dict[str, _Batch] = {}
            for place, writers in waiting.items():
                batch = work.setdefault(writers[0].identity, _Batch(writers[0]))
                batch.add(place, drawn[place])
            self._run(list(work.values()), found, len(drawn))
            waiting = {
                place: writers[1:]
                for place, writers in waiting.items()
                if found[place].failure and writers[1:]
            }
        self._counts["failed"] += sum(1 for answer in found.values() if answer.failure)
        return [found[place] for place in range(len(drawn))]

    def score(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]]:
        """The log-probabilities, in nats, of each text's tokens behind its request, by the teacher that is routed to.

        Raises MethodError where that teacher cannot score, NotYet where nobody is to be asked and the journal lacks it.
        """
        found: dict[int, list[float]] = {}
        missing: dict[str, tuple[Scorer, list[int]]] = {}
        keys: list[str] = []
        for place, (request, text) in enumerate(zip(requests, texts, strict=True)):
            writer = self.pool.candidates(request)[0]
            if not isinstance(writer, Scorer):
                raise MethodError(f"{writer.identity} cannot say how probable a text is; a local model can")
            about = f"{request.key(writer.identity)}\n{text}"
            keys.append(hashlib.sha256(about.encode()).hexdigest())
            known = self.journal.scores(keys[-1])
            if known is not None:
                found[place] = known
            else:
                missing.setdefault(writer.identity, (writer, []))[1].append(place)
        if missing and self.ask_nobody:
            raise NotYet("texts that nobody has scored yet")
        for scorer, places in missing.values():
            scored = scorer.score([requests[p] for p in places], [texts[p] for p in places])
            for place, values in zip(places, scored, strict=True):
                self.journal.keep_scores(keys[place], values)
                found[place] = values
        return [found[place] for place in range(len(requests))]

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What `ask` would cost. The likely figure takes the mean length of the texts that the journal holds."""
        known, most, likely = 0, Usage(), Usage()
        most_money = likely_money = 0.0
        texts = [answer for answer in self.journal.answers() if answer.usage.written]
        mean = sum(a.usage.written for a in texts) / max(1, sum(len(a.texts) for a in texts))
        seen = set()
        for request in map(self.drawn, requests):
            writer = self.pool.candidates(request)[0]
            key = request.key(writer.identity)
            if self.journal.answer(key) is not None or key in seen:
                known += 1
                continue
            seen.add(key)
            prices, expected = self._prices_of(writer), writer.expected(request)
            written = min(expected.written, round(mean * request.samples) if texts else expected.written)
            most, most_money = most + expected, most_money + prices.of(expected)
            guess = Usage(expected.read, written)
            likely, likely_money = likely + guess, likely_money + prices.of(guess)
        return Estimate(len(requests), known, most, most_money, likely, likely_money)

    def drawn(self, request: Request) -> Request:
        """The request with the session's seed in it; a greedy one has no draws and is one for all seeds."""
        if request.temperature == 0:
            return replace(request, seed=0)
        mixed = hashlib.sha256(f"{self.seed}/{request.seed}".encode()).digest()
        return replace(request, seed=int.from_bytes(mixed[:4], "big") >> 1)

    def report(self) -> dict[str, Any]:
        """Counts of this session, and what the whole journal has cost."""
        spent = self.ledger.spent
        return {
            **self._counts,
            "calls": self.ledger.sent,
            "failures": dict(sorted(self.journal.failures.items())),
            "lost": self.journal.lost,
            "spent": {
                "calls": spent.calls,
                "read": spent.read,
                "written": spent.written,
                "money": spent.money,
            },
        }

    def close(self) -> None:
        """Let another process write to the journal."""
        self.journal.close()

    def _run(self, batches: list[_Batch], found: dict[int, Answer], of: int) -> None:
        """Let every teacher write, several side by side."""
        lock, errors = threading.Lock(), list[BaseException]()

        def write(batch: _Batch) -> None:
            try:
                batch.writer.write(batch.requests, _Told(self, batch, found, of, lock))
            except BaseException as error:  # raised below, when the others have ended
                errors.append(error)
                self.ledger.stop()

        others = Crew([partial(write, batch) for batch in batches[1:]])
        try:
            write(batches[0])
            others.wait()
        except KeyboardInterrupt as error:
            errors.insert(0, error)
            self.ledger.stop()
            others.wait(GRACE)
        if errors:
            raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
        for batch in batches:
            for key in batch.keys:
                if not all(place in found for place in batch.places[key]):
                    raise MethodError(f"{batch.writer.identity} left a request without any answer")

    def _tell(self, done: int, of: int) -> None:
        if self.told is not None:
            self.told(done, of)

    def _prices_of(self, writer: Writer) -> Prices:
        prices = self._prices
        return prices if isinstance(prices, Prices) else prices.get(writer.identity, FREE)


class _Batch:
    """What one teacher is asked: each different request once, with the places where its answer belongs."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.keys, self.requests = writer, list[str](), list[Request]()
        self.places: dict[str, list[int]] = {}

    def add(self, place: int, request: Request) -> None:
        key = request.key(self.writer.identity)
        if key not in self.places:
            self.keys.append(key)
            self.requests.append(request)
        self.places.setdefault(key, []).append(place)


class _Told:
    """The session's meter for one teacher."""

    def __init__(
        self, session: Session, batch: _Batch, found: dict[int, Answer], of: int, lock: threading.Lock
    ) -> None:
        self._session, self._batch, self._found, self._of, self._lock = session, batch, found, of, lock
        self._prices = session._prices_of(batch.writer)

    def begin(self, request: Request, expected: Usage) -> None:
        key = request.key(self._batch.writer.identity)
        self._session.ledger.begin(key, expected, self._prices.of(expected))

    def had(self, request: Request) -> Answer | None:
        return self._session.journal.part(request.key(self._batch.writer.identity))

    def end(self, request: Request, expected: Usage, part: Answer) -> None:
        writer = self._batch.writer
        key, whole = request.key(writer.identity), replace(part, writer=writer.identity, terms=writer.terms)
        self._session.ledger.said(key, self._cost(expected), self._cost(part.usage), whole, request.samples)

    def failed(self, request: Request, expected: Usage, used: Usage, kind: str) -> None:
        key = request.key(self._batch.writer.identity)
        self._session.ledger.failed(key, self._cost(expected), self._cost(used), kind)

    def keep(self, place: int, answer: Answer) -> None:
        key, writer = self._batch.keys[place], self._batch.writer
        wanted = self._batch.requests[place].samples
        if len(answer.texts) != wanted:
            raise MethodError(
                f"{writer.identity} gave {len(answer.texts)} texts where {wanted} were asked for"
            )
        whole = replace(answer, request=key, writer=writer.identity, terms=writer.terms)
        with self._lock:
            for found in self._batch.places[key]:
                self._found[found] = whole
            self._session._counts["answered"] += not whole.failure
            self._session._tell(len(self._found), self._of)

    def _cost(self, usage: Usage) -> tuple[Usage, float]:
        return usage, self._prices.of(usage)
