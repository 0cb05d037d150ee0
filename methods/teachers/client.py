"""JSON over HTTP to a server that is paid by the token: bounded retries, caps checked before sending, a journal.

An answer is written to the journal under hash(url, request) before it is used, so nothing is paid for twice, whatever
happens afterwards. Every attempt counts against the caps, failed ones too: the server may have done the work.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from methods.errors import MethodError

LARGEST_ANSWER = 256 * 2**20  # bytes
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
LOCAL = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Limits:
    """What may be spent over the whole journal, and how patient to be; None for no cap. Cost is in the price's unit."""

    tokens: int | None = None
    cost: float | None = None
    price_per_million: float = 0.0
    attempts: int = 5
    timeout: float = 120.0  # seconds, of one attempt
    first_wait: float = 1.0  # seconds; doubled each time, drawn evenly between 0 and that
    longest_wait: float = 60.0


class Client:
    """Sends requests to one server. The key comes from the environment variable `key_variable` and goes nowhere else.

    `counts`: answers from the journal, sent attempts, failed ones, answers paid for, tokens. Raises MethodError for a
    key over plain HTTP to another machine. Several threads may ask at a time; caps count what is under way.
    """

    def __init__(
        self,
        url: str,
        journal: str | Path,
        limits: Limits | None = None,
        *,
        key_variable: str = "OPENAI_API_KEY",
        sleep: Callable[[float], None] = time.sleep,
    ):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise MethodError(f"{parts.hostname or url} is not the http(s) address of a server")
        if os.environ.get(key_variable) and parts.scheme == "http" and parts.hostname not in LOCAL:
            raise MethodError(f"{key_variable} would go to {parts.hostname} unencrypted: use https")
        self.url, self.limits, self.key_variable, self._sleep = (
            url.rstrip("/"),
            limits or Limits(),
            key_variable,
            sleep,
        )
        self.counts = {"journal": 0, "sent": 0, "failed": 0, "answered": 0, "tokens": 0}
        self._journal = Path(journal)
        self._known = self._read_journal()
        self._lock = threading.Lock()  # over counts, caps and journal
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, path: str, request: dict[str, Any], tokens: int) -> dict[str, Any]:
        """The answer to a POST of `request`, which will take about `tokens`; from the journal if it was asked before.

        Raises MethodError where a cap would be passed, for an answer that no retry can mend, and after the last
        attempt.
        """
        key = hashlib.sha256(f"{self.url}{path}\n{json.dumps(request, sort_keys=True)}".encode()).hexdigest()
        with self._lock:
            if key in self._known:
                self.counts["journal"] += 1
                return self._known[key]
        wait, problem = self.limits.first_wait, ""
        for attempt in range(self.limits.attempts):
            with self._lock:
                self._check_caps(tokens)
                self.counts["sent"] += 1
                self.counts["tokens"] += tokens
            try:
                answer = self._send(path, request)
            except _Failed as failure:
                with self._lock:
                    self.counts["failed"] += 1
                problem = str(failure)
                if not failure.again:
                    break
                if attempt + 1 < self.limits.attempts:
                    # Full jitter: many clients that failed together do not come back together.
                    pause = random.uniform(0, min(wait, self.limits.longest_wait))
                    self._sleep(max(pause, min(failure.after, self.limits.longest_wait)))
                    wait *= 2
                continue
            used = answer.get("usage") or {}
            used = used.get("total_tokens") if isinstance(used, dict) else None
            used = used if isinstance(used, int) and used >= 0 else tokens
            with self._lock:
                self.counts["answered"] += 1
                self.counts["tokens"] += used - tokens
                self._remember(key, answer, used)
            return answer
        raise MethodError(f"{self.url}{path} gave no answer after {attempt + 1} attempts: {problem}")

    @property
    def cost(self) -> float:
        """Spent so far over the whole journal, in the price's unit."""
        return self.counts["tokens"] * self.limits.price_per_million / 1e6

    def _check_caps(self, tokens: int) -> None:
        after = self.counts["tokens"] + tokens
        if self.limits.tokens is not None and after > self.limits.tokens:
            raise MethodError(
                f"the next request would bring the tokens to {after}, above the cap of {self.limits.tokens}"
            )
        cost = after * self.limits.price_per_million / 1e6
        if self.limits.cost is not None and cost > self.limits.cost:
            raise MethodError(
                f"the next request would bring the cost to {cost:.4f}, above the cap of {self.limits.cost}"
            )

    def _send(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if secret := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {secret}"
        message = urllib.request.Request(  # noqa: S310 (the scheme is checked above)
            self.url + path, json.dumps(request).encode(), headers, method="POST"
        )
        try:
            with self._opener.open(message, timeout=self.limits.timeout) as reply:
                body = reply.read(LARGEST_ANSWER + 1)
        except urllib.error.HTTPError as error:
            after = error.headers.get("Retry-After", "") if error.headers else ""
            said = error.read(300).decode("utf-8", "replace").replace("\n", " ").strip()
            raise _Failed(
                f"HTTP {error.code}: {said or error.reason}",
                again=error.code in RETRIED,
                after=float(after) if after.isdigit() else 0.0,
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Failed(f"{type(error).__name__}: {error}", again=True) from error
        if len(body) > LARGEST_ANSWER:
            raise _Failed("the answer is larger than 256 MiB", again=False)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _Failed(f"not JSON: {error}", again=True) from error
        if not isinstance(answer, dict):
            raise _Failed("the answer is JSON, but not an object", again=False)
        if answer.get("error"):
            raise _Failed(f"the server says: {str(answer['error'])[:300]}", again=False)
        return answer

    def _read_journal(self) -> dict[str, dict[str, Any]]:
        """Answers by key; a line that a kill cut off is taken away, any other bad line is an error."""
        known: dict[str, dict[str, Any]] = {}
        if not self._journal.exists():
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            return known
        data = self._journal.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self._journal.open("r+b") as file:
                file.truncate(whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                entry = json.loads(line)
                known[entry["key"]] = entry["answer"]
                self.counts["tokens"] += int(entry["tokens"])
            except (ValueError, KeyError, TypeError) as error:
                raise MethodError(f"{self._journal}:{number}: not a line of a journal") from error
        return known

    def _remember(self, key: str, answer: dict[str, Any], tokens: int) -> None:
        line = json.dumps({"key": key, "tokens": tokens, "answer": answer}) + "\n"
        with self._journal.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._known[key] = answer


class _Failed(Exception):
    """An attempt that gave no answer: whether to try again, and not before how many seconds."""

    def __init__(self, message: str, *, again: bool, after: float = 0.0):
        super().__init__(message)
        self.again, self.after = again, after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points; it is an error like any other status."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
