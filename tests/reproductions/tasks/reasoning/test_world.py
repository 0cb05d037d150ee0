"""Problems: the generator, what its splits share, how a prompt is read again, and answers by brute force."""

import random
from itertools import islice

import pytest

from reproductions.engine.errors import KDError
from reproductions.tasks.reasoning.language import FORMS, PHRASES, SAID, ask, read, solution, vocabulary
from reproductions.tasks.reasoning.task import Reasoning
from reproductions.tasks.reasoning.world import FAMILIES, HELD_OUT, draw, problems, split_of

SMALL = {
    "train": 60,
    "solutions": 60,
    "base": 300,
    "validation_problems": 20,
    "test_problems": 40,
    "unseen_problems": 10,
}
ROWS = ("train", "more", "validation", "test", *FORMS, "solutions", "varied", "base")


@pytest.fixture(scope="module")
def task():
    return Reasoning(**SMALL)


def some(family, count=60, depth=2, seed=0):
    source = random.Random(seed)
    return [draw(source, family, depth, 2) for _ in range(count)]


def solve(prompt):
    """The answer by a reading of the sentences of its own: rounds over them until nothing changes."""
    told, _, asked = prompt.rpartition("?")
    amounts, sentences = {}, [one.split() for one in told.split(".") if one.strip()]
    for words in sentences:
        subject = next(word for word in words if word[0].isupper()).lower()
        of = [word for word in words if word.islower() and word.capitalize() in NAMES]
        text = " ".join(words)
        digits = [int(letter) for letter in text if letter.isdigit()]
        if len(of) == 2:
            amounts[subject] = amounts[of[0]] + amounts[of[1]]
        elif "twice" in text or "thrice" in text:
            amounts[subject] = amounts[of[0]] * (2 if "twice" in text else 3)
        elif any(sign in text for sign in ("-more", "gets", "+")):
            amounts[subject] = amounts[of[0] if of else subject] + digits[0]
        elif any(sign in text for sign in ("-fewer", "loses")) or any(word[0] == "-" for word in words):
            amounts[subject] = amounts[of[0] if of else subject] - digits[0]
        else:
            amounts[subject] = digits[0]
    return amounts[asked.strip()]


NAMES = {"Ann", "Ben", "Cat", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Joe"}


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_another_reading_of_the_sentences(family):
    for depth in (1, 2, 3):
        for problem in some(family, 40, depth if family != "combine" else min(depth, 2), seed=depth):
            assert solve(ask(problem)) == problem.answer and 0 <= problem.answer <= 9


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_read_as_the_problem_that_was_written(family):
    for problem in some(family):
        again = read(ask(problem))
        told = [(line.subject, line.of, line.operation) for line in problem.lines]
        assert [(line.subject, line.of, line.operation) for line in again.lines] == told
        assert again.asked == problem.asked and read(f"explain: {ask(problem)}") == again


@pytest.mark.parametrize(
    "prompt",
    [
        "Ann has 5 . ? ben",  # nobody knows him
        "Ann has 5 . Ann has 6 . ? ann",  # twice
        "Ben is ann +3 . Ann has 5 . ? ben",  # before what it rests on
        "Ann has 5 ? ann",
        "Ann has 5 6 . ? ann",
        "5 +3 ?",
        "",
    ],
)
def test_what_is_no_problem_is_not_read(prompt):
    assert read(prompt) is None


def test_every_phrasing_of_every_operation_is_told_and_depth_is_what_was_asked_for():
    source = random.Random(3)
    made = [draw(source, family, 3, 2) for family in FAMILIES if family != "combine" for _ in range(150)]
    assert {problem.depth for problem in made} == {3}
    said = " ".join(map(ask, made)).split()
    for words in SAID.values():
        assert set(words.values()) <= set(said)
    kinds = {(line.family, line.phrasing) for problem in made for line in problem.lines if not line.start}
    assert len(kinds) >= 3 * (len(PHRASES) - 2)


def test_the_same_task_is_made_twice_and_another_draw_is_another(task):
    assert Reasoning(**SMALL).revision == task.revision
    assert Reasoning(**SMALL, draw=1).revision != task.revision
    assert Reasoning(**{**SMALL, "base": 301}).revision != task.revision


def test_splits_share_no_skeleton_and_students_never_see_the_held_out_family(task):
    by = {name: {one.skeleton for one in known} for name, known in task._problems.items()}
    assert not by["train"] & by["test"] and not by["more"] & (by["test"] | by["validation"])
    assert not by["test"] & by["validation"] and not by["unseen test"] & by["unseen validation"]
    for rows in ("train", "more", *FORMS, "base"):
        names = {word for prompt in task.rows(rows)["prompt"] for word in prompt.split()}
        assert names <= set(vocabulary())
        families = set(task.rows(rows)["family"]) if rows != "base" else set()
        assert HELD_OUT not in families
    assert HELD_OUT in set(task.rows("solutions")["family"])
    for prompt in task.rows("solutions")["prompt"]:
        assert prompt not in set(task.rows("test")["prompt"]) | set(task.rows("validation")["prompt"])


def test_base_problems_are_of_training_skeletons_and_of_one_operation_at_most(task):
    found = [read(prompt) for prompt in task.rows("base")["prompt"]]
    assert sum(one is None for one in found) < len(found) / 3  # facts
    assert {one.depth for one in found if one} == {0, 1}
    assert {split_of(one) for one in islice(problems("x", "train", FAMILIES, {1: 1}, 1), 50)} == {"train"}


def test_varied_solutions_are_those_of_the_same_problems_with_three_steps_of_ten_twice(task):
    plain, varied = task.rows("solutions"), task.rows("varied")
    assert varied["prompt"] == plain["prompt"] and varied["answer"] == plain["answer"]
    said = twice = 0
    for row, other in zip(varied, plain, strict=True):
        lines = row["completion"].split("\n")
        again = [place for place, line in enumerate(lines) if line.startswith("again ")]
        assert all(lines[place].removeprefix("again ") == lines[place - 1] for place in again)
        assert [line for place, line in enumerate(lines) if place not in again] == other["completion"].split(
            "\n"
        )
        said, twice = said + len(lines) - len(again) - 2, twice + len(again)  # but for "so" and the answer
    assert 0.25 < twice / said < 0.35
    assert Reasoning(**SMALL).rows("varied")["completion"] == varied["completion"]


def test_more_begins_with_the_training_rows(task):
    assert task.rows("more")["prompt"][:60] == task.rows("train")["prompt"][:]
    assert len(task.rows("more")) == 120


def test_every_row_fits_and_every_word_is_a_token(task):
    for name in ROWS:
        prompts, said = (
            task.own(list(task.rows(name)[column]))["input_ids"] for column in ("prompt", "completion")
        )
        assert max(map(len, prompts)) <= task.limits.prompt and max(map(len, said)) < task.limits.completion
        assert all(task.own.pad_token_id not in ids for ids in [*prompts, *said])
    longest = [draw(random.Random(n), "combine", 2, 2) for n in range(200)]
    assert max(len(solution(one, "redundant").split()) for one in longest) < task.limits.completion
    assert len(set(vocabulary())) == len(vocabulary()) == len(task.own)


def test_a_depth_that_is_none_is_refused():
    with pytest.raises(KDError, match="1 to 4 operations, not 9"):
        Reasoning(longest=9)
