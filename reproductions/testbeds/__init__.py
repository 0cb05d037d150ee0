"""Tasks with data, models and metrics; `load_testbed` imports only the one that is asked for."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from reproductions.engine.errors import KDError

if TYPE_CHECKING:
    from reproductions.testbeds.base import Testbed

TESTBEDS = {
    "pronunciation": "reproductions.testbeds.pronunciation",
    "arithmetic": "reproductions.testbeds.arithmetic",
    "word-problems": "reproductions.testbeds.word_problems",
    "instructions": "reproductions.testbeds.instructions",
}


@cache
def load_testbed(name: str) -> Testbed:
    """The testbed called `name`; raises KDError with the nearest name when there is none."""
    if name not in TESTBEDS:
        near = get_close_matches(name, TESTBEDS, n=1)
        hint = f' (did you mean "{near[0]}"?)' if near else f"; known: {', '.join(TESTBEDS)}"
        raise KDError(f'unknown testbed "{name}"{hint}')
    return import_module(TESTBEDS[name]).load()
