"""lm-eval's tasks in `kd distill`: figures by hand from the models' own logits, of what is saved, once, and told."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from catalog.errors import CatalogError
from reproductions.distill.config import load_config
from reproductions.distill.evaluate import harness
from reproductions.distill.evaluate import run as evaluation
from reproductions.distill.evaluate.compare import league, lines_of
from reproductions.distill.evaluate.run import FILE, Evaluated
from reproductions.distill.preflight import prepare
from reproductions.distill.record import summary
from reproductions.distill.watch.card import CARD
from tests.methods.conftest import letter_tokenizer, make_model

from .conftest import WORDS, config_of, made

CHOICE = """\
task: word_choice
output_type: multiple_choice
doc_to_text: "{{word}}|"
doc_to_choice: choices
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 2.0}
"""
WRITTEN = """\
task: word_written
output_type: generate_until
doc_to_text: "{{word}}|"
doc_to_target: said
generation_kwargs: {until: ["|"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
ASKED = (
    "evaluate: {rows: 3, answers: 0, lm_eval: {tasks: [word_choice, word_written], include_path: tasks}}\n"
)


@pytest.fixture
def asked(folder, monkeypatch):
    """The folder of a user with two tasks of their own; half of the answers are those that the start would write."""
    start = AutoModelForCausalLM.from_pretrained(folder / "student").eval()
    rows = [
        {
            "word": word,
            "choices": [word[::-1], word[1:] + "q"],
            "said": answer(start, word) if n % 2 else word,
        }
        for n, word in enumerate(WORDS)
    ]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    files = f"{{data_files: {{test: {folder / 'words.jsonl'}}}}}"
    where = f"dataset_path: json\ndataset_kwargs: {files}\ntest_split: test\n"
    (folder / "tasks" / "choice.yaml").write_text(CHOICE + where)
    (folder / "tasks" / "written.yaml").write_text(WRITTEN + where)
    # Seconds of pip, git and lspci each time, for a part of lm-eval's answer that nothing here reads.
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
    return folder


@torch.no_grad()
def answer(model, word):
    """Eight greedy letters at most, one forward pass each."""
    tokenizer, said = letter_tokenizer(), []
    ids = tokenizer(f"{word}|")["input_ids"]
    while len(said) < 8:
        token = int(model(torch.tensor([ids + said])).logits[0, -1].argmax())
        if token in (tokenizer.eos_token_id, ids[-1]):
            break
        said.append(token)
    return tokenizer.decode(said, skip_special_tokens=True)


@torch.no_grad()
def by_hand(model, folder):
    """acc and exact match of each row: one choice at a time, in float64 from the logits."""
    tokenizer, right, written = letter_tokenizer(), [], []
    for row in map(json.loads, (folder / "words.jsonl").read_text().splitlines()):
        ids, found = tokenizer(f"{row['word']}|")["input_ids"], []
        for said in row["choices"]:
            more = tokenizer(said)["input_ids"]
            logits = model(torch.tensor([ids + more])).logits[0, len(ids) - 1 : -1].double()
            found.append(sum(float(logits[n].log_softmax(-1)[token]) for n, token in enumerate(more)))
        right.append(float(np.argmax(found) == 0))
        written.append(float(answer(model, row["word"]) == row["said"]))
    return {"word_choice acc": right, "word_written exact_match": written}


def check(figures, rows):
    """lm-eval's figure is the mean, its standard error that of a mean with n - 1."""
    for name, values in rows.items():
        assert figures[name]["value"] == pytest.approx(np.mean(values), abs=1e-4), name
        assert figures[name]["stderr"] == pytest.approx(
            np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-4
        )


def test_start_teacher_and_student_by_hand(asked):
    extra = f"{ASKED}lora: {{rank: 4}}\nprecision: bf16-autocast\n"
    path = config_of(asked, extra=extra.replace("rows: 3", "rows: 2"), steps=30)
    record = made(path)
    found = record["evaluation"]
    assert list(found) == ["start", "teacher", "student"]
    for who, name in (("start", "student"), ("teacher", "teacher"), ("student", "run")):
        check(found[who], by_hand(AutoModelForCausalLM.from_pretrained(asked / name).eval(), asked))
    assert found["start"]["word_written exact_match"]["value"] >= 0.5
    one = found["student"]["word_choice acc"]
    assert one["difference"] == pytest.approx(one["value"] - found["start"]["word_choice acc"]["value"])
    kept = json.loads((asked / "run" / FILE).read_text())
    whole = dict(kept["models"]["start"]["lm_eval"]["tasks"]["word_choice"])
    own = {part: found["start"]["word_choice acc"][part] for part in ("value", "stderr")}
    assert whole.pop("metrics") == {"acc": pytest.approx(own, rel=1e-4)}
    assert whole == {"examples": 8, "version": 2.0, "shots": 0, "shown": True}
    assert record["lm_eval"]["tasks"]["word_written"] == {"version": 1.0, "examples": 8, "shots": 0}
    told, card = summary(record), (asked / "run" / CARD).read_text()
    about = f"lm-eval {record['lm_eval']['version']}: word_choice (version 2.0, 8 examples, 0 shots), word_written"
    assert told[-1].startswith(about) and "±" in told[-2]
    assert any("word_choice acc" in line for line in told)
    assert "word\\_choice acc" in card and "8 examples" in card and str(asked) not in card
    both = league({"a": record, "b": record}, {"a": kept, "b": kept})
    assert any("word_choice acc" in line for line in lines_of(both))


class _Part:
    """Figures of one model without measuring: what a test is not about."""

    def __init__(self, name):
        self.name = name

    def as_dict(self):
        return {"nats": [1.0], "scores": {}, "cut": 0, "said": []}


def test_what_was_measured_before_a_kill_is_measured_once(asked, monkeypatch):
    """Killed within lm-eval on the teacher: the start, and the teacher's own rows, are as they were."""
    config, calls = load_config(config_of(asked, extra=ASKED)), []
    rows = prepare(config, lambda _: None).rows
    state = asked / "state"

    def measure(model, *_, **__):
        calls.append(("rows", model))
        return _Part(model)

    def run_tasks(model, tokenizer, wanted, who):
        calls.append(("lm-eval", model))
        if calls == [("rows", "a"), ("lm-eval", "a"), ("rows", "b"), ("lm-eval", "b")]:
            raise KeyboardInterrupt
        return {"tasks": {}, "cut": 0}

    monkeypatch.setattr(evaluation, "measure", measure)
    monkeypatch.setattr(evaluation, "run_tasks", run_tasks)

    def both():
        found = Evaluated(config.evaluate, rows, letter_tokenizer(), 12, state, lambda *_: None)
        found.before("start", {"model": "a"}, lambda: ("a", None))
        found.before("teacher", {"model": "b"}, lambda: ("b", None))
        return found

    with pytest.raises(KeyboardInterrupt):
        both()
    calls[:] = [("again", "")]
    found = both().after("c")
    assert calls == [("again", ""), ("lm-eval", "b"), ("rows", "c"), ("lm-eval", "c")]
    assert list(found["models"]) == ["start", "teacher", "student"]
    assert all("lm_eval" in one for one in found["models"].values())
    monkeypatch.setattr(
        harness, "version", lambda _: "9.9"
    )  # another lm-eval: only its own part is made again
    calls[:] = [("again", "")]
    both()
    assert calls == [("again", ""), ("lm-eval", "a"), ("lm-eval", "b")]


def test_a_kill_in_the_students_tasks_leaves_the_same_student_and_figures(asked, monkeypatch):
    whole = made(config_of(asked, name="whole", extra=ASKED))
    real, path = harness.run_tasks, config_of(asked, name="cut", extra=ASKED)

    def killed(model, tokenizer, wanted, who):
        if who == "student":
            raise KeyboardInterrupt
        return real(model, tokenizer, wanted, who)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluation, "run_tasks", killed)
        made(path)
    cut = made(path)
    assert cut["evaluation"] == whole["evaluation"] and cut["loss"] == whole["loss"]
    plain = made(config_of(asked, name="plain", extra="evaluate: {rows: 3, answers: 0}\n"))
    assert plain["loss"] == whole["loss"] and plain["hash"] != whole["hash"], (
        "and it does not move the training"
    )


def test_limits_shots_and_inputs_that_are_cut_are_told(asked):
    extra = ASKED.replace("include_path: tasks", "include_path: tasks, limit: 3, num_fewshot: 1")
    wanted = load_config(config_of(asked, extra=extra)).evaluate.lm_eval
    model = make_model(seed=3).eval()
    model.config.max_position_embeddings = 10
    found = harness.run_tasks(model.train(), letter_tokenizer(), wanted, "start")
    assert model.training and found["cut"] > 0
    assert {(one["examples"], one["shots"]) for one in found["tasks"].values()} == {(3, 1)}


def test_a_group_stands_for_its_parts(asked):
    (asked / "tasks" / "both.yaml").write_text(
        "group: words\ntask: [word_choice]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    found = {
        "results": {
            "words": {"alias": "words", "sample_len": 8, "acc,none": 0.5, "acc_stderr,none": 0.1},
            "word_choice": {"alias": " - word_choice", "sample_len": 8, "acc,none": 0.5, "acc_stderr,none": "N/A"},
        },
        "group_subtasks": {"words": ["word_choice"]},
        "versions": {"word_choice": 2.0},
        "n-shot": {"word_choice": 0, "words": 0},
    }  # fmt: skip
    made_of = harness._figures(found)
    assert [name for name, one in made_of.items() if one["shown"]] == ["words"]
    assert made_of["word_choice"]["metrics"]["acc"] == {"value": 0.5, "stderr": None}


def test_a_teacher_whose_answers_are_kept_is_skipped_and_said(asked):
    from reproductions.distill.answers.teach import teach
    from reproductions.distill.run import distil

    config = load_config(
        config_of(asked, teacher="{model: teacher, answers: {in: kept, keep: top-k, top_k: 4}}", extra=ASKED)
    )
    teach(config, lambda *_: None, lambda _: None)
    said = []
    record = distil(config, lambda *_: None, said.append)
    assert list(record["evaluation"]) == ["start", "student"]
    assert "the teacher is not evaluated: its kept answers are of other rows" in said
    check(
        record["evaluation"]["student"],
        by_hand(AutoModelForCausalLM.from_pretrained(asked / "run").eval(), asked),
    )


@pytest.mark.parametrize(
    ("lm_eval", "message"),
    [
        ("true", '"lm_eval" must be a mapping such as {tasks: [arc_easy]}'),
        ("{task: [word_choice]}", 'lm_eval: unknown "task" (did you mean "tasks"?)'),
        ("{tasks: []}", "tasks is a list of names"),
        ("{tasks: [a, a]}", 'the task "a" is named twice'),
        ("{tasks: [word_choice], limit: 0}", "limit must be a whole number of 1 or more, or a share"),
        ("{tasks: [word_choice], num_fewshot: -1}", "num_fewshot must be a whole number of 0 or more"),
        ("{tasks: [word_choice], batch_size: auto}", "batch_size must be a whole number of 1 or more"),
        ("{tasks: [word_choice], apply_chat_template: maybe}", "apply_chat_template must be true or false"),
        ("{tasks: [word_choice], include_path: task}", '(did you mean "tasks"?)'),
        ("{tasks: [word_choice], include_path: student}", "holds no task (*.yaml)"),
    ],
)
def test_mistakes_have_their_line(asked, lm_eval, message):
    with pytest.raises(CatalogError) as error:
        load_config(config_of(asked, extra=f"evaluate:\n  rows: 3\n  lm_eval: {lm_eval}\n"))
    assert message in str(error.value) and "run.yaml:10:" in str(error.value), str(error.value)


def test_a_package_that_is_not_installed_is_said_before_anything(asked, monkeypatch):
    monkeypatch.setattr("reproductions.distill.evaluate.tasks.find_spec", lambda name: None)
    with pytest.raises(
        CatalogError, match="run.yaml:8: evaluate: lm_eval needs the package lm-eval, which is not"
    ):
        load_config(config_of(asked, extra=ASKED))


def test_tasks_that_cannot_be_run_are_said_before_a_model_is_loaded(asked, monkeypatch):
    from lm_eval.tasks import TaskManager

    def own_alone(include_path, include_defaults):  # the other fourteen thousand take half a minute
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", own_alone)
    monkeypatch.setattr(
        "reproductions.distill.preflight.look_at", lambda *_: pytest.fail("a model is looked at")
    )
    text = (asked / "tasks" / "choice.yaml").read_text()
    cases = {
        "mistyped": ("", 'no task "word_chioce" (did you mean "word_choice"?)'),
        "broken": ("task: word_chioce\n  x: [", "broken.yaml in include_path cannot be read: "),
        "unsafe": (text.replace("word_choice", "word_chioce") + "unsafe_code: true\n", "runs what a model wrote"),
        "lost": (text.replace("word_choice", "word_chioce").replace("words.jsonl", "no.jsonl"), "cannot be read: "),
    }  # fmt: skip
    for name, (task, message) in cases.items():
        file = asked / "tasks" / f"{name}.yaml"
        file.write_text(task)
        harness._manager.cache_clear()
        with pytest.raises(CatalogError) as error:
            prepare(
                load_config(config_of(asked, extra=ASKED.replace("word_choice", "word_chioce"))),
                lambda _: None,
            )
        assert message in str(error.value) and "run.yaml:8:" in str(error.value), (name, str(error.value))
        file.unlink()
    harness._manager.cache_clear()


@pytest.mark.slow
def test_the_names_that_lm_eval_has(asked):
    extra = "evaluate: {lm_eval: {tasks: [arc_esay]}}\n"
    with pytest.raises(CatalogError, match='no task "arc_esay" .did you mean "arc_easy"'):
        prepare(load_config(config_of(asked, extra=extra)), lambda _: None)
