"""What a model is trained on: prompt, completion and one end-of-sequence token."""

import pytest
from datasets import Dataset

from reproductions.engine.errors import KDError
from reproductions.testbeds.training import encode
from tests.methods.conftest import letter_tokenizer


def labels(tokenizer, completion):
    (row,) = encode(Dataset.from_list([{"prompt": "ab|", "completion": completion}]), tokenizer, 24)["labels"]
    return tokenizer.convert_ids_to_tokens([index for index in row if index != -100])


@pytest.mark.parametrize("completion", ["ba", "ba<eos>"])
def test_an_answer_ends_once(completion):
    assert labels(letter_tokenizer(), completion) == ["b", "a", "<eos>"]


def test_a_tokenizer_without_an_end_is_refused():
    """Its `eos_token` is None, and `str(None)` is four letters that a student would learn to write."""
    tokenizer = letter_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(KDError, match="no end-of-sequence token"):
        labels(tokenizer, "ba")
