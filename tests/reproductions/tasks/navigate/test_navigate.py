"""The task: what is held out, how walks are judged, what the oracle says. The maze of the tests by hand:

0 - 1   2        size 3, walls drawn as blanks:
    |   |        0-1, 1-4, 2-5, 3-4, 4-5, 3-6, 6-7, 5-8
3 - 4 - 5
|       |
6 - 7   8
"""

import math

import numpy as np
import pytest
import torch

from methods.elicitation.labelling import label_with_teacher
from methods.modeling.rollouts import rollout
from reproductions.engine.errors import KDError
from reproductions.models.oracle import Oracle
from reproductions.tasks.navigate.language import (
    FIRST_CELL,
    FORMS,
    Ending,
    ask,
    judge,
    make_tokenizer,
    write,
)
from reproductions.tasks.navigate.policy import Walker
from reproductions.tasks.navigate.task import Navigate
from reproductions.tasks.navigate.world import MOVES, WALL, World, all_distances
from reproductions.testbeds import load_testbed

DOORS = [(0, 1), (1, 4), (2, 5), (3, 4), (4, 5), (3, 6), (6, 7), (5, 8)]
SMALL = {"size": 5, "loops": 3, "shortest": 3, "demonstrations": 20, "tokens": 24, "walks": 200}
SMALL |= {"longest_walk": 12, "corrections": 300, "validation_pairs": 20, "test_pairs": 40}


@pytest.fixture(scope="module")
def world():
    beyond = np.full((9, 4), WALL)
    for a, b in DOORS:
        move = 1 if b - a == 3 else 3
        beyond[a, move], beyond[b, move - 1] = b, a
    return World(beyond, all_distances(beyond))


@pytest.fixture(scope="module")
def tokenizer(world):
    return make_tokenizer(world.cells, 40)


def ids_of(tokenizer, text):
    return tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("form", "said", "finished", "expected"),
    [
        ("cells", "1 4 5 8", True, Ending("right", 4, 0)),
        ("cells", "1 4 3 4 5 8", True, Ending("right", 6, 2)),
        ("cells", "1 4 5 8 5 8", True, Ending("right", 6, 2)),  # it may pass the goal
        ("cells", "1 4 5 8", False, Ending("unfinished", 4)),
        ("cells", "1 4 5", True, Ending("false-end", 3)),
        ("cells", "", True, Ending("false-end", 0)),
        ("cells", "1 2 5 8", True, Ending("illegal", 1)),  # 1-2 is a wall
        ("cells", "1 4 4 5 8", True, Ending("illegal", 2)),
        ("cells", "1 4 down 8", True, Ending("illegal", 2)),
        ("cells", "1 4 | 5 8", True, Ending("illegal", 2)),
        ("cells", "3 4 5 8", False, Ending("illegal", 0)),  # the first wrong step decides
        ("moves", "right down right down", True, Ending("right", 4, 0)),
        ("moves", "right right down right down", True, Ending("illegal", 1)),
        ("moves", "right down 5 down", True, Ending("illegal", 2)),
        ("moves", "right down right", True, Ending("false-end", 3)),
        ("both", "right 1 down 4 right 5 down 8", True, Ending("right", 4, 0)),
        ("both", "right 1 down 4 right 5 down", True, Ending("false-end", 3)),  # in the middle of a step
        ("both", "right 1 down 5 down 8", True, Ending("illegal", 1)),  # it is not there
        ("both", "right 1 right 2", True, Ending("illegal", 1)),
        ("both", "1 4 5 8", True, Ending("illegal", 0)),
    ],
)
def test_a_walk_is_judged_step_by_step(world, tokenizer, form, said, finished, expected):
    assert judge(world, form, 0, 8, ids_of(tokenizer, said), finished) == expected


def test_every_written_shortest_walk_is_right(world, tokenizer):
    walk = [1, 4, 5, 8]
    assert write(world, "cells", 0, walk) == " 1 4 5 8"
    assert write(world, "moves", 0, walk) == " right down right down"
    assert write(world, "both", 0, walk) == " right 1 down 4 right 5 down 8"
    for form in FORMS:
        said = ids_of(tokenizer, write(world, form, 0, walk))
        assert judge(world, form, 0, 8, said, True) == Ending("right", 4, 0)


def next_by_hand(world, form, start, goal, walked, temperature, slip):
    """The oracle in plain Python: {token: probability} behind a legal walk of `walked` cells (form not "both")."""
    cell = walked[-1] if walked else start
    if cell == goal:
        return {"<eos>": 1.0}
    near = {MOVES[m]: int(o) for m, o in enumerate(world.beyond[cell]) if o != WALL}
    weights = {m: math.exp(-float(world.distances[o, goal]) / temperature) for m, o in near.items()}
    total = sum(weights.values())
    chance = {m: (1 - slip) * weights[m] / total + slip / len(near) for m in near}
    return {(str(near[m]) if form == "cells" else m): p for m, p in chance.items()}


@pytest.mark.parametrize("form", ["cells", "moves"])
@pytest.mark.parametrize(
    ("temperature", "slip", "uniform"), [(0.02, 0, 0.001), (1.0, 0, 0), (0.5, 0.3, 0.01)]
)
def test_the_oracle_is_the_policy_written_out(world, tokenizer, form, temperature, slip, uniform):
    policy = Walker(world, form, temperature=temperature, slip=slip, uniform=uniform)
    size = len(tokenizer)
    for start, walked, goal in [(0, [], 8), (0, [1, 4], 8), (7, [6, 3, 4, 5, 8], 8), (7, [6, 3, 4, 3], 2)]:
        text = ask(start, goal) + write(world, form, start, walked)
        ids = torch.tensor([[0, 0, *ids_of(tokenizer, text)]])  # padded on the left
        mask = torch.tensor([[0, 0] + [1] * (ids.shape[1] - 2)])
        said = policy(ids, mask)
        assert torch.allclose(said.sum(-1), torch.ones(said.shape[:2]), atol=1e-5)
        for place in range(len(walked) + 1):
            wanted = np.full(size, uniform / size)
            known = next_by_hand(world, form, start, goal, walked[:place], temperature, slip)
            for token, chance in known.items():
                wanted[tokenizer.convert_tokens_to_ids(token)] += (1 - uniform) * chance
            assert np.allclose(said[0, 4 + place].numpy(), wanted, atol=1e-6)


def test_the_oracle_goes_on_from_where_one_has_come_to_however(world, tokenizer):
    """After a step through a wall, to the cell that was printed; a wrong word moves nobody; a bump neither."""

    def best(form, said):
        policy = Walker(world, form, temperature=0.02, slip=0, uniform=0)
        ids = torch.tensor([ids_of(tokenizer, f"{ask(0, 8)} {said}")])
        return tokenizer.decode(policy(ids, torch.ones_like(ids))[0, -1].argmax())

    assert best("cells", "7") == "6" and best("cells", "1 up") == "4" and best("cells", "8") == "<eos>"
    assert best("moves", "right right") == "down" and best("moves", "down") == "right"
    assert best("both", "right") == "1" and best("both", "right 1 right") == "1"
    assert best("both", "right 5") == "down"


@pytest.mark.parametrize("form", FORMS)
def test_as_a_language_model_it_reads_with_a_cache_what_it_reads_at_once(world, tokenizer, form):
    oracle = Oracle(Walker(world, form, temperature=0.7, slip=0.2, uniform=0.01), tokenizer)
    prompts = [ids_of(tokenizer, ask(s, g)) for s in range(9) for g in range(9) if s != g]
    made = rollout(
        oracle, prompts, max_new_tokens=15, eos_ids=[2], pad_id=0, generator=torch.Generator().manual_seed(1)
    )
    ids = torch.cat([made.prompt_ids, made.completion_ids], 1)
    mask = torch.cat([made.prompt_mask, made.completion_mask], 1)
    whole = oracle(input_ids=ids, attention_mask=mask)
    assert torch.equal(whole.logits, whole.last_hidden_state)
    assert torch.allclose(oracle.get_output_embeddings()(whole.logits), whole.logits)
    cache = oracle(input_ids=ids[:, :5], attention_mask=mask[:, :5], use_cache=True).past_key_values
    step = oracle(input_ids=ids[:, 5:6], attention_mask=mask[:, :6], past_key_values=cache, logits_to_keep=1)
    assert torch.allclose(step.logits[:, 0], whole.logits[:, 5])
    # Rows may leave the batch in the middle.
    step.past_key_values.batch_select_indices(torch.tensor([3, 1]))
    more = oracle(
        input_ids=ids[[3, 1], 6:7], attention_mask=mask[[3, 1], :7], past_key_values=cache, logits_to_keep=1
    )
    assert torch.allclose(more.logits[:, 0], whole.logits[[3, 1], 6])


@pytest.mark.parametrize("form", FORMS)
def test_greedy_answers_of_the_oracle_are_right_and_shortest(form):
    task = Navigate(**(SMALL | {"tokens": 40}), form=form)
    oracle = Oracle(task.oracle(), task.own)
    prompts = ids_of(task.own, list(task.rows("test")["prompt"]))
    made = rollout(oracle, prompts, max_new_tokens=task.tokens, eos_ids=[2], pad_id=0, greedy=True)
    said = [
        row[mask.bool()][:-1].tolist()
        for row, mask in zip(made.completion_ids, made.completion_mask, strict=True)
    ]
    assert task.scores["exact_match"].function(said, task.references("test")).tolist() == [100.0] * 40
    ends = [problem.ending(ids) for problem, ids in zip(task.references("test"), said, strict=True)]
    assert {end.extra for end in ends} == {0}


@pytest.mark.parametrize("form", FORMS)
def test_the_oracle_writes_answers_for_students_to_learn_from(form):
    task = Navigate(**(SMALL | {"tokens": 40}), form=form)
    prompts = list(task.rows("test")["prompt"])
    labels, report = label_with_teacher(
        Oracle(task.oracle(uniform=0.0), task.own), task.own, prompts, max_new_tokens=task.tokens
    )
    said = ids_of(task.own, list(labels["completion"]))
    assert list(labels["prompt"]) == prompts and (report.truncated, report.empty) == (0, 0)
    ends = [problem.ending(ids) for problem, ids in zip(task.references("test"), said, strict=True)]
    assert {(end.kind, end.extra) for end in ends} == {("right", 0)}


@pytest.fixture(scope="module")
def small():
    return Navigate(**SMALL)


def pair(prompt):
    start, goal = prompt.split(" ")[:2]
    return frozenset([start, goal])


def test_no_pair_stands_in_two_splits_not_even_turned_round(small):
    pairs = {
        name: [pair(p) for p in small.rows(name)["prompt"]]
        for name in ("train", "validation", "test", "more")
    }
    assert {name: len(set(found)) for name, found in pairs.items()} == {
        "train": 20,
        "validation": 20,
        "test": 40,
        "more": 40,
    }
    assert pairs["more"][:20] == pairs["train"]
    held = set(pairs["test"]) | set(pairs["validation"])
    assert len(held) == 60 and not held & set(pairs["more"])
    for name in ("walks", "corrections"):
        assert not held & {pair(p) for p in small.rows(name)["prompt"]}


def test_rows_are_right_walks_of_the_lengths_asked_for(small):
    for name in ("train", "validation", "test", "more", "corrections", "walks"):
        rows = small.rows(name)
        for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True):
            asked, begun = prompt.split(" |")
            start, goal = map(int, asked.split())
            said = ids_of(small.own, begun + completion)
            ending = judge(small.world, small.form, start, goal, said, True)
            assert ending.kind == "right" and len(said) < small.tokens
            far = small.world.distances[start, goal]
            if name in ("train", "validation", "test", "more"):
                assert ending.extra == 0 and far >= 3 and not begun
            if name == "corrections":
                cell = int(begun.split()[-1]) if begun else start
                assert len(completion.split()) == small.world.distances[cell, goal]
            if name == "walks":
                cells = [token - FIRST_CELL for token in said]
                assert cells.index(goal) == len(cells) - 1 and not begun
    assert any(
        len(c.split()) > 0 and " | " in p
        for p, c in zip(*(small.rows("corrections")[k] for k in ("prompt", "completion")), strict=True)
    )


def test_the_score_knows_an_answer_that_did_not_end(small):
    problem = small.references("test")[0]
    walk = ids_of(small.own, small.rows("test")["completion"][0])
    score = small.scores["exact_match"].function
    assert score([walk, walk[:-1], []], [problem] * 3).tolist() == [100.0, 0.0, 0.0]
    there_and_back = [*walk, *[walk[-2], walk[-1]] * 20]
    cut = (
        there_and_back[: small.tokens]
        if (small.tokens - len(walk)) % 2 == 0
        else there_and_back[: small.tokens - 1]
    )
    assert cut[-1] == walk[-1]
    assert problem.ending(cut).kind == ("unfinished" if len(cut) == small.tokens else "right")


def test_the_testbeds_data_stay_as_its_results_were_measured_on():
    testbed = load_testbed("navigate")
    assert testbed.revision == "f10b5ee76be967c8"
    assert [len(testbed.rows(name)) for name in ("train", "more", "validation", "test")] == [
        200,
        400,
        300,
        700,
    ]


def test_another_draw_is_another_task_and_what_is_too_much_is_refused():
    one, other = Navigate(**SMALL), Navigate(**SMALL, draw=1)
    assert one.revision == Navigate(**SMALL).revision != other.revision
    with pytest.raises(KDError, match="pairs of cells are far enough apart"):
        Navigate(**(SMALL | {"demonstrations": 4000}))
    with pytest.raises(KDError, match='not as "words"'):
        Navigate(**SMALL, form="words")
    with pytest.raises(KDError, match="slip from 0 to 1"):
        one.oracle(slip=2)


@pytest.mark.parametrize("wrong", ["distance", "end", "position"])
def test_the_oracle_of_the_tests_catches_a_wrong_policy(world, tokenizer, monkeypatch, wrong):
    """Mutations: towards the farthest cell, no EOS at the goal, the cell before the last."""
    policy = Walker(world, "cells", temperature=0.02, slip=0, uniform=0)
    table = policy.landing.clone()
    if wrong == "distance":
        table = Walker(
            World(world.beyond, -world.distances), "cells", temperature=0.02, slip=0, uniform=0
        ).landing
    elif wrong == "end":
        table[8, 8] = 0
        table[8, 8, FIRST_CELL + 5] = 1
    policy.landing = table
    ids = torch.tensor([ids_of(tokenizer, f"{ask(0, 8)} 1 4 5 8")])
    if wrong == "position":
        ids = torch.cat([ids[:, :3], ids[:, 2:-1]], 1)
    said = policy(ids, torch.ones_like(ids))[0]
    right = True
    for place in range(5):
        known = next_by_hand(world, "cells", 0, 8, [1, 4, 5, 8][:place], 0.02, 0)
        wanted = torch.zeros(len(tokenizer))
        for token, chance in known.items():
            wanted[tokenizer.convert_tokens_to_ids(token)] = chance
        right = right and torch.allclose(said[2 + place], wanted, atol=1e-6)
    assert not right
