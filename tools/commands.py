"""The verbs of `kd`: one file each, which declares its summary, its options and what it does.

A verb's file holds `SUMMARY`, `options(parser)` and `main(args) -> exit code`, and imports what is slow inside `main`:
only the file of the verb that was typed is imported, so that `kd browse` answers before torch could be.
"""

from __future__ import annotations

import argparse
import importlib
import re
from typing import NoReturn, Protocol, cast

from catalog.errors import nearest

NAMES = (
    *("reproduce", "distill", "elicit", "tune", "browse", "show", "verify", "readme", "site", "new"),
    *("check", "check-links", "export", "bench", "plan", "gate", "attempt", "replay", "methods", "compare"),
    *("teach", "conform"),
)
# Files that stand in rooms of their own: verbs/evidence and verbs/own.
ROOMS = {
    **dict.fromkeys(("reproduce", "tune", "verify", "plan", "gate", "attempt"), "evidence"),
    **dict.fromkeys(("distill", "elicit", "teach", "methods", "compare", "conform"), "own"),
}


class UsageError(ValueError):
    """What was typed cannot be understood; str() says why, with the nearest valid name."""


class Verb(Protocol):
    """What a verb's file offers."""

    SUMMARY: str

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Declare what may follow the verb."""

    def main(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit code."""


def load(name: str) -> Verb:
    """The file of a verb; UsageError with the nearest name."""
    if name not in NAMES:
        raise UsageError(f'no verb "{name}"{nearest(name, NAMES)}; `kd --help` lists them')
    room = f"tools.verbs.{ROOMS[name]}" if name in ROOMS else "tools.verbs"
    return cast(Verb, importlib.import_module(f"{room}.{name.replace('-', '_')}"))


def parser_of(name: str) -> argparse.ArgumentParser:
    """What a verb understands; its complaints are a UsageError of one line."""
    verb = load(name)
    parser = _Parser(prog=f"kd {name}", description=verb.SUMMARY, allow_abbrev=False)
    verb.options(parser)
    return parser


def count(text: str) -> int:
    """A whole number of 1 or more, for `type=`."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number of 1 or more')
    return value


def one_name(text: str) -> str:
    """A name, for `type=` of what may be left out: an empty one, as of a variable that is not set, is not "all"."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name; leave it out for all")
    return text


def names(text: str) -> list[str]:
    """'a,b' as a list, for `type=`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def json_option(parser: argparse.ArgumentParser) -> None:
    """`--json`, which every verb that answers a question has."""
    parser.add_argument("--json", action="store_true", help="print JSON for a program to read")


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints name the nearest option and become one line."""

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UsageError(f'{self.prog}: unknown option "{unknown[0]}"{self._nearest(unknown[0])}')
        return parsed

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"argument ([^:]+): (.*)", message)
        raise UsageError(f"{self.prog}: {wrong[1]}: {wrong[2]}" if wrong else f"{self.prog}: {message}")

    def _nearest(self, word: str) -> str:
        return nearest(word.split("=")[0], self._option_string_actions)
