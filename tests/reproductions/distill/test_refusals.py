"""What `kd distill` refuses in one sentence, because it would end well and give a wrong student."""

import pytest
from transformers import AutoTokenizer

from reproductions.engine.errors import KDError

from .conftest import config_of, made


@pytest.mark.parametrize("method", ["sft", "minillm"])
def test_a_student_whose_tokenizer_has_no_end_of_sequence(folder, method):
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder / "student")
    with pytest.raises(KDError, match="student: no end-of-sequence token"):
        made(config_of(folder, method, teacher=None if method == "sft" else "teacher"))
