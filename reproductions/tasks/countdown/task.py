"""The task `countdown`: rows, what is held out, and the exact score of a solution.

A prompt has several solutions, often dozens, and a demonstration is one of them, drawn from all. Nothing in an answer
can be taken back: a step from which the target cannot be reached decides it. So several right answers, their number and
how many of them a model finds can be asked for, exactly. On that papers about rewards, diversity and pass@k rest.

Students begin from a base that was trained on scribbles: possible words at random, that use up the numbers and come to
anything but the target. It knows the rules, and nothing about the target.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.tasks.base import Limits, Score, Task, dataset, fingerprint, task
from reproductions.tasks.countdown.language import (
    ASKED,
    EOS,
    Challenge,
    Ending,
    Rules,
    State,
    answer_length,
    behind,
    judge,
    make_tokenizer,
    meaning,
    retold,
    steps,
    vocabulary,
)
from reproductions.tasks.countdown.policy import Reckoner, Solutions

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from reproductions.models.oracle import Says

VERSION = "1"  # another one makes another task: results of before and after do not compare
TARGETS = 6  # at most of one set of numbers
HELD_OUT = {"test": 0.3, "validation": 0.15}  # shares of the sets of numbers


class Problem(Challenge):
    """A challenge that reads token ids."""

    def ending(self, ids: Sequence[int]) -> Ending:
        """How an answer (ids without EOS) ended."""
        return judge(self, self.words(ids), len(ids) < self.tokens)

    def meaning(self, ids: Sequence[int]) -> str:
        """What a right answer says, the same for those that differ only in the order of what is added or multiplied."""
        return meaning(self.rules, self.words(ids))

    def words(self, ids: Sequence[int]) -> list[str]:
        """Token ids of the task's own tokenizer as words."""
        known = vocabulary(self.rules.largest)
        return [known[one] for one in ids]


def percent_solved(said: Sequence[Sequence[int]], problems: Sequence[Problem]) -> np.ndarray:
    """100 where every word is possible, all numbers are used and the target is reached, else 0."""
    right = [problem.ending(ids).kind == "right" for ids, problem in zip(said, problems, strict=True)]
    return 100.0 * np.array(right)


@task("countdown")
class Countdown(Task):
    """Numbers and a target -> one solution, drawn from all of them, each as likely.

    Dials: how many `numbers`, each from `least` to `most`; targets up to `largest_target`, values on the way up to
    `largest`; `shown`: results are written down (language.py); `solutions` at least and at most of a problem;
    `demonstrations` training rows; `draw` of all of it. A set of numbers is in one split only, in training rows of any
    kind, and has TARGETS targets at most there. Further rows: `more`, the demonstrations and as many again;
    `scribbles`, possible words at random, as a base; `retellings`, scribbles of which every second prompt shows an
    answer, told again in other words, so that a student learns to read what is shown and nothing about targets (the
    dial says how many; the set `told` of held-out problems shows a solution likewise); `corrections`, prompts that hold
    the beginning of an answer, more or less at random, answered by one of the best ways on: for a teacher that shall
    know what to do wherever it is.
    """

    scores: Mapping[str, Score] = {"exact_match": Score(percent_solved, "targets that are reached")}
    endings: Mapping[str, str] = {
        "false-end": "answers that come to another number",
        "broken-off": "answers that leave numbers",
        "illegal": "answers with a word that is not possible",
        "unfinished": "answers cut by the token limit",
    }
    teacher_rows = "corrections"
    set_titles: Mapping[str, str] = {"plain": "problems", "told": "problems with a solution shown"}

    def __init__(
        self,
        *,
        numbers: int = 4,
        least: int = 1,
        most: int = 12,
        largest: int = 60,
        largest_target: int = 40,
        shown: bool = True,
        solutions: Sequence[int] = (2, 200),
        draw: int = 0,
        demonstrations: int = 1000,
        tokens: int = 16,
        scribbles: int = 40_000,
        corrections: int = 40_000,
        retellings: int = 0,
        validation_problems: int = 300,
        test_problems: int = 700,
    ) -> None:
        if not 2 <= numbers <= 6 or not 0 <= least <= most <= largest or not largest_target <= largest:
            raise KDError(
                "countdown: 2 to 6 numbers from `least` to `most`, which is `largest` or less, as is the largest "
                f"target; not {numbers} from {least} to {most}, {largest_target} and {largest}"
            )
        if answer_length(numbers, shown) > tokens:
            raise KDError(
                f"countdown: answers take {answer_length(numbers, shown)} tokens, more than {tokens}"
            )
        if retellings and not scribbles:
            raise KDError("countdown: retellings are of scribbles, of which there are none")
        self.rules, self.tokens = Rules(largest, shown), tokens
        asked = (
            numbers + 3 + (answer_length(numbers, shown) if retellings else 0)
        )  # tokens of the longest prompt
        self.draw, self.shape = draw, (numbers, least, most, largest_target, tuple(solutions))
        self.counts = {"train": demonstrations, "validation": validation_problems, "test": test_problems}
        self.scribbles, self.corrections, self.retellings = scribbles, corrections, retellings
        self.own = make_tokenizer(largest, asked + tokens)
        self.known = Solutions(self.rules)
        self._problems = self._split()
        super().__init__(
            shelf="countdown",
            limits=Limits(prompt=asked, completion=tokens),
            rows={
                **{split: partial(self._demonstrations, found) for split, found in self._problems.items()},
                "scribbles": self._scribbles,
                "corrections": self._corrections,
                **({"retellings": self._retellings} if retellings else {}),
            },
            revision=self._hash,
            tokenizer=self.own,
        )

    def _source(self, what: str) -> random.Random:
        return random.Random(f"{VERSION}:{self.draw}:{what}")

    def _split(self) -> dict[str, list[Problem]]:
        """Problems by split and for `more`. Raises KDError where there are too few."""
        numbers, least, most, _, _ = self.shape
        sets = list(combinations_with_replacement(range(least, most + 1), numbers))
        self._source("sets").shuffle(sets)
        found, begin = dict[str, list[Problem]](), 0
        for split, share in HELD_OUT.items():
            end = begin + int(share * len(sets))
            found[split] = self._drawn(split, sets[begin:end], self.counts[split])
            begin = end
        self._free = sets[begin:]
        found["more"] = self._drawn("train", self._free, 2 * self.counts["train"])
        found["train"] = found["more"][: self.counts["train"]]
        return found

    def _drawn(self, split: str, sets: Sequence[tuple[int, ...]], wanted: int) -> list[Problem]:
        """So many problems on these sets, first one of each set, then a second one."""
        source, found = self._source(split), list[Problem]()
        used = set[tuple[tuple[int, ...], int]]()
        for given in [*sets] * TARGETS:
            if len(found) == wanted:
                break
            problem = self._problem(given, source)
            if problem is not None and (given, problem.target) not in used:
                used.add((given, problem.target))
                found.append(problem)
        if len(found) < wanted:
            raise KDError(f"countdown: {wanted} problems are wanted for {split}, and {len(found)} were found")
        return found

    def _problem(self, given: tuple[int, ...], source: random.Random) -> Problem | None:
        """A target that a random answer comes to, with as many solutions as are asked for; None where five have not."""
        _, _, _, largest_target, (fewest, most) = self.shape
        for _ in range(5):
            order = tuple(source.sample(given, len(given)))
            target = self._scribble(State((), tuple(sorted(given))), source)[1]
            if target is None or not 1 <= target <= largest_target:
                continue
            problem = Problem(self.rules, order, target, self.tokens)
            miss, ways = self.known.best(problem.start, target)
            if miss == 0 and fewest <= ways <= most:
                return problem
        return None

    def _scribble(self, state: State, source: random.Random) -> tuple[list[str], int | None]:
        """Possible words at random, to the end, and what they come to; None where there was no way on."""
        words = list[str]()
        while not state.over:
            can = list(steps(self.rules, state))
            if not can:
                return words, None
            word, state = source.choice(can)
            words.append(word)
        return words, state.stack[0]

    def _solution(self, state: State, target: int, source: random.Random) -> list[str]:
        """One of the best ways on, each as likely."""
        words = list[str]()
        while True:
            chances = self.known.chances(state, target)
            word = source.choices(list(chances), [float(chance) for chance in chances.values()])[0]
            if word == EOS:
                return words
            words.append(word)
            state = behind(self.rules, state, word) or state

    def _demonstrations(self, problems: Sequence[Problem]) -> Dataset:
        """A problem has the same solution in whatever rows it stands."""
        said = [
            self._solution(problem.start, problem.target, self._source(problem.prompt))
            for problem in problems
        ]
        return dataset({"prompt": [p.prompt for p in problems], "completion": list(map(_text, said))})

    def _elsewhere(self, source: random.Random) -> Problem:
        """Numbers that are not held out, and any target."""
        given = source.choice(self._free)
        order = tuple(source.sample(given, len(given)))
        return Problem(self.rules, order, source.randint(1, self.shape[3]), self.tokens)

    def _scribbles(self) -> Dataset:
        source, columns = self._source("scribbles"), _columns()
        while len(columns["prompt"]) < self.scribbles:
            problem = self._elsewhere(source)
            words, found = self._scribble(problem.start, source)
            if found is not None and found != problem.target:
                columns["prompt"].append(problem.prompt)
                columns["completion"].append(_text(words))
        return dataset(columns)

    def _retellings(self) -> Dataset:
        source, columns = self._source("retellings"), _columns()
        scribbles = self.rows("scribbles")
        for number, row in enumerate(scribbles.select(range(min(self.retellings, len(scribbles))))):
            words = row["completion"].split()
            shown = number % 2 == 0
            columns["prompt"].append(_telling(row["prompt"], words) if shown else row["prompt"])
            columns["completion"].append(_text(retold(self.rules, words, source) if shown else words))
        return dataset(columns)

    def sets(self, split: str) -> dict[str, list[tuple[str, Any]]]:
        """The problems of a split as they are and, where the base has read such, with a solution shown."""
        problems = self.find_references(split)
        found: dict[str, list[tuple[str, Any]]] = {"plain": [(one.prompt, one) for one in problems]}
        if self.retellings:
            rows = self.rows(split)["completion"][: len(problems)]
            found["told"] = [
                (_telling(one.prompt, said.split()), one) for one, said in zip(problems, rows, strict=True)
            ]
        return found

    def _corrections(self) -> Dataset:
        source, columns = self._source("corrections"), _columns()
        while len(columns["prompt"]) < self.corrections:
            problem = self._problem(source.choice(self._free), source)
            if problem is None:
                continue
            words, slip, state = list[str](), source.random() * 0.5, problem.start
            for _ in range(source.randrange(answer_length(len(problem.numbers), self.rules.shown))):
                can = list(steps(self.rules, state))
                if state.over or not can:
                    break
                if source.random() < slip:
                    word = source.choice(can)[0]
                elif best := self._solution(state, problem.target, source):
                    word = best[0]
                else:  # from here no words come to one number
                    break
                words.append(word)
                state = behind(self.rules, state, word) or state
            rest = self._solution(state, problem.target, source)
            if rest or state.over:  # else there is no way on
                columns["prompt"].append(problem.prompt + _text(words))
                columns["completion"].append(_text(rest))
        return dataset(columns)

    def _hash(self) -> str:
        """Of the splits, and of how further rows are made."""
        splits = {
            name: [rows["prompt"][:], rows["completion"][:]]
            for name, rows in ((name, self.rows(name)) for name in ("train", "validation", "test"))
        }
        made = [splits, self.scribbles, self.corrections, TARGETS, sorted(HELD_OUT.items()), VERSION]
        return fingerprint([*made, *([self.retellings] if self.retellings else [])], sort=True)

    def oracle(self, *, slip: float = 0.0, uniform: float = 0.001) -> Says:
        """A teacher that knows all solutions; see policy.Reckoner. With `slip` 0.3 every third word is any."""
        return Reckoner(self.rules, slip=slip, uniform=uniform)

    def find_references(self, split: str) -> list[Problem]:
        """The problem of every row, which can tell a right answer."""
        if split in self._problems:
            return self._problems[split][: len(self.rows(split))]
        raise KDError(f"countdown: rows called {split} are no problems to be answered")

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        """Answers as token ids of the task's own tokenizer."""
        return list(ids) if tokenizer is self.own else self.own(super().said(ids, tokenizer))["input_ids"]


def _telling(prompt: str, words: Sequence[str]) -> str:
    """A prompt that shows an answer."""
    return f"{prompt}{_text(words)} {ASKED}"


def _text(words: Sequence[str]) -> str:
    """A blank before each word."""
    return "".join(f" {word}" for word in words)


def _columns() -> dict[str, list[str]]:
    return {"prompt": [], "completion": []}
