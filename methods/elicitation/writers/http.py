"""One POST to a server, and what can go wrong with it: whether to try again, when, and whether it was paid for."""

from __future__ import annotations

import json
import os
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx

from methods.elicitation.writers.protocol import Usage
from methods.errors import MethodError

LARGEST_ANSWER = 32 * 2**20  # bytes, unpacked
LOCAL = {"localhost", "127.0.0.1", "::1"}
BUSY = {429, 503, 529}  # the server has too much to do
AGAIN = {408, 409, 425, 500, 502, 504, *BUSY, *range(520, 528)}
EVERY = {301, 302, 303, 307, 308, 401, 402, 403, 404, 405}  # concerns every request
HIDDEN = "[key]"


@dataclass
class Failed(Exception):
    """An attempt that gave no answer.

    `again`: another attempt may. `busy`: the server was asked too much. `every`: no request can do better. `worked`:
    the server may have done the work, and charge for it; `used` is what it says of that. `headers` are those of the
    answer, if there was one.
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
    followed, since they would take the key along. Raises MethodError for an address that is none, one with a user or a
    query in it, and for a key that would go to another machine unencrypted.
    """

    def __init__(self, url: str, key_variable: str, *, timeout: float = 120.0) -> None:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
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

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __call__(self, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
        """The answer and its headers; raises Failed."""
        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        ends = time.monotonic() + self._timeout
        try:
            with self._client.stream("POST", self.url + path, json=dict(body), headers=headers) as reply:
                status, given = reply.status_code, {n: self._clean(v) for n, v in reply.headers.items()}
                raw = bytearray()
                for part in reply.iter_bytes():
                    raw += part
                    if len(raw) > LARGEST_ANSWER:
                        raise Failed(
                            "huge answer",
                            f"the answer is larger than {LARGEST_ANSWER // 2**20} MiB",
                            worked=True,
                        )
                    if time.monotonic() > ends:
                        raise Failed(
                            "timeout", f"no whole answer in {self._timeout:g} s", again=True, worked=True
                        )
        except httpx.ConnectTimeout as error:
            raise Failed("no connection", self._said(error), again=True) from None
        except httpx.TimeoutException:
            raise Failed("timeout", f"no answer in {self._timeout:g} s", again=True, worked=True) from None
        except httpx.ConnectError as error:
            raise Failed("no connection", self._said(error), again=True) from None
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise Failed("cut connection", self._said(error), again=True, worked=True) from None
        if status != 200:
            raise self._refusal(status, bytes(raw), given)
        try:
            answer = json.loads(bytes(raw))
        except (ValueError, RecursionError) as error:
            raise Failed("not JSON", f"the answer is no JSON: {error}", again=True, worked=True) from None
        if not isinstance(answer, dict):
            raise Failed("another shape", "the answer is JSON, but no object", again=True, worked=True)
        return self._cleaned(answer), given

    def _refusal(self, status: int, raw: bytes, headers: Mapping[str, str]) -> Failed:
        text = self._clean(" ".join(raw[:2000].decode("utf-8", "replace").split()))
        spent = "insufficient_quota" in text or "billing_hard_limit" in text
        return Failed(
            f"HTTP {status}",
            f"HTTP {status}: {text[:300] or 'without a word'}",
            again=status in AGAIN and not spent,
            busy=status in BUSY,
            every=status in EVERY or spent,
            worked=status >= 500 and status not in BUSY,
            status=status,
            headers=headers,
        )

    def _key(self) -> str:
        return os.environ.get(self._key_variable, "").strip() if self._key_variable else ""

    def _said(self, error: Exception) -> str:
        return self._clean(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def _clean(self, text: str) -> str:
        key = self._key()
        return text.replace(key, HIDDEN) if key else text

    def _cleaned(self, value: Any) -> Any:
        """The answer without our key, wherever it may stand in it."""
        if isinstance(value, str):
            return self._clean(value)
        if isinstance(value, list):
            return [self._cleaned(item) for item in value]
        if isinstance(value, dict):
            return {self._clean(name): self._cleaned(item) for name, item in value.items()}
        return value
