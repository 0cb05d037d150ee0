"""Settings without sense are refused with file and line, before a model is loaded."""

import pytest
from transformers.trainer_utils import SchedulerType

from catalog.errors import CatalogError
from catalog.schema import load_catalog
from reproductions.distill import limits, run
from reproductions.distill.config import check_teacher_terms, load_config

from .conftest import config_of

HEAD = "student: student\ndata: data.jsonl\noutput: o\nteacher: teacher\n"


@pytest.fixture(autouse=True)
def no_model_is_loaded(monkeypatch):
    def load(name, *, weights=True, loading=None):
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr("reproductions.distill.models.load_pretrained", load)


def refused(folder, text, line, message):
    path = folder / "wrong.yaml"
    path.write_text(HEAD + text)
    with pytest.raises(CatalogError) as error:
        run.distil(load_config(path), lambda *_: None)
    assert f"wrong.yaml:{line}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("budget: {steps: 0}", "budget: steps must be a whole number of 1 or more"),
        ("budget: {batch_size: 0}", "budget: batch_size must be a whole number of 1 or more"),
        ("budget: {accumulate: 0}", "budget: accumulate must be a whole number of 1 or more"),
        ("budget: {learning_rate: 0}", "budget: learning_rate must be a number of above 0"),
        ("budget: {weight_decay: -0.1}", "budget: weight_decay must be a number of 0 or more"),
        ("budget: {prompt_tokens: 0}", "budget: prompt_tokens must be a whole number of 1 or more"),
        ("budget: {schedule: cosin}", 'budget: no schedule "cosin" (did you mean "cosine"?)'),
        ("budget: {schedule: 3}", 'budget: schedule must be like "cosine"'),
        ("budget: {steps: 10, warmup_steps: 10}", "10 warmup_steps of 10 steps leave none"),
        ("budget: 3", '"budget" must be a mapping'),
        ("lora: {rank: 0}", "lora: rank must be a whole number of 1 or more"),
        ("lora: {dropout: 2.0}", "lora: dropout must be a number of 0 or more and below 1"),
        ("lora: {targets: [1]}", "lora: targets are names of linear layers"),
        ("lora: {targets: [q_prj]}", 'no layer of'),
        ("lora: {targets: [q_prj]}", '"q_prj" (did you mean "q_proj"?)'),
        ("lora: {targets: [mlp]}", 'is called "mlp"'),
        ("lora: {targets: [lm_head]}", 'is called "lm_head"'),
        ("seed: 123456789012345678901234567890", '"seed" must be a whole number of 0 or more and at most 4294967295'),
        ("save_every: 0", '"save_every" must be a whole number of 1 or more'),
        ("teacher_terms: [a]", '"teacher_terms" must be the name of an entry of catalog/teachers.yaml'),
        ("accept_teacher_terms: yes", '"accept_teacher_terms" must be true or false'),
        ("settings: [a]", '"settings" must be a mapping'),
        ("settings: {temperature: 0.0}", "temperature must be above 0, not 0"),
        ("settings: {temperature: hot}", 'temperature: "temperature" must be a number'),
        ("settings: {soft_weight: -1.0}", "soft_weight must be 0 or more, not -1"),
        ("settings: {soft_weight: 0.0}", "every term has the weight zero"),
        ("settings: {divergence: forwrd-kl}", 'no divergence "forwrd-kl" (did you mean "forward-kl"?)'),
    ],
)  # fmt: skip
def test_a_config_s_own_numbers(folder, line, message):
    refused(folder, f"method: word-kd\n{line}\n", 6, message)


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        ("gkd", "teacher_weight: 1.0", "this divergence is 0 whatever the models say"),
        ("gkd", "teacher_weight: 2.0", "teacher_weight=2.0 is not between 0 and 1"),
        ("gkd", "sampling_temperature: 0.0", "sampling_temperature must be above 0, not 0"),
        ("gkd", "sampling_temperature: hot", 'sampling_temperature: sampler on-policy: "temperature" must be a number'),
        ("gkd", "on_policy_fraction: 1.5", "on_policy_fraction must be 0 or more and at most 1, not 1.5"),
        ("distillm", "skew: 1.0", "this divergence is 0 whatever the models say"),
        ("distillm", "capacity: 0", "capacity must be 1 or more, not 0"),
        ("seqkd", "temperature: 0.0", 'above 0, not 0; for the most probable answer say "greedy: true"'),
        ("seqkd", "batch_size: 0", "batch_size must be 1 or more, not 0"),
        ("seqkd", "greedy: 1", 'greedy: data label: "greedy" must be true or false'),
        ("minillm", "num_iterations: 0", "num_iterations must be 1 or more, not 0"),
        ("minillm", "steps_per_generation: 0", "steps_per_generation must be 1 or more, not 0"),
        ("minillm", "steps_per_generation: 4.5", 'steps_per_generation: trainer minillm: "steps_per_'),
        ("minillm", "teacher_mix: 1.0", "teacher_mix must be 0 or more and below 1, not 1"),
        ("taid", "start: -0.5", "start must be 0 or more and at most 1, not -0.5"),
        ("distillm-2", "floor: 0.9", "an adaptive skew needs floor <= base"),
        ("ramesh-2025-generalization-fidelity", "target: noisy", 'no target "noisy"'),
        ("dac-kl", "spans: ends-in-letter", "ends-in-letter"),
    ],
)  # fmt: skip
def test_a_method_s_settings_by_the_line_they_stand_on(folder, method, setting, message):
    refused(folder, f"method: {method}\nsettings:\n  {setting}\n", 7, message)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("budget: {steps: 100000000000000000000}", 6, "a whole number of 1 or more and at most 1000000000"),
        ("budget: {steps: 1e20}", 6, "steps must be a whole number of 1 or more"),
        ("budget: {batch_size: 1000001}", 6, "batch_size must be a whole number of 1 or more and at most 1000000"),
        ("budget: {accumulate: 1000001}", 6, "at most 1000000"),
        ("budget: {prompt_tokens: 10000001}", 6, "at most 10000000"),
        ("budget: {learning_rate: 1e20}", 6, "learning_rate must be a number of above 0 and at most 1000"),
        ("budget: {weight_decay: 1e300}", 6, "weight_decay must be a number of 0 or more and at most 1000000000"),
        ("budget: {max_grad_norm: -1}", 6, "max_grad_norm must be a number of 0 or more"),
        ("lora: {alpha: 1e12}", 6, "alpha must be a whole number of above 0"),
        ("lora: {rank: 10000000000}", 6, "rank must be a whole number of 1 or more and at most 1000000000"),
        ("save_every: 10000000000", 6, "1 or more and at most 1000000000"),
        ("evaluate: {rows: 10000000000}", 6, "rows must be a whole number of 2 or more and at most 1000000000"),
        ("evaluate: {answers: -1}", 6, "answers must be a whole number of 0 or more"),
        ("settings: {soft_weight: 1e20}", 6, "soft_weight must be 0 or more and at most 1000000000, not 1e+20"),
        ("settings: {temperature: 1e10}", 6, "temperature must be above 0 and at most 1000000000, not 1e+10"),
    ],
)  # fmt: skip
def test_numbers_beyond_any_sense(models_by_name, text, line, message):
    refused(models_by_name, f"method: word-kd\n{text}\n", line, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "trainer: {name: policy-optimisation}\nadvantage: {name: log-ratio, weight: -1e20}",
            "weight must be -1e+09 or more, not -1e+20",
        ),
        (
            "terms: [{divergence: forward-kl}]\nsampler: {name: adaptive-replay, capacity: 99999999999}",
            "capacity must be 1 or more and at most 1000000000, not 1e+11",
        ),
    ],
)
def test_a_number_without_a_range_of_its_own_is_no_astronomical_one(models_by_name, text, message):
    path = models_by_name / "wrong.yaml"
    path.write_text(HEAD + text + "\n")
    with pytest.raises(CatalogError, match=r"wrong.yaml:6: ") as error:
        load_config(path)
    assert message in str(error.value)


def test_rows_of_data_are_a_number_that_a_machine_has(models_by_name):
    path = models_by_name / "wrong.yaml"
    head = HEAD.replace("data: data.jsonl", "data: {from: data.jsonl, rows: 99999999999}")
    path.write_text(head + "method: word-kd\n")
    with pytest.raises(CatalogError, match=r'wrong.yaml:2: data: "rows" must be .* at most 1000000000'):
        load_config(path)


@pytest.fixture
def models_by_name(tmp_path):
    """Folders that a config can name, without a model in them."""
    for name in ("teacher", "student"):
        (tmp_path / name).mkdir()
    (tmp_path / "data.jsonl").write_text('{"prompt": "a|", "completion": "b"}\n')
    return tmp_path


def test_rollouts_of_several_policies_in_one_update(folder):
    text = "method: minillm\nsettings: {steps_per_generation: 3}\nbudget:\n  accumulate: 2\n"
    refused(folder, text, 8, "steps_per_generation (3) must be a multiple of accumulate (2)")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("terms:\n  - {divergence: forward-kl}\n  - {divergence: skew-forward-kl, skew: 1.0}\n", 7, "is 0 whatever"),
        ("terms:\n  - {term: next-token, weight: 0}\n  - {divergence: forward-kl, temperature: 0}\n", 7, "above 0"),
        ("terms:\n  - {term: next-token, weight: 0}\n  - {divergence: skew-forward-kl, skew: 1.0}\n", 7, "is 0 what"),
        ("terms:\n  - {term: next-tokn}\n", 6, 'no term "next-tokn" (did you mean "next-token"?)'),
        ("terms:\n  - {term: plain-text}\n", 6, "a loss on plain text needs a corpus"),
        ("terms: []\n", 5, "a method needs terms"),
        ("terms: [{divergence: forward-kl}]\nsampler:\n  name: on-policy\n  fraction: 3\n", 8, "at most 1, not 3"),
        ("terms: [{term: next-token}]\nrows: {use: label, temperature: 0}\n", 6, 'say "greedy: true"'),
        ("terms: [{term: next-token}]\nrows: {use: lable}\n", 6, 'no data "lable" (did you mean "label"?)'),
        ("trainer: teacher-alone\n", 5, "teacher-alone trains nothing"),
        ("terms: [{term: next-token}]\nsettings: {a: 1}\n", 6, "this config names none"),
        ("method: gkd\nterms: [{term: next-token}]\n", 6, "gkd has its own terms"),
    ],
)  # fmt: skip
def test_terms_of_one_s_own_by_their_line(folder, text, line, message):
    refused(folder, text, line, message)


def test_terms_of_one_s_own_that_need_a_teacher(folder):
    path = folder / "own.yaml"
    path.write_text(HEAD.replace("teacher: teacher\n", "") + "terms:\n  - {divergence: forward-kl}\n")
    with pytest.raises(
        CatalogError, match=r'own.yaml:5: this term reads a "teacher", and the config names none'
    ):
        load_config(path)
    path.write_text(path.read_text().replace("divergence: forward-kl", "term: next-token"))
    assert load_config(path).teachers == ()


@pytest.mark.parametrize("name", ["GKD", "gdk", "distilm_2", "Word_KD "])
def test_methods_by_the_nearest_name(folder, name):
    path = folder / "near.yaml"
    path.write_text(HEAD + f'method: "{name}"\n')
    with pytest.raises(
        CatalogError,
        match=r"near.yaml:5: no method .* \(did you mean \"[a-z0-9-]+\"\?\); known: [a-z0-9-]+, ",
    ):
        load_config(path)


def test_schedules_are_those_of_transformers():
    assert set(limits.SCHEDULES) <= {kind.value for kind in SchedulerType}


def test_terms_of_a_teacher_that_nobody_wrote_down(folder):
    config = load_config(config_of(folder, extra="teacher_terms: opnai\n"))
    teachers = load_catalog().teachers
    with pytest.raises(CatalogError, match=r'run.yaml:8: no entry "opnai" .*did you mean "openai"'):
        check_teacher_terms(config, teachers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: sft\nreport_to: [[]]", 'report_to: no "[]"'),
        ("terms: [{divergence: []}]", 'no divergence "[]"'),
        ("method: word-kd\nsettings: {divergence: {}}", 'no divergence "{}"'),
        ("method: word-kd\nstudent: {model: student, attention: []}", 'no attention "[]"'),
        ("method: word-kd\nstudent: {model: student, dtype: {}}", 'unknown "dtype"'),
    ],
)
def test_a_list_where_a_name_belongs(models_by_name, text, message):
    path = models_by_name / "wrong.yaml"
    head = HEAD.replace("student: student\n", "") if "student:" in text else HEAD
    path.write_text((head.replace("teacher: teacher\n", "") if "sft" in text else head) + text + "\n")
    with pytest.raises(CatalogError, match=r"wrong.yaml:\d: ") as error:
        load_config(path)
    assert message in str(error.value)
