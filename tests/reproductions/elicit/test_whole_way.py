"""The README's way from fifty questions to a student, as it is typed in an empty folder, killed three times.

The teacher is a tiny model behind transformers' own server (the extra `serving`, which the extra `dev` brings).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from transformers import AutoModelForCausalLM

from tests.methods.conftest import letter_tokenizer, make_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-planted-5550123456"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
QUESTIONS = [
    LETTERS[n % 26] + LETTERS[n * 7 % 26] + LETTERS[n * n % 26] + LETTERS[n // 26] for n in range(50)
]
DATA = """\
seeds: questions.jsonl
output: OUTPUT
teacher:
  server: URL
  model: MODEL
  key: OPENAI_API_KEY
  terms: open-weights
  parallel: 1
steps:
  - {name: label, max_tokens: 24}
caps: {calls: 500, money: 1.0}
prices: {read: 0.15, written: 0.6}
"""
RUN = """\
method: sft
student: student
data: elicited/train.jsonl
output: my-student
budget: {steps: 4, batch_size: 4, prompt_tokens: 16, completion_tokens: 32}
"""


def models(folder):
    """A teacher that often comes to an end, and a student."""
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}|"
    for name, seed in (("teacher", 5), ("student", 6)):
        model = make_model(seed=seed)
        if name == "teacher":
            model.generation_config.eos_token_id = list(range(1, 29, 4))
            model.generation_config.pad_token_id = 0
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


@pytest.fixture
def serving(tmp_path):
    models(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(tmp_path / "teacher")]
    with (
        (tmp_path / "server.log").open("w") as log,
        subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log) as process,
    ):
        url = f"http://127.0.0.1:{port}/v1"
        try:
            with httpx2.Client(trust_env=False) as client:
                for _ in range(1200):
                    assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
                    try:
                        client.get(f"{url}/models")
                        break
                    except httpx2.HTTPError:
                        time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def test_from_questions_to_a_student_with_three_kills(serving, tmp_path):
    around = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": KEY}}
    lines = [json.dumps({"prompt": question}) + "\n" for question in QUESTIONS]
    (tmp_path / "questions.jsonl").write_text("".join(lines))
    text = DATA.replace("URL", serving).replace("MODEL", str(tmp_path / "teacher"))
    (tmp_path / "my-data.yaml").write_text(text.replace("OUTPUT", "elicited"))
    (tmp_path / "alone.yaml").write_text(text.replace("OUTPUT", "alone"))
    (tmp_path / "my-run.yaml").write_text(RUN)
    journal = tmp_path / "elicited" / "answers.journal"

    def said(kind="said"):
        found = (
            [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]] if journal.exists() else []
        )
        return [line[kind] for line in found if kind in line]

    def kd(*words):
        return [sys.executable, "-m", "tools", *words]

    for how, least in ((signal.SIGKILL, 5), (signal.SIGTERM, 18), (signal.SIGINT, 31)):
        with subprocess.Popen(
            kd("elicit", "my-data.yaml"), **around, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - whoever starts it may ignore it
        ) as process:  # fmt: skip
            while len(said()) < least and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(how)
            assert process.wait(120) == (-how if how == signal.SIGKILL else 130)
        assert least <= len(said()) < 50, "killed in the middle"
        assert not (tmp_path / "elicited" / "train.jsonl").exists()
    for config in ("my-data.yaml", "alone.yaml"):
        done = subprocess.run(kd("elicit", config), **around, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and KEY not in done.stdout + done.stderr, done.stderr[-2000:]
    assert len(said()) == len(set(said())) == 50, "no answer that came was asked for again"
    assert len(said("begun")) <= 51, "only what was under way when nothing could be done about it"
    made = [(tmp_path / name / "train.jsonl").read_bytes() for name in ("elicited", "alone")]
    rows = [json.loads(line) for line in made[0].splitlines()]
    assert made[0] == made[1] and 10 <= len(rows) <= 50
    assert {row["prompt"] for row in rows} <= set(QUESTIONS)

    done = subprocess.run(kd("distill", "my-run.yaml"), **around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("student", "my-student")
    )
    assert any(
        (one != other).any() for one, other in zip(before.parameters(), after.parameters(), strict=True)
    )
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 12 and not any(KEY.encode() in path.read_bytes() for path in written)
