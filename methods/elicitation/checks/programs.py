"""Programs that a model wrote, held against an output or against tests; run in `methods.sandbox` alone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from methods.elicitation.checks import answers
from methods.elicitation.filters import parsers
from methods.sandbox import Outcome, Sandbox

NO_PROGRAM = "no program"


def outputs(texts: Sequence[str], golds: Sequence[str], sandbox: Sandbox) -> list[tuple[bool | None, str]]:
    """For each text whether its program prints the right answer in the end, and how it failed where it did not.

    The last line that is printed is the answer, compared as a number where both are, else as words. What PaD
    (arXiv 2305.13888) keeps.
    """
    found = _run([parsers.program(text) for text in texts], sandbox)
    made: list[tuple[bool | None, str]] = []
    for ended, gold in zip(found, golds, strict=True):
        said = "" if ended is None else ended.stdout.strip().rpartition("\n")[2]
        if ended is None or not ended.done or not said:
            made.append((None, _failure(ended)))
            continue
        right = answers.number(said, gold)
        right = answers.exact(said, gold) if right is None else right
        made.append((right, "" if right else f"printed {said[:80]}"))
    return made


def tests(texts: Sequence[str], asserted: Sequence[str], sandbox: Sandbox) -> list[tuple[bool | None, str]]:
    """For each text whether its program passes tests (Python that raises where one fails), and the last line if not.

    A program that ends before its tests have run has not passed them.
    """
    programs = [parsers.program(text) for text in texts]
    mark = secrets.token_hex(
        8
    )  # must be printed behind the tests: a program may end before them with exit code 0
    whole = [
        None if one is None else f"{one}\n\n{more}\n\nprint({mark!r})\n"
        for one, more in zip(programs, asserted, strict=True)
    ]
    made: list[tuple[bool | None, str]] = []
    for ended in _run(whole, sandbox):
        if ended is None:
            made.append((None, NO_PROGRAM))
            continue
        passed = ended.done and ended.stdout.rstrip("\n").rpartition("\n")[2] == mark
        made.append((passed, "" if passed else _failure(ended)))
    return made


def _run(programs: Sequence[str | None], sandbox: Sandbox) -> list[Outcome | None]:
    ended = iter(sandbox.run_all([one for one in programs if one is not None]))
    return [None if one is None else next(ended) for one in programs]


def _failure(ended: Outcome | None) -> str:
    """The last line of an error, or the limit that was met: what a model can be told about its program."""
    if ended is None:
        return NO_PROGRAM
    if ended.ended == "failed":
        return ended.stderr.strip().rpartition("\n")[2][:200] or f"exit code {ended.exit_code}"
    return "printed nothing" if ended.done else f"ended at its limit: {ended.ended}"
