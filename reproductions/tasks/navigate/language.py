"""How a walk is written: the cells, the moves, or both; and what a written walk was.

cells: 57 93 | 58 59 69 ...         each step one token, the cell that it leads to
moves: 57 93 | right right down ... each step one token, where one stands is not said
both:  57 93 | right 58 right 59 ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reproductions.tasks.navigate.world import MOVES, WALL, World
from reproductions.tasks.words import BOS, EOS, PAD, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ASKED = "|"
FORMS = ("cells", "moves", "both")
Form = Literal["cells", "moves", "both"]
FIRST_MOVE = 4  # ids: four special tokens, the moves, the cells
FIRST_CELL = FIRST_MOVE + len(MOVES)
PROMPT = 3  # tokens: start, goal, |


def vocabulary(cells: int) -> list[str]:
    """All tokens, in the order of their ids."""
    return [PAD, BOS, EOS, ASKED, *MOVES, *map(str, range(cells))]


def make_tokenizer(cells: int, tokens: int) -> PreTrainedTokenizerFast:
    """A token a word."""
    return word_tokenizer(vocabulary(cells), tokens)


def ask(start: int, goal: int) -> str:
    """The prompt of a problem."""
    return f"{start} {goal} {ASKED}"


def write(world: World, form: Form, start: int, walk: Sequence[int]) -> str:
    """A legal walk as text, a blank before each token."""
    words, cell = [], start
    for other in walk:
        if form != "cells":
            words.append(MOVES[world.beyond[cell].tolist().index(other)])
        if form != "moves":
            words.append(str(other))
        cell = other
    return "".join(f" {word}" for word in words)


def length(form: Form, moves: int) -> int:
    """Tokens of a walk with its EOS."""
    return moves * (2 if form == "both" else 1) + 1


@dataclass(frozen=True)
class Ending:
    """How a walk ended: "right" (at the goal, every step legal), "false-end" (elsewhere, or in the middle of a step),
    "illegal" (a step through a wall, a cell that is not where the move leads, or no step at all) or "unfinished" (the
    limit came first). `moves` are the legal ones before that; `extra` those beyond a shortest walk, of a right one.
    """

    kind: str
    moves: int
    extra: int = 0


def judge(world: World, form: Form, start: int, goal: int, ids: Sequence[int], finished: bool) -> Ending:
    """What token ids without EOS say; the first illegal step decides, whatever follows."""
    cell, moves, due = start, 0, None  # due: the cell that a move has led to and that is to be printed
    for token in ids:
        if form == "cells" or due is not None:
            other = token - FIRST_CELL
            legal = other >= 0 and (world.beside(cell, other) if due is None else other == due)
            cell, due = other, None
        else:
            move = token - FIRST_MOVE
            other = int(world.beyond[cell, move]) if 0 <= move < len(MOVES) else WALL
            legal = other != WALL
            if form == "both":
                due = other
                if legal:
                    continue
            cell = other
        if not legal:
            return Ending("illegal", moves)
        moves += 1
    if not finished:
        return Ending("unfinished", moves)
    if cell != goal or due is not None:
        return Ending("false-end", moves)
    return Ending("right", moves, moves - int(world.distances[start, goal]))
