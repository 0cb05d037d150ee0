"""The same four examples give the same update however they are cut into micro-batches and spread over ranks."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from methods.modeling.interleaved import interleaved
from methods.modeling.rollouts import rollout
from methods.trainers import policy, sampling
from methods.trainers.optimisation import trainer as optimisation
from tests.methods.trainers.one_update import MODELS, SAMPLED, TRAINERS, greedy_rollouts, one_update


@pytest.fixture(autouse=True)
def greedy(monkeypatch):
    for module in (policy, sampling, optimisation):
        monkeypatch.setattr(module, "rollout", rollout)  # so that the patch below is undone after each test
    monkeypatch.setattr(sampling, "interleaved", interleaved)
    greedy_rollouts()


def assert_same(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    assert any(delta.abs().max() > 1e-4 for delta in expected.values()), "the step changed nothing"
    for name, delta in expected.items():
        torch.testing.assert_close(
            got[name], delta, rtol=1e-3, atol=2e-6 + 2e-5 * float(delta.abs().max()), msg=name
        )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_micro_batches_do_not_matter(trainer, kind, tokenizer):
    whole = one_update(trainer, kind, tokenizer, batch=4, accumulate=1)
    for batch, accumulate in ((2, 2), (1, 4)):
        assert_same(one_update(trainer, kind, tokenizer, batch=batch, accumulate=accumulate), whole)


@pytest.mark.slow
def test_ranks_do_not_matter(tokenizer, tmp_path):
    out = tmp_path / "two-ranks.safetensors"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29517",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "-m", "tests.methods.trainers.one_update", str(out)],
        check=True,
        env=environment,
        timeout=600,
    )
    two_ranks = load_file(out)
    for trainer in set(TRAINERS) - set(SAMPLED):
        for kind in ("llama", "gpt2", "lora"):
            prefix = f"{trainer}/{kind}/"
            got = {k.removeprefix(prefix): v for k, v in two_ranks.items() if k.startswith(prefix)}
            assert_same(got, one_update(trainer, kind, tokenizer, batch=4, accumulate=1))
