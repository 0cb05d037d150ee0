import io

import pytest
from rich.console import Console

from reproductions.engine.work.sessions.progress import default_reporter
from reproductions.engine.work.sessions.progress.reporters import LiveReporter, PlainReporter
from reproductions.engine.work.sessions.progress.tracker import Shown, Tracker, duration

ARMS = ("sft", "minillm-no-length-norm")


def plan(done=None, minutes=0.0, workers=2, **to_make):
    tasks = tuple((arm, seed) for seed in range(3) for arm in ARMS)
    metrics = ("rouge_l", "greedy_exact_match")
    return Shown("toy", "tiny", tasks, ARMS, metrics, done or {}, workers, minutes, to_make)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


class Told:
    """A tracker with such a clock; events of runs by arm and seed."""

    def __init__(self, shown):
        self.clock = Clock()
        self.tracker = Tracker(shown, self.clock)

    def __call__(self, event, seed=0, arm="sft", *, after=0.0, **more):
        self.clock.seconds += after
        self.tracker.event({"event": event, "arm": arm, "seed": seed, **more})

    def left(self, *, after=0.0):
        self.clock.seconds += after
        return self.tracker.remaining_seconds()


TEACHER = {"phase": "teacher", "name": "teacher-1"}


def finished(arm, seed, seconds=10.0, value=1.0):
    metrics = {"rouge_l": value, "greedy_exact_match": 2 * value}
    return {"event": "finished", "arm": arm, "seed": seed, "seconds": seconds, "metrics": metrics}


def test_the_eta_comes_from_finished_runs_of_the_same_arm():
    tracker = Tracker(plan())
    assert tracker.remaining_seconds() is None
    tracker.event(finished("sft", 0, 10.0))
    assert tracker.remaining_seconds() == 5 * 10 / 2  # nothing is known of the other arm: as long as this one
    tracker.event(finished("minillm-no-length-norm", 0, 40.0))
    assert tracker.remaining_seconds() == (2 * 10 + 2 * 40) / 2
    clock = tracker.now = Clock()
    tracker.event({"event": "started", "arm": "sft", "seed": 1})
    clock.seconds += 4
    assert tracker.remaining_seconds() == (10 + 6 + 2 * 40) / 2
    tracker.event({"event": "failed", "arm": "sft", "seed": 1})
    assert tracker.remaining_seconds() == (10 + 2 * 40) / 2
    assert tracker.summary() == "2/6 runs, 1 failed, about 45 s left"


def test_a_teacher_in_the_making_is_part_of_the_estimate_and_no_time_of_the_run():
    """On the first edition's first run "0/35 runs, about 20 s left" stood there for two minutes."""
    told = Told(plan(minutes=1, teacher=1))  # 6 runs of 20 s by two workers
    assert told.tracker.summary() == "0/6 runs, 0/1 teachers and starts, about 60 s left"
    told("started")
    told("making", **TEACHER)
    told("step", after=2, phase="teacher", step=0, total=100)
    assert told.left() == 60  # nothing is known of the teacher yet
    told("step", after=10, phase="teacher", step=10, total=100)
    assert told.left() == pytest.approx((6 * 20 + 90) / 2)
    told("started", seed=1)
    told("waiting", seed=1, **TEACHER)
    assert told.left() == pytest.approx((6 * 20 + 2 * 90) / 2)  # its seconds are lost for who waits
    told("step", after=45, phase="teacher", step=55, total=100)
    assert told.left() == pytest.approx((6 * 20 + 2 * 45) / 2)
    assert told.tracker.summary().startswith("0/6 runs, 0/1 teachers and starts, about")
    told("shared", after=45, made=True, seconds=102.0, **TEACHER)
    told("shared", seed=1, made=False, seconds=102.0, **TEACHER)
    assert told.left() == pytest.approx(60) and told.tracker.summary() == "0/6 runs, about 60 s left"
    assert told.left(after=5) == pytest.approx((4 * 20 + 2 * 15) / 2)  # now both work for themselves


def test_what_was_not_begun_takes_as_long_as_its_like():
    told = Told(plan(minutes=1, **{"teacher": 1, "sft-start": 3}))
    for seed in (0, 1):
        told("started", seed)
        told("making", seed, phase="sft-start", name=f"sft-start-{seed}")
        told("step", seed, phase="sft_start", step=0, total=10)
    for seed in (0, 1):
        told("step", seed, after=0 if seed else 5, phase="sft_start", step=5, total=10)
    assert told.left() == pytest.approx(
        (6 * 20 + 2 * 5 + 10) / 2
    )  # the third start; of the teacher nothing is known
    told("shared", 0, after=9, made=True, seconds=14.0, phase="sft-start", name="sft-start-0")
    assert told.left() == pytest.approx(
        (6 * 20 + 0 + 14) / 2
    )  # the second is late: what it takes nobody knows
    assert told.tracker.summary().startswith("0/6 runs, 1/4 teachers and starts")


def test_a_teacher_that_is_made_for_a_text_counts_once():
    told = Told(plan(minutes=1))
    told("started")
    told("making", after=1, phase="rows-label", name="rows-label-1")
    told("making", after=1, **TEACHER)
    told("shared", after=10, made=True, seconds=10.0, **TEACHER)
    told("shared", after=1, made=True, seconds=11.0, phase="rows-label", name="rows-label-1")
    assert told.left(after=2) == pytest.approx((5 * 20 + 17) / 2)  # 1 + 2 seconds were the run's own


def test_who_waited_makes_it_where_its_maker_died_and_a_run_that_fails_leaves_nothing():
    told = Told(plan(minutes=1))
    for seed in (0, 1):
        told("started", seed)
    told("making", 0, **TEACHER)
    told("waiting", 1, **TEACHER)
    told("failed", 0, after=7)
    told("making", 1, **TEACHER)
    told("shared", 1, after=10, made=True, seconds=10.0, **TEACHER)
    assert told.left() == pytest.approx(5 * 20 / 2)
    told("failed", 1)
    assert (
        told.left() == pytest.approx(4 * 20 / 2)
        and told.tracker.summary() == "0/6 runs, 2 failed, about 40 s left"
    )


def test_before_any_run_the_eta_is_the_scales_own_estimate():
    assert Tracker(plan(minutes=6)).remaining_seconds() == 6 * 60
    assert Tracker(plan(minutes=6, workers=1)).remaining_seconds() == 12 * 60


def test_runs_of_earlier_sessions_count():
    tracker = Tracker(plan(done={("sft", 0): {"metrics": {"rouge_l": 3.0}, "seconds": 4.0}}))
    assert tracker.means("sft", "rouge_l") == (3.0, 1)
    assert tracker.remaining_seconds() == 5 * 4 / 2


def test_plain_lines_one_for_each_event_and_none_for_steps():
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    reporter.begin(plan())
    reporter.event({"event": "started", "arm": "sft", "seed": 0})
    reporter.event({"event": "making", "arm": "sft", "seed": 0, **TEACHER})
    reporter.event({"event": "waiting", "arm": "sft", "seed": 1, **TEACHER})
    reporter.event({"event": "shared", "arm": "sft", "seed": 0, "made": True, "seconds": 100.0, **TEACHER})
    reporter.event({"event": "shared", "arm": "sft", "seed": 1, "made": False, "seconds": 100.0, **TEACHER})
    reporter.event({"event": "step", "arm": "sft", "seed": 0, "phase": "student", "step": 1, "total": 2})
    reporter.event(finished("sft", 0))
    reporter.event({"event": "failed", "arm": "sft", "seed": 1, "message": "no luck", "file": "/x.txt"})
    reporter.end()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "toy at scale tiny: 0/6 runs, 2 worker(s)",
        "sft seed 0: started",
        "sft seed 0: makes the teacher",
        "sft seed 1: waits for the teacher that another worker is making",
        "sft seed 0: made the teacher in 2 min [0/6 runs]",
        "sft seed 0: finished in 10 s: rouge_l 1, greedy_exact_match 2 [1/6 runs, about 25 s left]",
        "sft seed 1: FAILED: no luck (traceback: /x.txt)",
    ]


def test_the_live_display_shows_bars_and_the_filling_table_in_80_columns():
    console = Console(file=io.StringIO(), width=80, height=30, force_terminal=True, color_system=None)
    reporter = LiveReporter(console)
    reporter.begin(plan())
    try:
        reporter.event({"event": "started", "arm": ARMS[1], "seed": 0})
        step = {"event": "step", "arm": ARMS[1], "seed": 0, "total": 40}
        reporter.event({**step, "phase": "teacher", "step": 40})
        reporter.event({**step, "phase": "student", "step": 10})
        reporter.event(finished("sft", 0, value=0.123456))
        picture = Console(file=io.StringIO(), width=80)
        picture.print(reporter._picture())
    finally:
        reporter.end()
    text = picture.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "1/6 runs, about 2" in text and "student" in text and "10/40" in text
    (row,) = [line for line in text.splitlines() if line.startswith("sft ")]
    assert row.split() == ["sft", "1/3", "0.1235", "0.2469"]


def test_a_failure_stays_on_the_screen_with_its_file():
    stream = io.StringIO()
    reporter = LiveReporter(Console(file=stream, width=80, force_terminal=True, color_system=None))
    reporter.begin(plan())
    reporter.event({"event": "started", "arm": "sft", "seed": 0})
    reporter.event(
        {"event": "failed", "arm": "sft", "seed": 0, "message": "[red]no luck", "file": "/x/[a].txt"}
    )
    reporter.end()
    assert "sft seed 0 failed: [red]no luck" in stream.getvalue() and "/x/[a].txt" in stream.getvalue()


def test_not_a_terminal_means_plain_lines(capsys):
    assert isinstance(default_reporter(), PlainReporter)
    default_reporter(as_json=True).begin(plan())
    assert capsys.readouterr().out == ""


def test_durations_as_people_say_them():
    assert [duration(seconds) for seconds in (0.25, 8, 89, 200, 7800)] == [
        "0.2 s",
        "8 s",
        "89 s",
        "3 min",
        "2 h 10 min",
    ]
