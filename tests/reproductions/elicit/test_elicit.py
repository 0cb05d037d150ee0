"""`kd elicit` as a user types it: against a server over real sockets, killed, capped, and with mistakes in the file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset

from catalog.errors import CatalogError
from catalog.schema import load_catalog
from methods.elicitation.records.table import from_dataset, report
from methods.elicitation.writers.oracle import FunctionWriter
from methods.elicitation.writers.protocol import CapReached
from methods.errors import MethodError
from reproductions.elicit import run
from reproductions.elicit.config import check_teacher_terms, load_config
from reproductions.engine.errors import KDError
from tests.methods.elicitation.writers.conftest import server, status

__all__ = ["server"]
ROOT = Path(__file__).resolve().parents[3]
QUESTIONS = [f"question {n}" for n in range(20)]
KEY = "sk-planted-9876543210"


@pytest.fixture
def folder(tmp_path):
    rows = [{"question": question, "level": n % 3} for n, question in enumerate(QUESTIONS)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def config_of(folder, server, extra="", *, name="data", teacher="{server: URL, model: m, key: PLANTED_KEY}"):
    text = (
        f"seeds: seeds.jsonl\noutput: {name}\nprompt: question\n"
        f"teacher: {teacher.replace('URL', server.url if server else '')}\n"
        "steps:\n  - {name: label, temperature: 1.0, max_tokens: 20}\n"
    )
    path = folder / f"{name}.yaml"
    path.write_text(text + extra)
    return path


def kd(path, *words, environment=None):
    return [sys.executable, "-m", "tools", "elicit", str(path), *words], {
        "cwd": ROOT,
        "env": {**os.environ, "PYTHONPATH": str(ROOT), "PLANTED_KEY": KEY, **(environment or {})},
    }


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_asks_nothing_twice_and_ends_with_the_same_data(folder, server):
    """With SIGKILL twice and SIGTERM once; beside it a run that was left alone."""
    server.pause = 0.05
    path, answers = config_of(folder, server), folder / "data" / "answers.journal"

    def said() -> int:
        return answers.read_text().count('"said"') if answers.exists() else 0

    for how, least in ((signal.SIGKILL, 4), (signal.SIGTERM, 8), (signal.SIGKILL, 12)):
        command, around = kd(path)
        before = (
            said()
        )  # the server still answers what the process before had asked: only the journal is this one's
        with subprocess.Popen(
            command, **around, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while said() < max(least, before + 1) and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(how)
            assert process.wait(60) == (130 if how == signal.SIGTERM else -how)
        known = json.loads(subprocess.run(kd(path, "--partial", "--json")[0], **kd(path)[1], capture_output=True,
                                          check=True).stdout)  # fmt: skip
        lines = (folder / "data" / "partial.jsonl").read_text().splitlines()
        assert known["kept"] == len(lines) >= least - 4, "what is there can be read at any time"
        assert known["dropped"] == {"failed": 20 - known["kept"]}
    done = subprocess.run(kd(path)[0], **kd(path)[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lost = len(server.answered) - 20
    assert lost <= 2 * 16, "only what was under way when it was killed"
    assert said() == 20, "no answer that came was asked for again"
    alone = config_of(folder, server, name="alone")
    assert subprocess.run(kd(alone)[0], **kd(alone)[1], capture_output=True, check=False).returncode == 0
    assert (folder / "data" / "train.jsonl").read_bytes() == (folder / "alone" / "train.jsonl").read_bytes()
    assert not (folder / "data" / "partial.jsonl").exists()
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in server.headers)
    written = [file for file in folder.rglob("*") if file.is_file()]
    assert len(written) > 8 and not any(KEY.encode() in file.read_bytes() for file in written)
    assert KEY not in done.stdout + done.stderr


def test_rows_say_where_they_are_from_and_the_card_what_became_of_them(folder, server):
    server.faults = [status(400, "no"), None, None]
    path = config_of(folder, server, "prices: {read: 1000, written: 2000}\ntitle: 'My | <data>'\nfirst: 6\n",
                     teacher="{server: URL, model: m, parallel: 1, terms: open-weights}")  # fmt: skip
    record = run.elicit(load_config(path))
    assert (record["rows"], record["kept"], record["dropped"], record["unanswered"]) == (
        6,
        5,
        {"failed": 1},
        1,
    )
    rows = from_dataset(Dataset.from_parquet(str(folder / "data" / "rows.parquet")))
    assert report(rows) == {name: record[name] for name in report(rows)}
    assert rows[0].dropped == "failed" and rows[0].why == "HTTP 400: no"
    (asked,) = rows[1].asked
    assert asked.teacher == f"server:{server.url} m" and asked.terms == "open-weights" and asked.read == 10
    card = (folder / "data" / "README.md").read_text()
    assert card.startswith("---\n") and "# My \\| \\<data\\>" in card and "| 1 | dropped: failed |" in card
    assert "open-weights" in card and "| money |  | 0.0800 |" in card
    training = [json.loads(line) for line in (folder / "data" / "train.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in training] == QUESTIONS[1:6]
    assert training[0]["completion"] == "question 1!" and training[0]["level"] == 1
    again = run.elicit(load_config(path))
    assert again["kept"] == 6 and again["session"]["calls"] == 1


def test_another_pipeline_on_the_same_journal_pays_for_what_is_new_alone(folder, server):
    run.elicit(load_config(config_of(folder, server, "journal: shared.journal\nfirst: 4\n")))
    path = config_of(folder, server, "journal: shared.journal\nfirst: 6\n", name="more")
    ((name, told),) = run.estimate(load_config(path))
    assert (name, told.requests, told.known, told.most.written, told.likely.written) == ("label", 6, 4, 40, 6)
    assert len(server.bodies) == 4, "an estimate asks nobody"
    run.elicit(load_config(path))
    assert len(server.bodies) == 6


def test_a_cap_ends_the_run_with_what_there_is(folder, server):
    path = config_of(folder, server, "caps: {calls: 5}\n")
    with pytest.raises(CapReached, match="calls to 6, above the cap of 5"):
        run.elicit(load_config(path))
    assert len((folder / "data" / "partial.jsonl").read_text().splitlines()) == 5 == len(server.bodies)
    assert not (folder / "data" / "train.jsonl").exists()
    command, around = kd(path)
    done = subprocess.run(command, **around, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "above the cap of 5" in done.stderr and "Traceback" not in done.stderr


def labelled(folder, steps, more=""):
    """A config with a recorded teacher and steps behind `label`."""
    rows = [{"instruction": question, "output": f"#### {n}"} for n, question in enumerate(QUESTIONS)]
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "c.yaml"
    path.write_text(
        "seeds: seeds.jsonl\noutput: data\nprompt: question\nteacher: {recorded: said.jsonl}\n"
        f"steps:\n  - {{name: label, prompt: {folder}/ask.txt}}\n  - {steps}\n{more}"
    )
    (folder / "ask.txt").write_text("[user]\n{prompt}\n")
    return load_config(path)


WRONG = {
    "a parser": ("{name: parse, parser: finl}", 'no parser "finl" (did you mean'),
    "a check": ("{name: verify, check: numbr, gold: level}", 'no check "numbr" (did you mean'),
    "a column": ("{name: verify, gold: levl}", 'needs the right answer of each row in "levl"'),
    "a prompt": ("{name: rate, prompt: rat}", 'no prompt "rat" (did you mean'),
    "a share": ("{name: majority, share: 2}", "between 0 and 1"),
    "a score": ("{name: select, by: highest}", "has no score"),
    "a scorer": ("likelihood", "cannot say how probable a text is"),
    "a flag": ("{name: verify, check: program, gold: level}", "run_programs: true"),
    "a file": ("{name: leaks, held_out: none.jsonl}", "no file none.jsonl"),
    "half of it": ("{name: select, of: al}", '"of" is prompt, all or a field of the rows: row '),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_in_the_last_step_is_told_before_the_first_is_paid_for(folder, mistake):
    step, what = WRONG[mistake]
    config = labelled(folder, step)
    for begun in (run.elicit, run.estimate):
        with pytest.raises(KDError) as error:
            begun(config)
        assert what in str(error.value) and str(error.value).startswith(f"{config.path}:7: ")
    assert not (folder / "data").exists()


def test_what_can_work_passes_the_rehearsal_and_estimates(folder):
    """Steps that look at what others wrote: scores, pairs, lists, programs, critiques."""
    steps = [
        "{name: self-generate, samples: 3}", "exact-copies", "{name: near-copies, column: completion}", "compare",
        "{name: select, by: highest, keep: 2}", "rank", "rate", "{name: select, by: lowest}", "revise",
        "{name: explain, hint: always, gold: level}", "{name: verify, gold: level, drop: false}",
        "{name: pilot, prompts: 4}", "{name: evolve, rounds: 2}", "{name: expand, wanted: 400, calls: 1000}", "query",
        "inject-errors", "majority", "best-of",
    ]  # fmt: skip
    config = labelled(folder, "\n  - ".join(steps))
    run.rehearse(config, {"teacher": run.writer_of(config, "teacher")})
    names = [name for name, _ in run.estimate(config)]
    assert names == [
        "label",
        *(step.partition("name: ")[2].partition(",")[0].strip("}") or step for step in steps),
    ]


def test_a_step_that_needs_what_is_missing_hides_neither_the_cap_nor_what_is_there(folder, server):
    path = config_of(folder, server, "  - {name: pilot, prompts: 3, measure: score}\ncaps: {calls: 5}\n")
    with pytest.raises(CapReached, match="above the cap of 5"):
        run.elicit(load_config(path))
    known = run.partial(load_config(path))
    assert known["kept"] == 5 == len((folder / "data" / "partial.jsonl").read_text().splitlines())
    assert [name for name, _ in run.estimate(load_config(path))] == ["label", "pilot"]


def test_a_look_scores_nothing(folder):
    """A model that can score is asked for it by the run alone."""

    class Scorer(FunctionWriter):
        scored = 0

        def score(self, requests, texts):
            self.scored += len(texts)
            return [[-1.0]] * len(texts)

    config, writer = labelled(folder, "likelihood"), Scorer("s", lambda request, n: "text")
    session = run.session_for(config, {"teacher": writer})
    assert [row.score for row in run.run_steps(config, session)] == [-1.0] * 20
    session.close()
    looking = run.session_for(config, {"teacher": writer}, ask_nobody=True)
    assert [row.score for row in run.run_steps(config, looking)] == [-1.0] * 20 and writer.scored == 20
    lines = config.journal.read_text().splitlines()
    config.journal.write_text("".join(line + "\n" for line in lines if '"score"' not in line))
    looking = run.session_for(config, {"teacher": writer}, ask_nobody=True)
    rows = run.run_steps(config, looking)
    assert [row.completion for row in rows] == ["text"] * 20 and writer.scored == 20


@pytest.mark.parametrize("place", ["seeds.jsonl/a", "/proc/nowhere/a"])
def test_a_journal_that_cannot_be_written_is_said_before_anybody_is_asked(folder, server, place):
    config = load_config(config_of(folder, server, f"journal: {place}\n"))
    with pytest.raises(MethodError, match="cannot be written"):
        run.elicit(config)
    assert server.bodies == []


def test_a_seed_that_no_file_can_hold_is_refused_before_it_is_paid_for(folder, server):
    (folder / "seeds.jsonl").write_text('{"question": "a"}\n{"question": "b", "more": ["\\ud800"]}\n')
    with pytest.raises(KDError, match="row 2 holds half of a letter"):
        run.elicit(load_config(config_of(folder, server)))
    assert server.bodies == []


def test_a_column_of_the_users_own_takes_no_name_of_ours(folder, server):
    row = {"question": "how many", "prompt": "You are a cook.", "id": 7, "dish": "soup"}
    (folder / "seeds.jsonl").write_text(json.dumps(row) + "\n")
    run.elicit(load_config(config_of(folder, server)))
    (line,) = [json.loads(line) for line in (folder / "data" / "train.jsonl").read_text().splitlines()]
    (kept,) = from_dataset(Dataset.from_parquet(str(folder / "data" / "rows.parquet")))
    ours = {"prompt": "how many", "completion": "how many!", "id": kept.id, "label": "how many!"}
    assert line == {**ours, "dish": "soup"}
    assert kept.fields == {"prompt": "You are a cook.", "id": 7, "dish": "soup"}


@pytest.mark.parametrize("more", ["[" * 100_000 + "]" * 100_000, "9" * 5000])
def test_json_that_nobody_reads_is_told_with_its_line(folder, server, more):
    (folder / "seeds.jsonl").write_text(f'{{"question": "a"}}\n{{"question": "b", "more": {more}}}\n')
    with pytest.raises(KDError, match="seeds.jsonl:2: not JSON that can be read"):
        run.elicit(load_config(config_of(folder, server)))


def test_what_was_elicited_can_be_recorded_outputs_whatever_its_lines_hold(folder, server):
    """A line separator of Unicode, as it stands in a text, ends no line of a file."""
    server.text = lambda body: "one\u2028two\x85three"
    run.elicit(load_config(config_of(folder, server)))
    config = folder / "again.yaml"
    config.write_text(
        "seeds: seeds.jsonl\noutput: again\nprompt: question\nsteps: [label, {name: leaks, held_out: %s}]\n"
        "teacher: {recorded: data/train.jsonl, question: prompt, answer: completion}\n"
        % (folder / "held.jsonl")
    )
    (folder / "held.jsonl").write_text('\ufeff{"text": "another\u2028text"}\n')
    assert run.elicit(load_config(config))["kept"] == 20


def test_recorded_teachers_and_a_router_by_the_seeds_field(folder, server):
    for name in ("one", "two"):
        rows = [{"instruction": question, "output": f"{name}: {question}"} for question in QUESTIONS]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (
        "seeds: seeds.jsonl\noutput: data\nprompt: question\nsteps: [label]\n"
        "teachers:\n  one: {recorded: one.jsonl}\n  two: {recorded: [two.jsonl]}\n"
    )
    (folder / "c.yaml").write_text(text + "route: {shares: {one: 1, two: 1}}\n")
    run.elicit(load_config(folder / "c.yaml"))
    lines = [json.loads(line) for line in (folder / "data" / "train.jsonl").read_text().splitlines()]
    assert len(lines) == 20
    assert {line["completion"].split(":")[0] for line in lines} == {"one", "two"}


SERVER = "teacher: {server: http://localhost/v1, model: m"
REFUSED = {
    "unknown step": (SERVER + "}\nsteps: [labell]\n", 5, 'no elicitation "labell" (did you mean'),
    "unknown setting": (SERVER + "}\nsteps:\n  - {name: label, tokens: 3}\n", 6, 'no setting "tokens"'),
    "a key's name": (SERVER + ", api_key: A}\nsteps: [label]\n", 4, "names the environment variable"),
    "a key": (SERVER + ", key: sk-123}\nsteps: [label]\n", 4, "never the key itself"),
    "no model": ("teacher: {server: http://localhost/v1}\nsteps: [label]\n", 4, 'needs a "model"'),
    "no address": ("teacher: {server: localhost, model: m}\nsteps: [label]\n", 4, "is not the http(s) address"),
    "no kind": ("teacher: {servr: http://localhost/v1}\nsteps: [label]\n", 4, "one of server, local, recorded"),
    "no file": ("teacher: {recorded: none.jsonl}\nsteps: [label]\n", 4, 'no file "none.jsonl"'),
    "no folder": ("teacher: {local: ./nowhere}\nsteps: [label]\n", 4, "no folder"),
    "nobody at a time": (SERVER + ", parallel: 0}\nsteps: [label]\n", 4, "a whole number of 1 or more"),
    "no teacher": ("steps: [label]\n", 1, 'give a "teacher"'),
    "no port": ("teacher: {server: 'http://localhost:abc/v1', model: m}\nsteps: [label]\n", 4, "Port"),
    "no such port": ("teacher: {server: 'http://localhost:99999/v1', model: m}\nsteps: [label]\n", 4, "ort"),
    "half a bracket": ("teacher: {server: 'http://[::1/v1', model: m}\nsteps: [label]\n", 4, "not the http(s)"),
    "a thread each": (SERVER + ", parallel: 100000}\nsteps: [label]\n", 4, "at most 1000"),
    "an endless wait": (SERVER + ", timeout: 1.0e+300}\nsteps: [label]\n", 4, "at most 1000000"),
    "a negative cap": (SERVER + "}\nsteps: [label]\ncaps: {money: -1}\n", 6, "0 or more"),
    "half a call": (SERVER + "}\nsteps: [label]\ncaps: {calls: 1.5}\n", 6, "a whole number"),
    "unknown field": (SERVER + "}\nsteps: [label]\nsedes: a\n", 6, 'did you mean "seeds"'),
    "terms": (SERVER + ", terms: gemini}\nsteps: [label]\n", 4, "forbid training"),
    "terms by name": ("teacher: {server: http://localhost/v1, "
                      "model: llama-3-70b}\nsteps: [label]\n", 4, "forbid training"),
    "unknown terms": (SERVER + ", terms: opne-weights}\nsteps: [label]\n", 4, 'did you mean "open-weights"'),
    "unknown share": (SERVER + "}\nsteps: [label]\nroute: {shares: {teechr: 1}}\n", 6, "no teacher"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_told_with_its_line(folder, mistake):
    text, line, what = REFUSED[mistake]
    path = folder / "c.yaml"
    path.write_text(f"seeds: seeds.jsonl\noutput: data\nprompt: question\n{text}")
    with pytest.raises(CatalogError) as error:
        config = load_config(path)
        check_teacher_terms(config, load_catalog().teachers)
        run.session_for(config)
    assert what in str(error.value) and str(error.value).startswith(f"{path}:{line}: ")


def test_terms_that_are_known_to_forbid_need_a_flag(folder):
    path = folder / "c.yaml"
    path.write_text(
        "seeds: seeds.jsonl\noutput: data\nsteps: [label]\naccept_teacher_terms: true\n"
        "teacher: {server: http://localhost/v1, model: m, terms: openai}\n"
    )
    check_teacher_terms(load_config(path), load_catalog().teachers)


def test_pushing_takes_the_data_set_and_not_the_journal(folder, server, monkeypatch):
    sent = {}

    class Hub:
        def create_repo(self, name, **more):
            sent.update(more, name=name)

        def upload_folder(self, **more):
            sent.update(more)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    path = config_of(folder, server, "first: 2\n")
    with pytest.raises(ValueError, match="no train.jsonl; run `kd elicit"):
        run.push(load_config(path), "me/data")
    run.elicit(load_config(path))
    assert run.push(load_config(path), "me/data").endswith("/me/data")
    assert sent["private"] and sent["allow_patterns"] == ["train.jsonl", "rows.parquet", "README.md"]
