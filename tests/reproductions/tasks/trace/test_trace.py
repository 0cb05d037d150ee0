"""The task: what is held out, how answers are judged, what the oracle says.

The tests run programs on named registers and count on a ring, one forward or back at a time; they know no machine, no
table and no tensor of the task.
"""

import random
from collections import Counter
from fractions import Fraction

import pytest
import torch

from methods.modeling.rollouts import rollout
from reproductions.engine.errors import KDError
from reproductions.models.oracle import Oracle
from reproductions.tasks.trace.language import (
    Ending,
    Instruction,
    Machine,
    Program,
    judge,
    last_state,
    make_tokenizer,
    vocabulary,
)
from reproductions.tasks.trace.policy import Tracer
from reproductions.tasks.trace.task import Trace, shape
from reproductions.testbeds import load_testbed

SMALL = {"modulus": 5, "instructions": 4, "demonstrations": 20, "tokens": 14, "drafts": 60}
SMALL |= {"validation_problems": 20, "test_problems": 40}
MACHINES = [Machine(3, 8, 10), Machine(2, 5, 3), Machine(4, 3, 2), Machine(6, 2, 1)]
# a 3, b 5, c 1 modulo 8: b is added to a, c takes a and one more, c is taken from b
EXAMPLE = Program(
    Machine(3, 8, 3), (3, 5, 1), (Instruction("+", 0, 1), Instruction("*", 2, 0), Instruction("-", 1, 2)), 11
)
RIGHT = "0 5 1 0 5 1 0 4 1"


def on_a_ring(modulus, sign, one, other):
    """What an instruction makes of a number, by going round."""
    forward = [*range(1, modulus), 0]
    if sign == "+":
        for _ in range(other):
            one = forward[one]
        return one
    if sign == "-":
        for _ in range(other):
            one = forward.index(one)
        return one
    found = forward[0]
    for _ in range(one):
        for _ in range(other):
            found = forward[found]
    return found


def by_hand(prompt, modulus, said=()):
    """The words of an answer to a prompt's text that begins with `said`, from whose numbers it goes on.

    Also the places at which a register was changed.
    """
    words = prompt.split()
    first = next(n for n, word in enumerate(words) if not word.isdigit())
    registers = dict(zip("abcdef", map(int, words[:first]), strict=False))
    answer, changed = [], []
    for n in range(first, len(words) - 1, 3):
        sign, target, source = words[n : n + 3]
        outcome = on_a_ring(modulus, sign, registers[target], registers[source])
        registers[target] = outcome
        changed.append(len(answer) + list(registers).index(target))
        for name, value in registers.items():
            place = len(answer)
            if place < len(said) and said[place].isdigit():
                value = int(said[place])
            answer.append(str(value))
            registers[name] = value
    return answer, changed


def drawn(machine, source):
    steps = [
        Instruction(source.choice("+-*"), *source.sample(range(machine.registers), 2))
        for _ in range(machine.instructions)
    ]
    values = tuple(source.randrange(machine.modulus) for _ in range(machine.registers))
    return Program(machine, values, tuple(steps), machine.answer_length + 1)


def test_programs_as_they_are_written():
    assert EXAMPLE.prompt == "3 5 1 + a b * c a - b c |"
    assert EXAMPLE.words == RIGHT.split() == by_hand(EXAMPLE.prompt, 8)[0]
    assert EXAMPLE.machine.prompt_length == len(EXAMPLE.prompt.split())
    assert EXAMPLE.machine.answer_length == len(EXAMPLE.words) + 1
    assert [EXAMPLE.machine.outcome(sign, 3, 6) for sign in "+-*"] == [1, 5, 3]


@pytest.mark.parametrize("machine", MACHINES)
def test_right_answers_are_those_of_counting(machine):
    source = random.Random(1)
    for _ in range(30):
        program = drawn(machine, source)
        right, changed = by_hand(program.prompt, machine.modulus)
        assert program.words == right
        assert judge(program, right, True) == Ending("right", 0)
        assert judge(program, right, False).kind == "unfinished"
        assert (
            judge(program, right[:-1], True).kind == judge(program, [*right, "0"], True).kind == "false-end"
        )
        for place, word in enumerate(right):  # every other word in that place is wrong, whatever follows
            for instead in {*vocabulary(machine)[3:]} - {word}:
                kind = judge(program, [*right[:place], instead, *right[place + 1 :]], True).kind
                number = "false-step" if place in changed else "false-copy"
                assert kind == (number if instead.isdigit() else "illegal")


@pytest.mark.parametrize(
    ("said", "finished", "expected"),
    [
        (RIGHT, True, "right"),
        (RIGHT, False, "unfinished"),
        ("", True, "false-end"),
        ("0 5 1 0 5", True, "false-end"),
        ("0 5 1 0 5", False, "unfinished"),
        (f"{RIGHT} 1", True, "false-end"),
        (f"{RIGHT} 1 1", False, "unfinished"),
        ("2 5 1 0 5 1 0 4 1", True, "false-step"),
        ("0 4 1 0 5 1 0 4 1", True, "false-copy"),
        ("0 5 1 0 5 2 0 3 2", True, "false-step"),  # rightly gone on from what was wrong
        ("2 4 1 0 5 1 0 4 1", True, "false-step"),  # the first wrong word decides
        ("0 5 | 0 5 1 0 4 1", True, "illegal"),
        ("0 5 1 + 5 1 0 4 1", False, "illegal"),
    ],
)
def test_what_an_answer_comes_to(said, finished, expected):
    assert judge(EXAMPLE, said.split(), finished) == Ending(expected)


def test_a_last_state_is_right_by_itself():
    machine = EXAMPLE.machine
    assert (
        last_state(machine, RIGHT.split())
        == last_state(machine, ["9"] * 6 + RIGHT.split()[6:])
        == ("0", "4", "1")
    )
    assert last_state(machine, RIGHT.split()[:-1]) == last_state(machine, [*RIGHT.split(), "1"]) == ()


def by_enumeration(program, said, slip):
    """The oracle in exact fractions, {word: chance} behind words."""
    right, changed = by_hand(program.prompt, program.machine.modulus, said)
    if len(said) >= len(right):
        return {"<eos>": Fraction(1)}
    due = by_hand(program.prompt, program.machine.modulus, said[: len(said)])[0][len(said)]
    if len(said) not in changed:
        return {due: Fraction(1)}
    chances = Counter(
        {str(n): Fraction(slip) / program.machine.modulus for n in range(program.machine.modulus)}
    )
    chances[due] += 1 - Fraction(slip)
    return chances


def agrees(machine, slip, source, uniform="0.001"):
    """Whether the oracle says what enumeration says, behind right and wrong numbers and other words, padded anyhow."""
    tracer, words = Tracer(machine, slip=float(slip), uniform=float(uniform)), vocabulary(machine)
    tokenizer = make_tokenizer(machine, 99)
    batch = []
    for _ in range(16):
        program, said = drawn(machine, source), []
        for _ in range(source.randrange(machine.answer_length + 3)):
            due = by_enumeration(program, said, 0)
            likely = source.random() < 0.7
            said.append(max(due, key=due.get) if likely else source.choice(words[2:]))
        left = source.randrange(3)
        ids = tokenizer(f"{program.prompt} {' '.join(said)}")["input_ids"]
        batch.append((program, said, [*[0] * left, *ids], [*[0] * left, *[1] * len(ids)]))
    width = max(len(ids) for _, _, ids, _ in batch)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for _, _, ids, _ in batch])
    mask = torch.tensor([mask + [0] * (width - len(mask)) for _, _, _, mask in batch])
    for (program, said, _, known), found in zip(batch, tracer(ids, mask), strict=True):
        first = known.index(1) + machine.prompt_length - 1
        if not torch.allclose(found[:first], torch.tensor(1 / len(words))):
            return False
        for place in range(len(said) + 1):
            chances = by_enumeration(program, said[:place], slip)
            wanted = [
                (1 - Fraction(uniform)) * chances.get(word, 0) + Fraction(uniform) / len(words)
                for word in words
            ]
            if (
                max(abs(float(w) - float(f)) for w, f in zip(wanted, found[first + place], strict=True))
                > 1e-6
            ):
                return False
    return True


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("slip", ["0", "3/10"])
def test_the_oracle_is_the_enumeration(machine, slip):
    assert all(agrees(machine, Fraction(slip), random.Random(seed)) for seed in range(3))


def said_by(tracer, text):
    ids = torch.tensor([make_tokenizer(tracer.machine, 99)(text)["input_ids"]])
    return tracer(ids, torch.ones_like(ids))[0]


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("", "0"),
        ("0 5", "1"),
        ("2 5 1 2 5", "3"),  # 1 x 2 and one more: it goes on from the wrong 2
        ("0 4 7 0 4 1 0", "3"),
        ("+ 5 1 0 5", "1"),  # what is no number is read as it was due: 0
        ("0 5 1 0 5 1 0 4", "1"),
        ("0 5 1 0 5 1 0 4 7", "<eos>"),  # also behind what is wrong
        (f"{RIGHT} 1 2", "<eos>"),
    ],
)
def test_it_goes_on_from_what_is_written(said, word):
    found = said_by(Tracer(EXAMPLE.machine, slip=0, uniform=0), f"{EXAMPLE.prompt} {said}")
    assert vocabulary(EXAMPLE.machine)[int(found[-1].argmax())] == word and float(found[-1].max()) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "3 5 1 + a b * c a",  # not asked yet
        "3 5 1 + a b * c a | 0 5",  # an instruction is missing
        "3 5 + + a b * c a - b c | 0",
        "3 5 1 + a a * c a - b c | 0",
        "3 5 1 + a b 4 c a - b c | 0",
        "3 5 1 + a b * 2 a - b c | 0",
        "3 5 1 + a b * c a - b c 0 0",
    ],
)
def test_where_no_program_is_asked_it_knows_nothing(text):
    found = said_by(Tracer(EXAMPLE.machine, slip=0, uniform=0.001), text)
    assert torch.allclose(found, torch.tensor(1 / found.shape[-1]))


def forgetful(self, written, *rest):
    """Goes on from what would have been right."""
    machine = self.machine
    due = written.clone()
    for place in range(written.shape[1]):
        said = answers(self, due[:, :place], *rest)[:, -1]
        due[:, place] = said.argmax(-1) if place < machine.answer_length - 1 else self.numbers
    return answers(self, due, *rest)


def in_turn(self, due, target):
    """Slips at the next register."""
    return state(self, due, (target + 1) % self.machine.registers)


def to_others(self, due, target):
    """Slips only to other numbers."""
    said = state(self, due, target)
    rows = torch.arange(len(due))
    said[rows, target, self.numbers + due[rows, target]] = 1 - self.slip
    return said


answers, state = Tracer._answers, Tracer._state


@pytest.mark.parametrize(
    "mutation", ["forgetful", "in turn", "to others", "no one more", "swapped", "left padding"]
)
def test_the_enumeration_catches_a_wrong_oracle(monkeypatch, mutation):
    """Mutations: the answer written is not read, another slip, another product, a - b for b - a, padding as a token."""
    outcome, call = Machine.outcome, Tracer.__call__
    changes = {
        "forgetful": (Tracer, "_answers", forgetful),
        "in turn": (Tracer, "_state", in_turn),
        "to others": (Tracer, "_state", to_others),
        "no one more": (
            Machine,
            "outcome",
            lambda self, sign, a, b: a * b % self.modulus if sign == "*" else outcome(self, sign, a, b),
        ),
        "swapped": (Machine, "outcome", lambda self, sign, a, b: outcome(self, sign, b, a)),
        "left padding": (Tracer, "__call__", lambda self, ids, mask: call(self, ids, torch.ones_like(mask))),
    }
    monkeypatch.setattr(*changes[mutation])
    assert not all(agrees(MACHINES[0], Fraction(3, 10), random.Random(seed)) for seed in range(3))


def test_a_rollout_says_what_is_said_at_once_and_slips_as_often_as_it_should():
    task = Trace(**SMALL)
    oracle = Oracle(task.oracle(slip=0.5, uniform=0.0), task.own)
    problems = task.references("test")
    prompts = task.own([problem.prompt for problem in problems] * 20)["input_ids"]
    generator = torch.Generator().manual_seed(1)
    made = rollout(oracle, prompts, max_new_tokens=14, eos_ids=[2], pad_id=0, generator=generator)
    ids = torch.cat([made.prompt_ids, made.completion_ids], 1)
    mask = torch.cat([made.prompt_mask, made.completion_mask], 1)
    whole = oracle(input_ids=ids, attention_mask=mask).logits.exp()
    behind = whole[:, task.machine.prompt_length - 1 : -1]
    assert torch.all(behind.gather(2, made.completion_ids[..., None])[made.completion_mask.bool()] > 0.05)
    said = [row[:-1].tolist() for row in made.completion_ids]
    assert {len(row) for row in said} == {12}
    slips = [
        words[place] != by_hand(problem.prompt, 5, words[:place])[0][place]
        for problem, row in zip(problems * 20, said, strict=True)
        for words in [problem.said(row)]
        for place in by_hand(problem.prompt, 5)[1]
    ]
    assert sum(slips) / len(slips) == pytest.approx(
        0.5 * 4 / 5, abs=0.03
    )  # 3,200 of them: three standard errors


def test_the_oracle_is_right_and_rows_are_what_they_say():
    task = Trace(**SMALL)
    counts = {"train": 20, "more": 40, "validation": 20, "test": 40, "drafts": 60}
    programs, slips = {}, 0
    for name, count in counts.items():
        rows = task.rows(name)
        assert len(rows) == count
        programs[name] = [renamed(prompt) for prompt in rows["prompt"]]
        for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True):
            said = completion.split()
            going_on, changed = by_hand(prompt, 5, said)
            assert len(said) == 12 and going_on == said
            if name != "drafts":
                assert said == by_hand(prompt, 5)[0]
                continue
            own = [by_hand(prompt, 5, said[:place])[0][place] != said[place] for place in range(12)]
            assert not any(own[place] for place in range(12) if place not in changed)
            slips += sum(own)
    assert slips / 240 == pytest.approx(0.3 * 4 / 5, abs=0.08)
    held = {*programs["test"], *programs["validation"]}
    assert len(held) == 60 and not held & {*programs["more"], *programs["drafts"]}
    assert programs["more"][:20] == programs["train"] and len({*programs["more"]}) == 40
    problems, right = task.references("test"), task.own(list(task.rows("test")["completion"]))["input_ids"]
    for score in ("exact_match", "result_match"):
        assert task.scores[score].function(right, problems).tolist() == [100.0] * 40
        assert task.scores[score].function([row[:-1] for row in right], problems).tolist() == [0.0] * 40
    astray = [
        [*row[:2], 10 + (row[2] - 9) % 5, *row[3:]] for row in right
    ]  # another number in the first state
    assert task.scores["exact_match"].function(astray, problems).tolist() == [0.0] * 40
    assert task.scores["result_match"].function(astray, problems).tolist() == [100.0] * 40


def renamed(prompt):
    """The instructions of a prompt's text, registers called by the order in which they come."""
    words, names = [word for word in prompt.split()[:-1] if not word.isdigit()], {}
    return " ".join(str(names.setdefault(word, len(names))) if word.isalpha() else word for word in words)


def test_a_program_by_other_names_is_the_same_program():
    other = Program(
        EXAMPLE.machine, (1, 1, 1), tuple(Instruction(*x) for x in [("+", 2, 0), ("*", 1, 2), ("-", 0, 1)])
    )
    assert shape(other) == shape(EXAMPLE)
    assert renamed(other.prompt) == renamed(EXAMPLE.prompt)
    changed = Program(EXAMPLE.machine, (1, 1, 1), (*other.steps[:2], Instruction("-", 0, 2)))
    assert shape(changed) != shape(EXAMPLE)


def test_how_often_demonstrations_hold_each_step():
    task = Trace(**SMALL)
    counts = Counter()
    for prompt in task.rows("train")["prompt"]:
        words = prompt.split()
        registers = dict(zip("abc", words[:3], strict=True))
        answer = by_hand(prompt, 5)[0]
        for n in range(4):
            sign, target, source = words[3 + 3 * n : 6 + 3 * n]
            counts[sign, target, source, registers[target], registers[source]] += 1
            registers = dict(zip("abc", answer[3 * n : 3 * n + 3], strict=True))
    found = task.step_counts()
    assert len(found) == 18 * 25 and sum(found) == 80 == sum(counts.values())
    assert sorted(found)[-len(counts) :] == sorted(counts.values())


def test_rows_are_the_same_every_time_and_another_draw_is_another_task():
    one, same, other = Trace(**SMALL), Trace(**SMALL), Trace(**SMALL, draw=1)
    assert one.revision == same.revision != other.revision != Trace(**SMALL, slips=0.2).revision
    for name in ("more", "drafts"):
        assert one.rows(name).to_dict() == same.rows(name).to_dict() != other.rows(name).to_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"registers": 1}, "not 1, 5 and 4"),
        ({"registers": 7}, "2 to 6 registers"),
        ({"modulus": 1}, "numbers modulo 2 or more"),
        ({"instructions": 0}, "one instruction or more"),
        ({"tokens": 12}, "take 13 tokens, more than 12"),
        ({"slips": 1.2}, "`slips` is a share from 0 to 1, not 1.2"),
        ({"instructions": 2}, "100 different programs are wanted"),
    ],
)
def test_what_is_no_task_is_refused(settings, message):
    with pytest.raises(KDError, match=message):
        Trace(**(SMALL | settings))


def test_what_is_no_oracle_or_no_problem_is_refused():
    with pytest.raises(KDError, match="slip from 0 to 1"):
        Trace(**SMALL).oracle(slip=2)
    with pytest.raises(KDError, match="rows called drafts are no problems"):
        Trace(**SMALL).references("drafts")


def test_the_testbeds_data_stay_and_hold_nearly_every_step_ten_times():
    testbed = load_testbed("trace")
    assert testbed.revision == "4ee42cab95ac8472"
    assert [len(testbed.rows(name)) for name in ("train", "more", "validation", "test")] == [
        6000,
        12000,
        300,
        700,
    ]
    counts = testbed.task.step_counts()
    assert len(counts) == 18 * 13**2 and min(counts) == 4
    assert sum(count >= 10 for count in counts) / len(counts) == pytest.approx(0.9931, abs=1e-4)
