"""A teacher that knows the solution, with a stated skill: as a writer of texts, and as a language model.

What it does wrong: it takes the amount of somebody else (the kind that a small model trained on such problems made
nearly alone), another operation than the line says, or a wrong result.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.elicitation.prompting import read_prompt
from methods.elicitation.writers.oracle import OracleWriter, Skill
from methods.elicitation.writers.protocol import Request
from methods.errors import MethodError
from reproductions.engine.errors import KDError
from reproductions.tasks.reasoning.language import ANSWER, ASK, read, solution, steps, worked
from reproductions.tasks.reasoning.world import FAMILIES, PRODUCTS, SUMS, Line, Problem, in_digits

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

KINDS = ("lookup", "misread", "slip")
LABEL, STEPS = "label", "steps"
PROMPTED = (
    "steps",
    "program",
    "equations",
    "sub-questions",
)  # forms that methods/elicitation/prompts asks for
Note = Mapping[str, object]


@dataclass(frozen=True)
class Profile:
    """Shares of all texts about a problem of a family: `errors` with a wrong answer.

    `unsound`: of the right ones, those whose steps do not follow. `redundant`: of the steps, those that are said twice,
    so that several solutions of one problem differ. `permuted`: the steps are those of another problem, the answer is
    this one's.
    """

    errors: Mapping[str, float] = field(default_factory=dict)
    unsound: float = 0.0
    redundant: float = 0.0
    permuted: bool = False

    def __post_init__(self) -> None:
        shares = {**self.errors, "unsound": self.unsound, "redundant": self.redundant}
        for name, share in shares.items():
            if name not in (*FAMILIES, "unsound", "redundant"):
                raise KDError(
                    f'an oracle of reasoning has no error rate for "{name}"; families: {", ".join(FAMILIES)}'
                )
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise KDError(f"an oracle's {name} is a share between 0 and 1, not {share}")

    def stated(self) -> str:
        """The profile in the writer's identity, which stands in every key."""
        rates = "".join(f" {name}={share:g}" for name, share in sorted(self.errors.items()))
        return f"unsound={self.unsound:g} redundant={self.redundant:g} permuted={self.permuted}{rates}"


def wrong_versions(problem: Problem) -> list[tuple[str, Problem, dict[int, int]]]:
    """Ways to go wrong that end in another digit than the answer: kind, the problem as it was read, slips."""
    found: list[tuple[str, Problem, dict[int, int]]] = []
    path = set(problem.path)
    for place, line in enumerate(problem.lines):
        if line not in path:
            continue
        before = sorted({one.subject for one in problem.lines[:place]})
        others = [] if line.event else [name for name in before if name not in (*line.of, line.subject)]
        for n, other in product(range(len(line.of)), others):
            of = (*line.of[:n], other, *line.of[n + 1 :])
            found.append(("lookup", _with(problem, place, replace(line, of=of)), {}))
        if line.operation in (*SUMS, *PRODUCTS):
            for other in SUMS:
                if other != line.operation:
                    found.append(("misread", _with(problem, place, replace(line, operation=other)), {}))
    last = len(problem.path) - 1
    for place in range(last + 1):
        if not problem.path[place].start:
            found += [("slip", problem, {place: by}) for by in (-2, -1, 1, 2)]
    return [one for one in found if _fits(problem, *one[1:])]


def _with(problem: Problem, place: int, line: Line) -> Problem:
    lines = problem.lines
    return replace(problem, lines=(*lines[:place], line, *lines[place + 1 :]))


def _fits(problem: Problem, other: Problem, slips: Mapping[int, int]) -> bool:
    if not in_digits(other.lines):
        return False
    results = _results(other, slips)
    return all(0 <= one <= 9 for one in results) and results[-1] != problem.answer


def _results(problem: Problem, slips: Mapping[int, int]) -> list[int]:
    return [int(one[-1]) for one in worked(problem, slips)]


def wrong_text(problem: Problem, form: str, draws: random.Random, redundant: float = 0.0) -> str:
    """A solution with a wrong answer, in a form; kinds that are possible are equally frequent."""
    ways = wrong_versions(problem)
    if form != STEPS:
        ways = [way for way in ways if way[0] != "slip"] or ways  # a program makes no slips
    kinds = [kind for kind in KINDS if any(way[0] == kind for way in ways)]
    kind = draws.choice(kinds)
    _, read_as, slips = draws.choice([way for way in ways if way[0] == kind])
    if form == STEPS:
        return steps(read_as, slips, again=_again(redundant, draws))
    return solution(read_as, form)


def unsound_text(problem: Problem, form: str, draws: random.Random, redundant: float = 0.0) -> str:
    """Steps with a wrong amount among them and the right answer behind them; other forms are right."""
    if form != STEPS:
        return solution(problem, form)
    places = range(len(problem.path) - 1)
    ways = [{place: by} for place in places for by in (-2, -1, 1, 2)]
    ways = [way for way in ways if all(0 <= one <= 9 for one in _results(problem, way)[:-1])]
    return steps(problem, draws.choice(ways), problem.answer, _again(redundant, draws))


def _again(share: float, draws: random.Random) -> Callable[[], bool]:
    return lambda: draws.random() < share


class ReasoningWriter(OracleWriter):
    """An oracle asked by the library's own prompts: for an answer, or for a solution in one of four forms.

    Which form is read from the system turn; the bare prompt asks for a label. A request that shows it the answer is
    never answered wrongly: where its skill would have failed, its steps do not follow.
    """

    def __init__(self, profile: Profile, donors: Callable[[], Sequence[Problem]]) -> None:
        self.profile, self._donors = profile, donors
        self._forms: dict[str, tuple[str, bool]] = {}
        for form in PROMPTED:
            for hint in ("", "-hint"):
                self._forms[read_prompt(f"explain/{form}{hint}").turns[0][1]] = (form, bool(hint))
        super().__init__(
            f"reasoning {profile.stated()}",
            self._say_right,
            self._say_wrong,
            Skill(kinds={family: 1 - profile.errors.get(family, 0.0) for family in FAMILIES}),
            kind=lambda note: str(note["family"]),
            about=self._asked,
        )

    def _asked(self, request: Request) -> Note:
        """The row's note with the form that is asked for. Raises MethodError for other prompts and other rows."""
        said = request.messages[0].content
        if said == request.note.get("question"):  # methods/elicitation/prompts/answer.txt: the bare prompt
            return {**request.note, "form": LABEL, "hinted": False}
        if said not in self._forms:
            raise MethodError(
                f"the oracle of reasoning knows answer and explain/* as prompts, not {said[:60]!r}"
            )
        form, hinted = self._forms[said]
        return {**request.note, "form": form, "hinted": hinted}

    @staticmethod
    def _problem(note: Note) -> Problem:
        problem = read(str(note["question"]))
        if problem is None:
            raise MethodError(f"the oracle of reasoning cannot read {str(note['question'])[:60]!r}")
        return replace(problem, family=str(note["family"]))

    def _say_right(self, note: Note, draws: random.Random) -> str:
        problem, form, skill = self._problem(note), str(note["form"]), self.profile
        if form == LABEL:
            return f"{ANSWER} {problem.answer}"
        if skill.permuted:
            pool = [other for other in self._donors() if other.family == problem.family]
            donor = draws.choice([other for other in pool if other.skeleton != problem.skeleton])
            return permuted(problem, self._solved(donor, form, draws))
        if draws.random() < skill.unsound:
            return unsound_text(problem, form, draws, skill.redundant)
        return self._solved(problem, form, draws)

    def _solved(self, problem: Problem, form: str, draws: random.Random) -> str:
        if form == STEPS:
            return steps(problem, again=_again(self.profile.redundant, draws))
        return solution(problem, form)

    def _say_wrong(self, note: Note, draws: random.Random) -> str:
        problem, form, skill = self._problem(note), str(note["form"]), self.profile
        if form == LABEL:
            return wrong_text(problem, STEPS, draws).split("\n")[-1]
        write = unsound_text if note["hinted"] else wrong_text
        return write(problem, form, draws, skill.redundant)


def permuted(problem: Problem, text: str) -> str:
    """A text of another problem with this one's answer behind it, where it has an answer at its end."""
    head, mark, _ = text.rpartition(f"{ANSWER} ")
    return f"{head}{mark}{problem.answer}" if mark else text


class Solver:
    """Next-token probabilities (B, L, V) of the oracle as a language model, in float32, behind prompts of the task.

    A solution in steps is said with the family's share, each of `wrong` wrong ones with an equal part of the rest; what
    has been said decides which of them are left (Bayes). Behind anything else comes the end. All of it is mixed with
    `uniform` of the uniform distribution. Before the question every token is as likely as any other.
    """

    def __init__(
        self,
        profile: Profile,
        tokenizer: PreTrainedTokenizerBase,
        family: Callable[[str], str],
        donors: Callable[[], Sequence[Problem]],
        *,
        wrong: int = 3,
        uniform: float = 0.001,
    ) -> None:
        self.profile, self.tokenizer, self.wrong, self.uniform = profile, tokenizer, wrong, uniform
        self._family, self._donors = family, donors
        self._ask = tokenizer.convert_tokens_to_ids(ASK)
        self._known = lru_cache(maxsize=20_000)(self._texts)

    def _texts(self, ids: tuple[int, ...]) -> list[tuple[float, list[int]]]:
        """Weights and token ids with EOS of what may be said behind a prompt; nothing where it is no prompt."""
        said = str(self.tokenizer.decode(list(ids)))
        problem = read(said)
        if problem is None:
            return []
        problem = replace(problem, family=self._family(" ".join(said.split())))
        draws = random.Random(f"solver/{said}")
        if self.profile.permuted:
            pool = [other for other in self._donors() if other.family == problem.family]
            return [(1.0, self._ids(permuted(problem, steps(draws.choice(pool)))))]
        error = self.profile.errors.get(problem.family, 0.0)
        texts = [(1 - error, steps(problem))] if error < 1 else []
        if error:
            texts += [(error / self.wrong, wrong_text(problem, "steps", draws)) for _ in range(self.wrong)]
        return [(weight, self._ids(text)) for weight, text in texts]

    def _ids(self, text: str) -> list[int]:
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """For ids and mask (B, L), padded on either side."""
        size = len(self.tokenizer)
        made = torch.full((*ids.shape, size), 1 / size)
        for row, (tokens, there) in enumerate(zip(ids.tolist(), mask.tolist(), strict=True)):
            places = [place for place, kept in enumerate(there) if kept]
            asked = [n for n, place in enumerate(places) if tokens[place] == self._ask]
            if not asked or asked[0] + 1 >= len(places):
                continue
            begin = asked[0] + 2  # behind the question and the name
            texts = self._known(tuple(tokens[place] for place in places[:begin]))
            said = [tokens[place] for place in places[begin:]]
            matched = [_common(text, said) for _, text in texts]
            for n, place in enumerate(places[begin - 1 :]):
                made[row, place] = self.uniform / size
                left = [
                    one for one, many in zip(texts, matched, strict=True) if many >= n and n < len(one[1])
                ]
                total = sum(weight for weight, _ in left)
                for weight, text in left:
                    made[row, place, text[n]] += (1 - self.uniform) * weight / total
                if not total:
                    made[row, place, self.tokenizer.eos_token_id] += 1 - self.uniform
        return made.to(ids.device)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
