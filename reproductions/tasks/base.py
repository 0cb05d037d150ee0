"""What a task is: rows of three splits, and exact scores of what is answered; no model."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json
from reproductions.parts import Parts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from methods.elicitation.writers.protocol import Writer

SPLITS = ("train", "validation", "test")
TASKS = Parts("task", "reproductions.tasks", context=("tokenizer", "teacher_tokenizer", "limits"))
task = TASKS.register


Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Score:
    """A figure for every answer, (N,) from what was said and the references; kept to so many digits."""

    function: Callable[[Sequence[Any], Sequence[Any]], np.ndarray]
    title: str
    digits: int = 0
    higher_is_better: bool = True
    unit: str = "%"


@dataclass(frozen=True)
class Limits:
    """Tokens: of a prompt, of a completion with its EOS, of a whole row in training (their sum where not given).

    `pairs`: of a row in the tokens of student and teacher, where both are trained on and one would be too long.
    """

    prompt: int
    completion: int
    whole: int = 0
    pairs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "whole", self.whole or self.prompt + self.completion)
        object.__setattr__(self, "pairs", tuple(self.pairs))


class Task:
    """Rows with string columns `prompt` and `completion`; no problem stands in two splits.

    `rows` are made when they are first asked for: the three splits, `pretraining` (plain text in a column `text`) and
    whatever else a task has. `revision` is a hash of the rows, so that a result says which data it was measured on.
    `shelf` names the data in the keys of models that are trained on them: testbeds with one shelf share teachers and
    SFT starts. `named_by` are settings that the shelf tells already; any other that is not at its default is added.
    `tokenizer` is the task's own, where models are made from scratch.
    """

    scores: Mapping[str, Score] = {}
    # Scores of which the expectation over sampled answers is the probability of the reference's answers, in percent:
    # those that compare token ids of the task's own tokenizer.
    expected: tuple[str, ...] = ()
    set_titles: Mapping[str, str] = {}  # of evaluation sets
    # How an answer can end other than right, with titles, where a reference has a method `ending`.
    endings: Mapping[str, str] = {}
    teacher_rows = "train"  # what a teacher learns where the testbed says nothing else
    student_rows = "train"  # what students learn before any method: their common start
    classifies = (
        False  # whether models say a class of a text, not an answer: completions are names of classes then
    )
    named_by: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        shelf: str,
        limits: Limits,
        rows: Mapping[str, Callable[[], Dataset]],
        revision: Callable[[], str],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.shelf, self.limits, self.tokenizer = shelf, limits, tokenizer
        self._make, self._made = dict(rows), dict[str, Any]()
        self._compared: dict[str, list[Any]] = {}
        self._revision = revision

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of a classifier's logits; () where answers are written."""
        return ()

    @cached_property
    def revision(self) -> str:
        """A hash of the rows, 16 hex digits."""
        return self._revision()

    def has_rows(self, name: str) -> bool:
        """Whether there are rows of that name."""
        return name in self._make

    def rows(self, name: str) -> Dataset:
        """A split or another set of rows by its name. Raises KDError with the nearest one."""
        if name not in self._make:
            raise KDError(f'{self.shelf} has no rows called "{name}"{nearest(name, self._make)}')
        if name not in self._made:
            self._made[name] = self._make[name]()
        return self._made[name]

    def references(self, split: str) -> list[Any]:
        """What the scores compare answers with, row by row: one answer, or a list of those that are right.

        The same list whenever it is asked for: every measurement of every run asks.
        """
        if split not in self._compared:
            self._compared[split] = self.find_references(split)
        return self._compared[split]

    def find_references(self, split: str) -> list[Any]:
        """What `references` keeps: the completions, where a task says nothing else."""
        return list(self.rows(split)["completion"])

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        """Answers as the scores read them, from token ids without EOS."""
        return tokenizer.batch_decode([list(row) for row in ids], skip_special_tokens=True)

    def texts(self) -> Iterable[str]:
        """What a vocabulary must be able to say: all prompts, of completions only those of the training rows.

        A held-out answer must not decide what the models can say.
        """
        asked = [prompt for split in SPLITS for prompt in self.rows(split)["prompt"]]
        learnt = zip(self.rows("train")["prompt"], self.rows("train")["completion"], strict=True)
        return asked + [prompt + completion for prompt, completion in learnt]

    def oracle(self, *_: Any, **settings: Any) -> Any:
        """Exact next-token probabilities behind any tokens (models/oracle.py). Raises KDError where there are none."""
        raise KDError(f"{self.shelf} has no oracle: the task knows no policy that is right behind any tokens")

    def step_counts(self) -> list[int]:
        """How often the training rows hold each step that there can be: what is done next, and all on which it depends.

        Raises KDError where that cannot be listed.
        """
        raise KDError(f"{self.shelf} has no list of all steps that there can be")

    def writer(self, **settings: Any) -> Writer | None:
        """The same oracle as a writer of texts, for elicitation; None where its model writes as any other does."""
        return None

    def sets(self, split: str) -> dict[str, list[tuple[str, Any]]]:
        """Pairs of prompt and reference by evaluation set, where a split is made of several."""
        return {}

    def readable(self, rows: Dataset) -> tuple[Dataset, int]:
        """Rows for the student of what a teacher wrote with other tokens, and how many it could not read."""
        return rows, 0


def make_task(
    tree: Mapping[str, Any],
    *,
    tokenizer: Callable[[], PreTrainedTokenizerBase | None],
    teacher_tokenizer: Callable[[], PreTrainedTokenizerBase | None],
    limits: Callable[[], Limits],
) -> Task:
    """The task of a testbed's `task:`; it takes of tokenizers and limits what its signature names.

    Raises KDError where the testbed has none of something that it takes.
    """
    kind: Any = TASKS.find(tree["name"])
    settings = TASKS.settings(tree["name"], {key: value for key, value in tree.items() if key != "name"})
    around = {"tokenizer": tokenizer, "teacher_tokenizer": teacher_tokenizer, "limits": limits}
    wanted = inspect.signature(kind).parameters
    taken = {key: read() for key, read in around.items() if key in wanted}
    made: Task = kind(**settings, **taken)
    own = {key: value for key, value in settings.items() if key not in kind.named_by}
    if own:
        made.shelf += " " + canonical_json(own)
    return made


def dataset(rows: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]) -> Dataset:
    """A data set of rows, or of columns."""
    from datasets import Dataset

    return Dataset.from_dict(dict(rows)) if isinstance(rows, Mapping) else Dataset.from_list(list(rows))


def different(
    what: str, draw: Callable[[], Drawn], key: Callable[[Drawn], Hashable], counts: Mapping[str, int]
) -> dict[str, list[Drawn]]:
    """Problems no two of which have one key: so many for "test", "validation" and "train", and those for "more".

    The latter are the training ones and as many again. `draw` is asked until there are enough, in the order of the
    splits. Raises KDError where there are too few; `what` is the task and how it calls them, "trace: {} programs".
    """
    wanted, found = sum(counts.values()) + counts["train"], dict[Hashable, Drawn]()
    for _ in range(20 * wanted):
        if len(found) == wanted:
            break
        problem = draw()
        found.setdefault(key(problem), problem)
    if len(found) < wanted:
        asked = what.format(f"{wanted} different")
        raise KDError(f"{asked} are wanted, and there are hardly more than {len(found)}")
    problems, splits, begin = list(found.values()), dict[str, list[Drawn]](), 0
    for split in ("test", "validation", "train"):
        splits[split] = problems[begin : begin + counts[split]]
        begin += counts[split]
    splits["more"] = problems[begin - counts["train"] :]
    return splits


def as_made(rows: Dataset) -> Callable[[], Dataset]:
    """Rows that are there already."""
    return lambda: rows


def fingerprint(value: Any, *, ascii: bool = True, sort: bool = False) -> str:
    """The 16 hex digits of a revision."""
    text = json.dumps(value, ensure_ascii=ascii, sort_keys=sort)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
