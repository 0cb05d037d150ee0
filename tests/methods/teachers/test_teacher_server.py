"""A teacher behind a server: a fake one on this machine that answers well, badly, late or not at all."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from methods.errors import MethodError
from methods.teachers.client import Client, Limits
from methods.teachers.fill import fill
from methods.teachers.server import ServerTeacher, fill_from_server
from methods.teachers.store import TeacherStore
from tests.methods.conftest import make_model
from tests.methods.teachers.test_teacher_store import batches_of

KEY = "KD_TEST_SERVER_KEY"


class Fake(ThreadingHTTPServer):
    """Answers from a model with its `k` best; `script` holds what to do instead with the next requests."""

    daemon_threads = True

    def __init__(self, tokenizer, model, k=6):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokenizer, self.model, self.k = tokenizer, model, k
        self.script, self.requests, self.keys = [], [], []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append(request)
        server.keys.append(self.headers.get("Authorization"))
        step = server.script.pop(0) if server.script else None
        if step == "late":
            time.sleep(0.6)
            return
        if isinstance(step, int):
            self.reply(step, b'{"error": "busy"}', {"Retry-After": "3", "Location": "http://127.0.0.1:9/"})
        elif isinstance(step, bytes):
            self.reply(200, step)
        else:
            answer = well(server, request)
            if step is not None:
                step(answer)
            self.reply(200, json.dumps(answer).encode())

    def reply(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def well(server, request):
    ids = request["prompt"]
    with torch.no_grad():
        log_p = server.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    names = [server.tokenizer.decode([i]) for i in range(len(server.tokenizer))]
    places, texts = [None], [None]
    for n, token in enumerate(ids[1:]):
        top, chosen = log_p[n].topk(server.k)
        found = dict(zip(chosen.tolist(), top.tolist(), strict=True))
        found[token] = float(log_p[n, token])  # as vLLM: the token itself besides the k best
        places.append({str(i): {"logprob": v, "decoded_token": names[i]} for i, v in found.items()})
        texts.append({names[i]: v for i, v in found.items()})
    usage = {"total_tokens": len(ids) + 1}
    if "prompt_logprobs" in request:
        return {"choices": [{"text": "", "prompt_logprobs": places}], "usage": usage}
    logprobs = {"tokens": [names[i] for i in ids], "top_logprobs": texts}
    return {"choices": [{"text": "", "logprobs": logprobs}], "usage": usage}


@pytest.fixture
def server(tokenizer):
    with Fake(tokenizer, make_model(seed=1)) as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield fake
        fake.shutdown()


@pytest.fixture
def waits():
    return []


def teacher_of(server, tmp_path, waits, *, protocol="vllm", **limits):
    options = {"timeout": 0.3, "attempts": 4, **limits}
    client = Client(
        server.url, tmp_path / "journal.jsonl", Limits(**options), key_variable=KEY, sleep=waits.append
    )
    return ServerTeacher(client, "teacher-1", server.tokenizer, top_k=6, protocol=protocol)


@pytest.mark.parametrize("protocol", ["vllm", "openai"])
def test_a_server_fills_the_same_store(server, tmp_path, tokenizer, waits, protocol):
    batches = batches_of(tokenizer)
    teacher = teacher_of(server, tmp_path, waits, protocol=protocol, price_per_million=2.0)
    totals = fill_from_server(tmp_path / "served", teacher, batches, resolution=0.02)
    assert totals["examples"] == 4 and totals["rows"] == 22 and totals["mean_error_even_tail"] is None
    client = teacher.client
    assert client.counts["answered"] == client.counts["sent"] == 4 and client.counts["failed"] == 0
    assert client.counts["tokens"] == sum(len(r["prompt"]) + 1 for r in server.requests)
    assert client.cost == pytest.approx(client.counts["tokens"] * 2e-6)
    fill(tmp_path / "local", server.model, batches, tokenizer=tokenizer, max_k=6, gain=0, resolution=0.02)
    served, local = (TeacherStore(tmp_path / name).rows(batches[0]) for name in ("served", "local"))
    for i in range(22):
        near, far = (
            {t: v for t, v in zip(rows.ids[i].tolist(), rows.log_probs[i].tolist(), strict=True) if v > -1e9}
            for rows in (local, served)
        )
        assert near.keys() <= far.keys() and len(far) <= 7
        for token, value in near.items():
            assert far[token] == pytest.approx(value, abs=0.1)
        total = served.log_probs[i].exp().sum() + served.tail[i].exp()
        assert float(total) == pytest.approx(1, abs=1e-4)


def test_nothing_is_paid_for_twice(server, tmp_path, tokenizer, waits):
    batches = batches_of(tokenizer, 1)
    teacher = teacher_of(server, tmp_path, waits)

    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_from_server(tmp_path / "a", teacher, batches, progress=stop)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"key": "cut off by a k')
    teacher = teacher_of(server, tmp_path, waits)
    fill_from_server(tmp_path / "a", teacher, batches)
    assert len(server.requests) == 4, "what was under way at the interrupt is in the journal too"
    assert teacher.client.counts["answered"] == 0 and teacher.client.counts["journal"] == 2
    teacher = teacher_of(server, tmp_path, waits)
    fill_from_server(tmp_path / "other", teacher, batches)  # the store is new, the answers are not
    assert len(server.requests) == 4 and teacher.client.counts["journal"] == 4
    journal.write_bytes(b"not a journal\n" + journal.read_bytes())
    with pytest.raises(MethodError, match=r"journal.jsonl:1: not a line"):
        teacher_of(server, tmp_path, waits)


def test_requests_are_under_way_at_the_same_time(server, tmp_path, tokenizer, waits):
    meet = threading.Barrier(4, timeout=20)
    server.script = [lambda answer: meet.wait()] * 4  # nobody is answered before all four have asked
    teacher = teacher_of(server, tmp_path, waits, timeout=30)
    batches = batches_of(tokenizer, 1)
    assert fill_from_server(tmp_path / "a", teacher, batches, parallel=4)["examples"] == 4
    counts = teacher.client.counts
    assert (counts["sent"], counts["answered"], counts["failed"]) == (4, 4, 0)
    assert counts["tokens"] == sum(len(r["prompt"]) + 1 for r in server.requests)
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 4
    alone = teacher_of(server, tmp_path / "alone", waits)
    fill_from_server(tmp_path / "b", alone, batches, parallel=1)
    served = [TeacherStore(tmp_path / name).rows(batches[0]) for name in "ab"]
    assert torch.equal(served[0].ids, served[1].ids) and torch.equal(served[0].tail, served[1].tail)


def test_after_an_error_nothing_new_is_asked(server, tmp_path, tokenizer, waits):
    server.script = [401]
    teacher = teacher_of(server, tmp_path, waits)
    with pytest.raises(MethodError, match="HTTP 401"):
        fill_from_server(tmp_path / "a", teacher, batches_of(tokenizer, 1), parallel=2)
    assert len(server.requests) <= 2


def test_passing_failures_are_tried_again(server, tmp_path, tokenizer, waits):
    server.script = [429, b"{not json", "late"]
    teacher = teacher_of(server, tmp_path, waits)
    assert len(teacher.score([5, 6, 7])) == 2
    counts = teacher.client.counts
    assert (counts["sent"], counts["failed"], counts["answered"]) == (4, 3, 1)
    assert counts["tokens"] == 4 * 4, "a failed attempt may have been paid for"
    assert len(waits) == 3 and waits[0] >= 3 and all(0 <= w <= 60 for w in waits)


@pytest.mark.parametrize(
    ("script", "message", "sent"),
    [
        ([500] * 9, "no answer after 4 attempts: HTTP 500", 4),
        ([401], "after 1 attempts: HTTP 401", 1),
        ([307], "after 1 attempts: HTTP 307", 1),  # a redirect would take the key along
        ([b"[1]"], "not an object", 1),
        ([b'{"error": {"message": "no such model"}}'], "no such model", 1),
        ([b'{"choices": []}'], "no log-probs of the prompt", 1),
        ([b'{"choices": [{"text": "x", "logprobs": null}]}'], "no log-probs of the prompt", 1),
        ([b'{"choices": [{"prompt_logprobs": [null, null, null]}]}'], "no log-probs of the prompt", 1),
    ],
)
def test_lasting_failures_are_said(server, tmp_path, waits, script, message, sent):
    server.script = script
    teacher = teacher_of(server, tmp_path, waits)
    with pytest.raises(MethodError, match=message):
        teacher.score([5, 6, 7])
    assert len(server.requests) == sent


def test_another_tokenizer_at_the_server_is_noticed(server, tmp_path, waits):
    def other_word(answer):
        answer["choices"][0]["logprobs"]["tokens"][1] = "zebra"

    def other_ids(answer):
        place = answer["choices"][0]["prompt_logprobs"][2]
        answer["choices"][0]["prompt_logprobs"][2] = {k: v for k, v in place.items() if k != "7"}

    def fewer(answer):
        answer["choices"][0]["prompt_logprobs"].pop()

    for script, protocol, message in (
        (other_word, "openai", "token 1 is 'zebra' for the server and 'd' for our tokenizer"),
        (other_ids, "vllm", "no log-prob of token 2"),
        (fewer, "vllm", "sees 2 tokens where our tokenizer has 3"),
    ):
        server.script = [script]
        teacher = teacher_of(server, tmp_path / protocol / message[:6], waits, protocol=protocol)
        with pytest.raises(MethodError, match=message):
            teacher.score([5, 6, 7])


def test_impossible_probabilities_are_refused(server, tmp_path, waits):
    def positive(answer):
        answer["choices"][0]["prompt_logprobs"][1]["6"]["logprob"] = 0.5

    def too_much(answer):
        for value in answer["choices"][0]["prompt_logprobs"][1].values():
            value["logprob"] = -0.5

    for n, (script, message) in enumerate(((positive, "0.5 is not a log-prob"), (too_much, "more than one"))):
        server.script = [script]
        with pytest.raises(MethodError, match=message):
            teacher_of(server, tmp_path / str(n), waits).score([5, 6, 7])


def test_unnamed_alternatives_are_tail_and_counted(server, tmp_path, waits):
    def rename(answer):
        place = answer["choices"][0]["logprobs"]["top_logprobs"][1]
        best = max(place, key=place.get)
        place["something else"] = place.pop(best)

    server.script = [rename]
    teacher = teacher_of(server, tmp_path, waits, protocol="openai")
    found = teacher.score([5, 6, 7])
    assert teacher.unnamed == 1
    server.script = []
    exact = teacher_of(server, tmp_path / "other", waits, protocol="openai").score([5, 6, 7])
    lost = exact[0].keys() - found[0].keys()
    assert lost == {max(exact[0], key=exact[0].get)} and found[1] == exact[1]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"tokens": 9}, "tokens to 12, above the cap of 9"),
        ({"cost": 0.9, "price_per_million": 1e5}, "cost to 1.2000, above the cap of 0.9"),
    ],
)
def test_caps_are_checked_before_sending(server, tmp_path, waits, limits, message):
    teacher = teacher_of(server, tmp_path, waits, **limits)
    teacher.score([5, 6, 7])
    teacher.score([5, 6, 8])
    again = teacher_of(server, tmp_path, waits, **limits)  # what the journal has was paid for too
    for one in (teacher, again):
        with pytest.raises(MethodError, match=message):
            one.score([5, 6, 9])
    assert len(server.requests) == 2
    assert again.score([5, 6, 7]), "the journal costs nothing"


def test_the_key_comes_from_the_environment_and_stays_out_of_the_journal(
    server, tmp_path, waits, monkeypatch
):
    teacher_of(server, tmp_path, waits).score([5, 6])
    monkeypatch.setenv(KEY, "a-secret")
    teacher_of(server, tmp_path, waits).score([5, 7])
    assert server.keys == [None, "Bearer a-secret"]
    assert "a-secret" not in (tmp_path / "journal.jsonl").read_text()
    with pytest.raises(MethodError, match="unencrypted"):
        Client("http://teacher.example/v1", tmp_path / "j", key_variable=KEY)
    for url in ("ftp://teacher.example", "teacher.example", "https://me:pw@teacher.example/v1"):
        with pytest.raises(MethodError, match="not the http"):
            Client(url, tmp_path / "j", key_variable=KEY)


def test_rows_are_the_wanted_ones(server, tmp_path, waits, tokenizer):
    from methods.teachers.codec import TopKCodec

    teacher = teacher_of(server, tmp_path, waits)
    codec = TopKCodec(len(tokenizer), 29, 0.0)
    every = teacher.rows([5, 6, 7, 8], np.array([True, True, True]), codec)
    last = teacher.rows([5, 6, 7, 8], np.array([False, False, True]), codec)
    assert len(every.counts) == 3 and len(last.counts) == 1
    assert np.array_equal(last.ids, every.ids[-last.counts[0] :])
