"""Against a server that nobody here wrote: transformers' own, with a packaged model behind it.

Needs the extra `serving` of transformers, which the extra `dev` brings.
"""

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from methods.elicitation.writers.protocol import LENGTH, STOP, ask
from methods.elicitation.writers.server import Patience, ServerWriter
from methods.elicitation.writers.session import Session
from reproductions.models.sources import PACKAGED, packaged_folder

pytestmark = pytest.mark.slow
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    folder = packaged_folder(PACKAGED[MODEL])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--port", str(port)]
    with (
        log.open("w") as file,
        subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=file, stderr=file) as process,
    ):
        url = f"http://127.0.0.1:{port}/v1"
        try:
            with httpx2.Client(trust_env=False) as client:
                for _ in range(600):
                    assert process.poll() is None, log.read_text()[-2000:]
                    try:
                        client.get(f"{url}/models")
                        break
                    except httpx2.HTTPError:
                        time.sleep(0.5)
            yield url, str(folder)
        finally:
            process.terminate()
            process.wait(30)


def test_a_real_server_answers_and_is_asked_nothing_twice(serving, tmp_path):
    url, model = serving
    patience = Patience(timeout=300.0)
    requests = [
        ask("What is 2 + 2? Answer with one number.", max_tokens=12),
        ask("Count from one to a thousand.", max_tokens=4),
        ask("Say a word.", max_tokens=6, temperature=1.0, samples=3),
        ask(
            "Say red.",
            max_tokens=8,
            schema={"type": "object", "properties": {}, "additionalProperties": False},
        ),
    ]
    # The model's own settings are greedy, and this server keeps to them at any temperature unless it is told otherwise.
    sampled = {
        "generation_config": '{"do_sample": true, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}'
    }
    session = Session(
        ServerWriter(url, model, parallel=2, patience=patience, extra=sampled), tmp_path / "journal"
    )
    one, cut, drawn, checked = session.ask(requests)
    assert one.usage.read > 5 and 0 < one.usage.written <= 12 and not one.usage.guessed
    assert cut.ended == (LENGTH,) and cut.usage.written == 4
    assert len(drawn.texts) == 3 and len(set(drawn.texts)) > 1, "no `n` there, so a request a sample"
    assert checked.ended != (STOP,), "what is no JSON of the schema is never taken for it"
    session.close()
    session = Session(ServerWriter(url, model, patience=patience, extra=sampled), tmp_path / "journal")
    assert session.ask(requests) == [one, cut, drawn, checked] and session.report()["calls"] == 0


def test_a_server_that_does_not_sample_is_told(serving, tmp_path):
    url, model = serving
    writer = ServerWriter(url, model, parallel=1, patience=Patience(timeout=300.0))
    requests = [ask(f"Say word {n}.", max_tokens=4, temperature=1.0, samples=2) for n in range(3)]
    with pytest.warns(UserWarning, match="got one text in copies"):
        answers = Session(writer, tmp_path / "journal").ask(requests)
    assert all(len(set(answer.texts)) == 1 for answer in answers)
