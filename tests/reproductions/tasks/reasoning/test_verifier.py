"""Solutions: right in every form, and every planted error is found."""

import subprocess
import sys
from itertools import product

import pytest

from methods.elicitation.checks.equations import equations
from methods.elicitation.filters import parsers
from reproductions.tasks.reasoning.language import FORMS, ask, solution, steps, sub_questions, worked
from reproductions.tasks.reasoning.task import percent_right, percent_sound
from reproductions.tasks.reasoning.verifier import FAULTS, answer_of, fault_of, printed
from reproductions.tasks.reasoning.world import FAMILIES, PRODUCTS, SUMS, Line, Problem, applied
from tests.reproductions.tasks.reasoning.test_world import some


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_solution_gives_the_answer_in_every_form(family, form):
    for problem in some(family, 30):
        text = solution(problem, form)
        assert answer_of(text) == problem.answer == answer_of(text.replace("\n", " "))
        if form in ("steps", "redundant"):
            assert fault_of(problem, text) is None


def test_programs_print_the_answer_in_python_itself():
    """One interpreter for all: what Python prints beside what the verifier reads."""
    made = [solution(one, "program") for family in FAMILIES for one in some(family, 5)]
    run = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join(made)], capture_output=True, text=True, check=True
    )
    assert list(map(int, run.stdout.split())) == [printed(text) for text in made]


def test_equations_and_sub_questions_are_read_by_the_librarys_own_checks():
    for problem in some("relay", 20) + some("combine", 20):
        assert equations(solution(problem, "equations"), str(problem.answer)) is True
        assert len(parsers.items(sub_questions(problem, answered=False)).split("\n")) == len(problem.path)
        assert parsers.number(solution(problem, "steps")) == str(problem.answer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Answer:",
        "Answer: 5 6",
        "Answer: five",
        "ann = 5 ; print( ben )",
        "ann = 5",
        "ann = ann +1 ; print( ann )",
        "ann = 5 +1 + ; print( ann )",
        "import os ; print( ann )",
        "ann = 5 ; while True : pass ; print( ann )",
        "ann = ann ; answer = ann",
        "ann = 1 ; ann = 2 ; answer = ann",
    ],
)
def test_what_says_no_answer_has_none(text):
    assert answer_of(text) is None


def two(first, second, start):
    """ann has a start, ben is what an operation makes of it, ann of two operations: by hand."""
    lines = (Line("ann", (), str(start), "chain"), Line("ben", ("ann",), first, "chain"))
    return Problem("chain", (*lines, Line("cat", ("ben",), second, "chain")), "cat")


def test_the_verifier_agrees_with_brute_force_over_all_digits():
    """Every triple of results of two steps: exactly one is without a fault."""
    for first, second, start in product(("+2", "-1", "*2"), ("+3", "*2"), (1, 2)):
        problem, sound = two(first, second, start), []
        for a, b, c in product(range(10), repeat=3):
            text = f"so ann {a} ben {a} {first} {b} cat {b} {second} {c} Answer: {c}"
            if fault_of(problem, text) is None:
                sound.append((a, b, c))
        middle = applied(first, [start])
        assert sound == [(start, middle, applied(second, [middle]))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("redundant", [False, True])
def test_one_wrong_word_anywhere_is_a_fault(family, redundant):
    """Each word in turn replaced by each other digit, operation or name."""
    (problem,) = some(family, 1, seed=5)
    words = steps(problem, again=lambda: redundant).split()
    others = [
        *map(str, range(10)),
        *SUMS,
        *PRODUCTS,
        "+",
        "ann",
        "Ann",
        "ben",
        "Ben",
        "so",
        "again",
        "Answer:",
    ]
    for place, other in product(range(len(words)), others):
        if other != words[place]:
            changed = " ".join([*words[:place], other, *words[place + 1 :]])
            assert fault_of(problem, changed) in FAULTS, changed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_that_is_left_out_or_moved_before_what_it_needs_is_a_fault(family):
    for problem in some(family, 10, seed=9):
        back, forth = steps(problem).split("\nso\n")
        *lines, answer = forth.split("\n")
        for place in range(len(lines)):
            assert fault_of(problem, "\n".join(["so", *lines[:place], *lines[place + 1 :], answer]))
        assert fault_of(problem, "\n".join(["so", *reversed(lines), answer]))
        assert fault_of(problem, "\n".join(["so", *lines, answer])) is None  # nobody must look back first
        assert fault_of(problem, f"{back}\nso\n{answer}") and fault_of(problem, forth)


def test_slips_are_said_as_wrong_results_and_carried_on():
    problem = two("+2", "+3", 1)
    assert [one[-1] for one in worked(problem, {1: 1})] == [1, 4, 7]
    assert fault_of(problem, steps(problem, {1: 1})) == "wrong result"
    assert fault_of(problem, steps(problem, {0: 1}, problem.answer)) == "wrong amount"
    assert fault_of(problem, steps(problem).replace("Answer: 6", "Answer: 7")) == "not reached"
    assert fault_of(problem, steps(problem).replace("Answer: 6", "")) == "no answer"


def test_scores_of_answers_and_of_steps():
    problem = two("+2", "+3", 1)
    said = [
        steps(problem),
        "Answer: 6",
        steps(problem, {0: 1}, 6),
        "Answer: 5",
        solution(problem, "program"),
        "",
    ]
    assert percent_right(said, [problem] * 6).tolist() == [100, 100, 100, 0, 100, 0]
    assert percent_sound(said, [problem] * 6).tolist() == [100, 0, 0, 0, 0, 0]
    assert solution(problem, "sub-questions").split("\n")[1] == "2. ben ? 3" and ask(problem).endswith(
        "? cat "
    )
