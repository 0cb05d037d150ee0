"""The examples that a user copies, from a fresh folder; and methods that need what not every user has."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from reproductions.distill import config as module
from reproductions.distill import run
from reproductions.distill.config import load_config
from reproductions.elicit.config import load_config as load_elicit_config
from reproductions.engine.errors import KDError
from tests.methods.conftest import letter_tokenizer, make_model

from .conftest import WORDS, config_of, made

ROOT = Path(__file__).resolve().parents[3]


def blocks_of_the_docstring():
    blocks, block = [], []
    for line in [*module.__doc__.splitlines(), "end"]:
        if line.startswith("    "):
            block.append(line[4:])
        elif block and line.strip():
            blocks.append("\n".join(block) + "\n")
            block = []
    return blocks


def readme_s_example():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Distil your own model")[1]
    return re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1]


def yaml_of_the_page():
    text = (ROOT / "reproductions" / "distill" / "DISTIL.md").read_text(encoding="utf-8")
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


def blocks_of_the_page():
    """Those about a whole classifier are tried in test_classes.py, what `kd elicit` reads below."""
    return [block for block in yaml_of_the_page() if "task:" not in block and "seeds:" not in block]


def test_what_a_teacher_is_to_write_is_understood(tmp_path):
    (block,) = (block for block in yaml_of_the_page() if "seeds:" in block)
    (tmp_path / "classes.jsonl").write_text('{"prompt": "a complaint", "label": "delivery"}\n')
    (tmp_path / "write.yaml").write_text(block)
    config = load_elicit_config(tmp_path / "write.yaml")
    assert [step["name"] for step in config.steps] == ["write", "near-copies"]


@pytest.mark.parametrize("block", blocks_of_the_page(), ids=lambda block: block.split(":")[0])
def test_every_block_of_the_page_is_understood(folder, block, monkeypatch):
    """In a config whose other fields are a folder's own."""
    monkeypatch.setattr("reproductions.distill.watch.services.find_spec", lambda name: True)
    monkeypatch.setattr("reproductions.distill.method._engine_misses", lambda: None)
    text = config_of(folder, "word-kd").read_text()
    (folder / "chats.jsonl").write_text((folder / "data.jsonl").read_text())
    own = ["method" if "terms:" in block else "", *(line.split(":")[0] for line in block.splitlines())]
    own += ["teacher"] if "method: opsd" in block else []  # the student is its own
    kept = [line for line in text.splitlines() if line.split(":")[0] not in own]
    (folder / "run.yaml").write_text("\n".join([*kept, block]))
    named = "HuggingFaceTB/SmolLM2-135M-Instruct" if "student:" in block else str(folder / "student")
    assert load_config(folder / "run.yaml").student == named


EXAMPLES = {
    "README": readme_s_example(),
    # The third block is a part of a config; a policy gradient is distilled in test_policy.py.
    **dict(zip(("recipe", "own"), blocks_of_the_docstring()[:2], strict=True)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_work_from_a_fresh_folder(tmp_path, name):
    """With small models where they name theirs, and few of the steps."""
    for place in re.findall(r"(?:teacher|student): ([\w./-]+)", EXAMPLES[name]):
        model = make_model(seed=len(place), layers=2)
        model.generation_config.eos_token_id = list(range(1, 29, 3))
        model.save_pretrained(tmp_path / place)
        letter_tokenizer().save_pretrained(tmp_path / place)
    rows = [{"prompt": f"{word}|", "completion": word[::-1]} for word in WORDS]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "my-run.yaml"
    path.write_text(EXAMPLES[name])
    config = load_config(path)
    few = {**config.budget, "steps": 2, "batch_size": 2, "completion_tokens": 8}
    record = run.distil(dataclasses.replace(config, budget=few), lambda *_: None, lambda _: None)
    assert record["steps"] == 2 and (tmp_path / "my-student" / "model.safetensors").is_file()
    if name == "own":
        assert record["method"] == "own" and record["labels"]["completions"] == 8
        assert record["rollouts"]["completions"] > 0


def test_a_method_of_one_s_own_computes_what_the_recipe_does(folder):
    text = (
        folder / "own.yaml",
        config_of(folder, "gkd", name="recipe", extra="settings: {on_policy_fraction: 1.0}\n"),
    )
    own = text[1].read_text().replace("method: gkd\n", "").replace("output: recipe", "output: own")
    own = re.sub(r"settings:.*\n", "", own)
    own += "sampler: {name: on-policy, fraction: 1.0}\nterms:\n  - {divergence: jensen-shannon}\n"
    text[0].write_text(own)
    one, two = made(text[0]), made(text[1])
    for name in ("computes", "loss", "tokens", "rollouts"):
        assert one[name] == two[name]


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr("reproductions.distill.models.load_pretrained", None)


def test_ddk_without_domains(folder, nothing_is_loaded):
    with pytest.raises(KDError, match=r':1: "domain" must be text; ddk needs rows with a column "domain"'):
        made(config_of(folder, "ddk"))


def test_codi_without_its_tokens_and_thoughts(folder, nothing_is_loaded):
    path = config_of(folder, "codi", teacher=None)
    with pytest.raises(KDError, match="no token <think>; codi needs rows with a column"):
        made(path)
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.save_pretrained(folder / "student")
    with pytest.raises(KDError, match=r':1: "thoughts" must be text; codi needs rows'):
        made(path)


def with_domains(folder, domains):
    rows = [
        {"prompt": f"{word}{n}|".replace(str(n), "abc"[n]), "completion": word, "domain": domain}
        for n, domain in enumerate(domains)
        for word in WORDS
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_domain_is_held_out(folder):
    """A tenth of few rows seldom holds them all, and the weights are measured on each."""
    with_domains(folder, ["news", "code", "mail"])
    for seed in (0, 1):
        record = made(
            config_of(folder, "ddk", name=f"run{seed}", extra=f"seed: {seed}\nsettings: {{every: 2}}\n")
        )
        assert record["rows"]["held_out"] == 3 and record["unused_fields"] == []


def test_a_domain_of_one_row(folder):
    with_domains(folder, ["news"])
    with (folder / "data.jsonl").open("a") as file:
        file.write('{"prompt": "a|", "completion": "b", "domain": "lonely"}\n')
    with pytest.raises(KDError, match='only one row of domain "lonely" fits'):
        made(config_of(folder, "ddk"))


def test_half_a_character_and_a_byte_order_mark(folder):
    (folder / "data.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a|", "completion": "b"}\n' * 1)
    assert made(config_of(folder, "sft", teacher=None, name="bom"))["rows"]["read"] == 1
    (folder / "data.jsonl").write_text(
        '{"prompt": "a|", "completion": "b"}\n{"prompt": "a\\ud800|", "completion": "b"}\n'
    )
    with pytest.raises(KDError, match=':2: "prompt" holds half of a surrogate pair'):
        made(config_of(folder, "sft", teacher=None))


def test_data_that_are_a_model(folder):
    path = config_of(folder)
    path.write_text(path.read_text().replace("data: data.jsonl", "data: student"))
    with pytest.raises(ValueError, match='run.yaml:3: "data": .*student is a model, not data'):
        load_config(path)
