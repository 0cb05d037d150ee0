"""What `kd distill` refuses in one sentence, because it would end well and give a wrong student."""

import pytest
from transformers import AutoTokenizer

from catalog.errors import CatalogError
from methods.errors import MethodError
from reproductions.distill.run import RECORD
from reproductions.engine.errors import KDError
from tests.methods.conftest import LETTERS, letter_tokenizer, make_model

from .conftest import config_of, made


@pytest.mark.parametrize("method", ["sft", "minillm"])
def test_a_student_whose_tokenizer_has_no_end_of_sequence(folder, method):
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder / "student")
    with pytest.raises(KDError, match="student: no end-of-sequence token"):
        made(config_of(folder, method, teacher=None if method == "sft" else "teacher"))


def test_a_second_teacher_with_other_ids(folder):
    """The first one's ids are the student's; the second's letters stand in the opposite order."""
    other = letter_tokenizer(LETTERS[::-1])
    other.save_pretrained(folder / "second")
    with pytest.raises(MethodError, match="id 3 is 'a' for the student and 'z' for the teacher"):
        made(config_of(folder, teacher="[teacher, second]"))


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
