"""Models, data and a config file as a user of `kd distill` would have them."""

import json
from contextlib import contextmanager

import pytest
from transformers import TrainerCallback

from methods.classes.suits import only_for_classes
from methods.recipe import canonical_method, read_recipe, recipe_ids
from reproductions.distill import run
from reproductions.distill.config import load_config
from reproductions.distill.run import distil
from tests.methods.conftest import letter_tokenizer, make_model

# Recipes that `task: classification` alone can run.
CLASSIFIERS_ALONE = {
    name for name in recipe_ids() if only_for_classes(canonical_method(read_recipe(name).method()))
}
WORDS = ["ab", "hello", "x", "distil", "teach", "loss", "token", "kd"]


@pytest.fixture
def folder(tmp_path):
    """A teacher, a student and data as a user would have them."""
    for name, seed, width in (("teacher", 1, 24), ("second", 2, 16), ("student", 0, 16)):
        make_model(seed=seed, width=width).save_pretrained(tmp_path / name)
        letter_tokenizer().save_pretrained(tmp_path / name)
    rows = [{"prompt": f"{word}|", "completion": word[::-1]} for word in WORDS]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def config_of(folder, method="word-kd", *, name="run", teacher="teacher", steps=4, extra=""):
    text = (
        f"method: {method}\nstudent: student\ndata: data.jsonl\noutput: {name}\nsave_every: 2\n"
        f"budget: {{steps: {steps}, batch_size: 4, learning_rate: 0.01, prompt_tokens: 12, completion_tokens: 12}}\n"
    )
    text += f"teacher: {teacher}\n" if teacher else ""
    path = folder / f"{name}.yaml"
    path.write_text(text + extra)
    return path


def made(path):
    return distil(load_config(path), lambda *_: None)


class _Stop(TrainerCallback):
    def __init__(self, step, how):
        self.step, self.how = step, how

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.how(control)


def _interrupt(_):
    raise KeyboardInterrupt


@pytest.fixture
def stopped(monkeypatch):
    """`with stopped(at=3)`: trainings inside are interrupted after that step; `how` does something else instead."""

    @contextmanager
    def stopping(at, how=_interrupt):
        build = run.trainer_for

        def trainer_for(method, parts):
            trainer = build(method, parts)
            trainer.add_callback(_Stop(at, how))
            return trainer

        with monkeypatch.context() as patch:
            patch.setattr(run, "trainer_for", trainer_for)
            yield

    return stopping
