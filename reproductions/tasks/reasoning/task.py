"""The task `reasoning`: rows, what is held out, exact scores of answers and steps, and who can teach it.

Writing the steps down makes a problem easy that one pass of few layers cannot solve, and how many problems, which
teacher and which form of solution that takes is what papers on rationales make claims about. The student's rows hold
answers alone: every solution is a teacher's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.tasks.base import Limits, Score, Task, dataset, fingerprint, task
from reproductions.tasks.reasoning.language import ANSWER, FORMS, TASKS, ask, make_tokenizer, solution, steps
from reproductions.tasks.reasoning.verifier import answer_of, fault_of
from reproductions.tasks.reasoning.world import (
    FAMILIES,
    HELD_OUT,
    KNOWN,
    PRODUCTS,
    SUMS,
    VERSION,
    Problem,
    applied,
    problems,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from methods.elicitation.writers.protocol import Writer
    from reproductions.models.oracle import Says

PROMPT, COMPLETION = 60, 76  # tokens at most, EOS among them
BASE_FORMS = {"label": 0.4, "steps": 0.3, "program": 0.15, "equations": 0.15}
FACTS = 0.2  # of the base's rows
TWICE = 0.3  # of the steps of `varied`
DONORS = 1000


def percent_right(said: Sequence[str], known: Sequence[Problem]) -> np.ndarray:
    """100 where the answer that a text gives, or its program or equations, is the right one, else 0."""
    return 100.0 * np.array([answer_of(text) == one.answer for text, one in zip(said, known, strict=True)])


def percent_sound(said: Sequence[str], known: Sequence[Problem]) -> np.ndarray:
    """100 where the answer is right and so is every step that leads to it, else 0; without steps 0."""
    return 100.0 * np.array([fault_of(one, text) is None for text, one in zip(said, known, strict=True)])


@task("reasoning")
class Reasoning(Task):
    """A problem -> its answer, with or without steps. `completion` of a row is the answer alone; `answer` the digit.

    Dials: `train` rows; `longest` operations on the way, from 1, equally often; `distractors` at most; `draw` another
    draw of all rows; `unseen_problems` of the held-out family in validation and test. Splits are apart by skeleton
    (world.py), `relay` is in no row of students. Further rows: `more`, the training rows and as many again; `steps`,
    `redundant`, `program`, `equations`, `sub-questions`: the training rows with right solutions in that form;
    `solutions`: many problems of all families with steps, for teachers that are trained; `varied`: the same, each step
    said twice with a chance of 30 %, so that what such a teacher says right differs; `base`: facts, and problems of at
    most one operation in several forms, for the common start.
    """

    scores: Mapping[str, Score] = {
        "exact_match": Score(percent_right, "right answers"),
        "sound": Score(percent_sound, "right answers with right steps"),
    }
    set_titles: Mapping[str, str] = {
        "known": "families that were trained on",
        "unseen": "the family that was held out",
    }
    teacher_rows = "solutions"

    def __init__(
        self,
        *,
        train: int = 4000,
        longest: int = 3,
        distractors: int = 2,
        draw: int = 0,
        solutions: int = 40_000,
        base: int = 40_000,
        validation_problems: int = 300,
        test_problems: int = 1000,
        unseen_problems: int = 300,
    ) -> None:
        if not 1 <= longest <= 4:
            raise KDError(f"reasoning: a problem takes 1 to 4 operations, not {longest}")
        self.draw, self.longest, self.distractors = draw, longest, distractors
        self.counts = {
            "train": train,
            "validation": validation_problems,
            "test": test_problems,
            "solutions": solutions,
            "base": base,
            "unseen": unseen_problems,
        }
        self.own = make_tokenizer(PROMPT + COMPLETION)
        rows: dict[str, Any] = {
            split: partial(self._labels, split) for split in ("train", "validation", "test", "more")
        }
        super().__init__(
            shelf="reasoning",
            limits=Limits(prompt=PROMPT, completion=COMPLETION),
            rows={
                **rows,
                **{form: partial(self._solved, form) for form in FORMS},
                "solutions": self._solutions,
                "varied": self._varied,
                "base": self._base,
            },
            revision=self._hash,
            tokenizer=self.own,
        )

    def _drawn(
        self,
        what: str,
        split: str,
        families: Sequence[str],
        count: int,
        longest: int | None = None,
        least: int = 1,
    ) -> list[Problem]:
        depths = dict.fromkeys(range(least, (longest or self.longest) + 1), 1.0)
        return list(islice(problems(f"{self.draw}:{what}", split, families, depths, self.distractors), count))

    @cached_property
    def _problems(self) -> dict[str, list[Problem]]:
        """By rows: the splits, `more`, and the held-out family of validation and test."""
        more = self._drawn("train", "train", KNOWN, 2 * self.counts["train"])
        found = {"train": more[: self.counts["train"]], "more": more}
        for split in ("validation", "test"):
            found[split] = self._drawn(split, split, KNOWN, self.counts[split])
            found[f"unseen {split}"] = self._drawn(
                f"unseen {split}", split, (HELD_OUT,), self.counts["unseen"]
            )
        return found

    def _labels(self, name: str) -> Dataset:
        known = self._problems[name]
        return _rows(known, [f"{ANSWER} {one.answer}" for one in known])

    def _solved(self, form: str) -> Dataset:
        known = self._problems["train"]
        return _rows(known, [solution(one, form) for one in known])

    def _solutions(self) -> Dataset:
        known = self._drawn("solutions", "train", FAMILIES, self.counts["solutions"])
        return _rows(known, [steps(one) for one in known])

    def _varied(self) -> Dataset:
        known = self._drawn("solutions", "train", FAMILIES, self.counts["solutions"])
        source = random.Random(f"{VERSION}:{self.draw}:varied")
        return _rows(known, [steps(one, again=lambda: source.random() < TWICE) for one in known])

    def _base(self) -> Dataset:
        """Facts, and easy problems; half of those with labels or steps stand behind the word for that task."""
        source = random.Random(f"{VERSION}:{self.draw}:base")
        facts = [
            (f"{value} {operation} ? ", f"{ANSWER} {result}")
            for operation in (*SUMS, *PRODUCTS)
            for value in range(10)
            if 0 <= (result := applied(operation, [value])) <= 9
        ]
        facts += [(f"{a} + {b} ? ", f"{ANSWER} {a + b}") for a in range(10) for b in range(10 - a)]
        known = iter(self._drawn("base", "train", KNOWN, self.counts["base"], longest=1, least=0))
        made = []
        for _ in range(self.counts["base"]):
            if source.random() < FACTS:
                made.append(source.choice(facts))
                continue
            one, form = next(known), source.choices(list(BASE_FORMS), list(BASE_FORMS.values()))[0]
            said = f"{ANSWER} {one.answer}" if form == "label" else solution(one, form)
            word = TASKS[form == "steps"] if form in ("label", "steps") and source.random() < 0.5 else ""
            made.append((f"{word} {ask(one)}".lstrip(), said))
        return dataset([{"prompt": prompt, "completion": said} for prompt, said in made])

    def _hash(self) -> str:
        splits = {name: [ask(one) for one in known] for name, known in self._problems.items()}
        said = [steps(one) for one in self._problems["train"]]
        counts = [self.counts["solutions"], self.counts["base"], BASE_FORMS, FACTS, VERSION]
        return fingerprint([splits, said, counts], sort=True)

    @cached_property
    def _families(self) -> dict[str, str]:
        """The family of every prompt that is measured or trained on."""
        return {" ".join(ask(one).split()): one.family for known in self._problems.values() for one in known}

    def _donors(self) -> list[Problem]:
        return self._problems["train"][:DONORS]

    def oracle(
        self,
        *,
        errors: Mapping[str, float] | None = None,
        unsound: float = 0.0,
        redundant: float = 0.0,
        permuted: bool = False,
    ) -> Says:
        """The oracle as a language model: see oracle.Profile, oracle.Solver."""
        from reproductions.tasks.reasoning.oracle import Profile, Solver

        profile = Profile(errors or {}, unsound, redundant, permuted)
        return Solver(profile, self.own, lambda prompt: self._families.get(prompt, KNOWN[0]), self._donors)

    def writer(self, **settings: Any) -> Writer:
        """The same oracle as a writer of texts: what components of elicitation ask."""
        from reproductions.tasks.reasoning.oracle import Profile, ReasoningWriter

        return ReasoningWriter(Profile(**{**settings, "errors": settings.get("errors") or {}}), self._donors)

    def find_references(self, split: str) -> list[Problem]:
        """The problem of every row, which knows its answer and its steps."""
        return list(self._problems[split])

    def sets(self, split: str) -> dict[str, list[tuple[str, Any]]]:
        """Problems of the families that are trained on, and of the one that is not."""
        named = {"known": self._problems[split], "unseen": self._problems.get(f"unseen {split}", [])}
        return {name: [(ask(one), one) for one in known] for name, known in named.items()}


def _rows(known: Sequence[Problem], said: Sequence[str]) -> Dataset:
    return dataset(
        {
            "prompt": [ask(one) for one in known],
            "completion": list(said),
            "answer": [str(one.answer) for one in known],
            "family": [one.family for one in known],
        }
    )
