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
from methods.elicitation.writers.protocol import CapReached
from reproductions.elicit import run
from reproductions.elicit.config import check_teacher_terms, load_config
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
