import io
import time

from rich.console import Console

from reproductions.engine.progress import (
    LiveReporter,
    PlainReporter,
    Plan,
    Tracker,
    default_reporter,
    duration,
)

ARMS = ("sft", "minillm-no-length-norm")


def plan(done=None, minutes=0.0, workers=2):
    tasks = tuple((arm, seed) for seed in range(3) for arm in ARMS)
    return Plan("toy", "tiny", tasks, ARMS, ("rouge_l", "greedy_exact_match"), done or {}, workers, minutes)


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
    tracker.event({"event": "started", "arm": "sft", "seed": 1})
    time.sleep(0.05)
    assert 49 < tracker.remaining_seconds() < 50
    tracker.event({"event": "failed", "arm": "sft", "seed": 1})
    assert tracker.remaining_seconds() == (10 + 2 * 40) / 2
    assert tracker.summary() == "2/6 runs, 1 failed, about 45 s left"


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
    reporter.event({"event": "waiting", "arm": "sft", "seed": 0, "phase": "teacher"})
    reporter.event({"event": "step", "arm": "sft", "seed": 0, "phase": "student", "step": 1, "total": 2})
    reporter.event(finished("sft", 0))
    reporter.event({"event": "failed", "arm": "sft", "seed": 1, "message": "no luck", "file": "/x.txt"})
    reporter.end()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "toy at scale tiny: 0/6 runs, 2 worker(s)",
        "sft seed 0: started",
        "sft seed 0: waits for the teacher that another worker is making",
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
