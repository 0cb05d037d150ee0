"""`kd teach`: a teacher is asked once about a config's rows, and its answers stand in its place."""

import json
import re
import shutil
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from catalog.errors import CatalogError
from methods.errors import MethodError
from methods.teachers.store import TeacherStore
from reproductions.distill.answers.teach import teach
from reproductions.distill.config import load_config
from reproductions.distill.plan import plan_of
from tests.methods.teachers.test_teacher_server import Fake

from .conftest import config_of, made

EXACT = "{model: teacher, answers: {in: kept, keep: hidden-states, precision: fp32}}"


def asked(path):
    return teach(load_config(path), lambda *_: None, lambda _: None)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_exact_answers_teach_what_the_teacher_teaches_and_its_weights_are_not_read(folder, monkeypatch):
    live = made(config_of(folder, name="live"))
    path = config_of(folder, name="kept-run", teacher=EXACT)
    (one,) = asked(path)
    assert one["teacher"] == str(folder / "teacher") and one["examples"] == 8
    for file in (folder / "teacher").glob("*.safetensors"):
        file.write_bytes(b"")  # nothing of them is left
    (folder / "teacher" / "README.md").unlink(missing_ok=True)
    monkeypatch.setattr("reproductions.distill.answers.kept.name_of", lambda config, place: None)
    record = made(path)
    for name, tensor in weights(folder / "live").items():
        torch.testing.assert_close(weights(folder / "kept-run")[name], tensor, rtol=0, atol=2e-6)
    assert record["loss"]["end"] == pytest.approx(live["loss"]["end"], abs=1e-6)
    assert record["tokens"]["student"] == live["tokens"]["student"] and "teacher" not in record["tokens"]


def test_what_is_most_probable_is_nearly_as_good_and_asked_once(folder):
    live = made(config_of(folder, name="live"))
    path = config_of(folder, name="kept-run", teacher="{model: teacher, answers: kept}")
    (one,) = asked(path)
    before = (folder / "kept" / "header.json").read_bytes()
    assert asked(path)[0] == one and (folder / "kept" / "header.json").read_bytes() == before
    record = made(path)
    assert record["loss"]["end"] == pytest.approx(live["loss"]["end"], rel=0.05)
    assert record["inputs"]["answers of teacher 1"] == load_config(path).answers[0].digest
    assert plan_of(load_config(path), {}, lambda _: None)["memory_bytes"]["teachers"] == 0


def test_drawn_ids_teach_and_are_drawn_once(folder):
    live = made(config_of(folder, name="live"))
    path = config_of(
        folder, name="drawn-run", teacher="{model: teacher, answers: {in: kept, keep: drawn, rounds: 200}}"
    )
    (one,) = asked(path)
    before = (folder / "kept" / "records.bin").read_bytes()
    assert asked(path)[0] == one and (folder / "kept" / "records.bin").read_bytes() == before
    assert one["covered_mass"] == 1
    record = made(path)
    # What was drawn has another entropy than the teacher, not another minimum.
    assert record["loss"]["end"] == pytest.approx(live["loss"]["end"], abs=0.3)
    assert record["inputs"]["answers of teacher 1"] == load_config(path).answers[0].digest


@pytest.fixture
def server(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    with Fake(tokenizer, AutoModelForCausalLM.from_pretrained(folder / "teacher"), k=8) as fake:
        threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield fake
        fake.shutdown()


@pytest.mark.parametrize("protocol", ["vllm", "openai"])
def test_a_served_teacher_needs_no_model_here(folder, server, protocol):
    shutil.rmtree(folder / "teacher")
    kept = f"{{in: kept, server: '{server.url}', protocol: {protocol}, top_k: 8, key: KD_TEST_KEY}}"
    path = config_of(folder, teacher=f"{{model: teacher-1, answers: {kept}}}")
    asked(path)
    sent = len(server.requests)
    assert sent == 8 and asked(path)[0]["examples"] == 8 and len(server.requests) == sent
    record = made(path)
    assert record["steps"] == 4 and record["teachers"] == ["teacher-1"]


@pytest.mark.parametrize(
    ("method", "teacher", "said"),
    [
        ("gkd", EXACT, "cannot learn from kept answers: its student learns from texts that are written while"),
        ("minillm", EXACT, "its trainer, minillm, asks the teacher itself"),
        ("seqkd", EXACT, "its rows are written by the teacher first"),
        ("ted", EXACT, "looks into the teacher itself"),
        ("word-kd", "[{model: teacher, answers: kept}, second]", "several teachers are averaged"),
        ("word-kd", "{model: teacher, answers: {in: kept, kept: top-k}}", 'unknown "kept" (did you mean "keep"'),
        ("word-kd", "{model: teacher, answers: {in: kept, keep: topk}}", 'no keep "topk"'),
        ("word-kd", "{model: teacher, answers: {in: kept, key: HIS}}", '"key" is about a server, and none is named'),
        ("word-kd", "{model: teacher, answers: {keep: top-k}}", '"in" is missing'),
        ("word-kd", "{model: t, dtype: bf16, answers: {in: kept, server: 'http://a.b'}}", "this one is served"),
        ("word-kd", "{model: t, answers: {in: kept, server: 'http://a.b', keep: hidden-states}}", "not hidden-states"),
        ("word-kd", "{model: t, answers: {in: kept, server: 'http://a.b', keep: drawn}}", "not drawn"),
        ("word-kd", "{model: t, answers: {in: kept, keep: drawn, rounds: 300}}", "rounds are at most 254, not 300"),
        ("akl", "{model: teacher, answers: {in: kept, keep: drawn}}", "drawn ids teach the forward KL alone"),
        ("word-kd", "{model: t, answers: {in: kept, server: 'http://a.b', key: sk-123}}", "never the key"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_asked(folder, method, teacher, said):
    with pytest.raises(CatalogError, match=re.escape(said)) as error:
        load_config(config_of(folder, method, teacher=teacher))
    assert error.value.line == 7 and error.value.path.name == "run.yaml"


def test_a_training_says_what_is_to_be_typed_where_nobody_was_asked(folder):
    path = config_of(folder, teacher="{model: teacher, answers: kept}")
    with pytest.raises(CatalogError, match=r"run.yaml:7: no answers in .*kept: `kd teach .*run.yaml` asks"):
        made(path)


def test_rows_that_are_new_are_told_and_only_they_are_asked(folder):
    path = config_of(folder, teacher=EXACT)
    asked(path)
    with (folder / "data.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "new|", "completion": "wen"}) + "\n")
    with pytest.raises(MethodError, match="no answer to 1 of 9 rows"):
        made(path)


def test_another_teachers_answers_are_refused(folder):
    asked(config_of(folder, teacher=EXACT))
    path = config_of(folder, teacher=EXACT.replace("teacher,", "second,"))
    with pytest.raises(CatalogError, match="is another one: its teacher is"):
        made(path)
    with pytest.raises(MethodError, match="another"):
        asked(path)


def test_a_temperature_is_part_of_the_most_probable(folder):
    own = "terms: [{divergence: forward-kl, temperature: 2.0}]\n"
    path = config_of(folder, teacher="{model: teacher, answers: kept}")
    asked(path)
    assert float(TeacherStore(folder / "kept").content["temperature"]) == 1.0
    path.write_text(path.read_text().replace("method: word-kd\n", "") + own)
    with pytest.raises(CatalogError, match="at temperature 1, and own asks at 2"):
        made(path)
    shutil.rmtree(folder / "kept")
    asked(path)
    assert made(path)["steps"] == 4


def test_a_config_that_keeps_nothing_is_told_how(folder):
    with pytest.raises(CatalogError, match="give one `answers"):
        asked(config_of(folder))
