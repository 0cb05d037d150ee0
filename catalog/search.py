"""Text search over papers: exact words first and in the places that matter most, similar words where there are none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property

from catalog.errors import same_start
from catalog.model import Paper

_WORD = re.compile(r"[^\W_]+")
_EXACT = 10_000.0  # the id or the arXiv id itself
_WEIGHTS = (40.0, 25.0, 8.0, 3.0, 3.0)  # id, title, what it adds, teacher, student
_WHOLE, _START, _INSIDE = (
    1.0,
    0.9,
    0.6,
)  # a title that holds a word anywhere is above a line that says the word
_PHRASE = 1.5  # the words stand together, in this order
_LIKE = 0.75  # difflib's ratio, from which words count as similar

_NEAR = 0.1  # words this much less alike than the most alike one are not what was meant


def find(papers: Iterable[Paper], text: str) -> list[Paper]:
    """Papers that hold every word of `text`, best first; where none does, those with similar words."""
    needle = plain(text).strip()
    words = list(dict.fromkeys(_WORD.findall(needle)))
    if not words:
        return []
    entries = [(_Entry(paper), paper) for paper in papers]
    rated = [(entry.exact(needle, words), paper) for entry, paper in entries]
    if not any(score for score, _ in rated):
        similar = _similar(words, {word for entry, _ in entries for word in entry.words})
        rated = [(entry.like(words, similar), paper) for entry, paper in entries]
    found = [(score, paper) for score, paper in rated if score]
    found.sort(key=lambda item: item[1].id)
    found.sort(key=lambda item: (item[0], item[1].date), reverse=True)
    return [paper for _, paper in found]


def plain(text: str) -> str:
    """`text` in lower case without accents."""
    if not text.isascii():
        text = "".join(
            letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)
        )
    return text.casefold()


class _Entry:
    """What of one paper is searched: its fields in plain letters, cut into words where that is needed."""

    def __init__(self, paper: Paper) -> None:
        self.id, self.names = paper.id, {paper.id, _squashed(paper.id), paper.arxiv or paper.id}
        texts = (paper.id, paper.title, paper.adds, paper.teacher or "", paper.student or "")
        self.text = plain("\n".join(texts))

    @cached_property
    def fields(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def field_words(self) -> list[frozenset[str]]:
        first, *others = [frozenset(_WORD.findall(field)) for field in self.fields]
        return [first | {_squashed(self.id)}, *others]

    @property
    def words(self) -> frozenset[str]:
        return frozenset().union(*self.field_words)

    def exact(self, needle: str, words: list[str]) -> float:
        """0 where a word is nowhere, else the higher the better."""
        if needle in self.names or _squashed(needle) in self.names:
            return _EXACT
        if not all(word in self.text for word in words):
            return 0.0
        score = _sum(words, self._word)
        if score and len(words) > 1:
            score *= next((_PHRASE for field in self.fields[:3] if needle in field), 1.0)
        return score

    def _word(self, word: str) -> float:
        best = 0.0
        for weight, field, whole in zip(_WEIGHTS, self.fields, self.field_words, strict=True):
            if word in field and weight > best:
                if word in whole:
                    best = max(best, weight * _WHOLE)
                else:
                    starts = any(other.startswith(word) for other in whole)
                    best = max(best, weight * (_START if starts else _INSIDE))
        return best

    def like(self, words: list[str], similar: dict[str, dict[str, float]]) -> float:
        """As `exact`, over words that are similar."""
        return _sum(words, lambda word: self._similar_word(word, similar[word]))

    def _similar_word(self, word: str, similar: dict[str, float]) -> float:
        found = [
            weight * similar[other]
            for weight, whole in zip(_WEIGHTS, self.field_words, strict=True)
            for other in whole & similar.keys()
        ]
        return max(found, default=0.0) or self._word(word)


def _sum(words: list[str], rate: Callable[[str], float]) -> float:
    rates = [rate(word) for word in words]
    return sum(rates) if all(rates) else 0.0


def _similar(words: list[str], vocabulary: set[str]) -> dict[str, dict[str, float]]:
    """For each word, the words of the catalog like it, and how like."""
    import difflib  # here: most searches are spelled right

    found = {}
    for word in words:
        matcher = difflib.SequenceMatcher(b=word[:60], autojunk=False)
        rated = {}
        for other in vocabulary:
            if abs(len(other) - len(word)) <= 3:
                matcher.set_seq1(other)
                if matcher.quick_ratio() >= _LIKE and (ratio := matcher.ratio()) >= _LIKE:
                    rated[other] = ratio + 0.01 * same_start(word, other)  # typos stand late in a word
        best = max(rated.values(), default=0.0)
        found[word] = {other: ratio for other, ratio in rated.items() if ratio > best - _NEAR}
    return found


def _squashed(text: str) -> str:
    return text.replace("-", "").replace(" ", "").replace(":", "")
