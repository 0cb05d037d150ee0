"""The task `navigate`: rows, what is held out, and the exact score of a walk.

The maze is in no prompt: a model knows it by heart or not at all. A right answer is a chain of 12 to 60 steps in which
every step depends on where one is; a wrong step leads to a cell from which the goal can still be reached. So errors
compound and can be repaired, and a teacher that knows the maze is right wherever a student has gone astray. On that
papers about learning from one's own answers make their claims.

Demonstrations are few on purpose. Students begin from a base that was trained on walks at random: it knows the legal
steps and that an answer ends at its goal, and nothing about short ways.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.tasks.base import Limits, Score, Task, dataset, fingerprint, task
from reproductions.tasks.navigate.language import (
    FIRST_CELL,
    FORMS,
    PROMPT,
    Ending,
    Form,
    ask,
    judge,
    length,
    make_tokenizer,
    write,
)
from reproductions.tasks.navigate.world import FAR, World, make_world, random_walk, shortest_walk

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from reproductions.models.oracle import Says

VERSION = "1"  # another one makes another task: results of before and after do not compare
DETOUR = 20  # moves at most of a wandering in the prompts of `corrections`
EARLIEST = 3  # of a walk at random: the goal is where it is after this many moves or more
Pair = tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """A start, a goal, and the world that decides; an answer of `tokens` or more without EOS did not end in time."""

    world: World
    form: Form
    start: int
    goal: int
    tokens: int

    def ending(self, ids: Sequence[int]) -> Ending:
        """How an answer (ids without EOS) ended."""
        finished = len(ids) < self.tokens
        return judge(self.world, self.form, self.start, self.goal, ids, finished)

    def __str__(self) -> str:
        return f"{self.start} to {self.goal}"


def percent_arrived(said: Sequence[Sequence[int]], problems: Sequence[Problem]) -> np.ndarray:
    """100 where a walk is legal throughout and ends at the goal, however long it is, else 0."""
    right = [problem.ending(ids).kind == "right" for ids, problem in zip(said, problems, strict=True)]
    return 100.0 * np.array(right)


@task("navigate")
class Navigate(Task):
    """From a cell to a goal. `completion` of a row is one shortest walk, drawn from the oracle.

    Dials: `size`, `loops`, `mazes` and `draw` make the world (world.py); `form` is how a walk is written (language.py);
    `shortest` moves or more lie between start and goal; `demonstrations` training rows, each another pair; `tokens` of
    an answer with its EOS at most, in training and when measured. A pair and its reverse are in one split only, in
    training rows of any kind. Further rows:
    `more`, the demonstrations and as many again; `walks`, at random, the goal being a cell of the walk; `corrections`,
    prompts that hold the beginning of a walk, more or less at random, answered by the rest of a shortest one: for a
    teacher that shall know what to do wherever it is.
    """

    scores: Mapping[str, Score] = {"exact_match": Score(percent_arrived, "walks that end at the goal")}
    endings: Mapping[str, str] = {
        "false-end": "answers that end elsewhere",
        "illegal": "answers with a step that is not possible",
        "unfinished": "answers cut by the token limit",
    }
    teacher_rows = "corrections"

    def __init__(
        self,
        *,
        size: int = 10,
        loops: int = 8,
        mazes: int = 1,
        draw: int = 0,
        form: str = "cells",
        shortest: int = 12,
        demonstrations: int = 300,
        tokens: int = 64,
        walks: int = 64_000,
        longest_walk: int = 38,
        corrections: int = 60_000,
        validation_pairs: int = 300,
        test_pairs: int = 700,
    ) -> None:
        if form not in FORMS:
            raise KDError(f'a walk is written as {", ".join(FORMS)}, not as "{form}"')
        self.form: Form = form  # type: ignore[assignment]
        self.draw, self.shortest, self.tokens = draw, shortest, tokens
        self.counts = {"train": demonstrations, "validation": validation_pairs, "test": test_pairs}
        self.walks, self.longest_walk, self.corrections = walks, longest_walk, corrections
        self.world = make_world(size, loops, mazes, draw)
        self.own = make_tokenizer(self.world.cells, PROMPT + tokens)
        self._pairs = self._split()
        super().__init__(
            shelf="navigate",
            limits=Limits(prompt=PROMPT, completion=tokens),
            rows={
                **{split: partial(self._demonstrations, pairs) for split, pairs in self._pairs.items()},
                "walks": self._walks,
                "corrections": self._corrections,
            },
            revision=self._hash,
            tokenizer=self.own,
        )

    def _source(self, what: str) -> random.Random:
        return random.Random(f"{VERSION}:{self.draw}:{what}")

    def _split(self) -> dict[str, list[Pair]]:
        """Pairs by split and for `more`; one direction of each is drawn. Raises KDError where there are too few."""
        away = self.world.distances
        pairs = [
            (start, goal)
            for start in range(self.world.cells)
            for goal in range(start)
            if self.shortest <= away[start, goal] < FAR
            and length(self.form, int(away[start, goal])) <= self.tokens
        ]
        source = self._source("pairs")
        source.shuffle(pairs)
        pairs = [pair if source.random() < 0.5 else pair[::-1] for pair in pairs]
        found, begin = {}, 0
        for split in ("test", "validation", "train"):
            found[split] = pairs[begin : begin + self.counts[split]]
            begin += self.counts[split]
        found["more"] = pairs[begin - self.counts["train"] : begin + self.counts["train"]]
        if len(found["more"]) < 2 * self.counts["train"]:
            raise KDError(
                f"navigate: {len(pairs)} pairs of cells are far enough apart, and {begin + self.counts['train']} are "
                "wanted (test, validation, twice the demonstrations): take more cells, or fewer of these"
            )
        return found

    @cached_property
    def _held_out(self) -> frozenset[Pair]:
        """Pairs of the test and validation rows, both ways round."""
        pairs = [*self._pairs["test"], *self._pairs["validation"]]
        return frozenset([*pairs, *((goal, start) for start, goal in pairs)])

    def _demonstrations(self, pairs: Sequence[Pair]) -> Dataset:
        """A pair has the same walk in whatever rows it stands."""
        walks = [
            shortest_walk(self.world, *pair, self._source(f"walk:{pair[0]}:{pair[1]}")) for pair in pairs
        ]
        return dataset(
            {
                "prompt": [ask(*pair) for pair in pairs],
                "completion": [
                    write(self.world, self.form, pair[0], walk)
                    for pair, walk in zip(pairs, walks, strict=True)
                ],
            }
        )

    def _walks(self) -> Dataset:
        source, columns = self._source("walks"), _columns()
        while len(columns["prompt"]) < self.walks:
            start = source.randrange(self.world.cells)
            walk = random_walk(self.world, start, self.longest_walk, source)
            goal = walk[source.randrange(EARLIEST, self.longest_walk) - 1]
            walk = walk[: walk.index(goal) + 1]  # it ends where it is there for the first time
            fits = length(self.form, len(walk)) <= self.tokens
            if start != goal and fits and (start, goal) not in self._held_out:
                columns["prompt"].append(ask(start, goal))
                columns["completion"].append(write(self.world, self.form, start, walk))
        return dataset(columns)

    def _corrections(self) -> Dataset:
        source, columns = self._source("corrections"), _columns()
        cells = self.world.cells
        while len(columns["prompt"]) < self.corrections:
            start, goal = source.randrange(cells), source.randrange(cells)
            if start == goal or (start, goal) in self._held_out or self.world.distances[start, goal] == FAR:
                continue
            begun = self._wandering(start, goal, source)
            cell = begun[-1] if begun else start
            walk = shortest_walk(self.world, cell, goal, source)
            if length(self.form, len(begun) + len(walk)) <= self.tokens:
                columns["prompt"].append(ask(start, goal) + write(self.world, self.form, start, begun))
                columns["completion"].append(write(self.world, self.form, cell, walk))
        return dataset(columns)

    def _wandering(self, start: int, goal: int, source: random.Random) -> list[int]:
        """Up to DETOUR moves of which a share, drawn anew, is at random; the goal is where it ends at the latest."""
        slip, cell, begun = source.random(), start, list[int]()
        for _ in range(source.randrange(DETOUR + 1)):
            if cell == goal:
                break
            at_random = source.random() < slip
            one = random_walk(self.world, cell, 1, source) if at_random else None
            cell = (one or shortest_walk(self.world, cell, goal, source))[0]
            begun.append(cell)
        return begun

    def _hash(self) -> str:
        """Of the splits, the ways between all cells, and how further rows are made."""
        splits = {
            name: [rows["prompt"][:], rows["completion"][:]]
            for name, rows in ((name, self.rows(name)) for name in ("train", "validation", "test"))
        }
        more = [self.walks, self.longest_walk, self.corrections, DETOUR, EARLIEST, VERSION]
        return fingerprint([splits, self.world.beyond.tolist(), more], sort=True)

    def oracle(self, *, temperature: float = 0.02, slip: float = 0.0, uniform: float = 0.001) -> Says:
        """A teacher that knows the maze; see policy.Walker. `slip` 0.3 walks astray with the chance 0.3 a step."""
        from reproductions.tasks.navigate.policy import Walker

        return Walker(self.world, self.form, temperature=temperature, slip=slip, uniform=uniform)

    def find_references(self, split: str) -> list[Problem]:
        """The problem of every row, which can tell a right walk."""
        ids = self.own(list(self.rows(split)["prompt"]))["input_ids"]
        return [
            Problem(self.world, self.form, row[0] - FIRST_CELL, row[1] - FIRST_CELL, self.tokens)
            for row in ids
        ]

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        """Answers as token ids of the task's own tokenizer."""
        return list(ids) if tokenizer is self.own else self.own(super().said(ids, tokenizer))["input_ids"]


def _columns() -> dict[str, list[str]]:
    return {"prompt": [], "completion": []}
