"""Trained students in the cache: read back with the very same weights, or not at all."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from reproductions.engine.work.execute import weights_digest
from reproductions.engine.work.sessions import students
from reproductions.engine.work.sessions.students import keep_student, read_student, student_path


def model(seed=0):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))


@pytest.fixture
def kept(tmp_path):
    student = model()
    folder = student_path(tmp_path, "0123456789abcdef", 3, {"torch": "2.13.0"})
    assert keep_student(folder, student, weights_digest(student))
    return folder, student


def test_a_student_is_read_back_alike_and_draws_nothing(kept):
    folder, student = kept
    state = torch.get_rng_state()
    again = read_student(folder, weights_digest(student))
    assert torch.equal(torch.get_rng_state(), state) and not again.training
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(again(ids).logits, student.eval()(ids).logits)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "model.safetensors").is_file()


def test_another_environment_is_another_folder(kept, tmp_path):
    assert kept[0] != student_path(tmp_path, "0123456789abcdef", 3, {"torch": "2.14.0"})
    assert kept[0] == student_path(tmp_path, "0123456789abcdef", 3, {"torch": "2.13.0", "cpu": "another"})


@pytest.mark.parametrize("harm", ["weights", "half", "meta", "gone", "nothing known"])
def test_what_is_not_the_student_is_not_used(kept, harm):
    folder, student = kept
    digest = weights_digest(student)
    if harm == "weights":
        model(1).save_pretrained(folder)
    elif harm == "half":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:100])
    elif harm == "meta":
        (folder / "student.json").write_text("{")
    elif harm == "gone":
        (folder / "model.safetensors").unlink()
    else:
        digest = None
    assert read_student(folder, digest) is None


def test_what_cannot_be_read_back_alike_or_is_large_is_not_kept(tmp_path, monkeypatch):
    class Own(GPT2LMHeadModel):
        """Of a paper."""

    folder = tmp_path / "student"
    assert not keep_student(folder, Own(model().config), "0" * 64)
    assert not keep_student(folder, torch.nn.Linear(2, 2), "0" * 64)
    monkeypatch.setattr(students, "LARGEST", 10)
    assert not keep_student(folder, model(), "0" * 64) and not list(tmp_path.iterdir())


def test_the_digest_is_of_names_kinds_shapes_and_numbers():
    one = weights_digest(model())
    assert one == weights_digest(model()) and len(one) == 64
    other = model()
    other.transformer.wte.weight.data[0, 0] += 1e-6
    assert len({one, weights_digest(other), weights_digest(model().half()), weights_digest(model(1))}) == 4
    assert weights_digest(object()) is None
