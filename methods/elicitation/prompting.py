"""Prompts as files: what a teacher is asked, readable without the code and hashed into each request.

A file of methods/elicitation/prompts (or one of the user's own, named by a path that ends in .txt) has turns, each
behind a line `[system]`, `[user]` or `[assistant]`. `{name}` stands for a field that the component fills in; the text
that is filled in is never read as a template itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from methods.elicitation.writers.protocol import ROLES, Message
from methods.errors import MethodError
from methods.registry import near

FOLDER = Path(__file__).with_name("prompts")
_TURN = re.compile(rf"^\[({'|'.join(ROLES)})\]$", re.M)
_FIELD = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Prompt:
    """Turns with fields: (role, text) pairs, and where they stand."""

    name: str
    turns: tuple[tuple[str, str], ...]

    @property
    def fields(self) -> frozenset[str]:
        """The names between braces."""
        return frozenset(name for _, text in self.turns for name in _FIELD.findall(text))

    def fill(self, fields: Mapping[str, str]) -> tuple[Message, ...]:
        """The messages. Raises MethodError for a field that nobody gave; those that stand nowhere are left."""
        missing = sorted(self.fields - set(fields))
        if missing:
            raise MethodError(
                f'prompt {self.name}: nothing is called "{missing[0]}"{near(missing[0], fields)}; '
                f"there are {', '.join(sorted(fields))}"
            )
        return tuple(
            Message(role, _FIELD.sub(lambda found: fields[found[1]], text)) for role, text in self.turns
        )


def prompt_names() -> list[str]:
    """The prompts that come with the library."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.txt"))


def read_prompt(name: str) -> Prompt:
    """A prompt of the library, or that of a file `....txt`. Raises MethodError with the nearest name."""
    if name.endswith(".txt"):
        path = Path(name)
        if not path.is_file():
            raise MethodError(f"no file {name} with a prompt")
    else:
        path = FOLDER / f"{name}.txt"
        if name not in prompt_names():
            known = prompt_names()
            raise MethodError(f'no prompt "{name}"{near(name, known)}; known: {", ".join(known)}')
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: Path, changed: int) -> Prompt:
    text = path.read_text(encoding="utf-8")
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise MethodError(f"{path}: a prompt begins with a line [user] or [system]")
    turns = tuple((role, said.strip("\n")) for role, said in zip(parts[::2], parts[1::2], strict=True))
    if turns[-1][0] != "user":
        raise MethodError(f"{path}: the last turn of a prompt is the user's")
    return Prompt(path.stem, turns)
