"""What somebody who knows all solutions writes next, exactly, behind any tokens: the oracle of the task."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from reproductions.engine.errors import KDError
from reproductions.tasks.countdown.language import (
    ASKED,
    EOS,
    Rules,
    State,
    behind,
    read_prompt,
    steps,
    vocabulary,
)

if TYPE_CHECKING:
    from torch import Tensor

NEVER = 1_000_000  # of a state from which no answer can be ended
Chances = Mapping[str, float]


class Solutions:
    """All ways to end an answer, counted; states are kept over calls."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.best = lru_cache(maxsize=2_000_000)(self._best)

    def _best(self, state: State, target: int) -> tuple[int, int]:
        """By how much the best ways on miss the target, and how many they are."""
        if state.over:
            return abs(state.stack[0] - target), 1
        least, count = NEVER, 0
        for _, then in steps(self.rules, state):
            miss, ways = self.best(then, target)
            if miss < least:
                least, count = miss, ways
            elif miss == least < NEVER:
                count += ways
        return least, count

    def chances(self, state: State, target: int) -> dict[str, Fraction]:
        """Of every next word, if one of the best ways on is taken, each as likely; EOS where none is."""
        least, count = self.best(state, target)
        if state.over or least == NEVER:
            return {EOS: Fraction(1)}
        found = {}
        for word, then in steps(self.rules, state):
            miss, ways = self.best(then, target)
            if miss == least:
                found[word] = Fraction(ways, count)
        return found


class Reckoner:
    """Next-token probabilities (B, L, V) of a policy, in float32.

    Of all ways on that come nearest to the target, which are solutions where there still are any, it takes each as
    likely. With the chance `slip` it writes any word that is possible instead. All of it is mixed with `uniform` of the
    uniform distribution over the vocabulary, so that no token is impossible. A word that is not possible is passed
    over, as if it had not been written. Before "|" every token is as likely as any other.
    """

    def __init__(self, rules: Rules, *, slip: float, uniform: float) -> None:
        if not 0 <= slip <= 1 or not 0 <= uniform < 1:
            raise KDError(
                "an oracle of countdown has a slip from 0 to 1 and a uniform share from 0 to below 1, "
                f"not {slip} and {uniform}"
            )
        self.rules, self.slip, self.uniform = rules, slip, uniform
        self.solutions = Solutions(rules)
        self.words = vocabulary(rules.largest)
        self.ids = {word: n for n, word in enumerate(self.words)}
        self.said = lru_cache(maxsize=500_000)(self._said)

    def _said(self, state: State, target: int) -> Chances:
        """The chances of the next words behind a state, without the uniform share."""
        found = {word: float(chance) for word, chance in self.solutions.chances(state, target).items()}
        possible = [word for word, _ in steps(self.rules, state)]
        if not self.slip or not possible:
            return found
        mixed = {word: (1 - self.slip) * chance for word, chance in found.items()}
        for word in possible:
            mixed[word] = mixed.get(word, 0.0) + self.slip / len(possible)
        return mixed

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """For ids and mask (B, L), padded on either side."""
        import torch  # not where tasks are only looked up

        size = len(self.words)
        said = torch.full((*ids.shape, size), 1 / size)
        places, chosen, chances = list[tuple[int, int]](), list[int](), list[float]()
        for row, (tokens, known) in enumerate(zip(ids.tolist(), mask.tolist(), strict=True)):
            at = [place for place, one in enumerate(known) if one]
            words = [self.words[tokens[place]] for place in at]
            first = words.index(ASKED) if ASKED in words else len(words)
            asked = read_prompt(words[: first + 1])
            if asked is None:
                continue
            state, target = State((), tuple(sorted(asked[0]))), asked[1]
            for place, word in zip(at[first:], words[first:], strict=True):
                state = state if word == ASKED else behind(self.rules, state, word) or state
                for then, chance in self.said(state, target).items():
                    places.append((row, place))
                    chosen.append(self.ids[then])
                    chances.append(chance)
        if places:
            rows, columns = torch.tensor(places).unbind(1)
            said[rows, columns] = self.uniform / size
            said[rows, columns, torch.tensor(chosen)] += (1 - self.uniform) * torch.tensor(chances)
        return said.to(ids.device)
