"""The task `scratchpad`: rows, what is held out, and the exact score of steps and result.

A right answer is a chain of 21 to 39 tokens in which what is carried from a step decides the next, so errors compound.
They can be repaired: "!" strikes out what is wrong, and a teacher that can calculate says so wherever one has erred.
Demonstrations hold no error and no "!", and they are few on purpose: not every combination of digits is in them.

Students begin from a base that was trained on drafts: a share of all columns, two digits and what is carried into them,
comes out right there, the others as chance has it, and some are struck out. It knows the form, copies digits of the
prompt and of the page, and knows a part of the table by heart. The rest is for the demonstrations to teach.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.tasks.base import Limits, Score, Task, dataset, different, fingerprint, task
from reproductions.tasks.scratchpad.language import (
    COLUMNS,
    EOS,
    REDUNDANCIES,
    SIGNS,
    STRIKE,
    WORKED,
    Calculation,
    Ending,
    Form,
    Page,
    answer_length,
    judge,
    make_tokenizer,
    prompt_length,
    result_of,
    vocabulary,
)
from reproductions.tasks.scratchpad.policy import Scribe, due

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from reproductions.models.oracle import Says

VERSION = "1"  # another one makes another task: results of before and after do not compare
STRUCK = 0.05  # the chance that a segment of a draft is struck out when begun, and that when whole
LONGEST_BEGINNING = 40  # words in the prompts of `corrections`


class Problem(Calculation):
    """A calculation that reads token ids."""

    def ending(self, ids: Sequence[int]) -> Ending:
        """How an answer (ids without EOS) ended."""
        return judge(self, self.words(ids), len(ids) < self.tokens)

    def words(self, ids: Sequence[int]) -> list[str]:
        """Token ids of the task's own tokenizer as words."""
        known = vocabulary(self.form.base)
        return [known[one] for one in ids]


def percent_right(said: Sequence[Sequence[int]], problems: Sequence[Problem]) -> np.ndarray:
    """100 where every step that stands is right, and the result, else 0."""
    right = [problem.ending(ids).kind == "right" for ids, problem in zip(said, problems, strict=True)]
    return 100.0 * np.array(right)


def percent_results(said: Sequence[Sequence[int]], problems: Sequence[Problem]) -> np.ndarray:
    """100 where the result that stands is right, whatever the steps are, else 0."""
    right = [
        result_of(problem, problem.words(ids)) == problem.segments[-1][1:]
        for ids, problem in zip(said, problems, strict=True)
    ]
    return 100.0 * np.array(right)


@task("scratchpad")
class Scratchpad(Task):
    """A sum or a product, column by column. `completion` of a row is the answer without error.

    Dials: `operation` ("add" or "multiply": by one digit), `base` of the numbers; from `fewest` to `most` columns, each
    count as often; `redundancy`, what a step repeats (language.py); `demonstrations` training rows; `tokens` of an
    answer with its EOS at most, in training and when measured; `draw` of all numbers. No two rows of the splits have
    the same numbers, whichever comes first. Further rows: `more`, the demonstrations and as many again; `drafts`, as a
    base, in which the share `known` of all columns comes out right and the others at random; `corrections`, prompts
    that hold the beginning of an answer, with errors and strikes, answered by the rest of the way to a right one: for a
    teacher that shall know what to do wherever it is.
    """

    scores: Mapping[str, Score] = {
        "exact_match": Score(percent_right, "right steps and result"),
        "result_match": Score(percent_results, "right result"),
    }
    endings: Mapping[str, str] = {
        "false-copy": "answers with a digit that was not copied right",
        "false-sum": "answers with a step that was not worked out right",
        "false-result": "answers with right steps and a wrong result",
        "broken-off": "answers that lack something or have too much",
        "unfinished": "answers cut by the token limit",
    }
    teacher_rows = "corrections"

    def __init__(
        self,
        *,
        operation: str = "multiply",
        base: int = 10,
        fewest: int = 3,
        most: int = 6,
        redundancy: int = 2,
        draw: int = 0,
        demonstrations: int = 200,
        tokens: int = 48,
        known: float = 0.6,
        drafts: int = 40_000,
        corrections: int = 40_000,
        validation_problems: int = 300,
        test_problems: int = 700,
    ) -> None:
        if operation not in SIGNS:
            raise KDError(f'a calculation can {", ".join(SIGNS)}, not "{operation}"')
        if redundancy not in REDUNDANCIES or not 2 <= base <= 36 or not 1 <= fewest <= most <= len(COLUMNS):
            raise KDError(
                f"scratchpad: redundancy is 0 to {REDUNDANCIES[-1]}, base 2 to 36, columns 1 to {len(COLUMNS)}, "
                f"not {redundancy}, {base} and {fewest} to {most}"
            )
        if answer_length(redundancy, most) > tokens:
            raise KDError(
                f"scratchpad: {most} columns take {answer_length(redundancy, most)} tokens, more than {tokens}"
            )
        self.form = Form(operation, base, redundancy)
        self.lengths, self.draw, self.tokens = range(fewest, most + 1), draw, tokens
        self.counts = {"train": demonstrations, "validation": validation_problems, "test": test_problems}
        self.drafts, self.corrections = drafts, corrections
        self.facts = self._known(known)
        asked = prompt_length(operation, most)
        self.own = make_tokenizer(base, asked + tokens)
        self._problems = self._split()
        super().__init__(
            shelf="scratchpad",
            limits=Limits(prompt=asked, completion=tokens),
            rows={
                **{split: partial(self._demonstrations, found) for split, found in self._problems.items()},
                "drafts": self._drafts,
                "corrections": self._corrections,
            },
            revision=self._hash,
            tokenizer=self.own,
        )

    def _source(self, what: str) -> random.Random:
        return random.Random(f"{VERSION}:{self.draw}:{what}")

    def _known(self, share: float) -> frozenset[tuple[int, int, int]]:
        """A share of all columns, two digits and what is carried into them."""
        digits, carries = range(self.form.base), range(self.form.carries)
        every = [(one, other, carried) for one in digits for other in digits for carried in carries]
        return frozenset(self._source("known").sample(every, round(share * len(every))))

    def _drawn(self, source: random.Random) -> Problem:
        """Numbers without a leading zero, of one length; a factor is 2 or more."""
        length, digits = source.choice(self.lengths), range(self.form.base)

        def number() -> list[int]:
            return [*(source.choice(digits) for _ in range(length - 1)), source.choice(digits[1:])]

        one = number()
        other = (
            number()
            if self.form.operation == "add"
            else [source.choice(digits[-max(1, len(digits) - 2) :])] * length
        )
        return Problem(self.form, tuple(zip(one, other, strict=True)), self.tokens)

    def _split(self) -> dict[str, list[Problem]]:
        """Problems by split and for `more`. Raises KDError where there are too few."""
        source = self._source("problems")
        splits = different("scratchpad: {} problems", lambda: self._drawn(source), _numbers, self.counts)
        self._held_out = frozenset(map(_numbers, (*splits["test"], *splits["validation"])))
        return splits

    def _demonstrations(self, problems: Sequence[Problem]) -> Dataset:
        return dataset(
            {
                "prompt": [problem.prompt for problem in problems],
                "completion": [
                    _text(word for part in problem.segments for word in part) for problem in problems
                ],
            }
        )

    def _elsewhere(self, source: random.Random) -> Problem:
        """A problem that is not held out."""
        while _numbers(problem := self._drawn(source)) in self._held_out:
            pass
        return problem

    def _drafts(self) -> Dataset:
        source, columns = self._source("drafts"), _columns()
        while len(columns["prompt"]) < self.drafts:
            problem = self._elsewhere(source)
            words = self._draft(problem, source)
            if len(words) < self.tokens:
                columns["prompt"].append(problem.prompt)
                columns["completion"].append(_text(words))
        return dataset(columns)

    def _draft(self, problem: Problem, source: random.Random) -> list[str]:
        """An answer whose outcomes are drawn where they are not known, with segments struck out."""
        words, stands, carried, digits = list[str](), list[tuple[str, int]](), 0, range(self.form.base)
        while len(stands) <= len(problem.columns):
            number = len(stands)
            carried = stands[-1][1] if stands else 0
            if number == len(problem.columns):
                segment = problem.result([*(digit for digit, _ in stands), str(carried)])
            else:
                column = (*problem.columns[number], carried)
                digit, then = self.form.work(*column)
                if column not in self.facts:
                    digit, then = source.choice(digits), source.randrange(self.form.carries)
                segment = problem.step(COLUMNS[number], *problem.columns[number], carried, digit, then)
            chance = source.random()
            if chance < STRUCK:
                words += [*segment[: source.randrange(1, len(segment))], STRIKE]
            elif chance < 2 * STRUCK and stands:
                words.append(STRIKE)
                stands.pop()
            else:
                words += segment
                stands.append((str(digit), then))
        return words

    def _astray(self, page: Page, word: str, source: random.Random) -> str:
        """A digit that is worked out is any; another word is as it is due."""
        form, number, place = self.form, len(page.whole), len(page.begun)
        if word == EOS or page.problem.kind(number, place) != WORKED:
            return word
        carry = form.redundancy > 0 and place == page.problem.size(number) - 1
        return str(source.randrange(form.carries if carry else form.base))

    def _corrections(self) -> Dataset:
        source, columns = self._source("corrections"), _columns()
        while len(columns["prompt"]) < self.corrections:
            problem = self._elsewhere(source)
            page, begun = self._wandering(problem, source)
            rest = list[str]()
            while (word := due(page, repair=True)) != EOS:
                page.read(word)
                rest.append(word)
            if len(begun) + len(rest) < self.tokens:
                columns["prompt"].append(problem.prompt + _text(begun))
                columns["completion"].append(_text(rest))
        return dataset(columns)

    def _wandering(self, problem: Problem, source: random.Random) -> tuple[Page, list[str]]:
        """The beginning of an answer, with outcomes at random, a few words that are out of place, and strikes."""
        slip, blind, stray = source.random() * 0.5, source.random(), source.choice((0.0, 0.02, 0.1))
        page, begun = Page(problem), list[str]()
        for _ in range(source.randrange(LONGEST_BEGINNING + 1)):
            word = due(page, repair=True)
            if word == EOS:
                break
            if word == STRIKE and source.random() < blind:
                word = due(page, repair=False)
            elif word != STRIKE and source.random() < slip:
                word = self._astray(page, word, source)
            if source.random() < stray or word == EOS:
                word = source.choice(
                    [STRIKE, *COLUMNS[: len(problem.columns)], *map(str, range(self.form.base))]
                )
            page.read(word)
            begun.append(word)
        return page, begun

    def _hash(self) -> str:
        """Of the splits, of what is known, and of how further rows are made."""
        splits = {
            name: [rows["prompt"][:], rows["completion"][:]]
            for name, rows in ((name, self.rows(name)) for name in ("train", "validation", "test"))
        }
        return fingerprint(
            [splits, sorted(self.facts), self.drafts, self.corrections, STRUCK, LONGEST_BEGINNING, VERSION],
            sort=True,
        )

    def oracle(self, *, repair: bool = True, slip: float = 0.0, uniform: float = 0.001) -> Says:
        """A teacher that can calculate; see policy.Scribe. `repair: false` goes on from whatever is written."""
        return Scribe(self.form, repair=repair, slip=slip, uniform=uniform)

    def find_references(self, split: str) -> list[Problem]:
        """The problem of every row, which can tell a right answer."""
        if split in self._problems:
            return list(self._problems[split])
        raise KDError(f"scratchpad: rows called {split} are no problems to be answered")

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        """Answers as token ids of the task's own tokenizer."""
        return list(ids) if tokenizer is self.own else self.own(super().said(ids, tokenizer))["input_ids"]


def _numbers(problem: Calculation) -> frozenset[tuple[int, ...]]:
    """The two numbers, whichever comes first."""
    return frozenset(zip(*problem.columns, strict=True))


def _text(words: Any) -> str:
    """A blank before each word."""
    return "".join(f" {word}" for word in words)


def _columns() -> dict[str, list[str]]:
    return {"prompt": [], "completion": []}
