"""The measured speed of speculative decoding: its ratios fit together."""

import pytest

from reproductions.papers.distillspec import speed
from tests.methods.conftest import make_model


def test_a_target_that_drafts_for_itself_is_accepted_always():
    target = make_model(seed=1)
    common = {"max_new_tokens": 10, "eos_ids": [99], "pad_id": 0, "greedy": True}
    found = speed.compare(target, target, [[5, 6], [7]], rounds=2, **common)
    assert found["acceptance"] == 1 and found["block_efficiency"] == 5  # blocks of four and one more
    assert (
        found["speed_up"] > 0
        and found["speed_up_range"][0] <= found["speed_up"] <= found["speed_up_range"][1]
    )
    assert found["foretold_speed_up"] == pytest.approx(5 / (4 * found["draft_cost"] + 1), abs=2e-3)
