"""`kd distill` started as two processes of one training."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from methods.errors import MethodError
from methods.modeling.sharding import check_gathers, whole_student
from tests.methods.conftest import make_model

from .conftest import config_of, made

ROOT = Path(__file__).resolve().parents[3]
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}


def two_of(path):
    """The config with half the batch, which two processes share."""
    path.write_text(path.read_text().replace("batch_size: 4", "batch_size: 2"))
    return path


def two_processes(port, *words, **environment):
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", *launcher, "-m", *map(str, words)],
        env={**os.environ, **own, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def assert_same_students(folder):
    both = [AutoModelForCausalLM.from_pretrained(folder / name).state_dict() for name in ("two", "one")]
    assert both[0].keys() == both[1].keys()
    for name, tensor in both[0].items():
        torch.testing.assert_close(tensor, both[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_make_one_student_and_one_of_them_speaks(folder):
    """Two processes of 2 rows a step see what one of 4 rows sees: the same student, tokens summed over both."""
    done = two_processes(29533, "tools", "distill", two_of(config_of(folder, name="two", steps=2)))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("student and tokenizer") == 1
    record = json.loads((folder / "two" / "kd-distill.json").read_text())
    alone = made(config_of(folder, name="one", steps=2))
    assert record["tokens"] == alone["tokens"]
    assert_same_students(folder)


@pytest.mark.slow
def test_a_student_sharded_by_fsdp_is_saved_whole_after_an_interrupt_too(folder):
    """It goes on from the checkpoint that both processes wrote, and is the student that one process makes."""
    extra = "evaluate: {data: held.jsonl}\n"
    make_model(seed=0, width=16, tie_word_embeddings=True).save_pretrained(
        folder / "student"
    )  # two names of a weight
    (folder / "held.jsonl").write_text('{"prompt": "held|", "completion": "dleh"}\n' * 2)
    path = two_of(config_of(folder, name="two", steps=4, extra=extra))
    words, kind = ("tests.reproductions.distill.sharded", path), "SHARDED_STATE_DICT"
    stopped = two_processes(29534, *words, 3, **FSDP, FSDP_STATE_DICT_TYPE=kind)
    assert "goes on from step 2" in stopped.stderr, stopped.stderr[-2000:]
    done = two_processes(29535, *words, **FSDP, FSDP_STATE_DICT_TYPE=kind)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "going on from step 2" in done.stderr and done.stdout.count("student and tokenizer") == 1
    assert not (folder / "two" / ".kd-state").exists()
    record = json.loads((folder / "two" / "kd-distill.json").read_text())
    alone = made(config_of(folder, name="one", steps=4, extra=extra))
    assert record["tokens"] == alone["tokens"]
    assert_same_students(folder)
    loss = [each["evaluation"]["student"]["loss"]["value"] for each in (record, alone)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-3)


@pytest.mark.slow
def test_adapters_sharded_by_fsdp_are_merged_into_the_whole_student(folder):
    extra = "lora: {rank: 2}\n"
    path = two_of(config_of(folder, name="two", steps=2, extra=extra))
    words = "tests.reproductions.distill.sharded", path
    done = two_processes(29536, *words, **FSDP, FSDP_STATE_DICT_TYPE="FULL_STATE_DICT")
    assert done.returncode == 0, done.stderr[-2000:]
    made(config_of(folder, name="one", steps=2, extra=extra))
    assert_same_students(folder)


def deepspeed(zero, rank=0, weights=None):
    """A trainer as DeepSpeed leaves it, without DeepSpeed."""
    accelerator = SimpleNamespace(
        deepspeed_config={"zero_optimization": zero}, get_state_dict=lambda wrapped: weights
    )
    return SimpleNamespace(
        is_deepspeed_enabled=True,
        is_fsdp_enabled=False,
        accelerator=accelerator,
        deepspeed="engine",
        is_world_process_zero=lambda: rank == 0,
    )


def test_deepspeed_that_would_not_gather_is_told_before_the_training():
    with pytest.raises(MethodError, match="zero3_save_16bit_model"):
        check_gathers(deepspeed({"stage": 3}), print)
    check_gathers(deepspeed({"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}), print)
    check_gathers(deepspeed({"stage": 2}), print)


def test_weights_that_deepspeed_gathers_in_16_bits_become_a_student_in_fp32_on_the_first_process():
    trained, before = make_model(seed=3), make_model(seed=0)
    weights = {name: tensor.bfloat16() for name, tensor in trained.state_dict().items()}
    student = whole_student(deepspeed({"stage": 3}, weights=weights), lambda: before)
    for name, tensor in student.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, weights[name].float())
    assert whole_student(deepspeed({"stage": 3}, rank=1, weights=weights), lambda: before) is None
    first = next(iter(weights))
    del weights[first]
    with pytest.raises(MethodError, match=first):
        whole_student(deepspeed({"stage": 3}, weights=weights), lambda: before)
