"""A small server that speaks chat completions over real sockets, and does wrong what it is told to do wrong."""

import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from methods.elicitation.writers.protocol import ask
from methods.elicitation.writers.server import Patience, ServerWriter
from methods.elicitation.writers.session import Session


class Server:
    """Answers each question with `text(body)`; `faults` are done first, one a request, each a function of the handler.

    `bodies` are all requests that came, `answered` the questions that got their whole answer. `most` is how many waited
    for their answer at one time; with `together`, (after, how many), those that come after so many are answered when so
    many wait: however slow the machine, the server is never the faster one.
    """

    def __init__(self):
        self.faults, self.bodies, self.headers, self.answered = [], [], [], []
        self.text = lambda body: f"{body['messages'][-1]['content']}!"
        self.extra_headers, self.pause, self.most, self._now = {}, 0.0, 0, 0
        self.together = (0, 0)
        self.lock = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    fault = outer.faults.pop(0) if outer.faults else None
                    outer._now += 1
                    outer.most = max(outer.most, outer._now)
                    outer.lock.notify_all()
                    after, many = outer.together
                    if len(outer.bodies) > after:
                        outer.lock.wait_for(lambda: outer.most >= many, 20)
                time.sleep(outer.pause)
                with outer.lock:
                    outer._now -= 1  # before the answer: whoever has it may ask again at once
                try:
                    if fault is None or fault(self, body) is None and fault in AFTER:
                        outer.reply(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def choices(self, body):
        return [
            {
                "index": n,
                "message": {"role": "assistant", "content": self.text(body)},
                "finish_reason": "stop",
            }
            for n in range(body.get("n", 1))
        ]

    def reply(self, handler, body, **changes):
        question = body["messages"][-1]["content"]
        usage = {"prompt_tokens": len(question), "completion_tokens": 3 * body.get("n", 1)}
        whole = {"choices": self.choices(body), "usage": usage, **changes}
        with self.lock:
            self.answered.append(question)
        send(handler, 200, json.dumps(whole), **self.extra_headers)


AFTER = set()


def send(handler, status, text, **headers):
    data = text.encode() if isinstance(text, str) else text
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def status(code, text="no", **headers):
    return lambda handler, body: send(handler, code, text, **headers) or True


def cut(handler, body):
    """The connection is reset in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
    return True


def text(raw):
    """A whole answer of status 200 that is not what was asked for."""
    return lambda handler, body: send(handler, 200, raw) or True


def slow(seconds):
    def wait(handler, body):
        time.sleep(seconds)
        send(handler, 200, "{}")
        return True

    return wait


def dripping(handler, body):
    """One blank at a time, for ever: no read of it times out."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(400):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)
    return True


def dripping_heads(handler, body):
    """As slow, before the answer has begun."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 400:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.02)
    handler.close_connection = True
    return True


def going_on(handler, body):
    """ "Continue", again and again."""
    for _ in range(400):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        handler.wfile.flush()
        time.sleep(0.02)
    handler.close_connection = True
    return True


def huge(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Length", str(10**9))
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" " * 10**6)
    return True


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


QUICK = Patience(attempts=4, timeout=60.0, first_wait=0.001, longest_wait=2.0, give_up=5)
QUESTIONS = [ask(f"question {n}", temperature=1.0, max_tokens=20) for n in range(6)]


def choice(content="fine", reason="stop", **message):
    return {"message": {"content": content, **message}, "finish_reason": reason}


def answer_of(*choices, **more):
    return text(json.dumps({"choices": list(choices), **more}))


def asked(server, requests=QUESTIONS, journal=None, **settings):
    own = {name: settings.pop(name) for name in ("caps", "prices") if name in settings}
    session = Session(ServerWriter(server.url, "m", **{"patience": QUICK, **settings}), journal, **own)
    try:
        return session.ask(requests), session.report()
    finally:
        session.close()
