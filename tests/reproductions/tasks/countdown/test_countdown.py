"""The task: what is held out, how answers are judged, what the oracle says.

The tests write out every answer that there is, in another way: they build terms from the outside in and read them by
recursion; no state and no count of the task is used.
"""

import itertools
import random
from collections import Counter
from fractions import Fraction

import pytest
import torch

from methods.modeling.rollouts import rollout
from reproductions.engine.errors import KDError
from reproductions.models.oracle import Oracle
from reproductions.tasks.countdown import policy
from reproductions.tasks.countdown.language import (
    Challenge,
    Ending,
    Rules,
    judge,
    make_tokenizer,
    meaning,
    read_prompt,
    retold,
    vocabulary,
)
from reproductions.tasks.countdown.policy import Reckoner, Solutions
from reproductions.tasks.countdown.task import Countdown

SMALL = {"numbers": 3, "most": 8, "demonstrations": 20, "scribbles": 50, "corrections": 50}
SMALL |= {"validation_problems": 10, "test_problems": 25}
SHOWN, SILENT = Rules(60, True), Rules(60, False)
PROBLEM = Challenge(SHOWN, (3, 7, 2, 5), 25, 16)


def terms(numbers, rules):
    """Every (words, value) over these numbers in this order, every value on the way possible."""
    if len(numbers) == 1:
        yield [str(numbers[0])], numbers[0]
        return
    for cut in range(1, len(numbers)):
        for (one, a), (other, b) in itertools.product(
            terms(numbers[:cut], rules), terms(numbers[cut:], rules)
        ):
            for sign, value in (("+", a + b), ("-", a - b), ("*", a * b)):
                if 0 <= value <= rules.largest:
                    yield [*one, *other, sign, *([str(value)] if rules.shown else [])], value


def answers(problem):
    """Every possible whole answer with its value, each once."""
    found = {}
    for order in set(itertools.permutations(problem.numbers)):
        for words, value in terms(order, problem.rules):
            found[tuple(words)] = value
    return found


@pytest.mark.parametrize(
    ("said", "finished", "expected"),
    [
        ("7 3 + 10 2 * 20 5 + 25", True, "right"),
        ("5 2 7 3 + 10 * 20 + 25", True, "right"),
        ("7 3 + 10 2 * 20 5 + 25", False, "unfinished"),
        ("7 3 + 10 2 * 20 5 - 15", True, "false-end"),
        ("7 3 + 10 2 * 20", True, "broken-off"),
        ("7 3 + 10 2 * 20 5 +", True, "broken-off"),
        ("7 3 2 5", True, "broken-off"),
        ("", True, "broken-off"),
        ("7 3 + 11 2 * 22 3 + 25", True, "illegal"),  # 7 + 3 is not 11
        ("7 3 + 2 * 5 +", True, "illegal"),  # results are written
        ("7 7 + 14", True, "illegal"),  # there is one 7
        ("7 + 3", True, "illegal"),
        ("3 7 - 2", True, "illegal"),  # below 0
        ("7 5 * 35 3 * 105 2 - 103", True, "illegal"),  # above 60
        ("7 3 | 10", False, "illegal"),
        ("7 3 + 10 2 * 20 5 + 25 25", True, "illegal"),
    ],
)
def test_what_an_answer_comes_to(said, finished, expected):
    assert judge(PROBLEM, said.split(), finished) == Ending(expected)


@pytest.mark.parametrize("rules", [SHOWN, SILENT])
def test_the_verifier_is_brute_force(rules):
    """Of every whole answer and of all that differ in a word, exactly those are right that brute force finds."""
    source = random.Random(1)
    for numbers in [(3, 7, 2), (4, 4, 1), (6, 1, 5)]:
        target = source.choice(list(answers(Challenge(rules, numbers, 0)).values()))
        problem = Challenge(rules, numbers, target)
        known = answers(problem)
        right = {words for words, value in known.items() if value == target}
        assert right
        for words, value in known.items():
            kind = judge(problem, words, True).kind
            assert kind == ("right" if value == target else "false-end")
            place = source.randrange(len(words))
            for instead in vocabulary(12)[3:]:
                other = (*words[:place], instead, *words[place + 1 :])
                assert (judge(problem, other, True).kind == "right") == (other in right)


def by_enumeration(problem, said):
    """The oracle in exact fractions: of all whole answers that begin so, those that come nearest, each as likely."""
    known = {words: value for words, value in answers(problem).items() if words[: len(said)] == tuple(said)}
    if not known or tuple(said) in known:
        return {"<eos>": Fraction(1)}
    least = min(abs(value - problem.target) for value in known.values())
    near = [words for words, value in known.items() if abs(value - problem.target) == least]
    return {word: Fraction(n, len(near)) for word, n in Counter(words[len(said)] for words in near).items()}


def possible_beginnings(problem, source, count):
    """Beginnings of whole answers, right or wrong."""
    known = list(answers(problem))
    for _ in range(count):
        words = source.choice(known)
        yield list(words[: source.randrange(len(words) + 1)])


def differences(rules, source, slip=Fraction(0), uniform=Fraction(1, 1000)):
    """How far the oracle is from enumeration, at most."""
    reckoner = Reckoner(rules, slip=float(slip), uniform=float(uniform))
    tokenizer, words, worst = make_tokenizer(rules.largest, 40), vocabulary(rules.largest), 0.0
    for _ in range(6):
        numbers = tuple(source.randrange(1, 9) for _ in range(3))
        problem = Challenge(rules, numbers, source.randrange(30))
        whole = answers(problem)
        for said in possible_beginnings(problem, source, 5):
            ids = torch.tensor([[0, *tokenizer(f"{problem.prompt} {' '.join(said)}")["input_ids"]]])
            mask = torch.ones_like(ids)
            mask[0, 0] = 0
            found, first = reckoner(ids, mask)[0], 4 + len(numbers) - 1
            assert torch.allclose(found[1:first], torch.tensor(1 / len(words)))
            for place in range(len(said) + 1):
                chances = by_enumeration(problem, said[:place])
                can = {w[place] for w in whole if w[:place] == tuple(said[:place]) and len(w) > place}
                for n, word in enumerate(words):
                    wanted = chances.get(word, Fraction(0))
                    if can:
                        wanted = (1 - slip) * wanted + (slip / len(can) if word in can else 0)
                    wanted = (1 - uniform) * wanted + uniform / len(words)
                    worst = max(worst, abs(float(wanted) - float(found[first + place, n])))
    return worst


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize(("largest", "slip"), [(60, "0"), (600, "3/10")])
def test_the_oracle_is_the_enumeration(shown, largest, slip):
    """Up to 600 every possible word leads to an end, so that enumeration finds all that a slip may say."""
    assert differences(Rules(largest, shown), random.Random(2), Fraction(slip)) < 1e-6


def test_all_solutions_are_counted():
    source, known = random.Random(3), Solutions(SHOWN)
    for _ in range(4):
        problem = Challenge(SHOWN, tuple(source.randrange(1, 10) for _ in range(4)), source.randrange(1, 40))
        values = list(answers(problem).values())
        least = min(abs(value - problem.target) for value in values)
        wanted = (least, sum(abs(value - problem.target) == least for value in values))
        assert known.best(problem.start, problem.target) == wanted


def test_what_is_not_possible_is_passed_over_and_a_lost_answer_comes_near():
    reckoner, tokenizer = Reckoner(SHOWN, slip=0, uniform=0), make_tokenizer(60, 40)

    def best(said, numbers="3 7 2 5 > 25 |"):
        ids = torch.tensor([tokenizer(f"{numbers} {said}")["input_ids"]])
        chances = reckoner(ids, torch.ones_like(ids))[0, -1]
        return {tokenizer.decode(n): round(float(chances[n]), 6) for n in chances.nonzero()[:, 0]}

    assert best("7 3 + 11") == {"10": 1.0} == best("7 3 + |") == best("7 3 3 +")
    assert best("7 3 + 10 2 * 20 5") == {"+": 1.0}
    assert best("7 3 - 4 2 * 8 5") == {"+": 1.0}  # 13 is nearer to 25 than 3 and 40
    assert best("7 3 + 10 2 * 20 5 - 15") == {"<eos>": 1.0}
    assert best("60 60", "60 60 60 > 0 |") == {"-": 0.5, "60": 0.5}
    assert best("60 60 60", "60 60 60 > 0 |") == {"-": 1.0}
    assert best("", "5 56 > 10 |") == {"56": 1.0} and best("5 56", "5 56 > 10 |") == {"<eos>": 1.0}


@pytest.mark.parametrize("mutation", ["uniform over words", "any end", "no misses"])
def test_the_enumeration_catches_a_wrong_oracle(monkeypatch, mutation):
    """Mutations: words as likely as each other, solutions and other ends alike, nothing said where none is left."""
    chances, best = Solutions.chances, Solutions._best

    def flat(self, state, target):
        found = chances(self, state, target)
        return dict.fromkeys(found, Fraction(1, len(found)))

    def any_end(self, state, target):
        return best(self, state, state.stack[0]) if state.over else best(self, state, target)

    def exact(self, state, target):
        return best(self, state, target) if not state.over or state.stack[0] == target else (policy.NEVER, 0)

    change = {
        "uniform over words": ("chances", flat),
        "any end": ("_best", any_end),
        "no misses": ("_best", exact),
    }
    monkeypatch.setattr(Solutions, *change[mutation])
    assert differences(SHOWN, random.Random(2)) > 1e-3


def test_what_differs_in_order_alone_means_the_same():
    same = ["7 3 + 10 2 * 20 5 + 25", "5 2 3 7 + 10 * 20 + 25", "3 7 + 10 2 * 20 5 + 25"]
    assert len({meaning(SHOWN, said.split()) for said in same}) == 1
    assert meaning(SILENT, list("73+2*5+")) == meaning(SHOWN, same[0].split())
    others = ["7 3 - 4", "3 7 - 4", "7 3 + 10", "7 3 * 21"]
    assert len({meaning(SHOWN, said.split()) for said in others}) == 4


# Large numbers, so that a word at random often leaves no way on.
WIDE = {"numbers": 3, "most": 25, "largest": 60, "largest_target": 60, "tokens": 12, "corrections": 400}


@pytest.mark.parametrize("rules", [SHOWN, SILENT])
def test_an_answer_is_told_again_in_every_order_that_means_the_same(rules):
    problem, source = Challenge(rules, (3, 7, 2), 13, 16), random.Random(0)
    by_meaning = {}
    for words in answers(problem):
        by_meaning.setdefault(meaning(rules, words), set()).add(words)
    for same in by_meaning.values():
        for words in same:
            told = Counter(tuple(retold(rules, words, source)) for _ in range(40 * len(same)))
            assert set(told) == same
            assert max(told.values()) < 2.5 * 40, "each as likely"


def test_retellings_show_an_answer_that_misses_and_a_held_out_prompt_may_show_a_solution():
    task = Countdown(**SMALL, retellings=40)
    rows = task.rows("retellings")
    shown = [row for row in rows if row["prompt"].count("|") == 2]
    assert len(rows) == 40 and len(shown) == 20 and rows[0] == shown[0]
    for row in shown:
        asked, said, _ = row["prompt"].split("|")
        target = int(asked.split()[-1])
        words, again = said.split(), row["completion"].split()
        assert meaning(task.rules, words) == meaning(task.rules, again)
        assert (
            judge(Challenge(task.rules, tuple(map(int, asked.split()[:-2])), target, 20), again, True).kind
            == "false-end"
        )
    sets = task.sets("test")
    assert list(sets) == ["plain", "told"] == list(task.set_titles) and set(
        Countdown(**SMALL).sets("test")
    ) == {"plain"}
    longest = task.limits.prompt
    for (plain, problem), (told, same), row in zip(*sets.values(), task.rows("test"), strict=True):
        assert problem is same and plain == row["prompt"] and told == f"{plain}{row['completion']} |"
        assert len(task.own(told)["input_ids"]) == longest == 6 + 8
    assert (
        task.revision != Countdown(**SMALL).revision
        and task.rows("train")[:] == Countdown(**SMALL).rows("train")[:]
    )
    with pytest.raises(KDError, match="retellings are of scribbles"):
        Countdown(**SMALL | {"scribbles": 0}, retellings=40)


@pytest.mark.parametrize("shape", [{}, WIDE], ids=["small", "wide"])
def test_rows_are_what_they_say_and_no_set_of_numbers_stands_in_two_splits(shape):
    task = Countdown(**(SMALL | shape))
    counts = {"train": 20, "more": 40, "validation": 10, "test": 25, "scribbles": 50}
    counts["corrections"] = shape.get("corrections", 50)
    sets = {}
    for name, count in counts.items():
        rows = task.rows(name)
        assert len(rows) == count
        asked = [read_prompt((prompt.split("|")[0] + "|").split()) for prompt in rows["prompt"]]
        sets[name] = {tuple(sorted(numbers)) for numbers, _ in asked}
        for (numbers, target), prompt, completion in zip(
            asked, rows["prompt"], rows["completion"], strict=True
        ):
            problem = Challenge(task.rules, numbers, target, task.tokens)
            said = [*prompt.split("|")[1].split(), *completion.split()]
            kind = judge(problem, said, len(said) < task.tokens).kind
            if name == "scribbles":
                assert kind == "false-end"
            elif name == "corrections":
                begun = prompt.split("|")[1].split()
                known = {w: v for w, v in answers(problem).items() if w[: len(begun)] == tuple(begun)}
                least = min((abs(v - target) for v in known.values()), default=None)
                assert tuple(said) in known and abs(known[tuple(said)] - target) == least
            else:
                assert kind == "right" and 2 <= sum(v == target for v in answers(problem).values()) <= 200
    assert not sets["test"] & sets["validation"]
    held = sets["test"] | sets["validation"]
    assert not held & (sets["more"] | sets["scribbles"] | sets["corrections"])
    assert task.rows("more")["prompt"][:20] == task.rows("train")["prompt"]
    assert len({*task.rows("more")["prompt"]}) == 40


def test_the_oracle_solves_all_and_draws_every_solution():
    task = Countdown(**SMALL)
    oracle, problems = Oracle(task.oracle(uniform=0.0), task.own), task.references("test")
    prompts = task.own([problem.prompt for problem in problems])["input_ids"]
    generator = torch.Generator().manual_seed(1)
    made = rollout(
        oracle, prompts * 30, max_new_tokens=task.tokens, eos_ids=[2], pad_id=0, generator=generator
    )
    said = [
        row[m.bool()][:-1].tolist() for row, m in zip(made.completion_ids, made.completion_mask, strict=True)
    ]
    assert task.scores["exact_match"].function(said, problems * 30).tolist() == [100.0] * 750
    few = min(range(25), key=lambda n: sum(v == problems[n].target for v in answers(problems[n]).values()))
    right = {words for words, value in answers(problems[few]).items() if value == problems[few].target}
    assert {tuple(problems[few].words(ids)) for ids in said[few::25]} <= right


def test_rows_are_the_same_every_time_and_another_draw_is_another_task():
    one, same, other = Countdown(**SMALL), Countdown(**SMALL), Countdown(**SMALL, draw=1)
    assert one.revision == same.revision != other.revision
    for name in ("more", "scribbles", "corrections"):
        assert one.rows(name).to_dict() == same.rows(name).to_dict() != other.rows(name).to_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"numbers": 1}, "2 to 6 numbers"),
        ({"most": 80}, "2 to 6 numbers"),
        ({"tokens": 7}, "more than 7"),
        ({"demonstrations": 4000}, "8000 problems are wanted for train"),
    ],
)
def test_what_is_no_task_is_refused(settings, message):
    with pytest.raises(KDError, match=message):
        Countdown(**(SMALL | settings))
    with pytest.raises(KDError, match="slip from 0 to 1"):
        Countdown(**SMALL).oracle(slip=2)
