"""What `kd distill` refuses in one sentence, because it would end well and give a wrong student."""

import pytest
from transformers import AutoTokenizer

from methods.errors import MethodError
from reproductions.distill.run import RECORD
from reproductions.engine.errors import KDError
from tests.methods.conftest import LETTERS, letter_tokenizer

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
