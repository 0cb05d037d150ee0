"""A builder's whole way in small: chats, a part of the teacher, five methods, kills, and plain transformers."""

import json
import os
import signal
import subprocess
import sys

import pytest

from reproductions.distill.evaluate.run import FILE
from reproductions.distill.training import RECORD
from tests.methods.conftest import make_model
from tools.cli import main
from tools.paths import ROOT

from .test_chat import chat_tokenizer

METHODS = ("sft", "word-kd", "gkd", "ted", "seqkd")
CONFIG = """\
method: gkd
teacher: deep
student: {model: deep, layers: 2}
data: {from: chats.jsonl, rows: 40, turns: last}
output: students
evaluate: {rows: 8, answers: 4}
budget: {steps: 6, batch_size: 4, learning_rate: 3.0e-3, prompt_tokens: 24, completion_tokens: 8}
save_every: 2
"""
# Runs `kd distill CONFIG` until a step, and ends there as the second argument says.
UNTIL = """
import os, signal, sys
import torch
from transformers import TrainerCallback
from reproductions.distill import run
from tools.cli import main

step, how, build, save = int(sys.argv[2]), sys.argv[3], run.trainer_for, torch.save

class End(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step and how != "save":
            os.kill(os.getpid(), signal.SIGTERM if how == "term" else signal.SIGKILL)

def trainer_for(method, parts):
    trainer = build(method, parts)
    trainer.add_callback(End())
    return trainer

def half(value, file, *rest, **more):
    save(value, file, *rest, **more)
    if how == "save" and f"checkpoint-{step}" in str(file) and "optimizer" in str(file):
        os.truncate(file, os.path.getsize(file) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

run.trainer_for, torch.save = trainer_for, half
sys.exit(main(["distill", sys.argv[1]]))
"""
# Reads every student of a folder with transformers alone, and asks it something.
ALONE = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer

for name in sys.argv[1:]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**asked, max_new_tokens=3, do_sample=False)
    print(name, model.config.num_hidden_layers, made.shape[1] - asked["input_ids"].shape[1] > 0)
assert not {"methods", "reproductions", "tools", "trl"} & set(sys.modules)
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A folder that is not the checkout, with a model, conversations and a config in it."""
    monkeypatch.chdir(tmp_path)
    tokenizer = chat_tokenizer()
    make_model(seed=4, width=16, layers=5, vocabulary=len(tokenizer)).save_pretrained("deep")
    tokenizer.save_pretrained("deep")
    words = ["hello", "teach", "loss", "token", "go", "kd", "x", "distil"]
    rows = [
        {"messages": [{"role": "user", "content": f"{a}|{b}"}, {"role": "assistant", "content": a[::-1]}]}
        for a in words
        for b in words
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my-run.yaml").write_text(CONFIG)
    return tmp_path


def test_five_methods_side_by_side_end_in_plain_models(user, capsys):
    assert main(["distill", "my-run.yaml", "--plan"]) == 0
    plan = capsys.readouterr().out
    assert "40 read, 0 left out as longer than 24 + 8 tokens, 8 to evaluate on, 32 to train on" in plan
    assert "6 steps of 4 sequences" in plan and "evaluation: 3 models" in plan
    assert main(["compare", "my-run.yaml", "--methods", ",".join(METHODS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    head = next(n for n, line in enumerate(lines) if line.split()[:1] == ["loss"])
    assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["start", "teacher"]
    assert {line.split()[0] for line in lines[head + 3 : head + 8]} == set(METHODS)
    assert all("(" in line for line in lines[head + 2 : head + 8]), "each with its distance from the start"
    names = [f"students/{name}" for name in METHODS]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{name} 2 True" for name in names]


def test_three_kills_and_the_same_student(user):
    assert main(["distill", "my-run.yaml"]) == 0
    (user / "killed.yaml").write_text(CONFIG.replace("output: students", "output: killed"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for step, how, code in ((1, "term", 130), (3, "kill", -signal.SIGKILL), (4, "save", -signal.SIGKILL)):
        done = subprocess.run(
            [sys.executable, "-c", UNTIL, "killed.yaml", str(step), how],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (how, done.stderr[-2000:])
        assert not (user / "killed" / RECORD).exists()
    assert main(["distill", "killed.yaml"]) == 0
    whole, cut = user / "students", user / "killed"
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    for file in (FILE, "log.jsonl"):
        assert (cut / file).read_text() == (whole / file).read_text()
    one, other = (json.loads((folder / RECORD).read_text()) for folder in (whole, cut))
    assert one["tokens"] == other["tokens"] and one["evaluation"] == other["evaluation"]
