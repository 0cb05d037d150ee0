"""How a solution is written, and what it comes to: nothing is evaluated but by these few lines.

| 3 7 2 5 > 25 |  ->  7 3 + 10 2 * 20 5 + 25     (7 + 3) * 2 + 5, `shown`: every result is written behind its sign
                      7 3 + 2 * 5 +              the same, results kept silent

Numbers go on a stack, a sign takes two from it and puts what they come to back. What comes to less than 0 or more than
`largest` is not possible. A solution uses every number once and leaves the target, alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from reproductions.tasks.words import BOS, EOS, PAD, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ASKED, TARGET = "|", ">"
SIGNS = ("+", "-", "*")
COMMUTES = ("+", "*")


def vocabulary(largest: int) -> list[str]:
    """All tokens, in the order of their ids."""
    return [PAD, BOS, EOS, ASKED, TARGET, *SIGNS, *map(str, range(largest + 1))]


def make_tokenizer(largest: int, tokens: int) -> PreTrainedTokenizerFast:
    """A token a word."""
    return word_tokenizer(vocabulary(largest), tokens)


def answer_length(numbers: int, shown: bool) -> int:
    """Tokens of a solution with its EOS."""
    return numbers + (2 if shown else 1) * (numbers - 1) + 1


@dataclass(frozen=True)
class Rules:
    """What all problems of a task have in common."""

    largest: int = 60
    shown: bool = True

    def apply(self, sign: str, one: int, other: int) -> int | None:
        """What two numbers come to; None where that is not possible."""
        found = one + other if sign == "+" else one - other if sign == "-" else one * other
        return found if 0 <= found <= self.largest else None


class State(NamedTuple):
    """Behind some words: the stack, the numbers that are left in order, and a result that is to be written now."""

    stack: tuple[int, ...]
    left: tuple[int, ...]
    due: int | None = None

    @property
    def over(self) -> bool:
        """Whether one number stands there, and all are used."""
        return self.due is None and not self.left and len(self.stack) == 1


def steps(rules: Rules, state: State) -> Iterator[tuple[str, State]]:
    """Every word that is possible now, with the state behind it; EOS is none of them."""
    if state.due is not None:
        yield str(state.due), State((*state.stack, state.due), state.left)
        return
    for place, number in enumerate(state.left):
        if place == 0 or state.left[place - 1] != number:
            yield str(number), State((*state.stack, number), (*state.left[:place], *state.left[place + 1 :]))
    if len(state.stack) < 2:
        return
    below, one, other = state.stack[:-2], *state.stack[-2:]
    for sign in SIGNS:
        found = rules.apply(sign, one, other)
        if found is not None:
            yield sign, State(below, state.left, found) if rules.shown else State((*below, found), state.left)


def behind(rules: Rules, state: State, word: str) -> State | None:
    """The state behind a word; None where it is not possible."""
    return next((found for said, found in steps(rules, state) if said == word), None)


@dataclass(frozen=True)
class Challenge:
    """`numbers` in the order in which they are asked. An answer of `tokens` or more without EOS did not end in time."""

    rules: Rules
    numbers: tuple[int, ...]
    target: int
    tokens: int = 0

    @property
    def prompt(self) -> str:
        """As a model is asked."""
        return f"{' '.join(map(str, self.numbers))} {TARGET} {self.target} {ASKED}"

    @property
    def start(self) -> State:
        """Before the first word."""
        return State((), tuple(sorted(self.numbers)))


@dataclass(frozen=True)
class Ending:
    """How an answer ended: "right"; "false-end" (it comes to another number); "broken-off" (numbers are left, or stand
    there uncombined); "illegal" (a word that is not possible: a number that is not there, a sign without two numbers, a
    result that is not its own) or "unfinished" (the limit came first). `extra` is 0: right answers are of one length.
    """

    kind: str
    extra: int = 0


def judge(problem: Challenge, words: Sequence[str], finished: bool) -> Ending:
    """What an answer without EOS came to; the first word that is not possible decides."""
    state = problem.start
    for word in words:
        found = behind(problem.rules, state, word)
        if found is None:
            return Ending("illegal")
        state = found
    if not finished:
        return Ending("unfinished")
    if not state.over:
        return Ending("broken-off")
    return Ending("right" if state.stack[0] == problem.target else "false-end")


def meaning(rules: Rules, words: Sequence[str]) -> str:
    """A right answer as a term in which it does not matter what stands first of two that are added or multiplied."""
    stack, shows = list[str](), False
    for word in words:
        if shows:
            shows = False
        elif word in SIGNS:
            other, one = stack.pop(), stack.pop()
            one, other = sorted((one, other)) if word in COMMUTES else (one, other)
            stack.append(f"({one}{word}{other})")
            shows = rules.shown
        else:
            stack.append(word)
    return " ".join(stack)


def retold(rules: Rules, words: Sequence[str], source: random.Random) -> list[str]:
    """An answer in other words: of each two that are added or multiplied one comes first by chance."""
    stack, shows = list[list[str]](), False
    for word in words:
        if shows:
            stack[-1].append(word)
            shows = False
        elif word in SIGNS:
            other, one = stack.pop(), stack.pop()
            one, other = (other, one) if word in COMMUTES and source.random() < 0.5 else (one, other)
            stack.append([*one, *other, word])
            shows = rules.shown
        else:
            stack.append([word])
    return [word for part in stack for word in part]


def read_prompt(words: Sequence[str]) -> tuple[tuple[int, ...], int] | None:
    """Numbers and target of a prompt's words; None where it is no prompt."""
    if len(words) < 4 or words[-1] != ASKED or words[-3] != TARGET:
        return None
    given = [*words[:-3], words[-2]]
    if not all(word.isdigit() for word in given):
        return None
    return tuple(map(int, given[:-1])), int(given[-1])
