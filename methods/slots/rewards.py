"""Exact checks of sampled completions, with the signature of TRL's reward functions.

    reward(prompts=..., completions=..., completion_ids=..., **columns) -> one number or None for each completion

Lists of B; `columns` are those of the data, with the row's own completion as `reference` (TRL hands over no column
called `completion`). None says nothing. So each also serves TRL's own trainers, filters and best-of-n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from methods.errors import MethodError
from methods.registry import component

RewardFunction = Callable[..., list[float | None]]


def column_of(columns: dict[str, Any], name: str) -> list[Any]:
    """A column of the data; MethodError where there is none."""
    if name not in columns:
        known = [key for key, value in columns.items() if isinstance(value, list)]
        raise MethodError(f'a reward reads the column "{name}"; the rows have {", ".join(known) or "none"}')
    return columns[name]


@component("reward", "exact-answer")
class ExactAnswer:
    """1 where the completion is the row's `column`, blanks at the ends aside, else 0.

    `after`: only what stands behind the last occurrence of that text is compared, on both sides ("" for all), such as
    "####" in GSM8K's answers.
    Source: RFT, arXiv 2308.01825 (a reasoning path is right by its final answer).
    """

    def __init__(self, column: str = "reference", *, after: str = ""):
        self.column, self.after = column, after

    def _answer(self, text: str) -> str:
        return (text.rpartition(self.after)[2] if self.after else text).strip()

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        pairs = zip(completions, column_of(columns, self.column), strict=True)
        return [float(self._answer(said) == self._answer(right)) for said, right in pairs]


@component("reward", "shared-beginning")
class SharedBeginning:
    """The share of the row's `column` with which the completion begins, by characters; less what it has too many.

    A graded figure between 0 and 1, 1 for the exact text alone.
    Source: step rewards in the sense of DeepSeekMath, arXiv 2402.03300, section 4.1.3; the grading is our own.
    """

    def __init__(self, column: str = "reference"):
        self.column = column

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        figures = []
        for said, right in zip(completions, column_of(columns, self.column), strict=True):
            alike = next(
                (n for n, (a, b) in enumerate(zip(said, right, strict=False)) if a != b),
                min(len(said), len(right)),
            )
            figures.append(alike / max(len(right), len(said), 1))
        return figures


@component("reward", "task")
class TaskReward:
    """The figure that the task itself gives an answer, over 100: its exact scorer, where the rows come from one.

    `by` names one of the task's scores; null is its first. An answer that was cut is worth 0. For a `kd distill` of
    one's own rows there is no task.
    Source: reinforcement learning with verifiable rewards, DeepSeekMath, arXiv 2402.03300, section 5.2.
    """

    def __init__(self, surroundings: Any = None, *, by: str | None = None):
        scorer = getattr(surroundings, "scorer", None)
        if scorer is None:
            raise MethodError(
                'the reward "task" needs rows of a task; take another reward for rows of your own'
            )
        self._score = scorer(by)

    def __call__(
        self, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float]:
        return [float(figure) / 100 for figure in self._score(prompts, completion_ids)]


def no_reward(prompts: Sequence[Any], **_: Any) -> list[float | None]:
    """0 for every completion: TRL's trainer asks for a reward function, a method may have none."""
    return [0.0] * len(prompts)


def named(reward: RewardFunction) -> RewardFunction:
    """The same reward as a function with a name, which TRL logs it by."""
    if hasattr(reward, "__name__"):
        return reward

    def called(*args: Any, **kwargs: Any) -> list[float | None]:
        return reward(*args, **kwargs)

    called.__name__ = type(reward).__name__
    return called
