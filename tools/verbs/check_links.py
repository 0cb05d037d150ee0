"""`kd check-links`: asks every linked address of catalog and documents whether it answers (uses the network)."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from catalog.errors import CatalogError
from tools.commands import count, json_option
from tools.terminal import visible

SUMMARY = "ask every linked address whether it answers (network)"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("--days", type=count, default=30, help="ask again after so many days (30)")
    parser.add_argument("--timeout", type=count, default=20, help="seconds to wait for an answer (20)")
    parser.add_argument("--workers", type=count, default=8, help="hosts asked at the same time (8)")
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print every dead link with the lines it stands on; 1 where there is one."""
    from tools.checks.links import ask_all, documents, fresh, links, read_cache, write_cache

    found = links(documents())
    known = fresh(read_cache(), args.days)
    todo = [url for url in found if url not in known]
    print(
        f"{len(found)} links, {len(todo)} to ask ({len(found) - len(todo)} known to answer)", file=sys.stderr
    )
    answers = dict(known)
    try:
        for url, answer in ask_all(
            todo, timeout=args.timeout, workers=args.workers, done=_progress(len(todo))
        ):
            answers[url] = answer
        if len(todo) >= 5 and not any(answers[url].reason.startswith("HTTP") for url in todo):
            raise CatalogError(f"none of {len(todo)} addresses answered at all; is there a network?")
    finally:  # an interrupted check is not asked again from the beginning
        write_cache({**read_cache(), **answers})
    dead = {url: answers[url] for url in found if answers[url].state == "dead"}
    closed = {url: answers[url] for url in found if answers[url].state == "closed"}
    if args.json:
        listed = [
            {"url": url, "state": answer.state, "reason": answer.reason, "places": found[url]}
            for url, answer in {**dead, **closed}.items()
        ]
        print(json.dumps(listed, indent=1, ensure_ascii=False))
        return 1 if dead else 0
    for url, answer in {**closed, **dead}.items():
        for place in found[url]:
            print(visible(f"{place}: {answer.line}: {url}"))
    print(f"{len(found) - len(dead) - len(closed)} alive, {len(closed)} closed to robots, {len(dead)} dead")
    return 1 if dead else 0


def _progress(total: int) -> Callable[[str, Any], None]:
    """A line that is written over on a terminal, nothing elsewhere."""
    count, lock = 0, threading.Lock()

    def done(url: str, answer: Any) -> None:
        nonlocal count
        with lock:
            count += 1
            if sys.stderr.isatty():
                end = "\n" if count == total else "\r"
                print(
                    f"\x1b[K{count}/{total} {urlsplit(url).netloc[:50]}", end=end, file=sys.stderr, flush=True
                )

    return done
