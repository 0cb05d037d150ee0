"""One POST to a server, and what can go wrong with it: whether to try again, when, and whether it was paid for."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.parse
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpcore2 as httpcore
import httpx2 as httpx

from methods.elicitation.writers.protocol import Usage
from methods.errors import MethodError

LATE = "no whole answer"  # how a text begins that says how long was waited for one
LARGEST_ANSWER = 32 * 2**20  # bytes, unpacked
LARGEST_REFUSAL = 2**16  # bytes that are read of an answer that is none
PACKED = ("gzip", "x-gzip", "deflate")  # what is asked for: zlib can be told how much to unpack
LOCAL = {"localhost", "127.0.0.1", "::1"}
BUSY = {429, 503, 529}  # the server has too much to do
AGAIN = {408, 409, 425, 500, 502, 504, *BUSY, *range(520, 528)}
EVERY = {301, 302, 303, 307, 308, 401, 402, 403, 404, 405}  # concerns every request
HIDDEN = "[key]"
# Letters of a key that may stand nowhere; a shorter one ("EMPTY", "none") is what a server without keys is given, and
# may be a word of an answer.
SECRET = 8


@dataclass
class Failed(Exception):
    """An attempt that gave no answer.

    `again`: another attempt may. `busy`: the server was asked too much, or was too slow. `every`: no request can do
    better. `worked`: the server may have done the work, and charge for it; `used` is what it says of that. `headers`
    are those of the answer, if there was one.
    """

    kind: str
    message: str
    again: bool = False
    busy: bool = False
    every: bool = False
    worked: bool = False
    used: Usage | None = None
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


class Post:
    """JSON to one address and JSON back. The key is read from an environment variable when it is needed.

    It stands in no text that this hands on: where a server repeats it, "[key]" stands in its place. Redirects are not
    followed, since they would take the key along. `timeout` is of the whole exchange, in seconds, however slowly the
    server goes on answering. Raises MethodError for an address that is none, one with a user or a query in it, for a
    key that would go to another machine unencrypted, and for one that no header can hold.
    """

    def __init__(self, url: str, key_variable: str, *, timeout: float = 120.0) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            host, _, _ = parts.hostname or "", parts.port, httpx.URL(url)
            host.encode("idna")
        except (ValueError, httpx.InvalidURL) as error:
            raise MethodError(f"not the http(s) address of a server: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise MethodError(f"{host or url!r} is not the http(s) address of a server")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise MethodError(
                f"the address of {host} has a user, a query or a fragment: keys do not belong there"
            )
        self.url, self._key_variable, self._timeout = url.rstrip("/"), key_variable, timeout
        if self._key() and parts.scheme == "http" and host not in LOCAL:
            raise MethodError(f"{key_variable} would go to {host} unencrypted: use https")
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 20.0)),
            follow_redirects=False,
            trust_env=host not in LOCAL,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )
        self._ends = _Deadline()
        for transport in {self._client._transport, *self._client._mounts.values()}:
            if isinstance(transport, httpx.HTTPTransport):
                pool = transport._pool
                pool._network_backend = _Backend(pool._network_backend, self._ends)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __call__(self, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
        """The answer and its headers; raises Failed."""
        key = self._key()
        headers = {"Accept-Encoding": "gzip, deflate", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._ends.at = time.monotonic() + self._timeout
        try:
            with self._client.stream("POST", self.url + path, json=dict(body), headers=headers) as reply:
                status, given = reply.status_code, {n: self._clean(v) for n, v in reply.headers.items()}
                raw = _read(reply.iter_raw(), LARGEST_ANSWER if status == 200 else LARGEST_REFUSAL)
        except httpx.ConnectTimeout as error:
            raise Failed("no connection", self._said(error), again=True) from None
        except httpx.TimeoutException:
            why = f"{LATE} in {self._timeout:g} s"
            raise Failed("timeout", why, again=True, busy=True, worked=True) from None
        except httpx.ConnectError as error:
            raise Failed("no connection", self._said(error), again=True) from None
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise Failed("cut connection", self._said(error), again=True, worked=True) from None
        finally:
            self._ends.at = float("inf")
        raw = _unpacked(raw, given.get("content-encoding", ""), status)
        if len(raw) > LARGEST_ANSWER:
            why = f"the answer is larger than {LARGEST_ANSWER // 2**20} MiB"
            raise Failed("huge answer", why, worked=True)
        if status != 200:
            raise self._refusal(status, raw, given)
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Failed("not JSON", f"the answer is no JSON: {error}", again=True, worked=True) from None
        if not isinstance(answer, dict):
            raise Failed("another shape", "the answer is JSON, but no object", again=True, worked=True)
        return self._cleaned(answer), given

    def _refusal(self, status: int, raw: bytes, headers: Mapping[str, str]) -> Failed:
        text = " ".join(self._clean(raw.decode("utf-8", "replace")).split())
        spent = "insufficient_quota" in text or "billing_hard_limit" in text
        unset = status in (401, 403) and self._key_variable and not self._key()
        return Failed(
            f"HTTP {status}",
            f"HTTP {status}: {text[:300] or 'without a word'}"
            + (f"; {self._key_variable} is not set, so no key was sent" if unset else ""),
            again=status in AGAIN and not spent,
            busy=status in BUSY,
            every=status in EVERY or spent,
            worked=status >= 500 and status not in BUSY,
            status=status,
            headers=headers,
        )

    def secret(self) -> str:
        """The key, where it is one that must stand nowhere: "" for none, and for a word that only takes its place."""
        key = self._key()
        return key if len(key) >= SECRET else ""

    def _key(self) -> str:
        key = os.environ.get(self._key_variable, "").strip() if self._key_variable else ""
        if not key.isascii() or not key.isprintable() or " " in key:
            raise MethodError(
                f"{self._key_variable} holds blanks or letters that no key has: was it copied whole?"
            )
        return key

    def _said(self, error: Exception) -> str:
        return self._clean(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def _clean(self, text: str) -> str:
        """A server's words about a request, without the key."""
        for key in {self._key(), json.dumps(self._key())[1:-1]} - {""}:
            text = text.replace(key, HIDDEN)
        return text

    def _cleaned(self, value: Any) -> Any:
        """The answer without our key, wherever it stands, and without halves of letters, which no file takes."""
        if isinstance(value, str):
            text = value.replace(self.secret(), HIDDEN) if self.secret() else value
            return (
                text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            )
        if isinstance(value, list):
            return [self._cleaned(item) for item in value]
        if isinstance(value, dict):
            return {self._cleaned(name): self._cleaned(item) for name, item in value.items()}
        return value


def _read(parts: Iterable[bytes], most: int) -> bytes:
    """The bytes as they come, not many more than `most`."""
    raw = bytearray()
    for part in parts:
        raw += part
        if len(raw) > most:
            break
    return bytes(raw)


def _unpacked(raw: bytes, how: str, status: int) -> bytes:
    """The bytes unpacked, at most one more than may be; raises Failed where they are packed in another way."""
    how = how.strip().lower()
    if how in ("", "identity"):
        return raw
    if how not in PACKED:
        if status != 200:
            return b""
        raise Failed(
            "another shape", f"the answer is packed as {how[:40]!r}, and nobody asked for it", worked=True
        )
    for bits in (47, -15):  # gzip or zlib by their heads; deflate without one
        try:
            return zlib.decompressobj(bits).decompress(raw, LARGEST_ANSWER + 1)
        except zlib.error:
            continue
    raise Failed("not JSON", f"the answer is said to be {how} and is not", again=True, worked=True)


class _Deadline(threading.local):
    """When the exchange of this thread must have ended, by the monotonic clock."""

    at = float("inf")

    def left(self, wanted: float | None, error: type[Exception]) -> float | None:
        """The seconds that one reading or writing may take; raises `error` where none are left."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise error("the time is over")
        return left if wanted is None else min(left, wanted)


class _Backend(httpcore.NetworkBackend):
    """The network with a deadline: httpx knows a time for each reading alone, and a server that drips has many."""

    def __init__(self, inner: httpcore.NetworkBackend, ends: _Deadline) -> None:
        self._inner, self._ends = inner, ends

    def connect_tcp(self, *args: Any, **named: Any) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_tcp(*args, **named), self._ends)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, ends: _Deadline) -> None:
        self._inner, self._ends = inner, ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._ends.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._ends.left(timeout, httpcore.WriteTimeout))

    def start_tls(self, *args: Any, **named: Any) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(*args, **named), self._ends)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        self._inner.close()
