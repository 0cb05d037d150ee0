"""`kd check-links`: asks every linked address of catalog and documents whether it answers (uses the network)."""

from __future__ import annotations

import datetime
import http.client
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from catalog import cache
from catalog.schema import HERE
from tools.paths import ROOT

AGENT = "kd-atlas-check-links/1 (checks the links of a paper catalog; one request a second and host)"
PAUSE = 1.0  # seconds between two requests to one host
TRIES = 2
# The address exists, but robots are not welcome, or not now: neither alive for certain nor dead.
CLOSED = {401, 402, 403, 406, 418, 429, 451, 999}
# Worth another try; HEAD is refused by some servers with nearly any status, so GET asks again.
AGAIN = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
_URL = re.compile(r"https?://[^\s<>\"'`\\|{}\[\]]+")


@dataclass(frozen=True)
class Answer:
    """What an address said: `alive`, `closed` (no robots) or `dead`."""

    state: str
    reason: str
    date: str

    @property
    def line(self) -> str:
        return f"{self.state}: {self.reason}"


def documents() -> list[Path]:
    """The files whose links are checked."""
    return [
        *sorted((HERE / "papers").glob("*.yaml")),
        *sorted(HERE.glob("*.yaml")),
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "reproductions" / "papers").glob("*.yaml")),
    ]


def links(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Each address (without its fragment) and the places, "file:line", that name it; an arXiv id names its page."""
    found: dict[str, list[str]] = {}
    for path in paths:
        shown = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            urls = [_trimmed(url) for url in _URL.findall(line)]
            arxiv = re.match(r'arxiv: "?(\d{4}\.\d{4,5})', line)
            if arxiv and path.suffix == ".yaml":
                urls.append(f"https://arxiv.org/abs/{arxiv[1]}")
            for url in dict.fromkeys(urls):
                found.setdefault(url.split("#")[0], []).append(f"{shown}:{number}")
    return found


def ask_all(
    urls: Iterable[str],
    *,
    timeout: float,
    workers: int,
    pause: float | None = None,
    done: Callable[[str, Answer], None] = lambda url, answer: None,
) -> list[tuple[str, Answer]]:
    """An answer for each address: hosts side by side, the addresses of one host one after another."""
    hosts: dict[str, list[str]] = {}
    for url in urls:
        hosts.setdefault(urlsplit(url).netloc.lower(), []).append(url)
    found: list[tuple[str, Answer]] = []
    stop = threading.Event()

    def ask_host(addresses: list[str]) -> None:
        for place, url in enumerate(addresses):
            if stop.is_set() or (place and stop.wait(PAUSE if pause is None else pause)):
                return
            answer = ask(url, timeout=timeout, wait=PAUSE if pause is None else pause)
            found.append((url, answer))
            done(url, answer)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        longest_first = sorted(hosts.values(), key=len, reverse=True)
        tasks = [pool.submit(ask_host, addresses) for addresses in longest_first]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            stop.set()
            raise
    return found


def ask(url: str, *, timeout: float, wait: float) -> Answer:
    """HEAD, then GET where that is refused; tried again, later each time, where the server or the net stumbles."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    reason, status = "", 0
    for attempt in range(TRIES):
        for method in ("HEAD", "GET"):
            try:
                status = _request(method, url, timeout)
                reason = f"HTTP {status}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, reason = 0, _reason(error)
                continue
            if 200 <= status < 300:
                return Answer("alive", reason, today)
        if status and status not in AGAIN:
            break
        if attempt < TRIES - 1:
            time.sleep(min(wait * 2 ** (attempt + 1), 30))
    return Answer("closed" if status in CLOSED else "dead", reason, today)


def _request(method: str, url: str, timeout: float) -> int:
    """The status at the end of all redirects; the body is not read."""
    headers = {"User-Agent": AGENT, "Accept": "*/*"}
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310 - https? only, see _OPENER
    try:
        with _OPENER.open(request, timeout=timeout) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS only: no redirect leads to a file or to FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()


def fresh(answers: Mapping[str, Answer], days: int) -> dict[str, Answer]:
    """Those that need not be asked again: alive, and not longer ago than `days`. What was dead is always asked."""
    oldest = (
        datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=min(days, 36_500))
    ).isoformat()
    return {
        url: answer for url, answer in answers.items() if answer.state == "alive" and answer.date > oldest
    }


def read_cache() -> dict[str, Answer]:
    """What is remembered of earlier checks; empty where nothing readable is."""
    kept: Any = cache.read(_cache_file(), "links")
    try:
        return {str(url): Answer(*map(str, answer)) for url, answer in kept.items()}
    except (AttributeError, TypeError):
        return {}


def write_cache(answers: Mapping[str, Answer]) -> None:
    """Remember answers for the next check."""
    plain = {url: [answer.state, answer.reason, answer.date] for url, answer in answers.items()}
    cache.write(_cache_file(), "links", plain)


def _cache_file() -> Path | None:
    folder = cache.folder()
    return None if folder is None else folder / "links.json"


def _trimmed(url: str) -> str:
    """Without what belongs to the sentence around it: final stops, and a bracket that was not opened."""
    while url and (url[-1] in ".,;:!?*_" or (url[-1] == ")" and url.count(")") > url.count("("))):
        url = url[:-1]
    return url


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    return " ".join(str(inner).split()) or type(inner).__name__
