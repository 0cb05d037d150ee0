"""Weights sharded over two ranks by FSDP2 get the update that one process makes of the same examples."""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from methods.modeling.rollouts import rollout
from methods.trainers import policy, sampling
from tests.methods.conftest import letter_tokenizer
from tests.methods.trainers.one_update import greedy_rollouts, one_update
from tests.methods.trainers.sharded_update import TRAINERS
from tests.methods.trainers.test_invariance import assert_same


@pytest.mark.slow
def test_sharded_weights_get_the_same_update(tmp_path, monkeypatch):
    for module in (policy, sampling):
        monkeypatch.setattr(module, "rollout", rollout)  # so that the patch below is undone
    greedy_rollouts()
    out = tmp_path / "sharded.safetensors"
    ranks = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29519"]
    command = [sys.executable, "-m", *ranks, "-m", "tests.methods.trainers.sharded_update", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, timeout=600)
    sharded = load_file(out)
    for trainer in TRAINERS:
        prefix = f"{trainer}/"
        got = {k.removeprefix(prefix): v for k, v in sharded.items() if k.startswith(prefix)}
        assert_same(got, one_update(trainer, "llama", letter_tokenizer(), batch=4, accumulate=1))
