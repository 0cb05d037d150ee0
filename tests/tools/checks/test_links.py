"""`kd check-links`: what answers, what does not, and what is remembered; against a server on this machine."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections import Counter

import pytest

from tools import cli
from tools.checks import links as check_links
from tools.checks.links import Answer, ask, ask_all, fresh, links

ASKED: Counter[str] = Counter()


class Handler(http.server.BaseHTTPRequestHandler):
    """The path says how to answer."""

    def do_HEAD(self):
        self.answer("HEAD")

    def do_GET(self):
        self.answer("GET")

    def answer(self, method: str) -> None:
        ASKED[f"{method} {self.path}"] += 1
        kind = self.path.strip("/").split("/")[0]
        if kind == "slow":
            time.sleep(2)
        if kind == "nohead" and method == "HEAD":
            self.reply(405)
        elif kind == "stumbles" and ASKED[f"{method} {self.path}"] == 1:
            self.reply(503)
        elif kind in ("redirect", "file", "circle"):
            target = {"redirect": "/ok", "file": "file:///etc/passwd", "circle": "/circle"}[kind]
            self.reply(302, {"Location": target})
        else:
            self.reply(int(kind) if kind.isdigit() else 200)

    def reply(self, status: int, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
        except OSError:
            pass  # nobody waits any more

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    place = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place.daemon_threads = True
    threading.Thread(target=place.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{place.server_port}"
    place.shutdown()
    place.server_close()


@pytest.mark.parametrize(
    ("path", "state", "reason"),
    [
        ("/ok", "alive", "HTTP 200"),
        ("/redirect", "alive", "HTTP 200"),
        ("/nohead", "alive", "HTTP 200"),
        ("/stumbles", "alive", "HTTP 200"),
        ("/404", "dead", "HTTP 404"),
        ("/410", "dead", "HTTP 410"),
        ("/500", "dead", "HTTP 500"),
        ("/403", "closed", "HTTP 403"),
        ("/429", "closed", "HTTP 429"),
        ("/slow", "dead", "no answer in time"),
        ("/circle", "dead", "HTTP 302"),
        ("/file", "dead", "HTTP 302"),
    ],
)
def test_an_address_is_alive_closed_or_dead(server, path, state, reason):
    answer = ask(server + path, timeout=0.3, wait=0.01)
    assert (answer.state, answer.reason) == (state, reason)


def test_nobody_there_and_no_such_host():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", "http://no-such-host.invalid/", "http://127.0.0.1:99999/"):
        answer = ask(url, timeout=1, wait=0)
        assert answer.state == "dead" and answer.reason and "\n" not in answer.reason


def test_what_says_no_is_asked_no_more_than_it_must(server):
    ASKED.clear()
    ask(f"{server}/404/once", timeout=1, wait=0)
    ask(f"{server}/ok/once", timeout=1, wait=0)
    ask(f"{server}/503/again", timeout=1, wait=0)
    assert dict(ASKED) == {
        "HEAD /404/once": 1,
        "GET /404/once": 1,
        "HEAD /ok/once": 1,
        "HEAD /503/again": 2,
        "GET /503/again": 2,
    }


def test_one_host_is_asked_one_address_after_another(server):
    start = time.monotonic()
    found = ask_all([f"{server}/ok/{n}" for n in range(4)], timeout=2, workers=8, pause=0.1)
    assert [answer.state for _, answer in found] == ["alive"] * 4 and time.monotonic() - start > 0.3


def test_hosts_are_asked_side_by_side(server):
    other = server.replace("127.0.0.1", "localhost")
    start = time.monotonic()
    ask_all([f"{server}/slow/1", f"{other}/slow/1"], timeout=5, workers=2, pause=0)
    assert time.monotonic() - start < 3.9


def test_links_are_found_with_their_places(tmp_path):
    (tmp_path / "a.md").write_text(
        "See [x](https://a.org/x_(y)) and <https://b.org/?q=1#part>, or https://c.org/page.\n\n"
        '[ref]: https://d.org/z "title" `https://e.org/`\n'
    )
    (tmp_path / "b.yaml").write_text(
        'arxiv: "2306.08543"\ncode:\n  - https://c.org/page\nurl: "https://f.org"\n'
    )
    found = links([tmp_path / "a.md", tmp_path / "b.yaml"])
    a, b = tmp_path / "a.md", tmp_path / "b.yaml"
    assert found == {
        "https://a.org/x_(y)": [f"{a}:1"],
        "https://b.org/?q=1": [f"{a}:1"],
        "https://c.org/page": [f"{a}:1", f"{b}:3"],
        "https://d.org/z": [f"{a}:3"],
        "https://e.org/": [f"{a}:3"],
        "https://arxiv.org/abs/2306.08543": [f"{b}:1"],
        "https://f.org": [f"{b}:4"],
    }


def test_every_record_is_among_what_is_checked():
    names = {path.relative_to(check_links.ROOT).as_posix() for path in check_links.documents()}
    assert {"README.md", "CONTRIBUTING.md", "catalog/teachers.yaml", "catalog/papers/minillm.yaml"} <= names
    assert "reproductions/papers/minillm.yaml" in names


@pytest.fixture
def page(tmp_path, server, monkeypatch):
    """A document with an address that is alive, one that is dead, one that is closed."""
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "page.md"
    path.write_text(f"{server}/ok/page\n{server}/404/page\n{server}/403/page\n")
    monkeypatch.setattr(check_links, "documents", lambda: [path])
    monkeypatch.setattr(check_links, "PAUSE", 0)
    ASKED.clear()
    return path


def test_dead_links_are_listed_with_their_lines_and_asked_again(page, server, capsys):
    for _ in range(2):
        assert cli.main(["check-links"]) == 1
        out = capsys.readouterr().out
        assert f"{page}:2: dead: HTTP 404: {server}/404/page" in out
        assert f"{page}:3: closed: HTTP 403: {server}/403/page" in out
        assert "1 alive, 1 closed to robots, 1 dead" in out
    assert ASKED["HEAD /ok/page"] == 1 and ASKED["HEAD /404/page"] == 2
    assert cli.main(["check-links", "--json"]) == 1
    assert [item["state"] for item in json.loads(capsys.readouterr().out)] == ["dead", "closed"]
    page.write_text(f"{server}/ok/page\n{server}/403/page\n")
    assert cli.main(["check-links"]) == 0


def test_without_a_network_nothing_is_called_dead(page, capsys):
    page.write_text("".join(f"http://127.0.0.1:1/{n}\n" for n in range(5)))
    assert cli.main(["check-links", "--timeout", "1"]) == 2
    assert "is there a network?" in capsys.readouterr().err


def test_answers_are_remembered_for_a_while():
    now = Answer("alive", "HTTP 200", "2999-01-01")
    answers = {
        "new": now,
        "old": Answer("alive", "HTTP 200", "2020-01-01"),
        "dead": Answer("dead", "x", now.date),
    }
    assert fresh(answers, 30) == {"new": now}
    assert fresh(answers, 10**9)


@pytest.mark.parametrize("kept", [None, 7, [1], {"u": 1}, {"u": ["alive"]}])
def test_a_memory_of_another_shape_is_none(kept, monkeypatch):
    monkeypatch.setattr(check_links.cache, "read", lambda path, key: kept)
    assert check_links.read_cache() == {}
