"""Mazes and distances, against a drawing of the maze that is searched in another way."""

import random

import numpy as np
import pytest

from reproductions.engine.errors import KDError
from reproductions.tasks.navigate.world import FAR, WALL, make_world, random_walk, shortest_walk

OPPOSITE = {0: 1, 1: 0, 2: 3, 3: 2}


def by_matrix_powers(beyond):
    """Distances as the first power of the adjacency matrix that has an entry."""
    size = len(beyond)
    one = np.zeros((size, size), int)
    for cell, row in enumerate(beyond):
        for other in row:
            if other != WALL:
                one[cell, other] = 1
    found, reach = np.full((size, size), FAR), np.eye(size, dtype=int)
    for moves in range(size):
        found[(reach > 0) & (found == FAR)] = moves
        reach = np.minimum(reach @ one, 1)
    return found


@pytest.mark.parametrize(("size", "loops", "mazes"), [(2, 0, 1), (4, 0, 1), (4, 3, 2), (5, 16, 1)])
def test_every_cell_is_reached_and_walls_are_the_same_from_both_sides(size, loops, mazes):
    world = make_world(size, loops, mazes, draw=3)
    assert world.cells == mazes * size * size
    doors = 0
    for cell, row in enumerate(world.beyond.tolist()):
        for move, other in enumerate(row):
            if other != WALL:
                doors += 1
                assert world.beyond[other, OPPOSITE[move]] == cell
                assert other - cell == (-size, size, -1, 1)[move]
                assert cell // (size * size) == other // (size * size)
                assert move < 2 or cell // size == other // size  # left and right stay in the row
    assert doors == 2 * mazes * (size * size - 1 + loops)
    assert np.array_equal(world.distances, by_matrix_powers(world.beyond.tolist()))
    inside = world.distances[: size * size, : size * size]
    assert inside.max() < FAR
    assert mazes == 1 or (world.distances[: size * size, size * size :] == FAR).all()


def test_a_draw_is_the_same_every_time_and_another_is_another():
    same = [make_world(6, 4, 2, draw) for draw in (1, 1, 2)]
    assert np.array_equal(same[0].beyond, same[1].beyond)
    assert not np.array_equal(same[0].beyond, same[2].beyond)
    first, second = same[0].beyond[:36], same[0].beyond[36:]
    assert not np.array_equal(first, np.where(second == WALL, WALL, second - 36))


def test_walks_are_legal_and_shortest_ones_take_every_best_way():
    world, source = make_world(5, 16, 1, 0), random.Random(0)  # without walls
    for _ in range(30):
        start, goal = source.sample(range(25), 2)
        walk = shortest_walk(world, start, goal, source)
        assert walk[-1] == goal and len(walk) == world.distances[start, goal]
        assert len(walk) == abs(start // 5 - goal // 5) + abs(start % 5 - goal % 5)
        for walked in (walk, random_walk(world, start, 12, source)):
            assert all(world.distances[a, b] == 1 for a, b in zip([start, *walked], walked, strict=False))
    ways = {tuple(shortest_walk(world, 0, 12, source)) for _ in range(200)}
    assert len(ways) == 6  # 4 moves of which 2 are down
    assert {random_walk(world, 12, 1, source)[0] for _ in range(99)} == {7, 11, 13, 17}


@pytest.mark.parametrize("sizes", [(1, 0, 1), (4, 10, 1), (4, -1, 1), (4, 0, 0)])
def test_sizes_that_make_no_maze_are_refused(sizes):
    with pytest.raises(KDError, match="size is 2 or more"):
        make_world(*sizes, 0)
