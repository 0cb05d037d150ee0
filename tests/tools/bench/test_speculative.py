"""The measured speed of speculative decoding: its ratios fit together."""

from __future__ import annotations

import pytest

from reproductions.engine.plan.plan import make_plan
from tests.methods.conftest import make_model
from tools.bench import speculative
from tools.pages.benchmarks import speculative_benchmarks


def test_a_target_that_drafts_for_itself_is_accepted_always():
    target = make_model(seed=1)
    common = {"max_new_tokens": 10, "eos_ids": [99], "pad_id": 0, "greedy": True}
    found = speculative.compare(target, target, [[5, 6], [7]], 2, 4, **common)
    assert found["acceptance"] == 1 and found["block_efficiency"] == 5  # blocks of four and one more
    low, high = found["speed_up_range"]
    assert 0 < low <= found["speed_up"] <= high
    assert found["foretold_speed_up"] == pytest.approx(5 / (4 * found["draft_cost"] + 1), abs=2e-3)


def test_what_is_compared_are_arms_of_the_experiment():
    plan = make_plan(speculative.PAPER, speculative.SCALE, arms=speculative.ARMS)
    assert plan.arms == speculative.ARMS and "drafting" in plan.testbed["metrics"]
    assert speculative.block_length() == 4


def test_the_committed_record_has_its_table():
    (table,) = speculative_benchmarks()
    assert [row[0] for row in table["rows"]] == [
        f"{arm}, {how}" for arm in speculative.ARMS for how in ("temperature 1", "greedy")
    ]
