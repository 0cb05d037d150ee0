"""Statements over papers, reproductions/statements.yaml: which arms differ in exactly one named respect.

    statements:
      on-policy:
        title: "Own answers against fixed ones"
        says: "With the same loss, a student that learns on its own answers is better."
        pairs:
          - {part: sampler, more: {name: on-policy, fraction: null}, less: null}

A statement names arms by what they compute, not by paper: two arms of one league are a contrast of it where all but the
named part of their methods is the same (rates apart: each arm has its own best), `more` matches the first arm's part
and `less` the second's. Parts are `sampler`, `data` and `teachers` as they stand in the method of a spec, and `terms`:
the terms that only one of the two arms has, at most one on each side, which but for the named keys must be the same.
A pattern is a value, or a mapping of keys that must be so: null for a key that must be absent, further keys are free.
For `terms` a pattern of null means that the arm has no term in its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest, read_yaml_with_lines
from methods.recipe import teachers_of
from reproductions.engine.atlas.entrants import Entrant, League
from reproductions.engine.files import canonical_json

PARTS = ("sampler", "data", "teachers", "terms")
_STATEMENT = ("title", "says", "pairs")
_PAIR = ("part", "more", "less")


@dataclass(frozen=True)
class Pair:
    """In what part two arms differ, and how. `where`: patterns that other parts of both must match."""

    part: str
    more: Any
    less: Any
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Statement:
    """Something that is said over papers. `more` is what it speaks for."""

    id: str
    title: str
    says: str
    pairs: tuple[Pair, ...]


def read_statements(path: Path) -> tuple[Statement, ...]:
    """The statements of a file. Raises CatalogError with file, line and the nearest valid name."""
    data, lines = read_yaml_with_lines(path)
    _keys(data, ("statements",), (), lines, "the file")
    if not isinstance(data.get("statements"), dict):
        raise lines.error('"statements" must map names to statements', "statements")
    return tuple(_statement(name, tree, lines) for name, tree in data["statements"].items())


def contrasts(statement: Statement, league: League) -> list[tuple[Entrant, Entrant]]:
    """The pairs of arms (more, less) of a league that differ in exactly what the statement names, in a fixed order.

    Two papers may have tuned one method to two rates: such pairs are one contrast, the one with more seeds.
    """
    found: dict[str, tuple[Entrant, Entrant]] = {}
    for pair in statement.pairs:
        for more, less in differing(pair, [entrant.arm.spec for entrant in league.entrants]):
            both = (league.entrants[more], league.entrants[less])
            same = canonical_json([_taught(arm.arm.spec) for arm in both])
            if same not in found or _evidence(both) > _evidence(found[same]):
                found[same] = both
    return sorted(found.values(), key=lambda both: (both[0].title, both[1].title, both[0].key))


def _evidence(both: tuple[Entrant, Entrant]) -> tuple[int, int, str]:
    seeds = min(len(arm.arm.runs) for arm in both)
    return seeds, sum(len(arm.papers) for arm in both), both[0].key + both[1].key


def _taught(spec: Mapping[str, Any]) -> list[Any]:
    """An arm but for its learning rate."""
    training = {name: value for name, value in spec["training"].items() if name != "learning_rate"}
    return [spec["method"], training, spec.get("student"), spec.get("code"), asked(spec)]


def asked(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The teachers that an arm asks, as its testbed has them."""
    known = spec["testbed"].get("teachers", {})
    return {name: known.get(name) for name in teachers_of(spec["method"])}


def differing(pair: Pair, specs: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Places (more, less) of the specs that differ in exactly what a pair names, in order."""
    alike: dict[str, list[int]] = {}
    for place, spec in enumerate(specs):
        if all(_matches(wanted, spec["method"].get(part)) for part, wanted in pair.where.items()):
            alike.setdefault(_rest(pair.part, spec), []).append(place)
    return sorted(
        (first, second)
        for places in alike.values()
        for first, second in itertools.permutations(places, 2)
        if _differ(pair, specs[first], specs[second])
    )


def _differ(pair: Pair, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two specs that are alike but for the named part differ in it as the pair says."""
    if pair.part == "terms":
        return _same_teachers(asked(first), asked(second)) and _terms_differ(
            pair, first["method"].get("terms"), second["method"].get("terms")
        )
    return _matches(pair.more, first["method"].get(pair.part)) and _matches(
        pair.less, second["method"].get(pair.part)
    )


def _rest(part: str, spec: Mapping[str, Any]) -> str:
    """All of an arm but the named part and its own learning rate. The budget is the league's."""
    method = {name: value for name, value in spec["method"].items() if name != part}
    training = {name: value for name, value in spec["training"].items() if name != "learning_rate"}
    rest: list[Any] = [method, training, spec.get("student"), spec.get("code")]
    if part == "terms":  # a term more may ask a teacher that nothing else asks
        method.pop("teachers", None)
    if part == "sampler":  # in the others who is asked may differ, and what of whom stands in the method
        rest.append(asked(spec))
    return canonical_json(rest)


def _same_teachers(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two arms ask the same teachers, or one of them fewer: a term may be the only one that asks any."""
    fewer, more = sorted((mine, theirs), key=len)
    return all(name in more and more[name] == teacher for name, teacher in fewer.items())


def _terms_differ(pair: Pair, first: Any, second: Any) -> bool:
    if not isinstance(first, list) or not isinstance(second, list):
        return False
    mine, theirs = _without(first, second), _without(second, first)
    if len(mine) > 1 or len(theirs) > 1:
        return False
    more, less = mine[0] if mine else None, theirs[0] if theirs else None
    if not (_matches(pair.more, more) and _matches(pair.less, less)):
        return False
    if more is None or less is None:
        return more is not less
    named = {*pair.more, *pair.less}
    return _but(more, named) == _but(less, named)


def _without(terms: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    left = [canonical_json(term) for term in others]
    found = []
    for term in terms:
        text = canonical_json(term)
        if text in left:
            left.remove(text)
        else:
            found.append(term)
    return found


def _but(term: Mapping[str, Any], named: Iterable[str]) -> str:
    return canonical_json({name: value for name, value in term.items() if name not in set(named)})


def _matches(pattern: Any, value: Any) -> bool:
    if isinstance(pattern, Mapping):
        return isinstance(value, Mapping) and all(value.get(key) == wanted for key, wanted in pattern.items())
    return bool(value == pattern)


def _statement(name: str, tree: Any, lines: Lines) -> Statement:
    where = ("statements", name)
    if not isinstance(tree, dict):
        raise lines.error(f"a statement must have {', '.join(_STATEMENT)}", *where)
    _keys(tree, _STATEMENT, where, lines, "a statement")
    for key in ("title", "says"):
        if not isinstance(tree[key], str) or not tree[key].strip():
            raise lines.error(f'"{key}" must be a sentence', *where, key)
    return Statement(
        name, tree["title"].strip(), tree["says"].strip(), tuple(read_pairs(tree["pairs"], where, lines))
    )


def read_pairs(
    items: Any, where: tuple[str | int, ...], lines: Lines, *, filtered: bool = False
) -> Iterator[Pair]:
    """The pairs of a list; with `filtered` they may say `where`. Raises CatalogError with file and line."""
    if not isinstance(items, list) or not items:
        raise lines.error('"pairs" must be a list of {part, more, less}', *where, "pairs")
    for place, item in enumerate(items):
        at: tuple[str | int, ...] = (*where, "pairs", place)
        if not isinstance(item, dict):
            raise lines.error("a pair must have part, more, less", *at)
        others = item.get("where", {}) if filtered else {}
        _keys({k: v for k, v in item.items() if k != "where" or not filtered}, _PAIR, at, lines, "a pair")
        if not isinstance(others, dict) or item.get("part") in others:
            raise lines.error('"where" maps other parts of a method to patterns', *at, "where")
        part = item["part"]
        if part not in PARTS:
            raise lines.error(f'"{part}" is no part of a method{nearest(str(part), PARTS)}', *at, "part")
        if item["more"] == item["less"]:
            raise lines.error('"more" and "less" must differ', *at)
        if part == "terms" and any(
            not isinstance(item[side], dict | None) or item[side] == {} for side in ("more", "less")
        ):
            raise lines.error('of terms, "more" and "less" are mappings or null', *at)
        yield Pair(part, item["more"], item["less"], others)


def _keys(
    tree: Mapping[str, Any], known: Sequence[str], where: tuple[Any, ...], lines: Lines, what: str
) -> None:
    for key in tree:
        if key not in known:
            raise lines.error(f'{what} has no "{key}"{nearest(str(key), known)}', *where, key)
    for key in known:
        if key not in tree:
            raise lines.error(f'{what} needs "{key}"', *where)
