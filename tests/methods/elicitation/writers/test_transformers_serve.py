"""Against a server that nobody here wrote: transformers' own, with a packaged model behind it.

Needs the extra `serving` of transformers (fastapi, uvicorn, openai), in this environment or in the folder that
SERVING_EXTRAS names.
"""

import importlib.util
import os
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
EXTRAS = os.environ.get("SERVING_EXTRAS", "")
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def offered():
    return bool(EXTRAS) or all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "openai"))


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    if not offered():
        pytest.skip("transformers[serving] is not installed")
    folder = packaged_folder(PACKAGED[MODEL])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--port", str(port)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [EXTRAS, os.environ.get("PYTHONPATH")])),
    }
    with (
        log.open("w") as file,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1"], env=environment, stdout=file, stderr=file
        ) as process,
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
    session = Session(ServerWriter(url, model, parallel=2, patience=patience), tmp_path / "journal")
    one, cut, drawn, checked = session.ask(requests)
    assert one.usage.read > 5 and 0 < one.usage.written <= 12 and not one.usage.guessed
    assert cut.ended == (LENGTH,) and cut.usage.written == 4
    assert len(drawn.texts) == 3 and len(set(drawn.texts)) > 1, "no `n` there, so a request a sample"
    assert checked.ended != (STOP,), "what is no JSON of the schema is never taken for it"
    session.close()
    session = Session(ServerWriter(url, model, patience=patience), tmp_path / "journal")
    assert session.ask(requests) == [one, cut, drawn, checked] and session.report()["calls"] == 0
