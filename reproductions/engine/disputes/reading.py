"""Disputes, reproductions/disputes.yaml: a question, its sides, and the contrasts of recorded arms that answer it.

    disputes:
      which-tokens:
        asks: "The sampled token or the whole vocabulary?"
        sides:
          - {says: "The sampled token is as good.", papers: [rethinking-opd]}   # ids of the catalog
        answers:
          - says: "The whole vocabulary is better."      # what a difference above zero means
            metric: exact_match                          # the league's first one where it is not named
            pairs:   [{part: terms, more: {...}, less: {...}, where: {sampler: {name: on-policy}}}]
            recipes: [{more: rlad, less: kdrl}]
            arms:    [{more: coverage/own, less: coverage/fresh}]

`pairs` are those of statements.yaml: arms that differ in one part alone; `where` says what both have in other parts of
their method. `recipes` compare arms of two recipes as experiments declare them, but for ablations; `arms` name one arm
each. An experiment or recipe that is not there yet is missing, no mistake; an arm that its experiment does not have is
one. `unanswered` says why nothing recorded can answer the question itself: its contrasts then stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest, read_yaml_with_lines
from reproductions.engine.atlas.statements import Pair, read_pairs

_DISPUTE = {"asks", "sides", "answers"}
_ANSWER = {"says", "metric", "pairs", "recipes", "arms"}
Where = tuple[str | int, ...]


@dataclass(frozen=True)
class Side:
    """What some say, and which papers of the catalog."""

    says: str
    papers: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """Contrasts of one meaning. `recipes` and `arms`: (more, less) by name; `metric` is None for a league's first."""

    says: str
    metric: str | None
    pairs: tuple[Pair, ...]
    recipes: tuple[tuple[str, str], ...]
    arms: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Dispute:
    """A question that papers answer differently. `unanswered` says why no recorded arm can, '' where some may."""

    id: str
    asks: str
    unanswered: str
    sides: tuple[Side, ...]
    answers: tuple[Answer, ...]


def read_disputes(path: Path) -> tuple[Dispute, ...]:
    """The disputes of a file. Raises CatalogError with file, line and the nearest valid name."""
    data, lines = read_yaml_with_lines(path)
    _keys(data, {"disputes"}, {"disputes"}, (), lines)
    if not isinstance(data["disputes"], dict):
        raise lines.error('"disputes" must map names to disputes', "disputes")
    return tuple(_dispute(name, tree, ("disputes", name), lines) for name, tree in data["disputes"].items())


def _dispute(name: str, tree: Any, where: Where, lines: Lines) -> Dispute:
    _keys(tree, _DISPUTE, _DISPUTE | {"unanswered"}, where, lines)
    sides = [
        _side(side, (*where, "sides", n), lines) for n, side in enumerate(_list(tree, "sides", where, lines))
    ]
    if len(sides) < 2:
        raise lines.error("a dispute has two sides or more", *where, "sides")
    answers = [
        _answer(answer, (*where, "answers", n), lines)
        for n, answer in enumerate(_list(tree, "answers", where, lines))
    ]
    reason = _text(tree, "unanswered", where, lines) if "unanswered" in tree else ""
    if not answers and not reason:
        raise lines.error('a dispute without "answers" says why it is "unanswered"', *where)
    return Dispute(name, _text(tree, "asks", where, lines), reason, tuple(sides), tuple(answers))


def _side(tree: Any, where: Where, lines: Lines) -> Side:
    _keys(tree, {"says", "papers"}, {"says", "papers"}, where, lines)
    papers = _list(tree, "papers", where, lines)
    if not papers or not all(isinstance(paper, str) for paper in papers):
        raise lines.error('"papers" must be a list of ids', *where, "papers")
    return Side(_text(tree, "says", where, lines), tuple(papers))


def _answer(tree: Any, where: Where, lines: Lines) -> Answer:
    _keys(tree, {"says"}, _ANSWER, where, lines)
    if not {"pairs", "recipes", "arms"} & set(tree):
        raise lines.error("an answer has pairs, recipes or arms", *where)
    pairs = read_pairs(tree["pairs"], where, lines, filtered=True) if "pairs" in tree else ()
    return Answer(
        says=_text(tree, "says", where, lines),
        metric=_text(tree, "metric", where, lines) if "metric" in tree else None,
        pairs=tuple(pairs),
        recipes=_named(tree, "recipes", where, lines),
        arms=_named(tree, "arms", where, lines),
    )


def _named(tree: Mapping[str, Any], name: str, where: Where, lines: Lines) -> tuple[tuple[str, str], ...]:
    found = []
    for place, item in enumerate(_list(tree, name, where, lines) if name in tree else []):
        at = (*where, name, place)
        _keys(item, {"more", "less"}, {"more", "less"}, at, lines)
        both = tuple(_text(item, side, at, lines) for side in ("more", "less"))
        for side, text in zip(("more", "less"), both, strict=True):
            if name == "arms" and text.count("/") != 1:
                raise lines.error('an arm is written "experiment/arm"', *at, side)
        if both[0] == both[1]:
            raise lines.error('"more" and "less" must differ', *at)
        found.append((both[0], both[1]))
    return tuple(found)


def _keys(tree: Any, needed: set[str], known: set[str], where: Where, lines: Lines) -> None:
    if not isinstance(tree, dict):
        raise lines.error(f"must be a mapping with {', '.join(sorted(needed))}", *where)
    for key in tree:
        if key not in known:
            raise lines.error(f'there is no "{key}" here{nearest(str(key), sorted(known))}', *where, key)
    for key in sorted(needed):
        if key not in tree:
            raise lines.error(f'"{key}" is missing', *where)


def _list(tree: Mapping[str, Any], name: str, where: Where, lines: Lines) -> Sequence[Any]:
    if not isinstance(tree[name], list):
        raise lines.error(f'"{name}" must be a list', *where, name)
    return tree[name]


def _text(tree: Mapping[str, Any], name: str, where: Where, lines: Lines) -> str:
    if not isinstance(tree[name], str) or not tree[name].strip():
        raise lines.error(f'"{name}" must be text', *where, name)
    return str(tree[name].strip())
