"""Questions about paragraphs on replicas: what each model is asked, what of the teacher's text is kept, SQuAD's F1."""

import pytest
from datasets import Dataset

from reproductions.engine.metrics import values
from reproductions.tasks import reading
from tests.reproductions.short import load_short


@pytest.fixture
def testbed(mirrors):
    return load_short("reading", {"limits": {"completion": 150}})


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("The Denver Broncos.", ["Denver Broncos", "Broncos"], 100),
        ("Denver", ["Denver Broncos", "Broncos"], 100 * 2 / 3),
        ("a dog", ["the cat"], 0),
        ("", ["the cat"], 0),
    ],
)
def test_f1_is_the_best_over_the_references(answer, references, score):
    assert reading.word_f1(answer, references) == pytest.approx(score)


def test_the_teacher_is_shown_an_example_and_the_student_is_not(testbed):
    assert [len(part) for part in (testbed.train, testbed.validation, testbed.test)] == [26, 4, 5]
    row = testbed.train[0]
    assert row["prompt"].startswith("Context: ") and row["prompt"].endswith("?\nAnswer:")
    assert row["teacher_prompt"].endswith("<|assistant|> Answer:")
    assert reading.TASK in row["teacher_prompt"] and "ferry" in row["teacher_prompt"]
    assert row["prompt"].removesuffix("\nAnswer:") in row["teacher_prompt"]
    assert not row["teacher_prompt"].startswith("<bos>")  # the tokenizer adds it


def test_of_what_the_teacher_writes_the_first_line_is_kept(testbed):
    asked = testbed.train["teacher_prompt"][:3]
    said = [" 17\nBecause it says so.", " \n", "none"]
    rows, unread = testbed.readable(Dataset.from_dict({"prompt": asked, "completion": said}))
    assert rows["completion"][:] == [" 17", " none"] and unread == 1
    assert rows["prompt"][:] == [testbed.train["prompt"][0], testbed.train["prompt"][2]]
    assert rows["teacher_prompt"][:] == [asked[0], asked[2]]


def test_measuring(testbed, trial):
    run = trial(testbed)
    model = testbed.student(run)
    columns = testbed.evaluate(model, run)
    assert {len(found) for found in columns.values()} == {5}
    assert set(values(testbed.metrics, columns)) == set(testbed.metrics)
    assert len(testbed.evaluate(model, run, split="validation", limit=2)["rouge_l"]) == 2
