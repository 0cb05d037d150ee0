"""How a problem is told and read again, how a solution is written, and the tokens of both: a token a word.

A name as the subject of a line and as somebody it rests on are two words, Tom and tom, as in a language with cases: a
net of few layers finds the line of somebody much sooner. A step stands on a line of its own in a text; the tokenizer
reads line breaks as blanks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from reproductions.tasks.reasoning.world import JOIN, NAMES, PRODUCTS, SUMS, Line, Problem, applied
from reproductions.tasks.words import BOS, EOS, PAD, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


ASK, ANSWER, SO, AGAIN, PRINT, CLOSE, SOUGHT = "?", "Answer:", "so", "again", "print(", ")", "answer"
TASKS = ("answer:", "explain:")  # before a prompt, where one student is asked for several things
DIGITS = tuple(map(str, range(10)))
PLACES = tuple(f"{n}." for n in range(1, 9))
SUBJECTS: Mapping[str, str] = {name: name.capitalize() for name in NAMES}
PEOPLE = {subject: name for name, subject in SUBJECTS.items()}
FORMS = ("steps", "redundant", "program", "equations", "sub-questions")

# S: the subject, r and q: those it rests on, o: the operation, in the family's word for it.
PHRASES: Mapping[str, tuple[str, str, str]] = {
    "start": ("S has o .", "S holds o .", "o belongs-to S ."),
    "chain": ("S is r o .", "r o gives S .", "S comes-from r o ."),
    "compare": ("S has o than r .", "than r o has S .", "S beside r has o ."),
    "transfer": ("S o .", "then S o .", "now o S ."),
    "combine": ("S has r and q .", "r with q is S .", "S joins r and q ."),
    "times": ("S has o r .", "o r has S .", "S makes o of r ."),
}
SAID: Mapping[str, Mapping[str, str]] = {
    "compare": {op: f"{op[1]}-{'more' if op[0] == '+' else 'fewer'}" for op in SUMS},
    "transfer": {op: f"{'gets' if op[0] == '+' else 'loses'}-{op[1]}" for op in SUMS},
    "times": {"*2": "twice", "*3": "thrice"},
}
MEANT = {word: op for words in SAID.values() for op, word in words.items()}


def vocabulary() -> list[str]:
    """All tokens, in the order of their ids."""
    words = {word for phrases in PHRASES.values() for one in phrases for word in one.split()} - set("Srqo")
    return [
        *(PAD, BOS, EOS, ASK, ANSWER, SO, AGAIN, PRINT, CLOSE, SOUGHT, "=", ";", JOIN, *TASKS),
        *(*DIGITS, *SUMS, *PRODUCTS, *PLACES, *NAMES, *SUBJECTS.values(), *sorted(MEANT), *sorted(words)),
    ]


def make_tokenizer(tokens: int) -> PreTrainedTokenizerFast:
    """A token a word."""
    return word_tokenizer(vocabulary(), tokens)


def ask(problem: Problem) -> str:
    """The prompt. It ends with a blank: whoever answers need not begin with one."""
    return f"{' '.join(_told(line) for line in problem.lines)} {ASK} {problem.asked} "


def _told(line: Line) -> str:
    kind = "start" if line.start else line.family
    operation = SAID.get(kind, {}).get(line.operation, line.operation)
    if kind == "times" and line.operation in SUMS:
        kind = "chain"  # sums between products
    parts = {"S": SUBJECTS[line.subject], "o": operation, **dict(zip("rq", line.of, strict=False))}
    return " ".join(parts.get(word, word) for word in PHRASES[kind][line.phrasing].split())


@lru_cache(maxsize=20_000)
def read(prompt: str) -> Problem | None:
    """The problem of a prompt, None where it is none; its family is not told by every prompt, and is "" here."""
    *told, asked = prompt.split() or [""]
    while told and told[0] in TASKS:
        told = told[1:]
    if not told or told.pop() != ASK or asked not in NAMES:
        return None
    lines, sentence = list[Line](), list[str]()
    for word in told:
        if word != ".":
            sentence.append(word)
            continue
        line = _line(sentence)
        known = {one.subject for one in lines}
        if line is None or not set(line.of) <= known or (line.subject in known and not line.event):
            return None
        lines.append(line)
        sentence = []
    return (
        Problem("", tuple(lines), asked) if not sentence and any(o.subject == asked for o in lines) else None
    )


def _line(words: Sequence[str]) -> Line | None:
    """What a sentence says, whatever its words in between."""
    subjects = [PEOPLE[word] for word in words if word in PEOPLE]
    of = tuple(word for word in words if word in NAMES)
    operations = [MEANT.get(word, word) for word in words if word in (*DIGITS, *SUMS, *MEANT)]
    if len(subjects) != 1 or len(operations) > 1 or len(of) > 2:
        return None
    subject = subjects[0]
    if len(of) == 2:
        return None if operations else Line(subject, of, JOIN, "combine")
    if not operations:
        return None
    operation = operations[0]
    if operation in DIGITS:
        return None if of else Line(subject, (), operation, "start")
    return Line(subject, of or (subject,), operation, "transfer" if not of else "chain")


def steps(
    problem: Problem,
    slips: Mapping[int, int] | None = None,
    final: int | None = None,
    again: Callable[[], bool] = lambda: False,
) -> str:
    """Back from what is asked to what it rests on, then forward: a step a line, and the answer.

    `slips`: by how much the result of a line of the path is wrong, by its place; what follows goes on from there.
    `final`: what the last line is said to give, and the answer. `again()` tells of each step whether it is said twice.
    """
    path = problem.path
    back = [" ".join([SUBJECTS[line.subject], *_origin(line)]) for line in reversed(path)]
    forth = [" ".join(map(str, one)) for one in worked(problem, slips, final)]
    value = forth[-1].split()[-1]
    said = [*_twice(back, again), SO, *_twice(forth, again), f"{ANSWER} {value}"]
    return "\n".join(said)


def _origin(line: Line) -> list[str]:
    return [line.operation] if line.start or line.event else [*line.of, line.operation]


def _twice(said: Sequence[str], again: Callable[[], bool]) -> list[str]:
    return [part for one in said for part in ((one, f"{AGAIN} {one}") if again() else (one,))]


def worked(
    problem: Problem, slips: Mapping[int, int] | None = None, final: int | None = None
) -> list[tuple[str | int, ...]]:
    """Each line of the path as (name, result) or (name, amount, operation, ..., result)."""
    known, made = dict[str, int](), list[tuple[str | int, ...]]()
    path = problem.path
    for place, line in enumerate(path):
        values = [known[name] for name in line.of]
        result = applied(line.operation, values) + (slips or {}).get(place, 0)
        if final is not None and place == len(path) - 1:
            result = final
        known[line.subject] = result
        if line.start:
            made.append((line.subject, result))
        elif len(values) == 2:
            made.append((line.subject, values[0], JOIN, values[1], result))
        else:
            made.append((line.subject, values[0], line.operation, result))
    return made


def program(problem: Problem) -> str:
    """Python, a statement a line; it prints the answer."""
    said = [f"{line.subject} = {_term(line, line.of)} ;" for line in problem.path]
    return "\n".join([*said, f"{PRINT} {problem.asked} {CLOSE}"])


def equations(problem: Problem) -> str:
    """An equation for everybody on the path; events stand behind what their holder had before."""
    sides: dict[str, str] = {}
    for line in problem.path:
        before = sides.get(line.subject)
        sides[line.subject] = f"{before} {line.operation}" if before else _term(line, line.of)
    return " ;\n".join([*(f"{name} = {side}" for name, side in sides.items()), f"{SOUGHT} = {problem.asked}"])


def _term(line: Line, of: Sequence[str]) -> str:
    return f" {JOIN} ".join(of) if line.operation == JOIN else " ".join([*of, line.operation])


def sub_questions(problem: Problem, answered: bool = True) -> str:
    """Numbered smaller questions in the order in which they can be answered, with their answers or without."""
    asked = [
        f"{n}. {one[0]} {ASK}{f' {one[-1]}' if answered else ''}" for n, one in enumerate(worked(problem), 1)
    ]
    return "\n".join([*asked, *([f"{ANSWER} {problem.answer}"] if answered else [])])


def solution(problem: Problem, form: str) -> str:
    """A right solution in a form of FORMS."""
    if form in ("steps", "redundant"):
        return steps(problem, again=lambda: form == "redundant")
    if form == "sub-questions":
        return sub_questions(problem)
    return program(problem) if form == "program" else equations(problem)
