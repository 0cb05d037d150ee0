"""Pronunciation with two tokenizers: what stays the testbed's own, how the teacher's tokens lie on the student's."""

import pytest
from datasets import Dataset

from methods.tokenizers.alignment import ByteSpans, align, starts_with
from methods.tokenizers.text_pairs import encode_pairs
from reproductions.models.training import encode
from reproductions.testbeds import load_testbed


@pytest.fixture(scope="module")
def testbed():
    return load_testbed("pronunciation-tokenizers")


@pytest.fixture(scope="module")
def theirs(testbed):
    return testbed.teacher_tokenizer("other")


def test_only_the_teacher_is_another(testbed, theirs):
    plain = load_testbed("pronunciation")
    assert (testbed.shelf, testbed.revision) == (plain.shelf, plain.revision), (
        "starts and teachers stay cached"
    )
    assert testbed.tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    assert testbed.train[:50] == plain.train[:50]
    assert len(theirs) == 256 + 3 + 40
    assert testbed.teacher_tokenizer() is testbed.tokenizer


def test_every_row_fits_the_teacher(testbed, theirs):
    longest = sorted(
        zip(*(testbed.train[name][:] for name in ("prompt", "completion")), strict=True),
        key=lambda r: -len(r[0] + r[1]),
    )[:2000]
    ids = theirs([p + c for p, c in longest])["input_ids"]
    assert max(map(len, ids)) < theirs.model_max_length == 48
    answers = theirs([c for _, c in longest])["input_ids"]
    assert max(map(len, answers)) < testbed.teacher_completion_tokens("other")


def test_the_teacher_cuts_where_the_student_does_not(testbed, theirs):
    text = "s i n g | S IH1 NG"
    ours, cut = (ByteSpans(t)([text])[0] for t in (testbed.tokenizer, theirs))
    words = [text.encode()[c.start : c.end].decode() for c in align(ours.ends, cut.ends)]
    assert words[-3:] == [" S", " IH1", " NG"]
    spelled = theirs.convert_ids_to_tokens(cut.ids)[-5:]
    assert spelled == ["ĠS", "ĠIH", "1", "ĠN", "G"], (
        "what the teacher says after S and N makes another phoneme of them"
    )
    boundary = starts_with(theirs, b" \n\t", len(theirs))
    names = theirs.convert_ids_to_tokens(boundary.nonzero().squeeze(1).tolist())
    assert {"ĠN", "Ġ|", "<eos>"} <= set(names) and not {"G", "1"} & set(names)
    assert starts_with(testbed.tokenizer, b" \n\t", 99).all(), "each of the student's tokens is a word"


def test_every_token_of_an_answer_is_in_a_chunk(testbed, theirs):
    rows = testbed.train.select(range(200))
    pairs = encode_pairs(rows, testbed.tokenizer, theirs)
    plain = encode(rows, testbed.tokenizer, 100)
    assert pairs["input_ids"][:] == plain["input_ids"][:] and pairs["labels"][:] == plain["labels"][:]
    for row in pairs:
        for prefix in ("", "teacher_"):
            chunks, labels = row[prefix + "chunks"], row[prefix + "labels"]
            assert [c >= 0 for c in chunks] == [label != -100 for label in labels]
        answer = [c for c in row["chunks"] if c >= 0]
        assert answer == list(range(len(answer))), "the student's tokens are the chunks"


def test_answers_that_the_student_cannot_read_are_counted(testbed):
    rows = testbed.train.select(range(3))
    prompts, right = list(rows["prompt"]), list(rows["completion"])
    written = Dataset.from_dict({"prompt": prompts, "completion": [" K AE1 B", " QX Q9", ""]})
    answers, unread = testbed.readable(written)
    assert answers["completion"][:] == [" K AE1 B", right[1], right[2]] and unread == 2
