"""Policy gradients of several seeds side by side against each alone: the same completions, updates and counts."""

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.slots.advantages import GroupReward, LogRatio, LowestProbability, Only
from methods.slots.terms import SampledKL
from methods.trainers.cohort import PolicyCohort
from methods.trainers.optimisation import OptimisationConfig, PolicyOptimiser
from tests.methods.conftest import ONE_STEP, make_model

SEEDS = (3, 4, 5)
# Prompts of two lengths: padding, which differs between members.
ROWS = Dataset.from_list(
    [
        {"prompt": f"{letter}|"[n % 2 :] * (1 + n % 3), "completion": letter}
        for n, letter in enumerate("abcdefgh")
    ]
)
ARMS = {
    "log-ratio": (lambda: {"advantage": LogRatio()}, {"num_generations": 1}),
    "group-reward": (
        lambda: {
            "advantage": GroupReward(),
            "rewards": [figures],
            "terms": [SampledKL("k3", to="start", weight=0.04)],
        },
        {"num_generations": 2, "loss_type": "grpo"},
    ),
    "buffered": (
        lambda: {"advantage": Only(LogRatio(), LowestProbability(0.5))},
        {"num_generations": 1, "steps_per_generation": 2},
    ),
}


def figures(completion_ids, **_):
    """A figure that differs between completions of one prompt."""
    return [sum(i % 5 for i in ids) / 10 for ids in completion_ids]


def member(arm, seed, tokenizer, folder, **settings):
    parts, own = ARMS[arm]
    arguments = {
        **ONE_STEP,
        "output_dir": str(folder / str(seed)),
        "max_steps": 4,
        "learning_rate": 0.02,
        "max_grad_norm": 1e6,  # a clip would hide a loss of another size
        "per_device_train_batch_size": 4,
        "max_completion_length": 6,
        "seed": seed,
        "data_seed": seed,
        **own,
        **settings,
    }
    made = PolicyOptimiser(
        make_model(seed=seed).double(),
        args=OptimisationConfig(**arguments),
        train_dataset=ROWS,
        processing_class=tokenizer,
        teacher=[make_model(seed=1, width=24).double()],
        **parts(),
    )
    torch.manual_seed(100 + seed)
    return made, torch.get_rng_state()


def members(arm, tokenizer, folder, **settings):
    return [member(arm, seed, tokenizer, folder, **settings) for seed in SEEDS]


def learnt(one):
    weights = torch.cat([p.detach().flatten() for p in one.model.parameters()])
    return weights, one.token_counts, one.rollout_counts, one.state.global_step


def alone(given):
    found = []
    for one, state in given:
        torch.set_rng_state(state)
        one.train()
        found.append(learnt(one))
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_each_learns_what_it_learns_alone(arm, tokenizer, tmp_path):
    expected = alone(members(arm, tokenizer, tmp_path / "alone"))
    given = members(arm, tokenizer, tmp_path / "together")
    before = [torch.cat([p.detach().flatten() for p in one.model.parameters()]) for one, _ in given]
    PolicyCohort([one for one, _ in given], [state for _, state in given]).train()
    for (one, _), (weights, *counts), start in zip(given, expected, before, strict=True):
        found, *counted = learnt(one)
        assert counted == counts
        update = (weights - start).abs().max()
        assert update > 1e-3
        assert (found - weights).abs().max() / update < 1e-6
        owned = {p.untyped_storage().data_ptr() for p in one.model.parameters()}
        assert len(owned) == len(list(one.model.parameters())), "its weights are its own again"


def test_a_member_that_draws_from_another_s_numbers_is_seen(tokenizer, tmp_path, monkeypatch):
    """The comparison above can fail: with one generator for all, completions are others."""
    expected = alone(members("log-ratio", tokenizer, tmp_path / "alone"))
    given = members("log-ratio", tokenizer, tmp_path / "together")
    cohort, shared = PolicyCohort([one for one, _ in given]), torch.Generator().manual_seed(0)
    ask = PolicyCohort._ask
    for place, (one, _) in enumerate(given):
        one.rollout = lambda *args, place=place, generator, **more: ask(
            cohort, place, *args, generator=shared, **more
        )
    cohort.train()
    assert all(
        (learnt(one)[0] - e[0]).abs().max() > 1e-3 for (one, _), e in zip(given, expected, strict=True)
    )


def test_who_cannot_sample_together_is_told_why(tokenizer, tmp_path):
    one, _ = member("log-ratio", 3, tokenizer, tmp_path)
    other, _ = member("log-ratio", 4, tokenizer, tmp_path, temperature=0.7)
    mixed, _ = member("log-ratio", 5, tokenizer, tmp_path, teacher_mix=0.2)
    for given, why in (([one, other], "sample in different ways"), ([one, mixed], "a teacher samples along")):
        with pytest.raises(MethodError, match=why):
            PolicyCohort(given)


def test_what_one_raises_is_raised(tokenizer, tmp_path):
    given = members("log-ratio", tokenizer, tmp_path)
    cohort = PolicyCohort([one for one, _ in given])

    def breaks(record, advantages):
        raise ValueError("in the second")

    given[1][0].listeners.append(breaks)
    with pytest.raises(ValueError, match="in the second"):
        cohort.train()
