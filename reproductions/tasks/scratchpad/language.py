"""How a calculation is written, what of it stands when something was struck out, and what it came to.

| + a 7 5 b 4 8 |  ->  a 7 5 2 1   b 4 8 3 1   =   1 3 2        47 + 85 = 132, redundancy 2
| x 6 a 7 b 4 |    ->  a 7 6 2 4   b 4 6 8 2   =   2 8 2        47 x 6 = 282

Columns are named a, b, ... from the ones on. A step is the column's name, its two digits, the digit that comes out and
what is carried; the result stands behind "=", its highest digit first, one digit more than there are columns. So every
segment, a step or the result, has a known length and needs no sign at its end.

"!" strikes out: what is begun of a segment, or, where nothing is begun, the last whole one. What is left counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from reproductions.tasks.words import BOS, EOS, PAD, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ASKED, RESULT, STRIKE = "|", "=", "!"
SIGNS = {"add": "+", "multiply": "x"}
COLUMNS = "abcdefghijkl"
# What a step holds beside its column and the digit that comes out, by redundancy.
REDUNDANCIES = range(4)
COPIED, WORKED = "copied", "worked"  # tokens that are read off, and those that are calculated


def vocabulary(base: int) -> list[str]:
    """All tokens, in the order of their ids."""
    return [PAD, BOS, EOS, ASKED, RESULT, STRIKE, *SIGNS.values(), *COLUMNS, *map(str, range(base))]


def make_tokenizer(base: int, tokens: int) -> PreTrainedTokenizerFast:
    """A token a word."""
    return word_tokenizer(vocabulary(base), tokens)


def prompt_length(operation: str, columns: int) -> int:
    """Tokens of a prompt."""
    return 2 + (3 * columns if operation == "add" else 2 * columns + 1)


def answer_length(redundancy: int, columns: int) -> int:
    """Tokens of an answer without strikes, with its EOS."""
    return columns * step_length(redundancy) + columns + 3


def step_length(redundancy: int) -> int:
    """Tokens of a step: name and digit, then also what is carried, the two digits, what was carried before."""
    return (2, 3, 5, 6)[redundancy]


@dataclass(frozen=True)
class Form:
    """What all problems of a task have in common."""

    operation: str = "add"
    base: int = 10
    redundancy: int = 2

    def work(self, one: int, other: int, carried: int) -> tuple[int, int]:
        """The digit that comes out of a column, and what is carried."""
        value = (one + other if self.operation == "add" else one * other) + carried
        return value % self.base, value // self.base

    @property
    def carries(self) -> int:
        """So many numbers may be carried, 0 among them."""
        return 2 if self.operation == "add" else self.base - 1


@dataclass(frozen=True)
class Calculation:
    """`columns`: the two digits of each, from the ones on; of a product the second is the factor everywhere.

    An answer of `tokens` or more without EOS did not end in time.
    """

    form: Form
    columns: tuple[tuple[int, int], ...]
    tokens: int = 0

    @property
    def prompt(self) -> str:
        """As a model is asked."""
        sign, add = SIGNS[self.form.operation], self.form.operation == "add"
        words = [sign] if add else [sign, str(self.columns[0][1])]
        for name, (one, other) in zip(COLUMNS, self.columns, strict=False):
            words += [name, str(one), str(other)] if add else [name, str(one)]
        return " ".join([*words, ASKED])

    @cached_property
    def segments(self) -> tuple[tuple[str, ...], ...]:
        """The steps and the result, as words, if all is right."""
        steps, digits, carried = list[tuple[str, ...]](), list[str](), 0
        for name, (one, other) in zip(COLUMNS, self.columns, strict=False):
            digit, then = self.form.work(one, other, carried)
            steps.append(self.step(name, one, other, carried, digit, then))
            digits.append(str(digit))
            carried = then
        return (*steps, self.result([*digits, str(carried)]))

    def step(self, name: str, one: int, other: int, carried: int, digit: int, then: int) -> tuple[str, ...]:
        """The words of a step."""
        whole = (name, str(one), str(other), str(carried), str(digit), str(then))
        kept = ((0, 4), (0, 4, 5), (0, 1, 2, 4, 5), (0, 1, 2, 3, 4, 5))[self.form.redundancy]
        return tuple(whole[place] for place in kept)

    @staticmethod
    def result(digits: Sequence[str]) -> tuple[str, ...]:
        """The words of a result, from its digits, the ones first."""
        return (RESULT, *reversed(digits))

    def size(self, segment: int) -> int:
        """Words of a segment; beyond the result every word is one of its own, and wrong."""
        if segment < len(self.columns):
            return step_length(self.form.redundancy)
        return len(self.columns) + 2 if segment == len(self.columns) else 1

    def kind(self, segment: int, place: int) -> str:
        """Whether a word is copied or worked out; one beyond the result is neither, and so copied."""
        if segment >= len(self.columns):
            return COPIED
        return WORKED if place >= (1, 1, 3, 4)[self.form.redundancy] else COPIED


class Page:
    """What stands of an answer, read word by word."""

    def __init__(self, problem: Calculation) -> None:
        self.problem = problem
        self.whole: list[tuple[str, ...]] = []
        self.begun: list[str] = []
        self.right: list[bool] = []  # of `whole`

    def read(self, word: str) -> None:
        """One more word."""
        if word != STRIKE:
            self.begun.append(word)
            if len(self.begun) == self.problem.size(len(self.whole)):
                self.right.append(self._is_right())
                self.whole.append(tuple(self.begun))
                self.begun = []
        elif self.begun:
            self.begun = []
        elif self.whole:
            self.whole.pop()
            self.right.pop()

    def copy(self) -> Page:
        """Another one that says the same."""
        other = Page(self.problem)
        other.whole, other.begun, other.right = [*self.whole], [*self.begun], [*self.right]
        return other

    def _is_right(self) -> bool:
        segments, number = self.problem.segments, len(self.whole)
        return number < len(segments) and segments[number][: len(self.begun)] == tuple(self.begun)

    @property
    def faultless(self) -> bool:
        """Whether nothing that stands is wrong."""
        return all(self.right) and (not self.begun or self._is_right())

    @property
    def complete(self) -> bool:
        """Whether steps and result are there, and nothing else."""
        return len(self.whole) == len(self.problem.segments) and not self.begun


@dataclass(frozen=True)
class Ending:
    """How an answer ended: "right"; "false-copy" or "false-sum", by the first wrong word of the first wrong step that
    stands; "false-result" (behind right steps); "broken-off" (something is missing or too much); "unfinished" (the
    limit came first). `extra`: words of a right one beyond the least.
    """

    kind: str
    extra: int = 0


def judge(problem: Calculation, words: Sequence[str], finished: bool) -> Ending:
    """What an answer without EOS came to: steps and result, exactly."""
    page = Page(problem)
    for word in words:
        page.read(word)
    for number, (said, due) in enumerate(zip(page.whole, problem.segments, strict=False)):
        if said != due:
            place = next(n for n, (one, other) in enumerate(zip(said, due, strict=True)) if one != other)
            if number == len(problem.columns):
                return Ending("false-result")
            return Ending("false-sum" if problem.kind(number, place) == WORKED else "false-copy")
    if not finished:
        return Ending("unfinished")
    if not page.complete:
        return Ending("broken-off")
    return Ending("right", len(words) - sum(map(len, problem.segments)))


def result_of(problem: Calculation, words: Sequence[str]) -> tuple[str, ...]:
    """The digits of the result that stands, () where there is none, whatever the steps say."""
    page = Page(problem)
    for word in words:
        page.read(word)
    last = len(problem.columns)
    return page.whole[last][1:] if len(page.whole) > last and page.whole[last][0] == RESULT else ()


def read_prompt(form: Form, words: Sequence[str]) -> Calculation | None:
    """The problem of a prompt's words; None where they are none."""
    add = form.operation == "add"
    if not words or words[0] != SIGNS[form.operation] or words[-1] != ASKED:
        return None
    inner = list(words[1:-1])
    factor = [] if add else inner[:1]
    rest = inner if add else inner[1:]
    width = 3 if add else 2
    parts = [rest[n : n + width] for n in range(0, len(rest), width)]
    named = [part[0] for part in parts]
    if not parts or len(parts[-1]) != width or named != list(COLUMNS[: len(parts)]):
        return None
    digits = [[*part[1:], *factor] for part in parts]
    if any(not word.isdigit() for pair in digits for word in pair):
        return None
    return Calculation(form, tuple((int(one), int(other)) for one, other in digits))
