"""From the names of classes alone to a classifier: a teacher writes texts, `kd distill` learns from them."""

import json
import random

from reproductions.distill.classes.config import load_classes_config
from reproductions.distill.classes.run import distil_classes
from reproductions.elicit import run
from reproductions.elicit.config import load_config
from tests.methods.elicitation.writers.conftest import server
from tests.reproductions.distill.test_classes import encoder
from tools import cli

__all__ = ["server"]
KINDS = {"early": "a word that begins early in the alphabet", "late": "a word that begins late"}


def words_of(body):
    """As many words as are asked for: some stand twice."""
    asked = body["messages"][-1]["content"]
    letters = "abc" if KINDS["early"] in asked else "xyz"
    draws = random.Random(f"{letters}/{body.get('seed')}/{body.get('n', 1)}")
    return [
        draws.choice(letters) + "".join(draws.choice("mnop") for _ in range(2))
        for _ in range(body.get("n", 1))
    ]


def test_where_nothing_is_left_that_is_said_and_no_success(tmp_path, server, capsys, monkeypatch):
    monkeypatch.setenv("PLANTED_KEY", "x")
    server.text = lambda body: ""
    (tmp_path / "classes.jsonl").write_text('{"prompt": "a complaint", "label": "delivery"}\n')
    (tmp_path / "write.yaml").write_text(
        f"seeds: classes.jsonl\noutput: written\nteacher: {{server: {server.url}, model: m, key: PLANTED_KEY}}\n"
        "steps:\n  - {name: write, count: 3}\n"
    )
    assert cli.main(["elicit", str(tmp_path / "write.yaml")]) == 1
    assert "0 of 4 rows are data; dropped:" in capsys.readouterr().out


def test_a_classifier_from_the_names_of_its_classes(tmp_path, server, monkeypatch):
    monkeypatch.setenv("PLANTED_KEY", "x")
    server.choices = lambda body: [
        {"index": n, "message": {"role": "assistant", "content": f'"{word}"'}, "finish_reason": "stop"}
        for n, word in enumerate(words_of(body))
    ]
    classes = [{"prompt": kind, "label": name} for name, kind in KINDS.items()]
    (tmp_path / "classes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in classes))
    (tmp_path / "write.yaml").write_text(
        f"seeds: classes.jsonl\noutput: written\nteacher: {{server: {server.url}, model: m, key: PLANTED_KEY}}\n"
        "steps:\n  - {name: write, count: 60}\n  - {name: exact-copies, column: prompt}\n"
    )
    record = run.elicit(load_config(tmp_path / "write.yaml"))
    assert record["dropped"]["a class"] == 2 and record["dropped"]["copy"] > 0
    rows = [json.loads(line) for line in (tmp_path / "written" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == record["kept"] == len({row["prompt"] for row in rows})
    assert {(row["prompt"][0] in "abc", row["completion"]) for row in rows} == {
        (True, "early"),
        (False, "late"),
    }

    encoder(tmp_path / "plain", layers=2, seed=2)
    (tmp_path / "learn.yaml").write_text(
        "task: classification\nmethod: sft\nstudent: plain\noutput: student\nevaluate: {rows: 12}\n"
        "data: {from: written/train.jsonl, columns: {text: prompt, label: completion}}\n"
        "budget: {steps: 30, batch_size: 16, learning_rate: 0.005, tokens: 8}\n"
    )
    made = distil_classes(load_classes_config(tmp_path / "learn.yaml"), lambda *_: None, lambda _: None)
    assert made["classes"] == ["early", "late"] and made["evaluation"]["student"]["accuracy"]["value"] > 90
