"""The loss of `kd distill`: said at the end, and a stop where it is a number no more."""

import pytest
import torch

from methods.errors import MethodError
from reproductions.distill.record import summary
from reproductions.distill.state import STATE
from reproductions.distill.training import RECORD
from reproductions.distill.watch.losses import start_and_end

from .conftest import config_of, made


def budget(path, **values):
    text = path.read_text()
    for name, value in values.items():
        text = text.replace("budget: {", f"budget: {{{name}: {value}, ") if name not in text else text
        if name == "learning_rate":
            text = text.replace("learning_rate: 0.01", f"learning_rate: {value}")
        if name == "batch_size":
            text = text.replace("batch_size: 4", f"batch_size: {value}")
    path.write_text(text)
    return path


@pytest.fixture
def poison():
    """Called in a training, it makes the student's head infinite; `seen` are the students that it met."""

    def poisoned(control):
        import gc

        for model in gc.get_objects():
            if type(model).__name__ == "LlamaForCausalLM" and model.training:
                poisoned.seen.append(model)
                torch.nn.init.constant_(model.lm_head.weight, float("inf"))

    poisoned.seen = []
    return poisoned


def test_a_loss_that_is_no_number_stops_and_saves_no_student(folder, stopped, poison):
    """However it came about: at a rate of 1000 it is one on some processors, and on others none."""
    sentence = r"the (loss|gradient) is nan at step 4.*no student to save; lower the learning_rate \(0.01\)"
    with pytest.raises(MethodError, match=sentence), stopped(at=3, how=poison):
        made(config_of(folder, "sft", teacher=None, steps=6))
    assert poison.seen
    assert not (folder / "run" / RECORD).exists() and not (folder / "run" / "model.safetensors").exists()
    assert not (folder / "run" / STATE).exists(), "nothing to go on from, nothing in the way of another rate"
    assert made(config_of(folder, "sft", teacher=None, steps=6))["steps"] == 6


def test_weights_that_are_no_numbers_after_the_last_step(folder, stopped, poison):
    """The last loss is measured before the last update."""
    with (
        pytest.raises(MethodError, match="lm_head.weight is not finite at step 4"),
        stopped(at=4, how=poison),
    ):
        made(config_of(folder, "sft", teacher=None))
    assert poison.seen and not (folder / "run" / RECORD).exists()


def test_the_loss_at_the_start_and_at_the_end_is_recorded_and_said(folder):
    record = made(config_of(folder, "sft", teacher=None, steps=40))
    loss = record["loss"]
    assert loss["steps"] == [4, 37] and 0 < loss["end"] < loss["start"] < 20
    assert any(
        line == f"loss: {loss['start']:g} at steps 1 to 4, {loss['end']:g} at steps 37 to 40"
        for line in summary(record)
    )


def test_the_loss_is_that_of_the_whole_window(folder):
    """Mean over the tokens of an optimizer step, however it is cut into micro-batches."""
    one = made(budget(config_of(folder, "sft", teacher=None, name="one", steps=1), batch_size=8))
    two = made(budget(config_of(folder, "sft", teacher=None, name="two", steps=1), accumulate=2))
    assert one["loss"]["start"] == pytest.approx(two["loss"]["start"], rel=1e-5)


def test_a_mean_over_logs_of_unequal_length():
    history = [
        {"step": 2, "loss": 4.0},
        {"step": 3, "loss": 1.0},
        {"step": 30, "loss": 5.0},
        {"train_loss": 9.0, "step": 30},
    ]
    assert start_and_end(history, 30) == {"start": 3.0, "end": 5.0, "steps": [3, 4]}
    assert start_and_end([], 30) is None


def test_a_loss_that_rose_is_warned_of(folder):
    record = made(config_of(folder, "sft", teacher=None))
    rose = record | {"loss": {"start": 1.0, "end": 4.0, "steps": [1, 4]}}
    assert not any(
        "the loss rose" in line for line in summary(record | {"loss": {**record["loss"], "end": 0.1}})
    )
    assert any("the loss rose" in line for line in summary(rose))
