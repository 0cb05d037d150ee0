"""Models as the hub has them: without a pad token, with padded heads, as adapters, with few positions, on a GPU."""

import json
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from catalog.errors import CatalogError
from methods.errors import MethodError
from reproductions.distill import run, training
from reproductions.distill.config import load_config
from reproductions.distill.data.rows import Rows
from reproductions.distill.record import summary
from reproductions.distill.surroundings import GivenSurroundings
from reproductions.engine.errors import KDError
from tests.methods.conftest import letter_tokenizer, make_model

from .conftest import WORDS, config_of, made

STOPS = list(range(1, 29, 3))  # an untrained model hardly ever says EOS


def ending(folder, name="teacher", **config):
    model = AutoModelForCausalLM.from_pretrained(folder / name)
    model.generation_config.eos_token_id = STOPS
    model.save_pretrained(folder / name)


def test_a_teacher_without_a_pad_token(folder):
    """GPT-2's and Llama's; labels of prompts that are not equally long were a TypeError."""
    ending(folder)
    expected = made(config_of(folder, "seqkd", name="padded", extra="settings: {greedy: true}\n"))
    file = folder / "teacher" / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "pad_token"}))
    (folder / "teacher" / "special_tokens_map.json").unlink(missing_ok=True)
    assert AutoTokenizer.from_pretrained(folder / "teacher").pad_token is None
    record = made(config_of(folder, "seqkd", extra="settings: {greedy: true}\n"))
    assert record["labels"] == expected["labels"] and record["tokens"] == expected["tokens"]
    assert set(record["labels"]) == {"completions", "truncated", "empty"}, "a count of zero is one too"
    assert any(line.startswith("labels: 8 written") for line in summary(record))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gkd", "on_policy_fraction: 1.0"),
        ("distillm", "start: 1.0"),
        ("minillm", "steps_per_generation: 2, num_iterations: 1, teacher_mix: 0.0"),
    ],
)
def test_a_student_with_the_larger_head_samples_what_its_teacher_reads(folder, method, settings):
    make_model(seed=0, vocabulary=64).save_pretrained(folder / "student")
    record = made(config_of(folder, method, extra=f"settings: {{{settings}}}\n"))
    assert record["steps"] == 4 and record["rollouts"]["completions"] > 0


@pytest.mark.parametrize("method", ["word-kd", "minillm"])
def test_tokens_that_the_teacher_lacks_are_named(folder, method):
    """The student got a token of its own, the data use it: an IndexError deep inside the teacher."""
    tokenizer = letter_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    make_model(seed=0, vocabulary=30).save_pretrained(folder / "student")
    tokenizer.save_pretrained(folder / "student")
    row = {"prompt": "<think>a|", "completion": "b"}
    with (folder / "data.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    extra = "settings: {steps_per_generation: 2}\n" if method == "minillm" else ""
    with pytest.raises(
        MethodError, match=r"token '<think>' \(id 29\), and .*teacher \(Llama.*ids 0 to 28 only"
    ):
        made(config_of(folder, method, extra=extra))
    assert made(config_of(folder, "sft", name="alone", teacher=None))["steps"] == 4


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_rows_longer_than_a_model_has_positions_for(folder, whose, monkeypatch):
    make_model("gpt2").save_pretrained(folder / whose)
    path = config_of(folder)
    path.write_text(path.read_text().replace("prompt_tokens: 12", "prompt_tokens: 60"))
    monkeypatch.setattr("reproductions.distill.models.load_pretrained", None)  # no model is loaded
    with pytest.raises(
        CatalogError, match=rf"run.yaml:6: budget: 60 .* are 72, and .*{whose} has positions for 64"
    ):
        made(path)


def test_rows_longer_than_a_model_was_made_for_are_noted(folder):
    path, heard = config_of(folder, "sft", teacher=None), []
    path.write_text(path.read_text().replace("prompt_tokens: 12", "prompt_tokens: 60"))
    run.distil(load_config(path), lambda *_: None, heard.append)
    assert heard[0] == f"note: rows may have 72 tokens, and {folder / 'student'} was made for 64"
    assert heard[1:] == ["the first row: 'ab|' -> 'ba'"], "as the student reads it"


def recurrent():
    small = {"vocab_size": 29, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    hybrid = {"intermediate_size": 96, "num_key_value_heads": 1, "lru_width": 16, "attention_window_size": 16}
    torch.manual_seed(0)
    config = AutoConfig.for_model("recurrent_gemma", **small, **hybrid, head_dim=8, logits_soft_cap=2.0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=2.0)
    return model


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_head_that_is_not_what_the_losses_read(folder, whose):
    recurrent().save_pretrained(folder / whose)
    with pytest.raises(
        MethodError, match=rf"{whose} \(RecurrentGemmaForCausalLM\): the logits of its last hidden"
    ):
        made(config_of(folder))


def adapter(folder, base="student"):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder / base)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder / "adapter")
    letter_tokenizer().save_pretrained(folder / "adapter")
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        return ids, model(ids).logits


@pytest.mark.parametrize("extra", ["", "lora: {rank: 2, targets: [q_proj]}\n"])
def test_an_adapter_s_folder_is_the_model_that_it_makes(folder, extra):
    """As student it had nothing to train, or was trained to the end and not saved."""
    ids, logits = adapter(folder)
    path = config_of(folder, "sft", teacher=None, extra=extra, steps=1)
    path.write_text(
        path.read_text().replace("student: student", "student: adapter").replace("0.01", "1.0e-9")
    )
    made(path)
    student = AutoModelForCausalLM.from_pretrained(folder / "run")
    assert not any("lora" in name for name, _ in student.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(student(ids).logits, logits, rtol=1e-3, atol=1e-3)


def test_an_adapter_as_teacher_whose_base_changed(folder):
    adapter(folder, "second")
    path = config_of(folder, teacher="adapter")
    assert made(path)["tokens"]["teacher"] > 0
    make_model(seed=9).save_pretrained(folder / "second")
    with pytest.raises(KDError, match=r"what has changed since: base of teacher 1\)"):
        made(path)


def test_an_adapter_without_safetensors(folder):
    adapter(folder)
    (folder / "adapter" / "adapter_model.safetensors").rename(folder / "adapter" / "adapter_model.bin")
    with pytest.raises(KDError, match="adapter: an adapter without adapter_model.safetensors"):
        made(config_of(folder, teacher="adapter"))


def test_a_teacher_is_asked_on_the_device_of_the_training(tmp_path):
    """It wrote its labels on the CPU of a machine with a GPU. No weights move to "meta", a device all the same."""
    surroundings = GivenSurroundings(
        student=None,
        teachers={"main": (make_model(), letter_tokenizer())},
        tokenizer=letter_tokenizer(),
        rows=Rows(Dataset.from_dict({"prompt": []}), None),
        budget={"prompt_tokens": 4, "completion_tokens": 4},
        seed=0,
        arguments=dict,
        state=tmp_path,
        device="meta",
    )
    asked = surroundings.teacher("main").model
    assert asked.device.type == "meta" and not asked.training


def test_the_device_of_the_training_is_what_teachers_are_given(folder, monkeypatch):
    seen, build = [], run.GivenSurroundings
    monkeypatch.setattr(run, "training_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(
        run, "GivenSurroundings", lambda **parts: seen.append(parts["device"]) or build(**parts)
    )
    made(config_of(folder))
    assert seen == [torch.device("cpu")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("techer", r'no folder .*techer \(did you mean "teacher"\?\); for a model of the hub say hub:techer'),
        ("models/sft", r"no folder .*models/sft; for a model of the hub say hub:models/sft"),
        ("models/teachr", r'no folder .*teachr \(did you mean "teacher1"\?\)'),
        ("./teach", r'no folder .*teach \(did you mean "teacher"\?\)$'),
        ("/no/such/folder", r"no folder /no/such/folder$"),
        ("~/no-such-folder-of-mine", r"no folder .*no-such-folder-of-mine$"),
    ],
)
def test_a_misspelt_folder_is_not_asked_of_the_hub(folder, name, message):
    make_model().save_pretrained(folder / "models" / "teacher1")
    with pytest.raises(CatalogError, match=rf'run.yaml:7: "teacher": {message}'):
        load_config(config_of(folder, teacher=name))


def test_models_of_the_hub_stay_that(folder):
    config = load_config(config_of(folder, teacher="[Qwen/Qwen3-1.7B, gpt2, hub:models/sft]"))
    assert config.teachers == ("Qwen/Qwen3-1.7B", "gpt2", "models/sft")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            r"its weights are pickled \(.bin\)",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"nonsense"), "cannot be read as a model: "),
        (lambda f: (f / "config.json").unlink(), "not a model folder: it has no config.json"),
    ],
)
def test_what_is_wrong_with_a_model_s_folder(folder, spoil, message):
    spoil(folder / "teacher")
    with pytest.raises(KDError, match=f"run.yaml:7: .*teacher: {message}"):
        made(config_of(folder))


def test_what_a_student_was_made_with_is_recorded(folder):
    record = made(config_of(folder, extra="lora: {rank: 2}\nprecision: bf16-autocast\n"))
    assert record["lora"] == {"rank": 2, "alpha": 32, "dropout": 0.0, "targets": []}
    assert record["precision"] == "bf16-autocast"
    made_with = record["environment"]
    assert made_with["torch"] == torch.__version__.split("+")[0] or made_with["torch"] == torch.__version__
    assert made_with["device_type"] == "cpu" and made_with["data_revision"] == record["inputs"]["data"]
    assert {"commit", "transformers", "trl", "python"} <= set(made_with)
    assert json.loads((folder / "run" / training.RECORD).read_text()) == json.loads(json.dumps(record))


def test_several_teachers_are_routed_by_a_column(folder):
    """Rows of domain a from the first teacher, of b from the second: as the column says, not as another one would."""
    rows = [
        {"prompt": f"{word}|", "completion": word[::-1], "domain": "ab"[n % 2]}
        for n, word in enumerate(WORDS)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made_of = {}
    for name, indices in (
        ("routed", {"a": 0, "b": 1}),
        ("swapped", {"a": 1, "b": 0}),
        ("first", {"a": 0, "b": 0}),
    ):
        target = json.dumps({"name": "teacher-by-row", "column": "domain", "indices": indices})
        path = config_of(folder, name=name, teacher="[teacher, second]")
        text = path.read_text().replace("method: word-kd\n", "")
        path.write_text(text + f"terms: [{{divergence: forward-kl, target: {target}}}]\n")
        record = made(path)
        made_of[name] = AutoModelForCausalLM.from_pretrained(folder / name).lm_head.weight
        assert record["tokens"]["teacher"] == 2 * record["tokens"]["student"]
    made(config_of(folder, name="alone"))
    alone = AutoModelForCausalLM.from_pretrained(folder / "alone").lm_head.weight
    torch.testing.assert_close(made_of["first"], alone)
    assert (made_of["routed"] - alone).abs().max() > 1e-3
    assert (made_of["routed"] - made_of["swapped"]).abs().max() > 1e-3


def test_a_row_whose_column_names_no_teacher_is_refused(folder):
    target = '{"name": "teacher-by-row", "column": "domain", "indices": {"a": 0, "b": 1}}'
    rows = [{"prompt": f"{word}|", "completion": word, "domain": "c"} for word in WORDS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = config_of(folder, teacher="[teacher, second]")
    path.write_text(
        path.read_text().replace("method: word-kd\n", "")
        + f"terms: [{{divergence: forward-kl, target: {target}}}]\n"
    )
    with pytest.raises(MethodError, match="'c' names no teacher; known: a, b"):
        made(path)


@pytest.mark.parametrize("method", ["word-kd", "seqkd"])
@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_a_weight_that_is_no_number_is_told_of_its_model(folder, whose, method):
    """Not as a loss that diverged, nor as a traceback in sampling."""
    model = AutoModelForCausalLM.from_pretrained(folder / whose)
    with torch.no_grad():
        model.lm_head.weight[3, 1] = math.nan
    model.save_pretrained(folder / whose)
    with pytest.raises(KDError, match=rf"{whose}: the weight lm_head.weight holds what is no number"):
        made(config_of(folder, method))


def test_a_rank_that_no_layer_has_is_told_with_its_line(folder):
    with pytest.raises(
        CatalogError, match=r"run\.yaml:\d+: lora: a rank of 100000000 is more than the 3\d of"
    ):
        made(config_of(folder, extra="lora: {rank: 100000000}\n"))
