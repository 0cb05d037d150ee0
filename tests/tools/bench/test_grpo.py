"""What `kd bench --grpo` makes of two learning curves, by hand; both trainers get the same settings."""

import importlib

import pytest

from tools.bench.trainings import grpo


def test_a_row_is_a_paired_difference_with_an_interval_for_all_rows_together():
    found = grpo.beside([52.0, 54.0, 56.0], [50.0, 53.0, 53.0])
    assert (found["ours"], found["trl"], found["difference"]) == (54.0, 52.0, 2.0)
    # The gaps 2, 1, 3 have standard deviation 1; t(0.99583, 2) = 10.8859 of a table.
    assert grpo.POINTS == 5
    assert found["half"] == pytest.approx(10.8859 / 3**0.5, abs=1e-3)


def test_the_reward_counts_right_answers_and_keeps_every_mean():
    reward = grpo.Reward(lambda prompts, answers: [100.0 if ids == [1, 2] else 0.0 for ids in answers])
    assert reward(["a"] * 4, [[1, 2], [3], [1, 2], [1]]) == [1.0, 0.0, 1.0, 0.0]
    assert reward(["a"], [[3]], other=1) == [0.0]
    assert reward.means == [0.5, 0.0]


def test_both_trainers_take_the_settings(tmp_path):
    from methods.trainers import OptimisationConfig

    told = grpo.settings(str(tmp_path), 3, 10, 12)
    configs = OptimisationConfig(**told), importlib.import_module("trl").GRPOConfig(**told)
    for name in ("num_generations", "loss_type", "scale_rewards", "epsilon", "learning_rate", "seed", "beta"):
        assert getattr(configs[0], name) == getattr(configs[1], name) == told[name]


def test_rows_are_parts_of_the_training_and_its_end():
    row = grpo.beside([1.0, 2.0], [1.0, 2.0])
    rows = grpo.rows({"points": [{"until": 40, **row}, {"until": 80, **row}], "greedy": row})
    assert [name for name, _ in rows] == ["to 40", "to 80", "greedy, at the end"]
    assert rows[0][1]["difference"] == 0.0
