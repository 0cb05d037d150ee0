"""Rows that hold a piece of held-out text: the same run of words in both."""

from __future__ import annotations

import re
from collections.abc import Iterable

RUN = 13  # words in a row, as GPT-3's authors (arXiv 2005.14165) take them


def runs(text: str, words: int = RUN) -> set[tuple[str, ...]]:
    """Runs of so many words in lower case; a shorter text is one run of all it has, an empty one none.

    Numbers count as they are: the same story with other numbers is another problem. `words` is 1 or more.
    """
    said = _words(text)
    if not said:
        return set()
    return {tuple(said[place : place + words]) for place in range(max(1, len(said) - words + 1))}


class HeldOut:
    """Texts that no row may hold a run of; one that is shorter than a run, no row may be."""

    def __init__(self, texts: Iterable[str], words: int = RUN) -> None:
        self._words = words
        self._known: set[tuple[str, ...]] = set().union(*(runs(text, words) for text in texts))

    def leak(self, text: str) -> str | None:
        """The first run of the text that a held-out text has too; None where there is none."""
        said = _words(text)
        for place in range(max(1, len(said) - self._words + 1)):
            run = tuple(said[place : place + self._words])
            if run in self._known:
                return " ".join(run)
        return None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
