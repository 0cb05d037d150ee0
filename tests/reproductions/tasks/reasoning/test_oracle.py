"""The teacher: how often and how it is wrong, what it is asked, and its form as a language model."""

import random
from collections import Counter

import pytest
import torch

from methods.elicitation.components.labeling import explain, label
from methods.elicitation.components.self_knowledge import verify
from methods.elicitation.records.record import seeds
from methods.elicitation.writers.protocol import ask as request
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from reproductions.engine.errors import KDError
from reproductions.tasks.reasoning.language import ask, read, steps
from reproductions.tasks.reasoning.oracle import KINDS, unsound_text, wrong_text, wrong_versions
from reproductions.tasks.reasoning.task import Reasoning, percent_right, percent_sound
from reproductions.tasks.reasoning.verifier import answer_of, fault_of
from reproductions.tasks.reasoning.world import FAMILIES
from tests.reproductions.tasks.reasoning.test_world import SMALL, some

ERRORS = {"chain": 0.1, "compare": 0.4}


@pytest.fixture(scope="module")
def task():
    return Reasoning(**{**SMALL, "train": 400})


def asked(task, seed=0, steps=explain, settings=None, **skill):
    """Records of the training rows as a session with the oracle makes them, and their problems."""
    rows = [{key: row[key] for key in ("prompt", "answer", "family")} for row in task.rows("train")]
    session = Session(task.writer(**skill), seed=seed)
    made = steps(seeds(rows), session, **(settings or {"temperature": 0.7}))
    return made, task.references("train")


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_texts_end_in_a_wrong_digit_and_each_kind_is_seen(family):
    draws = random.Random(1)
    for problem in some(family, 30):
        for form in ("steps", "program", "equations"):
            said = answer_of(wrong_text(problem, form, draws, redundant=0.5))
            assert said is not None and said != problem.answer and (form == "equations" or 0 <= said <= 9)
        assert fault_of(problem, wrong_text(problem, "steps", draws))
    kinds = Counter(kind for problem in some(family, 30) for kind, _, _ in wrong_versions(problem))
    assert set(kinds) >= set(KINDS) - (
        {"lookup"} if family == "transfer" else {"misread"} if family == "combine" else set()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_unsound_texts_have_the_right_answer_and_a_wrong_step(family):
    draws = random.Random(2)
    for problem in some(family, 30):
        for share in (0.0, 0.5, 1.0):
            text = unsound_text(problem, "steps", draws, share)
            assert answer_of(text) == problem.answer and fault_of(problem, text) in (
                "wrong amount",
                "wrong result",
            )


def test_errors_are_as_frequent_as_stated_within_binomial_bounds(task):
    wrong, of = Counter(), Counter()
    for seed in range(4):
        made, known = asked(task, seed, errors=ERRORS)
        for row, problem in zip(made, known, strict=True):
            of[problem.family] += 1
            wrong[problem.family] += answer_of(row.completion) != problem.answer
    for family, count in of.items():
        rate = ERRORS.get(family, 0.0)
        assert abs(wrong[family] - rate * count) <= 4 * (count * rate * (1 - rate)) ** 0.5, family


def test_shares_of_unsound_and_redundant_texts(task):
    made, known = asked(task, unsound=0.2, redundant=0.5)
    texts = [row.completion for row in made]
    assert percent_right(texts, known).mean() == 100
    assert 100 - percent_sound(texts, known).mean() == pytest.approx(20, abs=4 * 2)
    twice = sum(text.split().count("again") for text in texts)
    of = sum(2 * len(one.path) for one in known)
    assert twice / of == pytest.approx(0.5, abs=4 * (0.25 / of) ** 0.5)


def test_a_sampled_oracle_is_redrawn_by_the_seed_and_a_greedy_one_is_not(task):
    one, same, other = ([row.completion for row in asked(task, seed, errors=ERRORS)[0]] for seed in (0, 0, 1))
    assert one == same != other
    greedy = [
        [r.completion for r in asked(task, seed, settings={"chains": 1}, errors=ERRORS)[0]] for seed in (0, 1)
    ]
    assert greedy[0] == greedy[1]


def test_several_chains_differ_and_verification_keeps_the_right_ones(task):
    made, known = asked(task, settings={"chains": 4}, errors={"compare": 0.5}, redundant=0.1)
    assert len(made) == 1600
    kept = [row for row in verify(made, None, check="number") if row.alive]
    assert len({(row.prompt, row.completion) for row in kept}) > 1.5 * len({row.prompt for row in kept})
    own = {ask(one): one for one in known}
    assert all(fault_of(own[row.prompt], row.completion) is None for row in kept)
    rates = Counter(row.fields["family"] for row in kept)
    assert rates["compare"] < 0.65 * 4 * sum(one.family == "compare" for one in known)
    assert all(answer_of(row.completion) == int(row.fields["answer"]) for row in kept)


@pytest.mark.parametrize("form", ["program", "equations", "sub-questions", "steps"])
@pytest.mark.parametrize("hint", ["never", "always"])
def test_each_form_is_written_that_is_asked_for(task, form, hint):
    made, known = asked(task, settings={"form": form, "hint": hint})
    assert all(row.alive for row in made)
    if form != "sub-questions":
        assert percent_right([row.completion for row in made], known).mean() == 100
    assert ("print(" in made[0].completion) == (form == "program")
    assert ("answer =" in made[0].completion) == (form == "equations")


def test_a_hint_gives_the_right_answer_and_steps_that_do_not_follow(task):
    made, known = asked(task, settings={"hint": "always"}, errors=dict.fromkeys(FAMILIES, 1.0))
    texts = [row.completion for row in made]
    assert percent_right(texts, known).mean() == 100 and percent_sound(texts, known).mean() == 0


def test_labels_have_no_steps(task):
    made, known = asked(task, steps=label, settings={"parser": "number"}, errors={"chain": 1.0})
    assert all(len(row.completion.split()) == 2 for row in made)
    right = [row.label == str(one.answer) for row, one in zip(made, known, strict=True)]
    assert right == [one.family != "chain" for one in known]


def test_permuted_steps_are_those_of_other_problems_with_this_ones_answer(task):
    made, known = asked(task, permuted=True)
    own, _ = asked(task)
    texts = [row.completion for row in made]
    assert percent_right(texts, known).mean() == 100 and percent_sound(texts, known).mean() < 2
    assert sum(a.completion == b for a, b in zip(own, texts, strict=True)) == 0
    assert {text.split("Answer:")[0] for text in texts} & {row.completion.split("Answer:")[0] for row in own}


def test_who_asks_otherwise_is_told(task):
    session = Session(task.writer())
    with pytest.raises(MethodError, match=r"knows answer and explain/\* as prompts"):
        session.ask([request("What is it?", note={"question": "?", "family": "chain"})])
    for settings, said in (
        ({"errors": {"chains": 0.1}}, "no error rate"),
        ({"unsound": 2}, "between 0 and 1"),
    ):
        with pytest.raises(KDError, match=said):
            task.writer(**settings)


def says(solver, task, text):
    ids = torch.tensor([task.own(text)["input_ids"]])
    return solver(ids, torch.ones_like(ids))[0]


def test_as_a_language_model_it_says_the_same_solutions_with_their_shares(task):
    """The probability of whole texts, multiplied up token by token, beside the stated shares."""
    problem = next(one for one in task.references("train") if one.family == "compare" and one.depth == 2)
    solver, prompt = task.oracle(errors=ERRORS), ask(problem)
    solver.uniform = 0.0

    def probability(text):
        said = says(solver, task, f"{prompt}{text}{task.own.eos_token}")
        ids = task.own(f"{prompt}{text}{task.own.eos_token}")["input_ids"]
        begin = len(task.own(prompt)["input_ids"])
        return float(torch.stack([said[place - 1, ids[place]] for place in range(begin, len(ids))]).prod())

    assert probability(steps(problem)) == pytest.approx(0.6)
    assert probability(f"{steps(problem)} again") == 0
    known = solver._known(tuple(task.own(prompt)["input_ids"]))
    total = sum({tuple(ids): probability(task.own.decode(ids[:-1])) for _, ids in known}.values())
    assert total == pytest.approx(1.0) and len(known) == 4


def test_behind_anything_else_it_ends_and_before_the_question_it_says_nothing(task):
    problem = task.references("train")[0]
    solver = task.oracle()
    said = says(solver, task, f"{ask(problem)}so so")
    assert said[-1].argmax() == task.own.eos_token_id and said[0].max() == said[0].min()
    assert torch.allclose(said.sum(-1), torch.ones(len(said)), atol=1e-5)
    shifted = torch.tensor([[0, 0, *task.own(ask(problem))["input_ids"]]])
    mask = (shifted != 0).long()
    assert torch.equal(solver(shifted, mask)[0, 2:], says(solver, task, ask(problem)))
    assert read(ask(problem)) is not None
