"""A server that fails in every way that servers do: nothing is lost, nothing is asked twice, everything is counted."""

import gzip
import json
import resource
import signal
import threading
import time
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from methods.elicitation.writers.budget import Caps, Prices
from methods.elicitation.writers.protocol import INVALID, LENGTH, STOP, CapReached, ask
from methods.elicitation.writers.server import Patience
from methods.errors import MethodError
from tests.methods.elicitation.writers.conftest import (
    QUESTIONS,
    QUICK,
    answer_of,
    asked,
    choice,
    cut,
    dripping,
    dripping_heads,
    going_on,
    huge,
    send,
    slow,
    status,
    text,
)

HASTY = replace(QUICK, timeout=1.0)  # only where a server is too slow on purpose: a busy machine is slow too
FAULTS = {
    "HTTP 429": status(429, "slow down", Retry_After="0"),
    "HTTP 500": status(500, "oops"),
    "HTTP 503": status(503, ""),
    "timeout": slow(2.0),
    "cut connection": cut,
    "not JSON": text('{"choices": [{"message": {"content": "ha'),
    "another shape": text('{"choices": []}'),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_tried_again_and_counted_and_no_answer_is_lost(server, tmp_path, kind):
    server.faults = [FAULTS[kind], None, FAULTS[kind]]
    patience = HASTY if kind == "timeout" else QUICK
    answers, report = asked(server, journal=tmp_path / "journal", patience=patience)
    assert [answer.text for answer in answers] == [f"question {n}!" for n in range(6)]
    assert report["failures"] == {kind: 2} and report["calls"] == 8 == len(server.bodies)
    assert sorted(server.answered) == sorted(f"question {n}" for n in range(6))
    again, report = asked(server, journal=tmp_path / "journal")
    assert again == answers and report["calls"] == 0 and len(server.bodies) == 8
    assert report["spent"]["calls"] == 8 and report["failures"] == {kind: 2}


def test_a_server_that_answers_one_after_the_other_is_not_asked_more_than_it_takes(server):
    """One model on one machine: what nobody waits for any more it answers all the same, and the rest waits longer."""
    alone = threading.Lock()

    def in_turn(body):
        with alone:
            time.sleep(0.15)
        return f"{body['messages'][-1]['content']}!"

    server.text = in_turn
    questions = [ask(f"question {n}", max_tokens=20) for n in range(40)]
    patience = Patience(attempts=6, timeout=1.0, first_wait=0.1, longest_wait=2.0)
    answers, report = asked(server, questions, parallel=16, patience=patience)
    assert [answer.text for answer in answers] == [f"question {n}!" for n in range(40)]
    assert report["calls"] < 60, "each that is late is paid for, and asked again"


def test_who_gave_up_says_what_of_a_slow_server_can_be_set(server):
    server.pause = 0.5
    with pytest.raises(MethodError, match=r"no whole answer in 0.1 s.*longer timeout, or .*parallel"):
        asked(server, patience=replace(QUICK, timeout=0.1))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (text("[]"), "no object"),
        (text("null"), "no object"),
        (text("[" * 100_000), "no JSON"),
        (text('{"choices": "none"}'), "no choices"),
        (text('{"choices": [7]}'), "no message"),
        (answer_of(choice(content=["a"])), "no text"),
        (answer_of(choice(content=None)), "no text"),
        (text('{"error": {"message": "overloaded"}}'), "overloaded"),
        (text(b"\xff\xfe\x00"), "no JSON"),
        (text('{"choices": [{}]}'), "no message"),
        (dripping, "no whole answer in 1 s"),
        (dripping_heads, "no whole answer in 1 s"),
        (going_on, "no whole answer in 1 s"),
    ],
)
def test_an_answer_of_another_shape_is_a_failure_that_says_so(server, raw, why):
    server.faults = [raw] * QUICK.attempts
    (answer,), _ = asked(server, QUESTIONS[:1], patience=HASTY if why.endswith("in 1 s") else QUICK)
    assert answer.dropped() == "failed" and why in answer.failure and "after 4 attempts" in answer.failure


def test_a_huge_answer_is_not_read_to_its_end(server, monkeypatch):
    monkeypatch.setattr("methods.elicitation.writers.http.LARGEST_ANSWER", 2**21)
    server.faults = [huge]
    answers, report = asked(server)
    assert [bool(answer.failure) for answer in answers].count(True) == 1 and report["calls"] == 6
    assert report["failures"] == {"huge answer": 1}


def packed(data, how, code=200):
    def answer(handler, body):
        send(handler, code, data, Content_Encoding=how, Content_Type="text/html; charset=latin-1")
        return True

    return answer


def test_an_answer_that_is_packed_is_unpacked_whatever_it_is_said_to_be(server):
    whole = json.dumps({"choices": [choice("für")]}).encode()
    raw = zlib.compressobj(wbits=-15)
    server.faults = [
        packed(gzip.compress(whole), "gzip"),
        packed(zlib.compress(whole), "deflate"),
        packed(raw.compress(whole) + raw.flush(), "Deflate"),
        packed(gzip.compress(b"slow down"), "gzip", 429),
    ]
    answers, report = asked(server, QUESTIONS[:4], parallel=1)
    assert [answer.text for answer in answers] == [*["für"] * 3, "question 3!"]
    assert report["failures"] == {"HTTP 429": 1}
    assert all("br" not in headers["Accept-Encoding"] for headers in server.headers)


def test_a_bomb_is_not_unpacked(server, monkeypatch):
    """256 MiB in 256 KiB, and the same packed twice or as nobody asked: a few bytes can fill any memory."""
    monkeypatch.setattr("methods.elicitation.writers.http.LARGEST_ANSWER", 2**21)
    packing = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packing.compress(bytes(2**20)) for _ in range(256)) + packing.flush()
    twice = gzip.compress(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    server.faults = [
        packed(bomb, "gzip"),
        packed(twice, "gzip, gzip"),
        packed(bomb, "br"),
        packed(b"?", "gzip"),
    ]
    answers, report = asked(server, QUESTIONS[:4], parallel=1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # KiB
    assert (
        report["failures"] == {"another shape": 2, "huge answer": 1, "not JSON": 1} and report["calls"] == 5
    )
    assert "larger than 2 MiB" in answers[0].failure and "packed as 'gzip, gzip'" in answers[1].failure
    assert answers[3].text == "question 3!"


def test_a_refusal_as_large_as_a_disk_is_a_refusal(server):
    def refused(handler, body):
        send(handler, 429, b" " * 2**22, Retry_After="0")
        return True

    server.faults = [refused]
    answers, report = asked(server, QUESTIONS[:1])
    assert answers[0].text == "question 0!" and report["failures"] == {"HTTP 429": 1}


def test_how_a_text_ended_is_told(server):
    server.faults = [
        answer_of(choice("cut off in the", "length")),
        answer_of(choice("no", "content_filter")),
        answer_of(choice(None, refusal="I cannot")),
        answer_of(choice("", "stop")),
        answer_of(choice("call", "tool_calls")),
        answer_of(choice(None, "length", reasoning_content="let me think")),
        answer_of(choice(None, "tool_calls", tool_calls=[{"type": "function", "function": {"name": "f"}}])),
        answer_of(choice(None, "function_call", function_call={"name": "f"})),
        answer_of(choice("fine", ["stop"])),
        answer_of(choice("fine", None)),
    ]
    answers, report = asked(server, [ask(f"{n}") for n in range(10)], parallel=1)
    reasons = ["truncated", "filtered", "filtered", "empty", "invalid", "truncated", *["invalid"] * 4]
    assert [answer.dropped() for answer in answers] == reasons
    assert answers[5].thoughts == ("let me think",)
    assert report["calls"] == 10, "what was paid for and is no data is not asked for again"


@pytest.mark.parametrize("given", ["seconds", "date", "milliseconds"])
def test_the_server_says_how_long_to_wait(server, given):
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # dates have whole seconds
    headers = {
        "seconds": {"Retry_After": "1"},
        "date": {"Retry_After": when},
        "milliseconds": {"retry_after_ms": "1000"},
    }
    server.faults = [status(429, "later", **headers[given])]
    began = time.monotonic()
    answers, _ = asked(server, QUESTIONS[:1])
    assert answers[0].text == "question 0!"
    assert 0.8 < time.monotonic() - began < 60, "and not six attempts' worth of it"


def test_a_server_that_asks_for_an_hour_is_not_waited_for_and_what_came_is_kept(server, tmp_path):
    server.faults = [None, None, status(429, "daily limit", Retry_After="3600")]
    with pytest.raises(MethodError, match="come back in 3600 s"):
        asked(server, journal=tmp_path / "journal", parallel=1)
    answers, report = asked(server, journal=tmp_path / "journal")
    assert report["journal"] == 2 and len(server.answered) == 6 and not any(a.failure for a in answers)


@pytest.mark.parametrize("code", [301, 401, 403, 404])
def test_what_concerns_every_request_ends_the_run_at_once(server, code):
    server.faults = [status(code, "not here", Location="http://127.0.0.1:1/v1")] * 20
    with pytest.raises(MethodError, match=f"HTTP {code}: not here"):
        asked(server, parallel=1)
    assert len(server.bodies) == 1


def test_a_request_that_is_refused_is_not_tried_again_and_the_others_go_on(server):
    server.faults = [status(400, "this prompt is too long")]
    answers, report = asked(server, parallel=1)
    assert answers[0].failure == "HTTP 400: this prompt is too long" and report["calls"] == 6
    assert [answer.text for answer in answers[1:]] == [f"question {n}!" for n in range(1, 6)]


def test_a_server_that_is_gone_is_given_up(server):
    server.faults = [status(400, "no")] * 100
    with pytest.raises(MethodError, match="5 requests in a row gave nothing, the last one: HTTP 400"):
        asked(server, [ask(str(n)) for n in range(40)], parallel=1)
    assert len(server.bodies) == 5


@pytest.mark.parametrize("offers", ["n", "one at a time", "refuses n"])
def test_several_samples_whatever_the_server_offers(server, offers):
    request = ask("q", samples=5, temperature=1.0, seed=3)

    def fewer(handler, body):
        server.reply(handler, {**body, "n": 2 if body.get("n", 1) > 2 else 1})
        return True

    server.faults = {
        "n": [],
        "one at a time": [fewer] * 9,
        "refuses n": [status(422, "Unexpected fields in the request: {'n'}")],
    }[offers]
    (answer,), report = asked(server, [request])
    assert answer.texts == ("q!",) * 5 and answer.ended == (STOP,) * 5
    assert [body.get("n") for body in server.bodies] == {
        "n": [5],
        "one at a time": [5, 3, None],
        "refuses n": [5, *[None] * 5],
    }[offers]
    seeds = [body["seed"] for body in server.bodies]
    assert len(set(seeds)) == (1 if offers == "n" else len(seeds) - (offers == "refuses n")), (
        "each draws anew"
    )
    assert answer.usage.written == 15


def test_more_choices_than_were_asked_for_are_not_taken(server):
    server.faults = [answer_of(choice("a"), choice("b"), choice("c"))]
    (answer,), _ = asked(server, QUESTIONS[:1])
    assert answer.texts == ("a",)


def test_a_choice_that_stands_there_twice_is_one_draw(server):
    numbered = [{"index": 0, **choice("a")}, {"index": 0, **choice("a")}, {"index": 1, **choice("a")}]
    server.faults = [answer_of(*numbered), answer_of({"index": 0, **choice("b")})]
    (answer,), report = asked(server, [ask("q", samples=3, temperature=1.0)])
    assert answer.texts == ("a", "a", "b") and report["calls"] == 2
    server.faults = [answer_of(choice("c"), choice("c"))]
    (answer,), report = asked(server, [ask("r", samples=2, temperature=1.0)])
    assert answer.texts == ("c", "c") and report["calls"] == 1, "without numbers nobody can tell"


def test_half_a_letter_is_no_letter_and_stops_no_file(server, tmp_path):
    server.faults = [
        text('{"choices": [{"message": {"content": "a\\ud83d\\ude00b\\ud800c"}, "finish_reason": "stop"}]}')
    ]
    (answer,), _ = asked(server, QUESTIONS[:1], tmp_path / "journal")
    assert answer.text == "a\N{GRINNING FACE}b\N{REPLACEMENT CHARACTER}c" and answer.text.encode()
    assert asked(server, QUESTIONS[:1], tmp_path / "journal")[0] == [answer]


def test_samples_that_came_are_kept_when_the_rest_does_not(server, tmp_path):
    request = ask("q", samples=3, temperature=1.0)

    def two(handler, body):
        server.reply(handler, {**body, "n": 2})
        return True

    server.faults = [two, *[status(500)] * 4]
    (answer,), report = asked(server, [request], tmp_path / "journal")
    assert answer.texts == ("q!", "q!", "") and [answer.dropped(n) for n in range(3)] == [
        None,
        None,
        "failed",
    ]
    (answer,), report = asked(server, [request], tmp_path / "journal")
    assert answer.texts == ("q!",) * 3 and report["calls"] == 1 and "n" not in server.bodies[-1]


SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}, "steps": {"type": "array", "items": {"type": "string"}}},
    "required": ["answer"],
    "additionalProperties": False,
}


def test_json_is_asked_for_where_it_is_offered_and_checked_everywhere(server):
    said = iter(
        ['{"answer": 4}', '```json\n{"answer": 5}\n```', '{"answer": "4"}', '{"answer": 4', "4", "[]"]
    )
    server.text = lambda body: next(said)
    requests = [ask(f"q{n}", schema=SCHEMA) for n in range(6)]
    server.faults = [status(400, 'unknown field "response_format"')]
    answers, report = asked(server, requests, parallel=1)
    assert [answer.ended[0] for answer in answers] == [STOP, STOP, *[INVALID] * 4]
    assert ["response_format" in body for body in server.bodies] == [True, *[False] * 6]
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == SCHEMA


def test_stops_are_cut_here_where_the_server_does_not(server):
    server.text = lambda body: "one. END two"
    (answer,), _ = asked(server, [ask("q", stop=("END",))])
    assert answer.text == "one. " and server.bodies[0]["stop"] == ["END"]


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": -3, "completion_tokens": True},
        {"prompt_tokens": "9"},
        [1],
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 9, "completion_tokens": 0},
    ],
)
def test_a_server_that_does_not_tell_what_it_used_is_guessed_at_the_worst(server, usage):
    server.faults = [answer_of(choice(), usage=usage)]
    (answer,), report = asked(server, QUESTIONS[:1])
    assert answer.usage.guessed and answer.usage.written == 20 and report["spent"]["written"] == 20


@pytest.mark.parametrize(
    ("caps", "sent"),
    [
        (Caps(calls=3), 3),
        (Caps(written=20 + 3 + 3), 3),
        (Caps(money=3 * 3e-3 + 17.1e-3), 3),
        (Caps(read=3), 0),
    ],
)
def test_a_cap_is_held_before_anything_is_sent(server, tmp_path, caps, sent):
    """A text may take 20 tokens and takes 3: the fourth is sent only if its worst case fits."""
    prices = Prices(written=1000.0)
    with pytest.raises(CapReached, match="above the cap of"):
        asked(server, journal=tmp_path / "journal", caps=caps, prices=prices, parallel=4)
    assert len(server.bodies) == sent
    with pytest.raises(CapReached):
        asked(server, journal=tmp_path / "journal", caps=caps, prices=prices)
    assert len(server.bodies) == sent, "what was spent stands in the journal"
    answers, report = asked(server, journal=tmp_path / "journal", prices=prices)
    assert report["calls"] == 6 - sent and len(server.answered) == 6
    assert report["spent"]["money"] == pytest.approx(18e-3)


def test_failed_attempts_count_against_the_caps(server):
    server.faults = [status(500)] * 3
    with pytest.raises(CapReached, match="calls to 4, above the cap of 3"):
        asked(server, QUESTIONS[:1], caps=Caps(calls=3))
    server.faults = [status(500)] * 3
    with pytest.raises(CapReached, match="tokens written to 60, above the cap of 59"):
        asked(server, QUESTIONS[:1], caps=Caps(written=59))


def test_concurrency_grows_to_what_the_server_takes_and_no_further(server):
    """Four at first; a good answer adds 1 / limit, so by the 40th request eight may be under way."""
    server.together = (40, 8)
    asked(server, [ask(str(n)) for n in range(80)], parallel=8)
    assert server.most == 8


def test_at_first_only_four_are_under_way(server):
    server.pause = 0.3
    asked(server, [ask(str(n)) for n in range(5)], parallel=16)
    assert server.most <= 4


def test_what_the_headers_say_is_left_is_not_passed(server):
    server.extra_headers = {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "300ms"}
    began = time.monotonic()
    asked(server, QUESTIONS[:3], parallel=1)
    assert time.monotonic() - began > 0.5


def test_what_was_written_until_ctrl_c_is_kept(server, tmp_path):
    """The one under way comes in and is journalled; nothing new is sent."""

    def interrupting(handler, body):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)
        server.reply(handler, body)
        return True

    server.faults = [None, None, interrupting]
    with pytest.raises(KeyboardInterrupt):
        asked(server, journal=tmp_path / "journal", parallel=1)
    assert len(server.bodies) == 3
    _, report = asked(server, journal=tmp_path / "journal")
    assert report["journal"] == 3 and report["lost"] == 0 and len(server.bodies) == 6


def test_a_length_that_the_server_names_otherwise(server):
    server.faults = [status(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")]
    (answer,), _ = asked(server, QUESTIONS[:1])
    assert answer.ended == (STOP,) != (LENGTH,)
    assert "max_tokens" not in server.bodies[1] and server.bodies[1]["max_completion_tokens"] == 20
