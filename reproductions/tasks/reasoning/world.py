"""Problems: lines that say how much somebody has, which rest on one another, and what is asked.

chain      tom is ann +3                     starts, sums and differences
compare    tom has 3-more than ann           the same, said as a comparison
transfer   ann gets-3, ann loses-2           one holder whose amount changes with time
combine    tom has ann and joe               sums of two amounts, each of which is to be known
times      tom has twice ann                 products, and sums between them
relay      comparisons, then what the last one gets and loses: both words are known, the family is not

Every amount is a digit, so a step is a fact that a small model can know. Between the lines stand some that lead
nowhere: starts of others, or lines that rest on anybody.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

VERSION = "1"  # another one makes another task: results of before and after do not compare
NAMES = ("ann", "ben", "cat", "dan", "eve", "fay", "gus", "hal", "ida", "joe")
FAMILIES = ("chain", "compare", "transfer", "combine", "times", "relay")
HELD_OUT = "relay"
KNOWN = tuple(family for family in FAMILIES if family != HELD_OUT)
SUMS = tuple(f"{sign}{size}" for sign in "+-" for size in range(1, 6))
PRODUCTS = ("*2", "*3")
JOIN = "+"
PHRASINGS = 3
MOST_SUMS = 2  # steps at most of `combine`, each of which needs another start


@dataclass(frozen=True)
class Line:
    """`subject` has a start (`of` is empty, `operation` the digit), or what an operation makes of others' amounts.

    With one name in `of` the operation is one of SUMS or PRODUCTS, with two it is JOIN. An `event` changes what the
    subject itself has had so far. `family` and `phrasing` say in which words.
    """

    subject: str
    of: tuple[str, ...]
    operation: str
    family: str
    phrasing: int = 0

    @property
    def event(self) -> bool:
        """Whether it is a change with time."""
        return self.of == (self.subject,)

    @property
    def start(self) -> bool:
        """Whether it rests on nothing."""
        return not self.of


@dataclass(frozen=True)
class Problem:
    """Lines in the order in which they are told, each after those that it rests on; `asked` is a name."""

    family: str
    lines: tuple[Line, ...]
    asked: str

    @property
    def path(self) -> tuple[Line, ...]:
        """The lines that the answer rests on, in order."""
        needed, found = {self.asked}, list[Line]()
        for line in reversed(self.lines):
            if line.subject in needed:
                found.append(line)
                needed |= set(line.of)
        return tuple(reversed(found))

    @property
    def depth(self) -> int:
        """Operations on the way to the answer."""
        return sum(not line.start for line in self.path)

    @property
    def answer(self) -> int:
        """What the asked one has in the end."""
        return amounts(self.lines)[self.asked]

    @property
    def skeleton(self) -> str:
        """Family, starts and operations of the path: what decides the split, whatever the names and words."""
        return " ".join([self.family, *(line.operation for line in self.path)])


def applied(operation: str, values: Sequence[int]) -> int:
    """What an operation makes of amounts; of none, the start itself."""
    if not values:
        return int(operation)
    if operation == JOIN:
        return values[0] + values[1]
    size = int(operation[1:])
    return values[0] * size if operation[0] == "*" else values[0] + (size if operation[0] == "+" else -size)


def amounts(lines: Sequence[Line]) -> dict[str, int]:
    """What everybody has in the end."""
    known: dict[str, int] = {}
    for line in lines:
        known[line.subject] = applied(line.operation, [known[name] for name in line.of])
    return known


def in_digits(lines: Sequence[Line]) -> bool:
    """Whether every amount on the way is a digit."""
    known: dict[str, int] = {}
    for line in lines:
        value = applied(line.operation, [known[name] for name in line.of])
        if not 0 <= value <= 9:
            return False
        known[line.subject] = value
    return True


def draw(source: random.Random, family: str, depth: int, distractors: int) -> Problem:
    """A problem of so many operations and lines that lead nowhere; every amount is a digit."""
    while True:
        free = source.sample(NAMES, len(NAMES))
        lines = _core(source, family, depth, free)
        if lines is None:
            continue
        asked, core = lines[-1].subject, {line.subject for line in lines}
        for _ in range(distractors):
            place = source.randrange(1, len(lines) + 1)
            lines.insert(place, _aside(source, family, free, lines[:place], core))
        if in_digits(lines):
            told = tuple(replace(line, phrasing=source.randrange(PHRASINGS)) for line in lines)
            return Problem(family, told, asked)


def _core(source: random.Random, family: str, depth: int, free: list[str]) -> list[Line] | None:
    """The lines of a path, with names taken from `free`; None where an amount can go nowhere."""
    last = free.pop()
    lines = [_start(source, last, family)]
    for step in range(depth):
        value = amounts(lines)[last]
        if family == "combine":
            other, made = free.pop(), free.pop()
            lines.append(Line(other, (), str(source.randrange(10 - value)), family))
            lines.append(Line(made, (last, other), JOIN, family))
            last = made
            continue
        event = family == "transfer" or (family == "relay" and step >= (depth + 1) // 2)
        operation = _operation(source, value, PRODUCTS if family == "times" and step % 2 == 0 else SUMS)
        if operation is None:
            return None
        made = last if event else free.pop()
        words = "transfer" if event else "compare" if family == "relay" else family
        lines.append(Line(made, (last,), operation, words))
        last = made
    return lines


def _start(source: random.Random, name: str, family: str) -> Line:
    return Line(name, (), str(source.randrange(10)), family)


def _operation(source: random.Random, value: int, kinds: Sequence[str]) -> str | None:
    """One that makes a digit of a digit, None where there is none."""
    fit = [operation for operation in kinds if 0 <= applied(operation, [value]) <= 9]
    return source.choice(fit) if fit else None


def _aside(
    source: random.Random, family: str, free: list[str], before: Sequence[Line], core: set[str]
) -> Line:
    """A line that leads nowhere: of somebody who stands in no line of the path."""
    known = amounts(before)
    names = sorted(known)
    others = [name for name in names if name not in core]
    if family in ("transfer", "relay") and others and source.random() < 0.5:
        name = source.choice(others)
        return Line(name, (name,), _operation(source, known[name], SUMS) or SUMS[0], "transfer")
    name = free.pop()
    pairs = [
        (one, other) for one in names for other in names if one != other and known[one] + known[other] <= 9
    ]
    if family == "transfer" or source.random() < 0.4 or (family == "combine" and not pairs):
        return _start(source, name, family)
    if family == "combine":
        return Line(name, source.choice(pairs), JOIN, family)
    on = source.choice(names)
    words = "compare" if family == "relay" else family
    kinds = (*SUMS, *PRODUCTS) if family == "times" else SUMS
    return Line(name, (on,), _operation(source, known[on], kinds) or SUMS[0], words)


def split_of(problem: Problem) -> str:
    """The split of a problem, by its skeleton: no problem of a test row has the numbers and operations of another's."""
    share = (
        int.from_bytes(hashlib.sha256(f"{VERSION}:{problem.skeleton}".encode()).digest()[:8], "big") / 2**64
    )
    return "test" if share < 0.12 else "validation" if share < 0.18 else "train"


def problems(
    what: str, split: str, families: Sequence[str], depths: Mapping[int, float], distractors: int
) -> Iterator[Problem]:
    """Distinct problems of a split without end, the same for the same `what`; `depths`: how often each is drawn."""
    source, seen = random.Random(f"{VERSION}:{what}"), set[tuple[tuple[Line, ...], str]]()
    kinds, weights = list(depths), list(depths.values())
    while True:
        family = source.choice(families)
        depth = source.choices(kinds, weights)[0]
        depth = (
            min(depth, MOST_SUMS) if family == "combine" else max(depth, 2) if family == "relay" else depth
        )
        made = draw(source, family, depth, source.randint(0, distractors))
        if split_of(made) == split and (made.lines, made.asked) not in seen:
            seen.add((made.lines, made.asked))
            yield made
