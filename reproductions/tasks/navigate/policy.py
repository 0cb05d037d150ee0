"""What a walker who knows the maze says next, exactly, behind any tokens: the oracle of the task."""

from __future__ import annotations

import torch
from torch import Tensor

from reproductions.engine.errors import KDError
from reproductions.tasks.navigate.language import ASKED, EOS, FIRST_CELL, FIRST_MOVE, Form, vocabulary
from reproductions.tasks.navigate.world import MOVES, WALL, World


class Walker:
    """Next-token probabilities (B, L, V) of a policy, in float32.

    At a cell a legal move has a probability proportional to exp(-d / temperature), where d are the moves from behind it
    to the goal beyond the least; with the chance `slip` it is any legal move at random instead. At the goal comes EOS.
    All of it is mixed with `uniform` of the uniform distribution over the vocabulary, so that no token is impossible.

    One stands on the cell that was printed last, however one came there; where cells are not printed, behind the moves
    that were possible: a move into a wall leads nowhere. Before "|" every token is as likely as any other.
    """

    def __init__(self, world: World, form: Form, *, temperature: float, slip: float, uniform: float) -> None:
        if not temperature > 0 or not 0 <= slip <= 1 or not 0 <= uniform < 1:
            raise KDError(
                "an oracle of navigate has a temperature above 0, a slip from 0 to 1 and a uniform share from 0 to "
                f"below 1, not {temperature}, {slip} and {uniform}"
            )
        words = vocabulary(world.cells)
        self.form, self.size, self.uniform = form, len(words), uniform
        self.asked, self.eos = words.index(ASKED), words.index(EOS)
        self.beyond = torch.from_numpy(world.beyond)
        legal = self.beyond != WALL
        left = torch.from_numpy(world.distances)[self.beyond.clamp_min(0)].double()  # (cells, moves, goals)
        left = left.masked_fill(~legal[:, :, None], torch.inf).transpose(1, 2)  # (cells, goals, moves)
        best = torch.softmax(-(left - left.amin(-1, keepdim=True)) / temperature, -1)
        random = (legal / legal.sum(-1, keepdim=True))[:, None].double()
        self.moves = ((1 - slip) * best + slip * random).float()
        self.landing = self._printed(self.moves) if form == "cells" else None

    def _printed(self, moves: Tensor) -> Tensor:
        """(cells, goals, V): the probabilities of tokens of a walk of cells; no two moves lead to one cell."""
        cells = len(moves)
        table = torch.zeros(cells, cells, self.size)
        for move in range(len(MOVES)):
            to = self.beyond[:, move]
            here = (to != WALL).nonzero().squeeze(1)
            table[here, :, FIRST_CELL + to[here]] = moves[here, :, move]
        goal = torch.arange(cells)
        table[goal, goal] = 0.0
        table[goal, goal, self.eos] = 1.0
        return table

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """For ids and mask (B, L), padded on either side."""
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        asked = ((ids == self.asked) & mask.bool()).long()
        known = asked.cumsum(1) > 0
        first = asked.argmax(1, keepdim=True).clamp_min(2)  # of "|"; the start stands two before it
        start, goal = (ids.gather(1, first - back).sub(FIRST_CELL) for back in (2, 1))
        start, goal = (cell.clamp(0, len(self.beyond) - 1) for cell in (start, goal))
        if self.form == "moves":
            cells = self._walked(ids, known, start)
        else:
            printed = (ids >= FIRST_CELL) & known & (places > first)
            last = torch.where(printed, places, -1).cummax(1).values
            cells = torch.where(last >= 0, ids.gather(1, last.clamp_min(0)) - FIRST_CELL, start)
        said = self._said(ids, cells, goal.expand_as(cells), known)
        said = said * (1 - self.uniform) + self.uniform / self.size
        return torch.where(known[..., None], said, 1 / self.size)

    def _walked(self, ids: Tensor, known: Tensor, start: Tensor) -> Tensor:
        """(B, L) where the moves have led to."""
        cell, found = start[:, 0], []
        for token, told in zip(ids.t(), known.t(), strict=True):
            move = token - FIRST_MOVE
            is_move = told & (move >= 0) & (move < len(MOVES))
            to = self.beyond[cell, move.clamp(0, len(MOVES) - 1)]
            cell = torch.where(is_move & (to != WALL), to, cell)
            found.append(cell)
        return torch.stack(found, 1)

    def _said(self, ids: Tensor, cells: Tensor, goal: Tensor, known: Tensor) -> Tensor:
        if self.landing is not None:
            return self.landing[cells, goal]
        said = torch.zeros(*cells.shape, self.size)
        said[..., FIRST_MOVE:FIRST_CELL] = self.moves[cells, goal]
        there = cells == goal
        said[there] = 0.0
        said[..., self.eos][there] = 1.0
        if self.form == "both":  # behind a move comes the cell that it leads to
            move = (ids - FIRST_MOVE).clamp(0, len(MOVES) - 1)
            due = known & (ids >= FIRST_MOVE) & (ids < FIRST_CELL)
            to = self.beyond[cells, move]
            to = torch.where(to == WALL, cells, to)
            said[due] = torch.nn.functional.one_hot(FIRST_CELL + to[due], self.size).float()
        return said
