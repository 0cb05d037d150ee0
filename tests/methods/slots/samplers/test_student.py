"""What samplers make of a window, with a student that answers each prompt with its last token."""

import random

import pytest

from methods.errors import MethodError
from methods.slots.samplers import (
    AdaptiveReplay,
    Example,
    HalfStudent,
    OnPolicy,
    Paired,
    PairedStudent,
    Step,
    TeacherMixed,
    WithStudent,
)


class Recorder:
    """A Step whose student answers each prompt with its last token, and whose validation losses are given."""

    def __init__(self, progress=0.0, losses=(), seed=0):
        self.calls, self.losses = [], list(losses)
        self.step = Step(progress, random.Random(seed), self.generate, lambda: self.losses.pop(0))

    def generate(self, prompts, **settings):
        self.calls.append(settings)
        return [[prompt[-1], 1] for prompt in prompts]


WINDOW = [Example([5, 6], [7, 1]), Example([8], [9, 9, 1])]


def test_samplers_say_where_their_sequences_come_from():
    recorder = Recorder()
    assert OnPolicy(0.0)(WINDOW, recorder.step) == WINDOW and not recorder.calls
    sampled = [Example([5, 6], [6, 1], "student"), Example([8], [8, 1], "student")]
    assert OnPolicy(1.0, temperature=0.7)(WINDOW, recorder.step) == sampled
    assert recorder.calls == [{"temperature": 0.7}]
    assert [e.source for e in TeacherMixed(1.0)(WINDOW, recorder.step)] == ["teacher", "teacher"]
    both = WithStudent()(WINDOW, recorder.step)
    assert both == [
        Example([5, 6], [7, 1], "teacher"), sampled[0], Example([8], [9, 9, 1], "teacher"), sampled[1],
    ]  # fmt: skip


def test_half_of_a_window_is_the_student_s():
    half = HalfStudent()(WINDOW, Recorder().step)
    assert half == [Example([5, 6], [7, 1], "teacher"), Example([8], [8, 1], "student")]
    assert [e.source for e in HalfStudent()(WINDOW[:1], Recorder().step)] == ["teacher"]


def test_the_on_policy_share_is_that_of_steps():
    chosen = sum(OnPolicy(0.3)(WINDOW, Recorder(seed=s).step)[0].source == "student" for s in range(2000))
    assert 0.26 < chosen / 2000 < 0.34


def test_replay_grows_with_the_validation_loss_and_reuses_samples():
    sampler = AdaptiveReplay(rise=0.5, validations=4, capacity=3)
    shares = []
    for progress, losses in ((0.0, [2.0]), (0.1, []), (0.25, [1.5]), (0.5, [1.6]), (0.75, [1.7])):
        sampler(WINDOW, Recorder(progress, losses).step)
        shares.append(sampler.share)
    assert shares == [0.0, 0.0, 0.0, 0.5, 1.0]
    fresh = Recorder(0.76)
    sampler(WINDOW, fresh.step)
    late = [Recorder(0.99, seed=s) for s in range(50)]
    replayed = [sampler(WINDOW, r.step) for r in late]
    assert all(e.source == "student" for window in replayed for e in window)
    assert sum(len(r.calls) for r in late) <= 5, "late in training nearly everything is replayed"
    assert len(sampler.buffer) <= 3


def test_the_released_replay_draws_once_fills_its_buffer_and_compares_with_the_last_rise():
    """DistiLLM's finetune.py: a loss below that of the start never raises the share, however it goes up and down."""
    losses = ((0.0, [2.0]), (0.25, [1.5]), (0.5, [1.6]), (0.75, [2.5]))
    for released, expected in ((False, [0.0, 0.0, 0.5, 1.0]), (True, [0.0, 0.0, 0.0, 0.5])):
        sampler, shares = AdaptiveReplay(rise=0.5, validations=4, capacity=3, released=released), []
        for progress, said in losses:
            sampler(WINDOW, Recorder(progress, said).step)
            shares.append(sampler.share)
        assert shares == expected
    capacity, tries = 100, 1500
    made = {}
    for released in (False, True):
        sampler = AdaptiveReplay(start=0.5, capacity=capacity, released=released)
        sampler._checked, sampler._last = 99, 0.0
        recorders = [Recorder(0.4, seed=s) for s in range(tries)]
        windows = []
        for recorder in recorders:
            windows.append(sampler(WINDOW, recorder.step))
            if len(sampler.buffer) < capacity and released and windows[-1][0].source == "student":
                assert recorder.calls, "until the buffer is full every sample is fresh"
        made[released] = sum(bool(recorder.calls) for recorder in recorders[-1000:]) / 1000
    assert made[False] == pytest.approx(0.5 * 0.5 * 0.6, abs=0.05)
    assert made[True] == pytest.approx(0.5 * 0.6, abs=0.05)


@pytest.mark.parametrize("size", [4, 5])
def test_pairs_hold_two_answers_to_one_prompt(size):
    window = [Example([i + 3], [9, 1]) for i in range(size)]
    asked = []

    def generate(prompts, **settings):
        asked.append((prompts, settings))
        return [[prompt[0], 1] for prompt in prompts]

    step = Step(0.0, random.Random(0), generate, lambda: 0.0)
    got = PairedStudent(temperature=0.8)(window, step)
    assert asked == [([[3], [5]], {"temperature": 0.8})]
    assert got[:4] == [
        Example([3], [9, 1], "teacher"),
        Example([3], [3, 1], "student"),
        Example([5], [9, 1], "teacher"),
        Example([5], [5, 1], "student"),
    ]
    assert got[4:] == [Example([7], [9, 1], "teacher")][: size - 4]


def test_a_pair_may_hold_what_another_sampler_writes():
    window = [Example([i + 3], [9, 1]) for i in range(5)]

    def generate(prompts, **settings):
        assert settings == {"temperature": 1.0, "teacher_mix": 1.0}
        return [[prompt[0], 1] for prompt in prompts]

    step = Step(0.0, random.Random(0), generate, lambda: 0.0)
    got = Paired(TeacherMixed(1.0))(window, step)
    assert got == [
        Example([3], [9, 1], "teacher"),
        Example([3], [3, 1], "student"),
        Example([5], [9, 1], "teacher"),
        Example([5], [5, 1], "student"),
        Example([7], [9, 1], "teacher"),
    ]


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [(OnPolicy(), {"source": "pupil"}), (OnPolicy(), {"other": "pupil"}), (AdaptiveReplay(), {})],
)
def test_a_pair_without_sense_is_refused(sampler, settings):
    with pytest.raises(MethodError):
        Paired(sampler, **settings)


def test_who_gives_two_answers_or_none_cannot_stand_in_a_pair():
    window = [Example([i + 3], [9, 1]) for i in range(4)]
    step = Step(0.0, random.Random(0), lambda prompts, **_: [[1] for _ in prompts], lambda: 0.0)
    with pytest.raises(MethodError, match="WithStudent does not give one example for each"):
        Paired(WithStudent())(window, step)
