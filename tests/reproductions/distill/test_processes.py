"""`kd distill` started as two processes of one training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from .conftest import config_of, made

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_two_processes_make_one_student_and_one_of_them_speaks(folder):
    """Two processes of 2 rows a step see what one of 4 rows sees: the same student, tokens summed over both."""
    path = config_of(folder, name="two", steps=2)
    path.write_text(path.read_text().replace("batch_size: 4", "batch_size: 2"))
    words = [
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29533",
        "-m",
        "tools",
        "distill",
    ]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", *words, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("student and tokenizer") == 1
    record = json.loads((folder / "two" / "kd-distill.json").read_text())
    alone = made(config_of(folder, name="one", steps=2))
    assert record["tokens"] == alone["tokens"]
    both = [AutoModelForCausalLM.from_pretrained(folder / name).state_dict() for name in ("two", "one")]
    for name, tensor in both[0].items():
        torch.testing.assert_close(tensor, both[1][name], rtol=1e-4, atol=1e-5)
