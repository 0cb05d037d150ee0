from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from methods.elicitation.writers.budget import Stopped
from methods.elicitation.writers.pace import Pace, limits, retry_after

NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def pace():
    clock = Clock()
    made = Pace(16, clock=clock, wall=lambda: NOW.timestamp() + clock.now)
    made.clock = clock
    return made


def test_one_more_after_a_round_and_half_after_a_refusal_once_for_all_that_were_under_way(pace):
    entered = [pace.enter() for _ in range(4)]
    assert pace.wait(0.0) > 0, "four at first"
    for time in entered:
        pace.leave(time, {})
    assert 4.9 < pace.limit < 5.1
    pace.clock.now = 1.0
    entered = [pace.enter() for _ in range(4)]
    for time in entered:
        pace.clock.now += 0.1
        pace.leave(time, {}, refused=True)
    assert 2.4 < pace.limit < 2.6
    for _ in range(200):
        pace.leave(pace.enter(), {})
    assert pace.limit == 16


def test_only_an_answer_lets_more_through(pace):
    pace.leave(pace.enter(), {}, answered=False)
    assert pace.limit == 4
    pace.leave(pace.enter(), {})
    assert pace.limit == 4.25


def test_nobody_goes_before_the_server_said(pace):
    pace.leave(pace.enter(), {"Retry-After": "7"}, refused=True)
    assert pace.wait(1.0) == 6.0 and pace.wait(7.0) <= 0
    pace.clock.now = 8.0
    pace.leave(pace.enter(), {"retry-after": "9"})
    assert pace.wait(8.0) <= 0, "only a refusal holds back"


def test_what_is_left_is_shared_by_those_who_enter(pace):
    told = {"x-ratelimit-remaining-tokens": "100", "x-ratelimit-reset-tokens": "6s"}
    pace.leave(pace.enter(), told)
    pace.enter(60)
    assert pace.wait(0.0, 60) == 6.0 and pace.wait(0.0, 40) <= 0
    assert pace.wait(6.0, 500) <= 0, "one that is larger than any allowance goes when it is its time"


def test_stopping_lets_nobody_through(pace):
    pace.stop()
    with pytest.raises(Stopped):
        pace.enter()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "12"}, 12.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After": format_datetime(NOW.replace(minute=2), usegmt=True)}, 120.0),
        ({"Retry-After": "Sun, 29 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "1e99"}, None),
        ({"Retry-After": ""}, None),
        ({}, None),
    ],
)
def test_both_kinds_of_retry_after(headers, seconds):
    assert retry_after(headers, NOW.timestamp()) == seconds


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, (0, 360)),
        ({"X-RateLimit-Remaining-Requests": "3", "X-RateLimit-Reset-Requests": "20ms"}, (3, 0.02)),
        ({"anthropic-ratelimit-requests-remaining": "2",
          "anthropic-ratelimit-requests-reset": "2026-11-29T12:00:30Z"}, (2, 30)),
        ({"ratelimit-remaining": "5", "ratelimit-reset": "10"}, (5, 10)),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": str(int(NOW.timestamp()) + 5)}, (1, 5)),
        ({"x-ratelimit-remaining-requests": "1"}, None),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "1s"}, None),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1s?"}, None),
    ],
)  # fmt: skip
def test_what_headers_tell(headers, told):
    assert limits(headers, "requests", NOW.timestamp()) == (told and pytest.approx(told))
