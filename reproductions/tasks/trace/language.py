"""How a program is written, what a register machine makes of it, and how an answer to it ended.

3 5 1 + a b * c a - b c |  ->  0 5 1   0 5 6   0 7 6        three registers, numbers modulo 8

First the values of the registers a, b, c, then the instructions, each a sign and two registers: "+ a b" adds b to a,
"- b c" takes c from b, "* c a" makes of c its product with a, and one more. The answer is the registers behind each
instruction. With three registers a state is as long as an instruction, so that what is needed stands equally far away
at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from reproductions.tasks.words import BOS, EOS, PAD, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ASKED = "|"
SIGNS = ("+", "-", "*")
NAMES = "abcdef"  # of registers
Values = tuple[int, ...]  # of all registers


@dataclass(frozen=True)
class Machine:
    """What all programs of a task have in common: so many registers, numbers below `modulus`, instructions."""

    registers: int = 3
    modulus: int = 8
    instructions: int = 10

    @property
    def prompt_length(self) -> int:
        """Tokens of a prompt."""
        return self.registers + 3 * self.instructions + 1

    @property
    def answer_length(self) -> int:
        """Tokens of an answer, with its EOS."""
        return self.registers * self.instructions + 1

    def outcome(self, sign: str, one: int, other: int) -> int:
        """What an instruction makes of its first register."""
        if sign == "+":
            return (one + other) % self.modulus
        return (one - other if sign == "-" else one * other + 1) % self.modulus

    def behind(self, step: Instruction, values: Sequence[int]) -> Values:
        """The registers behind an instruction."""
        return tuple(
            self.outcome(step.sign, value, values[step.source]) if place == step.target else value
            for place, value in enumerate(values)
        )


@dataclass(frozen=True)
class Instruction:
    """What is done, to which register, and with which other one."""

    sign: str
    target: int
    source: int

    def __str__(self) -> str:
        return f"{self.sign} {NAMES[self.target]} {NAMES[self.source]}"


def vocabulary(machine: Machine) -> list[str]:
    """All tokens, in the order of their ids."""
    names = NAMES[: machine.registers]
    return [PAD, BOS, EOS, ASKED, *SIGNS, *names, *map(str, range(machine.modulus))]


def make_tokenizer(machine: Machine, tokens: int) -> PreTrainedTokenizerFast:
    """A token a word."""
    return word_tokenizer(vocabulary(machine), tokens)


@dataclass(frozen=True)
class Program:
    """First values and instructions. An answer of `tokens` or more without EOS did not end in time."""

    machine: Machine
    values: Values
    steps: tuple[Instruction, ...]
    tokens: int = 0

    @property
    def prompt(self) -> str:
        """As a model is asked."""
        return " ".join([*map(str, self.values), *map(str, self.steps), ASKED])

    @cached_property
    def states(self) -> tuple[Values, ...]:
        """The registers behind each instruction."""
        found, values = list[Values](), self.values
        for step in self.steps:
            values = self.machine.behind(step, values)
            found.append(values)
        return tuple(found)

    @property
    def words(self) -> list[str]:
        """The answer."""
        return [str(value) for state in self.states for value in state]


@dataclass(frozen=True)
class Ending:
    """How an answer ended: "right"; by its first wrong word "illegal" (no number), "false-step" (of the register that
    an instruction changes) or "false-copy" (of another one); "false-end" (right so far, and then too short or too
    long); "unfinished" (the limit came first). `extra` is 0: no right answer is longer than another.
    """

    kind: str
    extra: int = 0


def judge(program: Program, words: Sequence[str], finished: bool) -> Ending:
    """What an answer without EOS came to: all states, exactly."""
    right, registers = program.words, program.machine.registers
    for place, (said, due) in enumerate(zip(words, right, strict=False)):
        if said != due:
            if not said.isdigit():
                return Ending("illegal")
            step, register = divmod(place, registers)
            return Ending("false-step" if program.steps[step].target == register else "false-copy")
    if not finished:
        return Ending("unfinished")
    return Ending("right" if len(words) == len(right) else "false-end")


def last_state(machine: Machine, words: Sequence[str]) -> tuple[str, ...]:
    """The words of the state behind the last instruction, () where an answer is too short or too long."""
    return tuple(words[-machine.registers :]) if len(words) == machine.answer_length - 1 else ()
