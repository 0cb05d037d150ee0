"""How often what a dead worker left is begun again."""

from __future__ import annotations

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.work.sessions.losses import Losses


def test_a_run_is_begun_again_so_often_and_each_for_itself():
    losses = Losses()
    assert [losses.again("a", 2) for _ in range(4)] == [True, True, False, False]
    assert losses.again("b", 2) and not losses.again("c", 0)


def test_workers_that_never_begin_end_it_unless_one_did_meanwhile():
    losses = Losses()
    for _ in range(2):
        losses.unready(2, "no room")
    losses.ready()
    for _ in range(2):
        losses.unready(2, "no room")
    with pytest.raises(KDError, match="^a worker ended before it could take a run: no room$"):
        losses.unready(2, "no room")
    with pytest.raises(KDError):
        Losses().unready(0, "no room")
