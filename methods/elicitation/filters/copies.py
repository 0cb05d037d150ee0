"""Exact and near copies among texts: hashes of what is left of a text, and ROUGE-L without a pair left out."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from methods.errors import MethodError
from methods.registry import near as nearest


def same_text(text: str) -> str:
    """The text itself."""
    return text


def same_words(text: str) -> str:
    """Its words in lower case: case, blanks and punctuation do not count."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def same_equations(text: str) -> str:
    """Its equations in their order, without blanks; a text without one is itself.

    The key by which Yuan et al. (arXiv 2308.01825) count distinct reasoning paths.
    """
    found = re.findall(r"[-+*/().\d\s$%x×]*[-+*/x×][-+*/().\d\s$%x×]*=\s*\$?-?[\d.,]*\d", text)  # noqa: RUF001
    made = [re.sub(r"[\s$]", "", one).strip(".,") for one in found]
    return "|".join(made) or text


KEYS: Mapping[str, Callable[[str], str]] = {
    "text": same_text,
    "words": same_words,
    "equations": same_equations,
}


def key_of(name: str) -> Callable[[str], str]:
    """The key of that name. Raises MethodError with the nearest one."""
    if name not in KEYS:
        raise MethodError(f'no key "{name}" of a copy{nearest(name, KEYS)}; known: {", ".join(KEYS)}')
    return KEYS[name]


def tokens(text: str) -> list[str]:
    """Words as ROUGE reads them: runs of a-z and 0-9 in lower case; other scripts by character, where they have any.

    The reference implementation drops whatever is not a-z or 0-9, so that two Chinese texts would be equal.
    """
    return re.findall(r"[a-z0-9]+|[^\W_a-z0-9]", text.lower())


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, by whole rows of bits (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    whole = (1 << len(one)) - 1
    row = whole
    for word in other:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & whole
    return len(one) - row.bit_count()


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """F1 of ROUGE-L over words: twice the common subsequence by the sum of both lengths; 0 where one is empty."""
    if not one or not other:
        return 0.0
    return 2 * longest_common(one, other) / (len(one) + len(other))


@dataclass
class Pool:
    """Texts that have been kept: `closest` finds the first one that is as near as `near`, and misses none.

    Only texts that share enough words are compared, by two bounds of a common subsequence: the shorter length, and the
    words that both have.
    """

    near: float
    _kept: list[tuple[list[str], Counter[str], str]] = field(default_factory=list)
    _with: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        if not 0 < self.near <= 1:
            raise MethodError(f'"near" is a ROUGE-L above 0 and at most 1, not {self.near}')

    def add(self, text: str, name: str = "") -> None:
        """Keep a text under a name."""
        words = tokens(text)
        for word in set(words):
            self._with[word].append(len(self._kept))
        self._kept.append((words, Counter(words), name))

    def closest(self, text: str) -> tuple[str, float] | None:
        """The name of the nearest text that was kept and its ROUGE-L, where that is `near` or more; else None."""
        words = tokens(text)
        best: tuple[str, float] | None = None
        for place in self._candidates(words):
            other, _, name = self._kept[place]
            score = rouge_l(words, other)
            if score >= self.near and (best is None or score > best[1]):
                best = name, score
        return best

    def _candidates(self, words: Sequence[str]) -> Iterator[int]:
        shared: Counter[int] = Counter()
        for word, count in Counter(words).items():
            for place in self._with.get(word, ()):
                shared[place] += min(count, self._kept[place][1][word])
        for place in sorted(shared):
            if 2 * shared[place] >= self.near * (len(words) + len(self._kept[place][0])) - 1e-9:
                yield place
