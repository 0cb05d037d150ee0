"""Any server that speaks OpenAI's chat completions: asked side by side, with retries, and never believed unchecked."""

from __future__ import annotations

import json
import random
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from methods.elicitation.writers.budget import Stopped
from methods.elicitation.writers.http import LATE, Failed, Post
from methods.elicitation.writers.pace import Crew, Pace, retry_after
from methods.elicitation.writers.protocol import (
    FAILED,
    FILTERED,
    INVALID,
    LENGTH,
    STOP,
    Answer,
    Meter,
    Request,
    Usage,
    failed,
    joined,
)
from methods.elicitation.writers.structured import allowed
from methods.errors import MethodError

STOPPED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence"}
CUT = {"length", "max_tokens"}
# What a server may not know, in the order in which it is given up; what replaces it is said beside its use.
OPTIONS = ("response_format", "n", "seed", "stop", "max_tokens")


@dataclass(frozen=True)
class Patience:
    """How often and how long a request is tried, in attempts and seconds.

    The pause before attempt k is drawn evenly between 0 and first_wait x 2^k, at most `longest_wait`, and is never
    shorter than the server asks; one that asks for more than `longest_wait` is not waited for. After `give_up` requests
    in a row without an answer the server is taken to be gone.
    """

    attempts: int = 6
    timeout: float = 120.0
    first_wait: float = 1.0
    longest_wait: float = 120.0
    give_up: int = 8


PATIENCE = Patience()
SUSPECT = 3  # so many requests whose samples are all alike are told


class ServerWriter:
    """`model` of the server at `url` (".../v1"). `terms` is its entry of catalog/teachers.yaml, "" where unknown.

    At most `parallel` requests are under way, fewer where the server's headers or refusals say so. `extra` are fields
    that are sent with each request ("chat_template_kwargs"); they belong to the identity. What the server does not
    know of `n`, `seed`, `stop`, `response_format` is done without it: several requests, stops cut here, JSON checked
    here as always. The key comes from the environment variable `key_variable` and stands nowhere else.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        terms: str = "",
        key_variable: str = "OPENAI_API_KEY",
        parallel: int = 16,
        patience: Patience = PATIENCE,
        extra: Mapping[str, Any] | None = None,
        name: str = "",
        draws: random.Random | None = None,
    ) -> None:
        taken = sorted({"model", "messages", "stream", *OPTIONS} & set(extra or {}))
        if taken:
            raise MethodError(f'"{taken[0]}" is decided by the request; it cannot be an extra field')
        try:
            json.dumps(extra or {}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise MethodError(f"the extra fields are nothing that JSON can hold: {error}") from None
        self._post = Post(url, key_variable, timeout=patience.timeout)
        self.model, self.terms, self.patience = model, terms, patience
        self._extra = dict(extra or {})
        self._drawn: list[bool] = []
        more = f" with {sorted(self._extra.items())}" if self._extra else ""
        self.identity = f"server:{name or f'{self._post.url} {model}'}{more}"
        if self._post.secret() and self._post.secret() in f"{self._post.url} {self.identity}":
            raise MethodError(
                f"what {key_variable} holds stands in the address, the name, the model or the extra fields too, and "
                "would be kept with every answer: it belongs into the environment alone"
            )
        self.parallel, self._draws = parallel, draws or random.Random()
        self._without: set[str] = set()  # options that this server does not know
        self.pace = Pace(parallel)

    def expected(self, request: Request) -> Usage:
        """A token for each three bytes that are read, some for each turn, and all that may be written."""
        read = sum(len(m.content.encode()) // 3 + 8 for m in request.messages)
        return Usage(read, request.samples * request.max_tokens, guessed=True)

    def write(self, requests: Sequence[Request], meter: Meter) -> None:
        """See Writer. Ctrl-C awaits and keeps what is under way, a second one does not."""
        work = _Work(self, requests, meter)
        work.run(min(self.parallel, len(requests)))

    def answer(self, request: Request, meter: Meter, paused: Callable[[float], None]) -> Answer:
        """The answer to one request after as many attempts as it takes; `paused(seconds)` sleeps or raises Stopped."""
        had, attempt = meter.had(request), 0
        parts = [had] if had is not None else []
        while (missing := request.samples - sum(len(part.texts) for part in parts)) > 0:
            try:
                part = self._attempt(request, missing, meter)
            except Failed as failure:
                if failure.every:
                    raise MethodError(f"{self.identity}: {failure}") from failure
                if self._does_without(failure, request):
                    continue
                attempt += 1
                if failure.again and attempt < self.patience.attempts:
                    paused(self._pause(failure, attempt))
                    continue
                why = f"{failure} after {attempt} attempts" if attempt > 1 else str(failure)
                if not parts:
                    return failed(request, why)
                # What came was paid for and is whole: the rest is said to be missing, and is asked for in a next run.
                parts.append(Answer(("",) * missing, (FAILED,) * missing))
                break
            attempt = 0
            parts.append(part)
        answer = joined(parts)
        self._watch(request, answer)
        return answer

    def _watch(self, request: Request, answer: Answer) -> None:
        """Warns, once, of a server that seems not to sample: a vote among copies of one text says nothing."""
        if request.samples < 2 or request.temperature == 0 or FAILED in answer.ended:
            return
        self._drawn.append(len(set(answer.texts)) == 1)
        if len(self._drawn) == SUSPECT and all(self._drawn):
            warnings.warn(
                f"{self.identity}: the first {SUSPECT} requests for several samples each got one text in copies. Some "
                "servers ignore the temperature where the model's own settings are greedy (transformers serve: "
                "extra: {generation_config: '{\"do_sample\": true, ...}'})",
                stacklevel=2,
            )

    def _attempt(self, request: Request, missing: int, meter: Meter) -> Answer:
        """One POST for the `missing` texts, of which at least one comes back; raises Failed."""
        asked = 1 if "n" in self._without else missing
        expected = Usage(self.expected(request).read, asked * request.max_tokens, guessed=True)
        entered = self.pace.enter(expected.read + expected.written)
        headers: Mapping[str, str] = {}
        busy = answered = False
        try:
            meter.begin(request, expected)
            try:
                body, headers = self._post("/chat/completions", self._body(request, asked, missing))
                part = self._read(body, request, asked)
                used = _usage(body, expected)
                if any(part.texts) and not (used.read and used.written):
                    used = expected  # texts that took no tokens: a count that says so holds no cap
                part = part.about(usage=used)
            except Failed as failure:
                headers, busy = failure.headers or headers, failure.busy
                worked = failure.used or (expected if failure.worked else Usage())
                meter.failed(request, expected, worked, failure.kind)
                raise
            meter.end(request, expected, part)
            answered = True
            return part
        finally:
            self.pace.leave(entered, headers, refused=busy, answered=answered)

    def _body(self, request: Request, asked: int, missing: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            **self._extra,
            "model": self.model,
            "messages": [asdict(message) for message in request.messages],
            "temperature": request.temperature,
            "stream": False,
        }
        longest = "max_completion_tokens" if "max_tokens" in self._without else "max_tokens"
        body[longest] = request.max_tokens
        if request.top_p != 1:
            body["top_p"] = request.top_p
        if asked > 1:
            body["n"] = asked
        if request.stop and "stop" not in self._without:
            body["stop"] = list(request.stop)
        if request.temperature > 0 and "seed" not in self._without:
            body["seed"] = (request.seed + request.samples - missing) % 2**31
        if request.schema is not None and "response_format" not in self._without:
            schema = {"name": "answer", "strict": True, "schema": dict(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _does_without(self, failure: Failed, request: Request) -> bool:
        """Whether the server refused an option that can be done without; it is not sent again."""
        if failure.status not in (400, 404, 422, 501):
            return False
        sent = {
            "response_format": request.schema is not None,
            "n": request.samples > 1,
            "seed": request.temperature > 0,
            "stop": bool(request.stop),
            "max_tokens": True,
        }
        for option in OPTIONS:
            named = f"'{option}'" in failure.message or f'"{option}"' in failure.message
            named = named or f'\\"{option}\\"' in failure.message
            if sent[option] and option not in self._without and named:
                self._without.add(option)
                return True
        return False

    def _pause(self, failure: Failed, attempt: int) -> float:
        """Seconds before the next attempt; MethodError where the server asks for more than anyone waits."""
        longest = self.patience.longest_wait
        after = retry_after(failure.headers, time.time()) or 0.0
        if after > longest:
            raise MethodError(
                f"{self.identity} asks to come back in {after:.0f} s, and no more than {longest:g} s are waited: run "
                "again then, what was answered is kept"
            )
        # Full jitter: many that failed together do not come back together.
        drawn = self._draws.uniform(0, min(self.patience.first_wait * 2**attempt, longest))
        return max(drawn, after)

    def _read(self, body: Mapping[str, Any], request: Request, asked: int) -> Answer:
        """Texts and ends of an answer, at most as many as were asked for; raises Failed where it has none."""
        choices, used = body.get("choices"), _usage(body, Usage())
        if body.get("error") and not choices:
            raise Failed("error", f"the server says: {str(body['error'])[:300]}", again=True, used=used)
        try:
            if not isinstance(choices, list) or not choices:
                raise ValueError("the answer has no choices")
            each = (_choice(one, request) for one in _different(choices, asked))
            texts, ends, thoughts = zip(*each, strict=True)
        except ValueError as error:  # it was written, and so paid for
            raise Failed("another shape", str(error), again=True, worked=True) from None
        return Answer(texts, ends, thoughts=thoughts if any(thoughts) else ())


def _different(choices: list[Any], most: int) -> list[Any]:
    """The first choices, one that stands there twice with its number once: it is one draw."""
    made: list[Any] = []
    for choice in choices:
        if len(made) == most:
            break
        numbered = isinstance(choice, dict) and choice.get("index") is not None
        if not numbered or choice not in made:
            made.append(choice)
    return made


def _choice(choice: Any, request: Request) -> tuple[str, str, str]:
    """Text, end and thoughts of one choice; ValueError where it is of another shape."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError("a choice of the answer has no message")
    text, reason = message.get("content"), choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else None
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    thought = thought if isinstance(thought, str) else ""
    if message.get("refusal") or reason == "content_filter":
        return text if isinstance(text, str) else "", FILTERED, thought
    if text is None and reason in CUT:  # it thought until the end
        return "", LENGTH, thought
    if text is None and any(message.get(call) for call in ("tool_calls", "function_call")):
        return "", INVALID, thought  # it calls a tool that nobody offered: another attempt pays for the same
    if not isinstance(text, str):
        raise ValueError("a choice of the answer has no text")
    if reason in CUT:
        return text, LENGTH, thought
    cut = min((place for stop in request.stop if (place := text.find(stop)) >= 0), default=None)
    text = text if cut is None else text[:cut]
    if reason not in STOPPED and cut is None:
        return text, INVALID, thought
    return text, STOP if allowed(text, request) else INVALID, thought


def _usage(body: Mapping[str, Any], expected: Usage) -> Usage:
    """What the server says it read and wrote; where that is nonsense, what was expected, as a guess."""
    told = body.get("usage")
    counts = [
        told.get(name) if isinstance(told, dict) else None for name in ("prompt_tokens", "completion_tokens")
    ]
    known = [n for n in counts if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 10**9]
    return (
        Usage(known[0], known[1]) if len(known) == 2 else Usage(expected.read, expected.written, guessed=True)
    )


class _Work:
    """The threads of one `write`."""

    def __init__(self, writer: ServerWriter, requests: Sequence[Request], meter: Meter) -> None:
        self._writer, self._requests, self._meter = writer, requests, meter
        self._next, self._lock = 0, threading.Lock()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._in_a_row = 0  # requests without an answer

    def run(self, threads: int) -> None:
        self._writer.pace.stopped = False
        crew = Crew([self._work] * threads)
        try:
            crew.wait()
        except KeyboardInterrupt:
            self._halt()
            crew.wait()
            raise
        if self._errors:
            raise next((error for error in self._errors if not isinstance(error, Stopped)), self._errors[0])

    def _halt(self) -> None:
        self._stop.set()
        self._writer.pace.stop()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    place, self._next = self._next, self._next + 1
                if place >= len(self._requests):
                    return
                answer = self._writer.answer(self._requests[place], self._meter, self._pause)
                self._meter.keep(place, answer)
                self._count(answer)
        except BaseException as error:  # handed to the thread that waits
            self._errors.append(error)
            self._halt()

    def _count(self, answer: Answer) -> None:
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if answer.failure else 0
            if self._in_a_row >= self._writer.patience.give_up:
                late = answer.failure.startswith(LATE)
                raise MethodError(
                    f"{self._writer.identity}: {self._in_a_row} requests in a row gave nothing, the last one: "
                    f"{answer.failure}"
                    + ("; a slow server needs a longer timeout, or a smaller parallel" if late else "")
                )

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped("asking was stopped")
