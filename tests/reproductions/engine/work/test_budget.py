"""What a run counts: tokens by model, rollouts, and who wrote them."""

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.work.budget import Budget

SAMPLED = {"completions": 8, "truncated": 1, "empty": 0}


def test_a_budget_counts_what_a_sampler_lets_the_teacher_write():
    budget = Budget()
    budget.add_rollouts({**SAMPLED, "tokens_by_teacher": 30})
    budget.add_rollouts({**SAMPLED, "tokens_by_teacher": 12})
    assert budget.rollouts() == {"completions": 16, "truncated": 2, "empty": 0, "tokens_by_teacher": 42}


def test_an_arm_whose_teacher_writes_nothing_has_no_such_count():
    budget = Budget()
    budget.add_rollouts(SAMPLED)
    assert budget.rollouts() == SAMPLED


def test_a_count_that_nobody_keeps_is_refused():
    with pytest.raises(KDError, match="tokens_by_teacher"):
        Budget().add_rollouts({"tokens_by_teachers": 1})
