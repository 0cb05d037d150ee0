"""Extraction on replicas: CrossNER's form, a Gemma with byte-fallback tokens, SmolLM2."""

import pytest
import torch
from tokenizers import processors

from methods.elicitation.labelling import prompt_tokens
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.metrics.base import rounded
from reproductions.models.trimming import trim_tokenizer, used_tokens
from reproductions.tasks import extraction
from tests.reproductions.replicas import NAMES
from tests.reproductions.short import load_short


@pytest.fixture
def testbed(crossner):
    return load_short("extraction")


def test_rows_have_answers_and_no_sentence_is_on_two_sides(testbed):
    parts = [testbed.train, testbed.validation, testbed.test]
    assert [len(part) for part in parts] == [
        60,
        8,
        12,
    ]  # two questions about each of 40 sentences, none twice
    sentences = [{prompt.partition("\n")[0] for prompt in part["prompt"]} for part in parts]
    assert (
        not sentences[0] & sentences[1]
        and not sentences[0] & sentences[2]
        and not sentences[1] & sentences[2]
    )
    rows = [row for part in parts for row in part]
    assert {"prompt", "completion"} == set(rows[0])
    assert "Text: Ann lives in Annville 0 .\nWhat describes location in the text?\nAnswer:" in {
        r["prompt"] for r in rows
    }
    assert {r["completion"] for r in rows if "location" in r["prompt"]} == {
        f" {NAMES[i % 7]}ville {i}" for i in range(40)
    }


def test_both_sides_encode_prompts_that_completions_go_on_from(testbed):
    for tokenizer in (testbed.tokenizer, testbed.teacher_tokenizer("other")):
        for row in testbed.train:
            ids = tokenizer(row["prompt"])["input_ids"]
            assert tokenizer(row["prompt"] + row["completion"])["input_ids"][: len(ids)] == ids
            assert len(ids) <= testbed.max_prompt_tokens


def test_arms_of_two_tokenizers_run_on_it(testbed, trial):
    run = trial(testbed)
    teacher = testbed.teacher(run, "other")
    assert teacher.config.vocab_size == len(testbed.teacher_tokenizer("other"))
    columns = testbed.evaluate(testbed.student(run), run, split="validation")
    assert {len(column) for column in columns.values()} == {8}
    assert set(values(testbed.metrics, columns)) == set(testbed.metrics)
    same = testbed.evaluate(teacher, run, split="validation", reader="other")
    assert set(same) == set(columns)
    with pytest.raises(KDError, match='no teacher "main"; it has other'):
        testbed.teacher(run)
    plain = trial(testbed, sft_start=None)  # as the testbed's defaults have it
    published, start = testbed.student(plain), testbed.sft_start(plain)
    assert all(torch.equal(a, b) for a, b in zip(published.parameters(), start.parameters(), strict=True))


def test_a_right_answer_counts_fully(testbed):
    """Also with blanks around it, as the models' tokens have them."""

    class Right:
        """An evaluation of a model that says what is right, with a probability of one half."""

        task, references = testbed.task, testbed.task.references("test")
        sampled = greedy = None

        def wants(self, *metrics):
            return True

        def said(self, samples):
            ids = testbed.tokenizer(list(testbed.test["completion"]))["input_ids"]
            return testbed.task.said(ids, testbed.tokenizer)

        def said_sampled(self):
            return [self.said(None)]

    right = Right()
    right.greedy = type("Greedy", (), {"logprobs": torch.full((12, 1), 0.5).log()})()
    (answers,) = testbed.measurements
    assert values(testbed.metrics, rounded(answers.columns(right))) == {
        "rouge_l": 100,
        "exact_match": 100,
        "greedy_exact_match": 100,
        "greedy_f1": 100,
        "ece": 0.5,
    }


@pytest.mark.parametrize(
    ("said", "wanted", "f1"),
    [
        ("Paris", "paris", 100),
        ("New York", "York", 200 / 3),
        ("", "a", 0),
        ("a a", "a", 200 / 3),
        ("b", "a", 0),
    ],
)
def test_word_f1(said, wanted, f1):
    assert extraction.word_f1(said, wanted) == pytest.approx(f1)


def test_missing_data_says_what_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path))
    with pytest.raises(KDError, match=r"ai, literature.*crossner.*universal-ner"):
        load_short("extraction")


def test_a_byte_fallback_tokenizer_is_trimmed_by_any_of_its_merges(gemma_tokenizer):
    texts = ["Text: Ann lives in Bobville 3 .", "What describes person in the text?"]
    used = used_tokens(gemma_tokenizer, texts)
    small, ids = trim_tokenizer(gemma_tokenizer, used, ["<pad>", "<eos>"], pad="<pad>", eos="<eos>")
    assert len(ids) < len(gemma_tokenizer)
    for text in texts:
        before, after = gemma_tokenizer(text)["input_ids"], small(text)["input_ids"]
        assert [ids[i] for i in after] == before
    other = "zürich € 😀 lives"
    assert small.decode(small(other)["input_ids"], skip_special_tokens=True) == other


def test_prompts_are_labelled_as_training_encodes_them(gemma_tokenizer):
    bos = gemma_tokenizer.convert_tokens_to_ids("<bos>")
    ((first, *rest),) = prompt_tokens(gemma_tokenizer, ["Ann lives"])
    assert first == bos and bos not in rest
    gemma_tokenizer.backend_tokenizer.post_processor, kept = (
        processors.TemplateProcessing(
            single="$A <eos>", special_tokens=[("<eos>", gemma_tokenizer.eos_token_id)]
        ),
        gemma_tokenizer.backend_tokenizer.post_processor,
    )
    try:
        (row,) = prompt_tokens(gemma_tokenizer, ["Ann lives"])
        assert gemma_tokenizer.eos_token_id not in row and row == rest
    finally:
        gemma_tokenizer.backend_tokenizer.post_processor = kept
