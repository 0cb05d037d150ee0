"""Mazes: which cells lie beside one another, how far it is from each to each, and random walks; numpy only.

A maze has `size` x `size` cells. A depth-first search that turns at random opens walls until every cell is reached;
`loops` more are opened then, so that there can be several shortest ways. Several mazes are one world of cells without
a way between them.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from reproductions.engine.errors import KDError

Ints = npt.NDArray[np.int64]
MOVES = ("up", "down", "left", "right")
_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))
WALL = -1
FAR = 1_000_000  # between cells of two mazes


@dataclass(frozen=True)
class World:
    """`beyond` (N, 4): the cell behind each move of MOVES, WALL where there is none; `distances` (N, N) in moves."""

    beyond: Ints
    distances: Ints

    @cached_property
    def near(self) -> list[list[int]]:
        """The cells beside each cell."""
        return [[other for other in row if other != WALL] for row in self.beyond.tolist()]

    @cached_property
    def away(self) -> list[list[int]]:
        """`distances` as lists: of single cells they are read faster."""
        return self.distances.tolist()

    @property
    def cells(self) -> int:
        """How many there are."""
        return len(self.beyond)

    def beside(self, cell: int, other: int) -> bool:
        """Whether one move leads from a cell to another."""
        return other in self.near[cell]


def make_world(size: int, loops: int, mazes: int, draw: int) -> World:
    """So many mazes, drawn by a number. Raises KDError for sizes that make none."""
    closed = (size - 1) ** 2  # walls of a tree of all cells
    if size < 2 or mazes < 1 or not 0 <= loops <= closed:
        raise KDError(
            f"a maze of {size} x {size} cells with {loops} loops, {mazes} of them: size is 2 or more, mazes 1 or more, "
            f"loops 0 to {max(closed, 0)}"
        )
    parts = [_maze(size, loops, random.Random(f"maze:{draw}:{number}")) for number in range(mazes)]
    beyond = np.concatenate(
        [np.where(part == WALL, WALL, part + n * size * size) for n, part in enumerate(parts)]
    )
    return World(beyond, all_distances(beyond))


def _maze(size: int, loops: int, source: random.Random) -> Ints:
    beyond = np.full((size * size, len(MOVES)), WALL, np.int64)

    def around(cell: int) -> list[tuple[int, int]]:
        """Moves that stay inside, with the cells behind them."""
        row, column = divmod(cell, size)
        found = [(move, row + down, column + right) for move, (down, right) in enumerate(_STEPS)]
        return [(move, r * size + c) for move, r, c in found if 0 <= r < size and 0 <= c < size]

    def open_wall(cell: int, move: int, other: int) -> None:
        beyond[cell, move], beyond[other, move ^ 1] = other, cell

    reached, way = {0}, [0]
    while way:
        new = [(move, other) for move, other in around(way[-1]) if other not in reached]
        if not new:
            way.pop()
            continue
        move, other = source.choice(new)
        open_wall(way[-1], move, other)
        reached.add(other)
        way.append(other)
    walls = [
        (cell, move, other)
        for cell in range(size * size)
        for move, other in around(cell)
        if cell < other and beyond[cell, move] == WALL
    ]
    for wall in source.sample(walls, loops):
        open_wall(*wall)
    return beyond


def all_distances(beyond: Ints) -> Ints:
    """(N, N) moves of a shortest way, by breadth-first search; FAR where there is none."""
    found = np.full((len(beyond), len(beyond)), FAR, np.int64)
    for start in range(len(beyond)):
        found[start, start] = 0
        queue = deque([start])
        while queue:
            cell = queue.popleft()
            for other in beyond[cell].tolist():
                if other != WALL and found[start, other] == FAR:
                    found[start, other] = found[start, cell] + 1
                    queue.append(other)
    return found


def random_walk(world: World, start: int, moves: int, source: random.Random) -> list[int]:
    """So many moves, each one of the legal ones at random (back again, too)."""
    walk: list[int] = []
    cell = start
    for _ in range(moves):
        cell = source.choice(world.near[cell])
        walk.append(cell)
    return walk


def shortest_walk(world: World, start: int, goal: int, source: random.Random) -> list[int]:
    """The cells behind `start` on a way to the goal, at every cell one of the best moves at random."""
    walk: list[int] = []
    cell = start
    while cell != goal:
        left = world.away[cell][goal] - 1
        cell = source.choice([other for other in world.near[cell] if world.away[other][goal] == left])
        walk.append(cell)
    return walk
