"""The task `trace`: rows, what is held out, and the exact score of all states of a program.

A right answer is a chain of states, each of which follows from the one before, so errors compound. They stay: nothing
written can be taken back, and who goes on from a wrong state goes on wrongly, however well. An answer is right if all
of its states are. And there are only so many different steps, a sign and two numbers: a few thousand demonstrations
hold nearly all of them, many times. So what a student meets behind its own errors is nothing new, and nothing that
it learns there mends an answer. Where that is so, learning on policy should bring no more than demonstrations do: the
task is the negative control of `navigate`, `scratchpad` and `countdown`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import permutations, product
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.tasks.base import Limits, Score, Task, dataset, different, fingerprint, task
from reproductions.tasks.trace.language import (
    NAMES,
    SIGNS,
    Ending,
    Instruction,
    Machine,
    Program,
    judge,
    last_state,
    make_tokenizer,
    vocabulary,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from reproductions.models.oracle import Says

VERSION = "1"  # another one makes another task: results of before and after do not compare
Step = tuple[Instruction, int, int]


class Problem(Program):
    """A program that reads token ids."""

    def ending(self, ids: Sequence[int]) -> Ending:
        """How an answer (ids without EOS) ended."""
        return judge(self, self.said(ids), len(ids) < self.tokens)

    def said(self, ids: Sequence[int]) -> list[str]:
        """Token ids of the task's own tokenizer as words."""
        known = vocabulary(self.machine)
        return [known[one] for one in ids]


def percent_right(said: Sequence[Sequence[int]], problems: Sequence[Problem]) -> np.ndarray:
    """100 where every state is right, else 0."""
    right = [problem.ending(ids).kind == "right" for ids, problem in zip(said, problems, strict=True)]
    return 100.0 * np.array(right)


def percent_results(said: Sequence[Sequence[int]], problems: Sequence[Problem]) -> np.ndarray:
    """100 where the last state is right, whatever those before it are, else 0."""
    right = [
        last_state(problem.machine, problem.said(ids)) == tuple(problem.words[-problem.machine.registers :])
        for ids, problem in zip(said, problems, strict=True)
    ]
    return 100.0 * np.array(right)


@task("trace")
class Trace(Task):
    """Registers and a program -> the registers behind each instruction.

    Dials: how many `registers` (2 to 6), numbers below `modulus`, `instructions` of a program; `demonstrations`
    training rows; `draw` of all of it. No program stands twice in the splits, whatever its first values are and however
    its registers are called, and none that is held out in other rows. Further rows: `more`, the demonstrations and as
    many again; `drafts`, as a base, in which the share `slips` of all results is any number, and what follows goes on
    from there.
    """

    scores: Mapping[str, Score] = {
        "exact_match": Score(percent_right, "right states throughout"),
        "result_match": Score(percent_results, "right last state"),
    }
    endings: Mapping[str, str] = {
        "false-step": "answers with an instruction that was not carried out right",
        "false-copy": "answers with a register that should have stayed as it was",
        "illegal": "answers with a word that is no number",
        "false-end": "answers that end too early or too late",
        "unfinished": "answers cut by the token limit",
    }

    def __init__(
        self,
        *,
        registers: int = 3,
        modulus: int = 8,
        instructions: int = 10,
        draw: int = 0,
        demonstrations: int = 4000,
        tokens: int = 32,
        drafts: int = 60_000,
        slips: float = 0.3,
        validation_problems: int = 300,
        test_problems: int = 700,
    ) -> None:
        if not 2 <= registers <= len(NAMES) or modulus < 2 or instructions < 1:
            raise KDError(
                f"trace: 2 to {len(NAMES)} registers, numbers modulo 2 or more, one instruction or more; "
                f"not {registers}, {modulus} and {instructions}"
            )
        self.machine = Machine(registers, modulus, instructions)
        if self.machine.answer_length > tokens:
            raise KDError(f"trace: answers take {self.machine.answer_length} tokens, more than {tokens}")
        if not 0 <= slips <= 1:
            raise KDError(f"trace: `slips` is a share from 0 to 1, not {slips}")
        self.draw, self.tokens, self.drafts, self.slips = draw, tokens, drafts, slips
        self.counts = {"train": demonstrations, "validation": validation_problems, "test": test_problems}
        self.own = make_tokenizer(self.machine, self.machine.prompt_length + tokens)
        self._problems = self._split()
        super().__init__(
            shelf="trace",
            limits=Limits(prompt=self.machine.prompt_length, completion=tokens),
            rows={
                **{split: partial(self._demonstrations, found) for split, found in self._problems.items()},
                "drafts": self._drafts,
            },
            revision=self._hash,
            tokenizer=self.own,
        )

    def _source(self, what: str) -> random.Random:
        return random.Random(f"{VERSION}:{self.draw}:{what}")

    def _drawn(self, source: random.Random) -> Problem:
        """First values, signs and registers, each as likely."""
        machine = self.machine
        values = tuple(source.randrange(machine.modulus) for _ in range(machine.registers))
        steps = tuple(
            Instruction(source.choice(SIGNS), *source.sample(range(machine.registers), 2))
            for _ in range(machine.instructions)
        )
        return Problem(machine, values, steps, self.tokens)

    def _split(self) -> dict[str, list[Problem]]:
        """Problems by split and for `more`. Raises KDError where there are too few."""
        source = self._source("programs")
        splits = different("trace: {} programs", lambda: self._drawn(source), shape, self.counts)
        self._held_out = frozenset(map(shape, (*splits["test"], *splits["validation"])))
        return splits

    def _demonstrations(self, problems: Sequence[Problem]) -> Dataset:
        return dataset(
            {
                "prompt": [problem.prompt for problem in problems],
                "completion": [_text(problem.words) for problem in problems],
            }
        )

    def _drafts(self) -> Dataset:
        source, columns = self._source("drafts"), dict[str, list[str]](prompt=[], completion=[])
        while len(columns["prompt"]) < self.drafts:
            problem = self._drawn(source)
            if shape(problem) not in self._held_out:
                columns["prompt"].append(problem.prompt)
                columns["completion"].append(_text(self._draft(problem, source)))
        return dataset(columns)

    def _draft(self, problem: Problem, source: random.Random) -> Iterable[str]:
        """The words of an answer with slips."""
        values = problem.values
        for step in problem.steps:
            values = self.machine.behind(step, values)
            if source.random() < self.slips:
                any_number = source.randrange(self.machine.modulus)
                values = (*values[: step.target], any_number, *values[step.target + 1 :])
            yield from map(str, values)

    def step_counts(self) -> list[int]:
        """Of an instruction and the two numbers that it works on, how often demonstrations hold each that can be."""
        found = Counter(step for problem in self._problems["train"] for step in steps_of(problem))
        registers, numbers = range(self.machine.registers), range(self.machine.modulus)
        return [
            found[Instruction(sign, *named), one, other]
            for sign in SIGNS
            for named in permutations(registers, 2)
            for one, other in product(numbers, repeat=2)
        ]

    def _hash(self) -> str:
        """Of the splits, and of how further rows are made."""
        splits = {
            name: [rows["prompt"][:], rows["completion"][:]]
            for name, rows in ((name, self.rows(name)) for name in ("train", "validation", "test"))
        }
        return fingerprint([splits, self.drafts, self.slips, VERSION], sort=True)

    def oracle(self, *, slip: float = 0.0, uniform: float = 0.001) -> Says:
        """A teacher that can calculate; see policy.Tracer. With `slip` 0.1 every tenth result is any number."""
        from reproductions.tasks.trace.policy import Tracer

        return Tracer(self.machine, slip=slip, uniform=uniform)

    def find_references(self, split: str) -> list[Problem]:
        """The problem of every row, which can tell a right answer."""
        if split in self._problems:
            return self._problems[split]
        raise KDError(f"trace: rows called {split} are no problems to be answered")

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        """Answers as token ids of the task's own tokenizer."""
        return list(ids) if tokenizer is self.own else self.own(super().said(ids, tokenizer))["input_ids"]


def shape(program: Program) -> tuple[Any, ...]:
    """The instructions, registers numbered in the order in which they are named first."""
    order = dict[int, int]()
    return tuple(
        (step.sign, *(order.setdefault(register, len(order)) for register in (step.target, step.source)))
        for step in program.steps
    )


def steps_of(program: Program) -> Iterable[Step]:
    """Each instruction with the two numbers that it works on."""
    for step, values in zip(program.steps, (program.values, *program.states), strict=False):
        yield step, values[step.target], values[step.source]


def _text(words: Iterable[str]) -> str:
    """A blank before each word."""
    return "".join(f" {word}" for word in words)
