"""`rollouts: vllm`: refused early where it cannot be, and handed to TRL where it can; the engine is a stand-in."""

import pytest
import torch

from catalog.errors import CatalogError
from methods.engine import Engine
from methods.trainers import engine
from reproductions.distill import method
from reproductions.distill.config import load_config
from reproductions.distill.evaluate.compare import configs_of
from tests.methods.trainers.test_engine import StandIn

from .conftest import config_of, made

ON_POLICY = "settings: {on_policy_fraction: 1.0}\n"


@pytest.fixture
def there(monkeypatch):
    """A machine that has vLLM and a GPU, as far as the config's reader can tell."""
    monkeypatch.setattr(method, "_engine_misses", lambda: None)


@pytest.mark.parametrize(
    ("installed", "gpu", "told"),
    [
        (False, False, r"run\.yaml:\d+: rollouts: vLLM needs the package vllm \(pip install 'trl\[vllm\]'\)"),
        (True, False, r"rollouts: vLLM needs a GPU; without `rollouts` the student writes by itself"),
    ],
)
def test_what_misses_is_told_before_anything_is_read(folder, monkeypatch, installed, gpu, told):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    with pytest.raises(CatalogError, match=told):
        load_config(config_of(folder, "gkd", extra="rollouts: vllm\n"))


@pytest.mark.parametrize(
    ("recipe", "extra", "told"),
    [
        ("word-kd", "", "learns from rows that are there before"),
        ("minillm", "", "the trainer minillm has a loop of its own"),
        ("skd", "", "the sampler speculative writes token by token"),
        ("teacher-hacking", "", "the sampler teacher-mixed writes token by token"),
    ],
)
def test_a_method_whose_answers_no_engine_writes_is_refused(folder, there, recipe, extra, told):
    with pytest.raises(CatalogError, match=told):
        load_config(config_of(folder, recipe, extra=f"rollouts: vllm\n{extra}"))


def test_compared_methods_get_the_engine_where_it_concerns_them_and_the_others_are_told(folder, there):
    path, said = config_of(folder, "gkd", extra=f"rollouts: vllm\n{ON_POLICY}evaluate: {{rows: 2}}\n"), []
    found = configs_of([path], ["gkd", "sft", "skd"], said.append)
    assert {name: config.engine is not None for name, config in found.items()} == {
        "gkd": True, "sft": False, "skd": False,
    }  # fmt: skip
    (sentence,) = said
    assert (
        sentence.startswith("rollouts do not concern sft (this method learns from rows")
        and "; skd (" in sentence
    )
    with pytest.raises(CatalogError, match="learns from rows that are there before"):  # nobody would use them
        configs_of([path], ["sft", "word-kd"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{mode: servr}", 'no mode "servr" .did you mean "server"'),
        ("{engine: sglang}", 'no engine "sglang"; known: vllm'),
        ("{mode: server}", "belong together"),
        ('{server: "http://localhost:8000"}', "belong together"),
        ("{memory: 1.5}", "memory must be a number of above 0 and below 1"),
        ("{memry: 0.5}", 'unknown "memry" .did you mean "memory"'),
        ("true", '"rollouts" must be a mapping'),
    ],
)
def test_a_mistake_is_told_with_its_line(folder, there, given, told):
    with pytest.raises(CatalogError, match=rf"run\.yaml:\d+: .*{told}"):
        load_config(config_of(folder, "gkd", extra=f"rollouts: {given}\n"))


def test_a_cut_student_is_refused_since_the_engine_reads_the_whole_one(folder, there):
    path = config_of(folder, "gkd", extra="rollouts: vllm\n")
    path.write_text(path.read_text().replace("student: student", "student: {model: student, layers: 1}"))
    with pytest.raises(CatalogError, match="other layers"):
        load_config(path)


def test_another_engine_is_another_student_and_how_it_runs_is_not(folder, there):
    plain, beside, asked = (
        load_config(config_of(folder, "gkd", extra=extra))
        for extra in (
            "",
            "rollouts: {memory: 0.5}\n",
            'rollouts: {mode: server, server: "http://localhost:8000"}\n',
        )
    )
    assert beside.hash == asked.hash != plain.hash
    assert (plain.engine, beside.engine) == (None, Engine(memory=0.5))
    assert asked.engine == Engine("server", "http://localhost:8000")


@pytest.mark.parametrize(("recipe", "extra"), [("gkd", ON_POLICY), ("stable-opd", ""), ("reopold", "")])
def test_rollouts_of_a_training_are_the_engine_s(folder, there, monkeypatch, recipe, extra):
    started = []

    def start(**arguments):
        started.append(StandIn(**arguments))
        return started[-1]

    monkeypatch.setattr(engine, "VLLMGeneration", start)
    monkeypatch.setattr(engine, "is_vllm_available", lambda: True)
    record = made(config_of(folder, recipe, extra=f"{extra}rollouts: vllm\n", steps=2))
    (one,) = started
    asked = sum(len(prompts) for prompts, _ in one.calls)
    assert one.syncs >= 1 and asked == record["rollouts"]["completions"] > 0
    assert record["rollouts_by"] == "vllm, colocate" and record["steps"] == 2
    assert one.arguments["max_model_length"] == 24, "the config's longest row"
