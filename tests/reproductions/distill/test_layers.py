"""A student that begins as some blocks of a deeper model."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from catalog.errors import CatalogError
from reproductions.distill.config import load_config
from reproductions.distill.plan import plan_of
from reproductions.distill.watch.card import CARD
from tests.methods.conftest import letter_tokenizer, make_model

from .conftest import config_of, made


@pytest.fixture
def deep(folder):
    make_model(seed=4, width=16, layers=5).save_pretrained(folder / "deep")
    letter_tokenizer().save_pretrained(folder / "deep")
    return folder


def config(folder, layers, **more):
    path = config_of(folder, **more)
    path.write_text(
        path.read_text().replace("student: student", f"student: {{model: deep, layers: {layers}}}")
    )
    return path


@pytest.mark.parametrize(("layers", "kept"), [(2, [0, 4]), ([1, 2, 3], [1, 2, 3])])
def test_it_is_trained_and_saved_as_a_plain_model_of_so_many_blocks(deep, layers, kept):
    path = config(deep, layers, steps=1)
    whole = AutoModelForCausalLM.from_pretrained(deep / "deep")
    before = plan_of(load_config(path), {}, lambda _: None)["memory_bytes"]["student"]
    record = made(path)
    student = AutoModelForCausalLM.from_pretrained(deep / "run")
    assert student.config.num_hidden_layers == len(student.model.layers) == len(kept)
    kept_too = record["inputs"]["loading of student"]["layers"]
    assert before == 4 * student.num_parameters() and kept_too == (layers if layers == 2 else tuple(layers))
    for place, block in enumerate(kept):  # one step at 0.01 away from where it began
        began = whole.model.layers[block].mlp.up_proj.weight
        assert 0 < (student.model.layers[place].mlp.up_proj.weight - began).abs().max() <= 0.011
    assert torch.isfinite(student.lm_head.weight).all()
    told = "2 of its blocks" if layers == 2 else "its blocks 1, 2, 3"
    (began,) = [
        line for line in (deep / "run" / CARD).read_text().splitlines() if "student at the start" in line
    ]
    assert f"`deep`, {told} |" in began, "a card says that it began as a part"


def test_another_number_of_layers_is_another_student(deep):
    hashes = {load_config(config(deep, layers)).hash for layers in (2, 3, "[0, 4]")}
    assert len(hashes) == 3


@pytest.mark.parametrize("layers", ["0", "six", "[0, -1]", "[]", "true"])
def test_what_is_no_number_of_layers_is_refused(deep, layers):
    with pytest.raises(CatalogError, match='"layers" must be how many blocks'):
        load_config(config(deep, layers))


@pytest.mark.parametrize("layers", [6, [0, 5], [2, 2]])
def test_layers_that_the_model_lacks_are_told_before_its_weights_are_read(deep, layers):
    (deep / "deep" / "model.safetensors").unlink()
    with pytest.raises(CatalogError, match=r"run.yaml:2: .*deep: .*blocks"):
        made(config(deep, layers))
