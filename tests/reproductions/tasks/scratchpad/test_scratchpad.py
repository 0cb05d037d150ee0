"""The task: what is held out, how answers are judged, what the oracle says.

The tests calculate with whole numbers and read answers by rewriting text; neither knows pages or segments.
"""

import random
import re
from fractions import Fraction

import pytest
import torch

from methods.modeling.rollouts import rollout
from reproductions.engine.errors import KDError
from reproductions.models.oracle import Oracle
from reproductions.tasks.scratchpad import language, policy
from reproductions.tasks.scratchpad.language import (
    Calculation,
    Ending,
    Form,
    judge,
    make_tokenizer,
    read_prompt,
    vocabulary,
)
from reproductions.tasks.scratchpad.policy import Scribe
from reproductions.tasks.scratchpad.task import Scratchpad
from reproductions.testbeds import load_testbed

SMALL = {"fewest": 2, "most": 3, "demonstrations": 20, "tokens": 40, "drafts": 60, "corrections": 60}
SMALL |= {"validation_problems": 20, "test_problems": 40}
FORMS = [Form(operation, base, r) for operation in ("add", "multiply") for base in (10, 4) for r in range(4)]
# 47 + 85 = 132 and 47 x 6 = 282, redundancy 2
SUM = Calculation(Form(), ((7, 5), (4, 8)), 40)
PRODUCT = Calculation(Form("multiply"), ((7, 6), (4, 6)), 40)


def value(digits, base):
    """Of digits, the ones first."""
    return sum(digit * base**place for place, digit in enumerate(digits))


def by_whole_numbers(problem):
    """Every word of a right answer, from the numbers as wholes: what is carried is what the lower columns come to."""
    form, base = problem.form, problem.form.base
    one, other = zip(*problem.columns, strict=True)

    def come_to(places):
        low = value(one[:places], base)
        return low + value(other[:places], base) if form.operation == "add" else low * other[0]

    words = []
    for place, name in zip(range(len(one)), "abcdefgh", strict=False):
        before, after = come_to(place) // base**place, come_to(place + 1) // base ** (place + 1)
        digit = come_to(place + 1) // base**place % base
        shown = {0: [], 1: [after], 2: [after], 3: [after]}[form.redundancy]
        copied = {0: [], 1: [], 2: [one[place], other[place]], 3: [one[place], other[place], before]}
        words += [name, *map(str, [*copied[form.redundancy], digit, *shown])]
    total = come_to(len(one))
    return [*words, "=", *(str(total // base**place % base) for place in range(len(one), -1, -1))]


def drawn(form, columns, source):
    other = [source.randrange(form.base) for _ in range(columns)]
    if form.operation == "multiply":
        other = [other[0]] * columns
    return Calculation(form, tuple((source.randrange(form.base), b) for b in other), 99)


@pytest.mark.parametrize("form", FORMS)
def test_right_answers_are_those_of_whole_numbers(form):
    source = random.Random(1)
    for columns in (1, 2, 3, 5) * 4:
        problem = drawn(form, columns, source)
        right = by_whole_numbers(problem)
        assert [word for part in problem.segments for word in part] == right
        assert judge(problem, right, True) == Ending("right", 0)
        assert judge(problem, right, False).kind == "unfinished"
        assert read_prompt(form, problem.prompt.split()).columns == problem.columns
        for place, word in enumerate(right):  # every other word in that place is wrong
            for instead in {*vocabulary(form.base)[3:]} - {word, "!"}:
                assert judge(problem, [*right[:place], instead, *right[place + 1 :]], True).kind.startswith(
                    "false"
                )


def test_problems_as_they_are_written():
    assert SUM.prompt == "+ a 7 5 b 4 8 |" and PRODUCT.prompt == "x 6 a 7 b 4 |"
    assert " ".join(map(" ".join, SUM.segments)) == "a 7 5 2 1 b 4 8 3 1 = 1 3 2"
    assert " ".join(map(" ".join, PRODUCT.segments)) == "a 7 6 2 4 b 4 6 8 2 = 2 8 2"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("a 7 5 2 1 b 4 8 3 1 = 1 3 2", Ending("right", 0)),
        ("a 7 5 3 ! a 7 5 2 1 b 4 8 3 1 = 1 3 2", Ending("right", 5)),
        ("a 7 5 3 1 b 4 ! ! a 7 5 2 1 b 4 8 3 1 = 1 3 2", Ending("right", 9)),
        ("! a 7 5 2 1 b 4 8 3 1 = 1 3 3 ! = 1 3 2", Ending("right", 6)),
        ("a 7 5 3 1 b 4 8 3 1 = 1 3 2", Ending("false-sum")),
        ("a 7 5 2 0 b 4 8 3 1 = 1 3 2", Ending("false-sum")),
        ("a 7 4 2 1 b 4 8 3 1 = 1 3 2", Ending("false-copy")),
        ("b 7 5 2 1 b 4 8 3 1 = 1 3 2", Ending("false-copy")),
        ("a 7 5 2 1 b 4 8 3 1 = 1 3 3", Ending("false-result")),
        ("a 7 5 2 1 b 4 8 3 1 1 3 2", Ending("broken-off")),
        ("a 7 5 2 1 b 4 8 3 1", Ending("broken-off")),
        ("a 7 5 2 1 b 4 8 3 1 = 1 3 2 !", Ending("broken-off")),
        ("a 7 5 2 1 b 4 8 3 1 = 1 3 2 2", Ending("broken-off")),
        ("", Ending("broken-off")),
    ],
)
def test_what_stands_is_judged(said, expected):
    assert judge(SUM, said.split(), True) == expected


def standing(text, problem):
    """What is left of an answer's text when one strike after the other is carried out, the first one first."""
    sizes = [problem.size(n) for n in range(len(problem.columns) + 1)]
    while "!" in text:
        before, after = text.split("!", 1)
        words, number = before.split(), 0
        while words and sum(sizes[: number + 1]) < len(words) and number < len(sizes):
            number += 1
        beyond = len(words) - sum(sizes)
        keep = len(words) - 1 if beyond > 0 else sum(sizes[:number])
        text = " ".join(words[: max(0, keep)]) + " " + after
    return text.split()


def test_strikes_leave_what_rewriting_leaves():
    source = random.Random(2)
    seen = set()
    for _ in range(3000):
        right = by_whole_numbers(SUM)
        words = []
        for _ in range(source.randrange(30)):  # near a right answer, or nothing would ever be one
            left = standing(" ".join(words), SUM)
            good = right[len(left)] if len(left) < len(right) and source.random() < 0.8 else "3"
            words.append(source.choice([good, good, good, good, "!"]))
        left = standing(" ".join(words), SUM)
        kind = judge(SUM, words, True).kind
        seen.add(kind)
        whole = len(left) - (len(left) % 5 if len(left) < 10 else 0 if len(left) >= 14 else len(left) - 10)
        assert (kind == "right") == (left == right)
        assert kind.startswith("false") == (left[:whole][:14] != right[:whole])
    assert {"right", "broken-off", "false-sum", "false-copy"} <= seen


def by_enumeration(problem, said, slip, repair):
    """The oracle in exact fractions, {word: chance} behind words. With repair it strikes as long as no way leads on."""
    right, left = by_whole_numbers(problem), standing(" ".join(said), problem)
    if repair and left != right[: len(left)]:
        return {"!": Fraction(1)}
    if len(left) >= len(right):
        return {"<eos>": Fraction(1)}
    word, size = right[len(left)], problem.size(0)
    number, place = divmod(len(left), size)
    worked = {0: 1, 1: 1, 2: 3, 3: 4}[problem.form.redundancy]
    if number >= len(problem.columns) or place < worked:
        return {word: Fraction(1)}
    base, last = problem.form.base, place == size - 1 and problem.form.redundancy > 0
    most = max(1 if problem.form.operation == "add" else base - 2, 0) + 1 if last else base
    chances = {str(n): Fraction(slip) / most for n in range(most)}
    chances[word] += 1 - Fraction(slip)
    return chances


def said_by(scribe, tokenizer, problem, words):
    text = " ".join([problem.prompt, *words])
    ids = torch.tensor([[0, *tokenizer(text)["input_ids"]]])
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    return scribe(ids, mask)[0]


def agrees(form, slip, source, uniform="0.001"):
    """Whether the oracle says what enumeration says, behind right, wrong and struck words."""
    scribe = Scribe(form, repair=True, slip=float(slip), uniform=float(uniform))
    tokenizer, words = make_tokenizer(form.base, 99), vocabulary(form.base)
    for _ in range(12):
        problem, said = drawn(form, 2, source), []
        for _ in range(source.randrange(24)):
            due = by_enumeration(problem, said, 0, True)
            said.append(max(due, key=due.get) if source.random() < 0.85 else source.choice(words[3:]))
            said = said[:-1] if said[-1] == "<eos>" else said
        found = said_by(scribe, tokenizer, problem, said)
        first = 1 + len(problem.prompt.split()) - 1
        for place in range(len(said) + 1):
            chances = by_enumeration(problem, said[:place], slip, True)
            for n, word in enumerate(words):
                wanted = (1 - Fraction(uniform)) * chances.get(word, 0) + Fraction(uniform) / len(words)
                if abs(float(wanted) - float(found[first + place, n])) > 1e-6:
                    return False
    return True


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slip", ["0", "3/10"])
def test_the_oracle_is_the_enumeration(form, slip):
    assert agrees(form, Fraction(slip), random.Random(3))


def test_before_it_is_asked_it_knows_nothing():
    scribe, tokenizer = Scribe(Form(), repair=True, slip=0, uniform=0.001), make_tokenizer(10, 99)
    found = said_by(scribe, tokenizer, SUM, ["a"])
    asked = len(SUM.prompt.split())
    assert torch.allclose(found[:asked], torch.full_like(found[:asked], 1 / len(tokenizer)))
    nonsense = torch.tensor([tokenizer("a 3 | a")["input_ids"]])
    assert torch.allclose(scribe(nonsense, torch.ones_like(nonsense)), torch.tensor(1 / len(tokenizer)))


@pytest.mark.parametrize(
    ("redundancy", "said", "word"),
    [
        (2, "a 7 5", "2"),
        (2, "a 7 4", "1"),  # it adds what is written
        (2, "a 7 5 3", "1"),  # and carries what these digits come to
        (2, "a 7 5 2 0 b 4 8", "2"),  # what is carried is what is said to be
        (2, "a 7 5 3 0 b 4 8 2 1", "="),
        (2, "a 7 5 3 0 b 4 8 2 1 = 1 2", "3"),
        (2, "a 7 x 9 9 b 4 8", "1"),  # what is no digit is as in the prompt; nine is carried
        (2, "a 7 5 3 0 b 4 8 2 1 = 1 2 3", "<eos>"),
        (0, "a 3 b", "3"),
        (3, "a 7 5 0 2 0 b 4 8 1", "3"),
        (3, "a 7 5 0 2 1 b 4 8 0", "2"),
    ],
)
def test_without_repair_it_goes_on_from_what_is_written(redundancy, said, word):
    form = Form(redundancy=redundancy)
    scribe, tokenizer = Scribe(form, repair=False, slip=0, uniform=0), make_tokenizer(10, 99)
    found = said_by(scribe, tokenizer, Calculation(form, SUM.columns, 99), said.split())
    assert tokenizer.decode(found[-1].argmax()) == word


@pytest.mark.parametrize("mutation", ["carry", "strike", "slip", "last", "end"])
def test_the_enumeration_catches_a_wrong_oracle(monkeypatch, mutation):
    """Mutations: no carry, no strike, a slip to other digits only, a strike of one segment too many, no end."""
    due, work, read = policy.due, Form.work, language.Page.read

    def slips(self, page):
        found = chances(self, page)
        return {
            word: chance
            for word, chance in found.items()
            if len(found) == 1 or word != policy.due(page, repair=True)
        }

    chances = Scribe.chances
    if mutation == "carry":
        monkeypatch.setattr(Form, "work", lambda self, one, other, _: work(self, one, other, 0))
    elif mutation == "strike":
        monkeypatch.setattr(policy, "due", lambda page, *, repair: due(page, repair=False))
    elif mutation == "slip":
        monkeypatch.setattr(Scribe, "chances", slips)
    elif mutation == "last":
        monkeypatch.setattr(
            language.Page, "read", lambda self, word: [read(self, word) for _ in range(1 + (word == "!"))]
        )
    else:
        monkeypatch.setattr(
            policy,
            "due",
            lambda page, *, repair: "=" if due(page, repair=repair) == "<eos>" else due(page, repair=repair),
        )
    assert not all(agrees(Form(), Fraction(3, 10), random.Random(seed)) for seed in range(4))


def test_a_rollout_says_what_is_said_at_once():
    """It keeps the pages of the call before; rows leave a batch, and others come."""
    task = Scratchpad(**SMALL, operation="add")
    oracle = Oracle(task.oracle(slip=0.3), task.own)
    prompts = task.own(list(task.rows("test")["prompt"]))["input_ids"]
    generator = torch.Generator().manual_seed(1)
    made = rollout(oracle, prompts, max_new_tokens=40, eos_ids=[2], pad_id=0, generator=generator)
    ids = torch.cat([made.prompt_ids, made.completion_ids], 1)
    mask = torch.cat([made.prompt_mask, made.completion_mask], 1)
    whole = oracle(input_ids=ids, attention_mask=mask).logits.clone()
    step = task.oracle(slip=0.3)
    for length in range(1, ids.shape[1]):
        said = step(ids[:, :length], mask[:, :length])
        assert torch.allclose(
            said[:, -1].log()[mask[:, length - 1].bool()], whole[:, length - 1][mask[:, length - 1].bool()]
        )
    said = [
        row[m.bool()][:-1].tolist() for row, m in zip(made.completion_ids, made.completion_mask, strict=True)
    ]
    ends = [problem.ending(one) for problem, one in zip(task.references("test"), said, strict=True)]
    assert any(
        end.extra > 0 and end.kind == "right" for end in ends
    )  # it slips, strikes out and is right at last


@pytest.mark.parametrize("operation", ["add", "multiply"])
def test_the_oracle_is_right_and_rows_are_what_they_say(operation):
    task = Scratchpad(**SMALL, operation=operation)
    counts = {"train": 20, "more": 40, "validation": 20, "test": 40, "drafts": 60, "corrections": 60}
    numbers = {}
    for name, count in counts.items():
        rows = task.rows(name)
        assert len(rows) == count
        found = [read_prompt(task.form, re.split(r"(?<=\|)", p)[0].split()) for p in rows["prompt"]]
        numbers[name] = [frozenset(zip(*problem.columns, strict=True)) for problem in found]
        for problem, prompt, completion in zip(found, rows["prompt"], rows["completion"], strict=True):
            said = [*prompt.split("|")[1].split(), *completion.split()]
            assert len(said) < task.tokens
            assert all(column[0] for column in problem.columns[-1:])
            if name != "drafts":
                assert judge(problem, said, True).kind == "right"
            if name in ("train", "more", "validation", "test"):
                assert completion.split() == by_whole_numbers(problem)
            if name == "drafts":  # the result is what the page says
                left = standing(" ".join(said), problem)
                steps, size = left[: left.index("=")], problem.size(0)
                digits = [steps[n + size - 2] for n in range(0, len(steps), size)]
                assert left[left.index("=") + 1 :] == [steps[-1], *digits[::-1]]
    assert any("!" in row for row in task.rows("drafts")["completion"])
    assert any("!" in row for row in task.rows("corrections")["completion"])
    assert not any("!" in row for row in task.rows("more")["completion"])
    held = {*numbers["test"], *numbers["validation"]}
    assert len(held) == 60 and not held & {*numbers["more"], *numbers["drafts"], *numbers["corrections"]}
    assert numbers["more"][:20] == numbers["train"] and len({*numbers["more"]}) == 40
    problems, answers = task.references("test"), task.own(list(task.rows("test")["completion"]))["input_ids"]
    assert task.scores["exact_match"].function(answers, problems).tolist() == [100.0] * 40
    assert task.scores["result_match"].function(answers, problems).tolist() == [100.0] * 40


def test_a_result_is_right_by_itself():
    task = Scratchpad(**SMALL, operation="add")
    problem = task.references("test")[0]
    right = by_whole_numbers(problem)
    wrong = [*right[:3], str((int(right[3]) + 1) % 10), *right[4:]]
    ids = [task.own(" ".join(words))["input_ids"] for words in (right, wrong, right[:-1], [])]
    assert task.scores["result_match"].function(ids, [problem] * 4).tolist() == [100.0, 100.0, 0.0, 0.0]
    assert task.scores["exact_match"].function(ids, [problem] * 4).tolist() == [100.0, 0.0, 0.0, 0.0]


def test_rows_are_the_same_every_time_and_another_draw_is_another_task():
    one, same, other = Scratchpad(**SMALL), Scratchpad(**SMALL), Scratchpad(**SMALL, draw=1)
    assert one.revision == same.revision != other.revision
    for name in ("more", "drafts", "corrections"):
        assert one.rows(name).to_dict() == same.rows(name).to_dict() != other.rows(name).to_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operation": "divide"}, 'not "divide"'),
        ({"redundancy": 4}, "redundancy is 0 to 3"),
        ({"fewest": 4}, "not 2, 10 and 4 to 3"),
        ({"tokens": 12}, "more than 12"),
        ({"operation": "multiply", "base": 3}, "different problems are wanted"),
    ],
)
def test_what_is_no_task_is_refused(settings, message):
    with pytest.raises(KDError, match=message):
        Scratchpad(**(SMALL | settings))
    with pytest.raises(KDError, match="slip from 0 to 1"):
        Scratchpad(**SMALL).oracle(slip=2)


def test_the_testbeds_data_stay_as_its_results_were_measured_on():
    testbed = load_testbed("scratchpad")
    assert testbed.revision == "b36882341e564c9a"
    assert [len(testbed.rows(name)) for name in ("train", "more", "validation", "test")] == [
        90,
        180,
        300,
        700,
    ]
