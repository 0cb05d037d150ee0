"""Answers held against the right one, by their last line, number, letter, or by what they contain."""

from __future__ import annotations

from methods.elicitation.filters import parsers
from methods.elicitation.filters.copies import same_words


def exact(text: str, gold: str) -> bool | None:
    """The final answer is the right one but for case, blanks and punctuation; without a marked answer, the text is."""
    said = parsers.final(text) or text
    return same_words(said) == same_words(parsers.final(gold) or gold) if said.strip() else None


def number(text: str, gold: str) -> bool | None:
    """The final number equals the right one, exactly: 0.5 is 1/2, and 0.333 is not 1/3.

    None where the text has no number, or the right answer has none.
    """
    said, right = parsers.number(text), parsers.number(gold)
    return None if said is None or right is None else said == right


def choice(text: str, gold: str) -> bool | None:
    """The letter chosen is the right one."""
    said, right = parsers.choice(text), parsers.choice(gold)
    return None if said is None or right is None else said == right


def yes_no(text: str, gold: str) -> bool | None:
    """Yes or no, as it should be."""
    said, right = parsers.yes_no(text), parsers.yes_no(gold)
    return None if said is None or right is None else said == right


def mentions(text: str, gold: str) -> bool | None:
    """The right answer stands somewhere in the text, as whole words (CoT Collection, arXiv 2305.14045)."""
    if not same_words(text):
        return None
    return f" {same_words(gold)} " in f" {same_words(text)} "
