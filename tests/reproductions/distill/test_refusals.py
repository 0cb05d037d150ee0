"""What `kd distill` refuses in one sentence, because it would end well and give a wrong student."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from catalog.errors import CatalogError
from methods.errors import MethodError
from reproductions.distill import run
from reproductions.distill.config import load_config
from reproductions.distill.record import summary
from reproductions.distill.training import RECORD
from reproductions.engine.errors import KDError
from tests.methods.conftest import LETTERS, letter_tokenizer, make_model

from .conftest import config_of, made


@pytest.mark.parametrize("method", ["sft", "minillm"])
def test_a_student_whose_tokenizer_has_no_end_of_sequence(folder, method):
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder / "student")
    with pytest.raises(MethodError, match="student: no end-of-sequence token"):
        made(config_of(folder, method, teacher=None if method == "sft" else "teacher"))


def test_a_second_teacher_with_other_ids(folder):
    """The first one's ids are the student's; the second's letters stand in the opposite order."""
    other = letter_tokenizer(LETTERS[::-1])
    other.save_pretrained(folder / "second")
    told = r"run\.yaml:7: .*id 3 is 'a' for the student and 'z' for the teacher"
    with pytest.raises(MethodError, match=told):
        made(config_of(folder, teacher="[teacher, second]"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("data.jsonl", r"data\.jsonl is a file, not a model's folder; .*hub:data\.jsonl"),
        ("{modle: teacher, dtype: bf16}", r'teacher: unknown "modle" \(did you mean "model"\?\)'),
        (
            "{dtype: bf16}",
            r'"teacher" must be a model or a list of models: a name, or a mapping with "model"',
        ),
    ],
)
def test_a_teacher_that_is_none_has_its_line(folder, model, message):
    with pytest.raises(CatalogError, match=rf"run\.yaml:7: .*{message}"):
        load_config(config_of(folder, teacher=model))


def test_minillm_with_fewer_rows_than_a_generation_batch(folder):
    with pytest.raises(
        MethodError, match=r"8 prompts do not fill one generation batch of 16 \(batch size 4 x 4 "
    ):
        made(config_of(folder, "minillm"))
    assert not (folder / "run" / RECORD).exists()


@pytest.mark.parametrize("what", ["data", "student", "teacher 1"])
def test_an_input_that_changed_since_is_another_config(folder, what):
    """The same file names with other contents gave the student of the old ones, and said that it was made."""
    path = config_of(folder)
    made(path)
    if what == "data":
        rows = (folder / "data.jsonl").read_text()
        (folder / "data.jsonl").write_text(rows.replace("distil", "distal"))
    else:
        make_model(seed=7, width=24 if "teacher" in what else 16).save_pretrained(folder / what.split()[0])
    with pytest.raises(
        KDError, match=rf"holds a student of another config \(what has changed since: {what}\)"
    ):
        made(path)


def test_an_input_that_changed_between_kill_and_going_on_is_refused(folder, stopped):
    path = config_of(folder)
    with pytest.raises(KeyboardInterrupt), stopped(at=3):
        made(path)
    with (folder / "data.jsonl").open("a") as file:
        file.write('{"prompt": "z|", "completion": "z"}\n')
    with pytest.raises(KDError, match=r"unfinished work of another config \(what has changed since: data\)"):
        made(path)


def test_moving_everything_elsewhere_changes_nothing(folder):
    record = made(config_of(folder))
    moved = folder.with_name("moved")
    folder.rename(moved)
    assert made(moved / "run.yaml") == record


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("student", "the student's own folder"),
        ("teacher/../teacher", "a teacher's own folder"),
        ("second", "a teacher's own folder"),
        ("link", "the student's own folder"),
        ("''", '"output" is missing or not text'),
        (".", "the config file's own folder"),
        ("data.jsonl", "is a file"),
    ],
)
def test_an_output_that_is_needed(folder, output, message):
    (folder / "link").symlink_to(folder / "student")
    before = (folder / "student" / "model.safetensors").read_bytes()
    path = config_of(folder, teacher="[teacher, second]")
    path.write_text(path.read_text().replace("output: run", f"output: {output}"))
    with pytest.raises(CatalogError, match=message) as error:
        made(path)
    assert "run.yaml:4: " in str(error.value)
    assert (folder / "student" / "model.safetensors").read_bytes() == before


def test_an_output_that_is_somebody_s_model(folder):
    (folder / "run").mkdir()
    make_model().save_pretrained(folder / "run")
    with pytest.raises(KDError, match="holds a model that `kd distill` did not make"):
        made(config_of(folder))


def long_rows(folder, number):
    with (folder / "data.jsonl").open("a") as file:
        file.write('{"prompt": "a|", "completion": "%s"}\n' % ("b" * 12) * number)  # 13 tokens with its end


def test_rows_that_are_too_long_are_counted(folder):
    long_rows(folder, 3)
    record = made(config_of(folder, "sft", teacher=None))
    assert record["rows"] == {"read": 11, "too_long": 3, "held_out": 0, "trained_on": 8}
    assert "rows: 11 read, 3 left out as longer than 12 + 12 tokens, 8 trained on" in summary(record)


def test_no_row_that_fits_is_an_error_that_says_how_long_they_are(folder):
    (folder / "data.jsonl").write_text("")
    long_rows(folder, 2)
    with pytest.raises(KDError, match=r"no row fits into 12 \+ 12 tokens; the longest .* have 2 \+ 13"):
        made(config_of(folder))


def test_labels_that_are_left_out_are_counted(folder):
    """An untrained teacher seldom ends; what it had not ended was left out without a word."""
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher")
    model.generation_config.eos_token_id = list(range(1, 29, 6))
    model.save_pretrained(folder / "teacher")
    record = made(config_of(folder, "seqkd", extra="settings: {greedy: true}\n"))
    labels, rows = record["labels"], record["rows"]
    lost = labels["truncated"] + labels["empty"]
    assert 0 < lost < 8 and rows["trained_on"] == 8 - lost and labels["completions"] == 8
    assert any(line.startswith("labels: 8 written, left out: ") for line in summary(record))


def test_validation_rows_are_not_trained_on(folder, monkeypatch):
    """Nor is any row equal to one, and rows that are too long for the training are none of them."""
    long_rows(folder, 4)
    text = (folder / "data.jsonl").read_text()
    (folder / "data.jsonl").write_text(text * 2)
    seen, build = {}, run.trainer_for

    def watched(method, parts):
        trainer = build(method, parts)
        for name in ("train", "eval"):
            seen[name] = {tuple(ids) for ids in getattr(trainer, f"{name}_dataset")["input_ids"]}
        return trainer

    monkeypatch.setattr(run, "trainer_for", watched)
    record = made(config_of(folder, "distillm"))
    assert record["rows"] == {"read": 24, "too_long": 8, "held_out": 2, "trained_on": 14}
    assert seen["eval"] and not seen["train"] & seen["eval"]
    assert any("2 held out for validation" in line for line in summary(record))


def test_one_row_cannot_be_trained_on_and_held_out(folder):
    (folder / "data.jsonl").write_text('{"prompt": "a|", "completion": "b"}\n' * 5)
    with pytest.raises(KDError, match="two are needed, one to validate with"):
        made(config_of(folder, "distillm"))


def test_a_field_that_would_be_left_out_is_named(folder):
    (folder / "data.jsonl").write_text('{"prompt": "a|", "completion": "b", "id": 3, "system": "Be kind."}\n')
    with pytest.raises(KDError, match=r'data\.jsonl:1: the field "system" would be left out'):
        made(config_of(folder))
    (folder / "data.jsonl").write_text('{"prompt": "a|", "completion": "b", "id": 3}\n')
    record = made(config_of(folder))
    assert "fields of the data that nothing reads: id" in summary(record)


def test_rollouts_that_never_end_are_warned_of(folder):
    path = config_of(folder, "gkd", extra="settings: {on_policy_fraction: 1.0}\n")
    record = made(path)
    made_by_hand = record | {"rollouts": {"completions": 9, "truncated": 9, "empty": 0}}
    assert not any(
        "warning" in line for line in summary(record | {"rollouts": {**record["rollouts"], "truncated": 0}})
    )
    assert any(line.startswith("warning: no rollout came to its end") for line in summary(made_by_hand))
    assert any(
        line.startswith(f"rollouts: {record['rollouts']['completions']}, of them") for line in summary(record)
    )
