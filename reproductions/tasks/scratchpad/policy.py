"""What somebody who can calculate writes next, exactly, behind any tokens: the oracle of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from reproductions.engine.errors import KDError
from reproductions.tasks.scratchpad.language import (
    ASKED,
    COLUMNS,
    EOS,
    STRIKE,
    WORKED,
    Form,
    Page,
    read_prompt,
    vocabulary,
)

if TYPE_CHECKING:
    from torch import Tensor

Chances = dict[str, float]  # word -> probability
Behind = tuple[Page | None, list[Chances]]  # a page, and what is written behind each token up to there


def due(page: Page, *, repair: bool) -> str:
    """The word to write next.

    With `repair` the next one of the shortest way to an answer in which all is right: "!" as long as something wrong
    stands. Without it what follows from what is written, right or wrong: digits of the column come from the prompt,
    where they are written from the page; the digit that comes out from these and from what the page carries over; the
    result from the digits of the page. What is no number on the page is read as it should be.
    """
    problem = page.problem
    if repair and not page.faultless:
        return STRIKE
    number = len(page.whole)
    if number >= len(problem.segments):
        return EOS
    if repair:
        return problem.segments[number][len(page.begun)]
    return _goes_on(page)[len(page.begun)]


def _goes_on(page: Page) -> tuple[str, ...]:
    """The segment that is begun, as it follows from the page."""
    problem, form = page.problem, page.problem.form
    number = len(page.whole)
    carried, digits = 0, list[str]()
    for (one, other), said in zip(problem.columns, page.whole, strict=False):
        digit, carried = _outcome(form, one, other, carried, said)
        digits.append(str(digit))
    if number == len(problem.columns):
        return problem.result([*digits, str(carried)])
    one, other = problem.columns[number]
    if form.redundancy >= 2:
        one, other = (_number(form, page.begun, at, usual) for at, usual in ((1, one), (2, other)))
    if form.redundancy == 3:
        carried = _number(form, page.begun, 3, carried)
    return problem.step(COLUMNS[number], one, other, carried, *form.work(one, other, carried))


def _outcome(form: Form, one: int, other: int, carried: int, said: tuple[str, ...]) -> tuple[int, int]:
    """The digit and what is carried, as a step says it."""
    if form.redundancy >= 2:
        one, other = (_number(form, said, at, usual) for at, usual in ((1, one), (2, other)))
    if form.redundancy == 3:
        carried = _number(form, said, 3, carried)
    digit, then = form.work(one, other, carried)
    place = (1, 1, 3, 4)[form.redundancy]
    digit = _number(form, said, place, digit)
    return digit, _number(form, said, place + 1, then) if form.redundancy else then


def _number(form: Form, words: list[str] | tuple[str, ...], place: int, usual: int) -> int:
    """The digit at a place, the usual one where none is written."""
    word = words[place] if place < len(words) else ""
    return int(word) if word.isdigit() else usual


class Scribe:
    """Next-token probabilities (B, L, V) of a policy, in float32.

    It writes what `due` says; where that is a digit that is worked out, it writes with the chance `slip` any digit
    that can stand there instead, each as likely. All of it is mixed with `uniform` of the uniform distribution over the
    vocabulary, so that no token is impossible. Before "|" every token is as likely as any other.
    """

    def __init__(self, form: Form, *, repair: bool, slip: float, uniform: float) -> None:
        if not 0 <= slip <= 1 or not 0 <= uniform < 1:
            raise KDError(
                "an oracle of scratchpad has a slip from 0 to 1 and a uniform share from 0 to below 1, "
                f"not {slip} and {uniform}"
            )
        self.form, self.repair, self.slip, self.uniform = form, repair, slip, uniform
        self.words = vocabulary(form.base)
        self.ids = {word: n for n, word in enumerate(self.words)}
        self._read = dict[
            tuple[int, ...], Behind
        ]()  # of the last call: a rollout asks again, a token further

    def chances(self, page: Page) -> Chances:
        """What is written next behind a page, without the uniform share."""
        word = due(page, repair=self.repair)
        begun, number = len(page.begun), len(page.whole)
        slips = self.slip > 0 and word not in (STRIKE, EOS) and page.problem.kind(number, begun) == WORKED
        if not slips:
            return {word: 1.0}
        carry = self.form.redundancy > 0 and begun == page.problem.size(number) - 1
        can = [str(n) for n in range(self.form.carries if carry else self.form.base)]
        found = dict.fromkeys(can, self.slip / len(can))
        found[word] = found.get(word, 0.0) + 1 - self.slip
        return found

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """For ids and mask (B, L), padded on either side."""
        import torch  # not where tasks are only looked up

        size, before, self._read = len(self.words), self._read, {}
        said = torch.full((*ids.shape, size), 1 / size)
        places, chosen, chances = list[tuple[int, int]](), list[int](), list[float]()
        for row, (tokens, known) in enumerate(zip(ids.tolist(), mask.tolist(), strict=True)):
            at = [place for place, one in enumerate(known) if one]
            read = tuple(tokens[place] for place in at)
            page, found = self._extended(read, before)
            self._read[read] = page, found
            for place, behind in zip(at, found, strict=True):
                for word, chance in behind.items():
                    places.append((row, place))
                    chosen.append(self.ids[word])
                    chances.append(chance)
        if places:
            rows, columns = torch.tensor(places).unbind(1)
            said[rows, columns] = self.uniform / size
            said[rows, columns, torch.tensor(chosen)] += (1 - self.uniform) * torch.tensor(chances)
        return said.to(ids.device)

    def _extended(self, read: tuple[int, ...], before: Mapping[tuple[int, ...], Behind]) -> Behind:
        """The page behind all tokens, and what is written behind each of them."""
        page, found = before.get(read[:-1], (None, []))
        if page is None:
            return self._behind(read)
        page = page.copy()
        page.read(self.words[read[-1]])
        return page, [*found, self.chances(page)]

    def _behind(self, read: tuple[int, ...]) -> Behind:
        """The same from the first token on; nothing is said before "|", nor where no problem is asked."""
        asked = self.ids[ASKED]
        first = read.index(asked) if asked in read else len(read)
        problem = read_prompt(self.form, [self.words[one] for one in read[: first + 1]])
        if problem is None:
            return None, [Chances()] * len(read)
        page = Page(problem)
        found = [*[Chances()] * first, self.chances(page)]
        for one in read[first + 1 :]:
            page.read(self.words[one])
            found.append(self.chances(page))
        return page, found
