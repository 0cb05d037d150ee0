import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from methods.elicitation.writers.budget import Caps, Prices
from methods.elicitation.writers.journal import AnswerJournal
from methods.elicitation.writers.oracle import FunctionWriter
from methods.elicitation.writers.pool import Pool, by_note, by_share
from methods.elicitation.writers.protocol import STOP, Answer, CapReached, Usage, ask, failed
from methods.elicitation.writers.session import Session
from methods.errors import MethodError

ROOT = Path(__file__).resolve().parents[4]


class Paid:
    """A teacher that says the question's number and the seed, costs 10 tokens a text, and fails where told to."""

    terms = "open-weights"

    def __init__(self, name="paid", fails=()):
        self.identity, self.heard, self.fails = name, [], set(fails)

    def expected(self, request):
        return Usage(5, 20 * request.samples)

    def write(self, requests, meter):
        for place, request in enumerate(requests):
            meter.begin(request, self.expected(request))
            question = request.messages[-1].content
            self.heard.append(question)
            if question in self.fails:
                meter.failed(request, self.expected(request), Usage(5, 0), "refused")
                meter.keep(place, failed(request, "refused"))
                continue
            texts = tuple(f"{question} {request.seed} {n}" for n in range(request.samples))
            answer = Answer(texts, (STOP,) * len(texts), Usage(5, 10 * len(texts)))
            meter.end(request, self.expected(request), answer)
            meter.keep(place, answer)


def test_equal_requests_are_asked_once_and_answered_in_order():
    writer = Paid()
    session = Session(writer)
    answers = session.ask([ask("a"), ask("b"), ask("a")])
    assert [answer.text for answer in answers] == ["a 0 0", "b 0 0", "a 0 0"]
    assert [answer.text for answer in session.ask([ask("b"), ask("c")])] == ["b 0 0", "c 0 0"]
    assert writer.heard == ["a", "b", "c"]
    assert answers[0].request == answers[2].request != answers[1].request
    assert (answers[0].writer, answers[0].terms) == ("paid", "open-weights")


def test_another_pipeline_reads_the_prefix_and_another_seed_draws_anew(tmp_path):
    def run(seed, *requests):
        writer = Paid()
        session = Session(writer, tmp_path / "journal", seed=seed)
        texts = [answer.text for answer in session.ask(requests)]
        session.close()
        return texts, writer.heard

    greedy, drawn = ask("greedy"), ask("drawn", temperature=1.0)
    first, heard = run(0, greedy, drawn)
    assert heard == ["greedy", "drawn"]
    assert run(0, greedy, drawn, ask("more")) == ([*first, "more 0 0"], ["more"])
    other, heard = run(1, greedy, drawn)
    assert heard == ["drawn"] and other[0] == first[0] and other[1] != first[1]
    again = ask("drawn", temperature=1.0, seed=1)
    assert run(0, again)[0] != first[1:], "another draw of the same session"


def test_a_failed_request_is_asked_again_by_the_next_run_and_what_it_cost_stands(tmp_path):
    session = Session(Paid(fails="b"), tmp_path / "journal", prices=Prices(1e6, 2e6))
    answers = session.ask([ask("a"), ask("b")])
    assert [answer.dropped() for answer in answers] == [None, "failed"]
    assert session.report() == {
        "asked": 2, "journal": 0, "answered": 1, "failed": 1, "calls": 2, "failures": {"refused": 1}, "lost": 0,
        "spent": {"calls": 2, "read": 10, "written": 10, "money": 30.0},
    }  # fmt: skip
    session.close()
    writer = Paid()
    session = Session(writer, tmp_path / "journal", prices=Prices(1e6, 2e6))
    assert [answer.text for answer in session.ask([ask("a"), ask("b")])] == ["a 0 0", "b 0 0"]
    assert writer.heard == ["b"] and session.report()["spent"]["money"] == 55.0


def test_an_estimate_knows_what_is_there_and_what_texts_were_like(tmp_path):
    session = Session(Paid(), tmp_path / "journal", prices=Prices(1e6, 2e6))
    session.ask([ask("a")])
    told = session.estimate([ask("a"), ask("b"), ask("c", samples=2, temperature=1.0), ask("b")])
    assert (told.requests, told.known) == (4, 2)
    assert told.most == Usage(10, 60) and told.most_money == 130.0
    assert told.likely == Usage(10, 30) and told.likely_money == 70.0


def test_caps_hold_over_all_runs_of_a_journal(tmp_path):
    def run(*names):
        session = Session(Paid(), tmp_path / "journal", caps=Caps(written=45))
        try:
            return session.ask([ask(name) for name in names])
        finally:
            session.close()

    assert len(run("a", "b")) == 2
    with pytest.raises(CapReached, match="tokens written to 50, above the cap of 45"):
        run("a", "b", "c", "d")
    assert [answer.text for answer in run("a", "b", "c")] == ["a 0 0", "b 0 0", "c 0 0"]


def test_only_the_journal_answers_where_nobody_is_to_be_asked(tmp_path):
    writing = Session(Paid(), tmp_path / "journal")
    writing.ask([ask("a")])
    looking = Session(Paid(), tmp_path / "journal", ask_nobody=True)  # while the other still writes
    answers = looking.ask([ask("a"), ask("b")])
    assert answers[0].text == "a 0 0" and answers[1].failure == "not asked yet"
    assert looking.pool.writers["teacher"].heard == []
    with pytest.raises(MethodError, match="another run writes to this journal"):
        Session(Paid(), tmp_path / "journal")


def test_a_half_written_line_is_cut_off_and_a_bad_one_is_named(tmp_path):
    path = tmp_path / "journal"
    session = Session(Paid(), path)
    session.ask([ask("a"), ask("b")])
    session.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    writer = Paid()
    session = Session(writer, path)
    assert session.report()["lost"] == 1, "b was under way, for all that is known"
    session.ask([ask("a"), ask("b")])
    session.close()
    assert writer.heard == ["b"]
    assert AnswerJournal(path, read_only=True).lost == 1
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], '{"said": 7}', *lines[2:], ""]))
    with pytest.raises(MethodError, match=r"journal:3: not a line of a journal"):
        Session(Paid(), path)
    (tmp_path / "other").write_text('{"about": "something else"}\n')
    with pytest.raises(MethodError, match="other:1: not a line"):
        Session(Paid(), tmp_path / "other")


def test_a_full_disk_ends_the_run_and_spoils_no_journal(tmp_path, monkeypatch):
    """A line that does not fit is taken back: the next run reads all before it, and asks for the rest alone."""
    path = tmp_path / "journal"
    session = Session(Paid(), path)
    session.ask([ask("a")])
    real, room = session.journal._file, [350]

    class Disk:
        def write(self, data):
            taken = min(len(data), room[0])
            room[0] -= taken
            if not taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real.write(data[:taken])

        def __getattr__(self, name):
            return getattr(real, name)

    session.journal._file = Disk()
    with pytest.raises(MethodError, match="journal: cannot be written: No space left on device"):
        session.ask([ask(f"0{n}") for n in range(9)])
    session.close()
    assert path.read_bytes().endswith(b"\n")
    writer = Paid()
    again = Session(writer, path)
    again.ask([ask("a"), *(ask(f"0{n}") for n in range(9))])
    assert "a" not in writer.heard and 0 < len(writer.heard) < 10


def test_a_killed_process_loses_no_answer_it_had(tmp_path):
    """Killed for good after the third answer; the next run asks for the others alone."""
    script = """
        import os, signal, sys
        from pathlib import Path
        from methods.elicitation.writers.protocol import ask
        from methods.elicitation.writers.session import Session
        from tests.methods.elicitation.writers.test_session import Paid

        def told(done, of):
            if done == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        Session(Paid(), Path(sys.argv[1]), told=told).ask([ask(str(n)) for n in range(6)])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "journal")]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    writer = Paid()
    session = Session(writer, tmp_path / "journal")
    assert [answer.text for answer in session.ask([ask(str(n)) for n in range(6)])] == [
        f"{n} 0 0" for n in range(6)
    ]
    assert writer.heard == ["3", "4", "5"] and session.report()["lost"] == 0


def test_a_pool_routes_and_falls_back_and_its_answers_are_its_members_own(tmp_path):
    small, large = Paid("small", fails=["c"]), Paid("large")
    pool = Pool({"small": small, "large": large}, by_note("teacher"), fallback=True)
    requests = [ask(q, note={"teacher": t}) for q, t in zip("abc", ("small", "large", "small"), strict=True)]
    session = Session(pool, tmp_path / "journal")
    answers = session.ask(requests)
    assert [answer.writer for answer in answers] == ["small", "large", "large"]
    assert small.heard == ["a", "c"] and large.heard == ["b", "c"]
    session.close()
    alone = Paid("large")
    session = Session(alone, tmp_path / "journal")
    session.ask(requests[1:])
    session.close()
    assert alone.heard == []
    healed = Paid("small")
    session = Session(Pool({"small": healed, "large": Paid("large")}, by_note("teacher"), fallback=True),
                      tmp_path / "journal")  # fmt: skip
    assert session.ask(requests) == answers and healed.heard == [], (
        "what was paid for is used, whoever wrote it"
    )


def test_shares_of_a_pool_are_about_right_and_depend_on_the_request_alone():
    router = by_share({"a": 3, "b": 1})
    names = [router(ask(str(n))) for n in range(800)]
    assert 540 < names.count("a") < 660
    assert names == [router(ask(str(n))) for n in range(800)]


def test_a_router_that_asks_for_nobody_and_a_writer_that_forgets_are_named():
    with pytest.raises(MethodError, match='asks for "x"; the pool has a'):
        Session(Pool({"a": Paid()}, lambda request: "x")).ask([ask("q")])

    class Forgets(Paid):
        def write(self, requests, meter):
            pass

    with pytest.raises(MethodError, match="left a request without any answer"):
        Session(Forgets()).ask([ask("q")])


def test_a_key_is_made_of_all_that_decides_the_texts():
    base = ask("q", temperature=1.0)
    others = [
        ask("r", temperature=1.0), ask("q", system="s", temperature=1.0), ask("q", temperature=0.9),
        ask("q", temperature=1.0, samples=2), ask("q", temperature=1.0, top_p=0.9), ask("q", temperature=1.0, seed=1),
        ask("q", temperature=1.0, max_tokens=9), ask("q", temperature=1.0, stop=("x",)),
        ask("q", temperature=1.0, schema={"type": "string"}), ask("q", temperature=1.0, note={"a": 1}),
    ]  # fmt: skip
    keys = {request.key("m") for request in [base, *others]}
    assert len(keys) == len(others) + 1 and base.key("m") != base.key("n")
    golden = ask("What is 2 + 2?").key("server:http://localhost:8000/v1 m")
    assert golden == "6bc6c16d60295f6e5f9bd0cd8bf6cbefcf471c24cd0ec56e59bd0543bbc420d0", (
        "a changed key pays for everything again"
    )


def test_a_function_writes():
    writer = FunctionWriter("echo", lambda request, n: f"{request.messages[-1].content}{n}")
    (answer,) = Session(writer).ask([ask("a", samples=2)])
    assert answer.texts == ("a0", "a1") and json.dumps(answer.texts)
