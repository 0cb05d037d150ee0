"""Rows whose teacher reads another prompt than the student: the completions are aligned as with one prompt for both."""

import pytest
from datasets import Dataset

from methods.errors import MethodError
from methods.tokenizers.text_pairs import PairCollator, encode_pairs, rows_of
from tests.methods.conftest import pair_tokenizer

ROWS = [
    {"prompt": "ab|", "completion": "cdefgh"},
    {"prompt": "hello|", "completion": "o"},
    {"prompt": "", "completion": "xyzxyz"},
]
LONGER = ["examples|and|ab|", "x|", "task|"]


def completion_of(row, prefix):
    """Ids, labels and chunks of the tokens that are predicted."""
    kept = [i for i, label in enumerate(row[prefix + "labels"]) if label != -100]
    return [[row[prefix + name][i] for i in kept] for name in ("input_ids", "labels", "chunks")]


@pytest.mark.parametrize("swapped", [False, True])
def test_completions_are_aligned_behind_different_prompts(swapped, tokenizer):
    both = (tokenizer, pair_tokenizer())
    tokenizers = both[::-1] if swapped else both
    # A mark that neither tokenizer joins with anything stands before each completion.
    rows = [row | {"prompt": row["prompt"] or "|"} for row in ROWS]
    same = encode_pairs(Dataset.from_list(rows), *tokenizers)
    other = [row | {"teacher_prompt": longer} for row, longer in zip(rows, LONGER, strict=True)]
    found = encode_pairs(Dataset.from_list(other), *tokenizers)
    for one, two, longer in zip(same, found, LONGER, strict=True):
        for prefix in ("", "teacher_"):
            assert completion_of(two, prefix) == completion_of(one, prefix)
        assert max(completion_of(two, "")[2]) >= 0  # there is something to align
        assert two["input_ids"] == one["input_ids"]
        asked = tokenizers[1](longer)["input_ids"]
        assert two["teacher_input_ids"][: len(asked)] == asked


def test_an_equal_teacher_prompt_changes_nothing(tokenizer):
    plain = encode_pairs(Dataset.from_list(ROWS), tokenizer, pair_tokenizer())
    named = [row | {"teacher_prompt": row["prompt"]} for row in ROWS]
    again = encode_pairs(Dataset.from_list(named), tokenizer, pair_tokenizer())
    assert again.to_list() == plain.remove_columns("prompt").to_list()


def test_such_rows_cannot_get_another_completion(tokenizer):
    rows = [row | {"teacher_prompt": longer} for row, longer in zip(ROWS, LONGER, strict=True)]
    batch = PairCollator(0, 0)(encode_pairs(Dataset.from_list(rows), tokenizer, pair_tokenizer()).to_list())
    with pytest.raises(MethodError, match="without their prompt"):
        rows_of(batch)
