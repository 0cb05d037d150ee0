"""Completions of the data behind a gate, and the ratios by which they are learnt; mutations that this must catch."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.modeling.rollouts import rollout
from methods.slots.advantages import GroupReward
from methods.slots.terms import SampledKL
from methods.trainers.optimisation import OptimisationConfig, PolicyOptimiser, given
from methods.trainers.optimisation import trainer as module
from tests.methods.conftest import ONE_STEP, make_model
from tests.methods.trainers.optimisation.enumeration import (
    ALL,
    gradient,
    loss_of,
    model,
    record_of,
    token_logps,
    trainer_of,
)

LETTERS = "abcdefgh"
ROWS = Dataset.from_list(
    [
        {
            "prompt": f"{letter}|",
            "completion": letter,
            "guide": None if letter == "c" else letter * 2,
            "guide_log_probs": None if letter == "c" else [-0.3, -1.1, -0.2],
        }
        for letter in LETTERS
    ]
)
SETTINGS = {"per_device_train_batch_size": 8, "num_generations": 4}
GIVEN = {**SETTINGS, "given_completions": 1, "given_column": "guide"}


def make(folder, tokenizer, settings, **parts):
    args = OptimisationConfig(
        **{**ONE_STEP, "output_dir": str(folder), "max_completion_length": 6, **settings}
    )
    return PolicyOptimiser(
        make_model(seed=0), args=args, train_dataset=ROWS, processing_class=tokenizer, **parts
    )


def figures(completion_ids, **_):
    """One that differs between completions of a prompt."""
    return [sum(i % 5 for i in ids) / 10 for ids in completion_ids]


# The gate.


def trained(folder, tokenizer, settings):
    """The weights after four steps of GRPO with a KL to the start, two updates of each generation."""
    trainer = make(
        folder,
        tokenizer,
        {"max_steps": 4, "learning_rate": 0.1, "num_iterations": 2, "loss_type": "grpo", **settings},
        advantage=GroupReward(),
        rewards=[figures],
        terms=[SampledKL("k3", to="start", weight=0.04)],
    )
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert (after - before).norm() > 1e-2
    return after


@pytest.mark.parametrize("ratio", ["shaped", "own", "written"])
def test_a_gate_that_never_opens_is_grpo_bit_for_bit(ratio, tokenizer, tmp_path):
    grpo = trained(tmp_path, tokenizer, SETTINGS)
    shut = trained(tmp_path, tokenizer, {**GIVEN, "given_gate": -1.0, "given_ratio": ratio})
    assert torch.equal(grpo, shut)
    opened = trained(tmp_path, tokenizer, {**GIVEN, "given_gate": 9.0, "given_ratio": ratio})
    assert not torch.equal(grpo, opened)


def gate_oracle():
    """Every pattern of two groups of three, a reward of which may say nothing, against plain loops."""
    for figures in itertools.product((0.0, 0.5, 1.0, math.nan), repeat=3):
        rewards = torch.tensor([[a, math.nan] for a in figures] + [[0.25, 0.25], [0.0, 1.0], [math.nan] * 2])
        group = torch.tensor([7, 7, 7, 2, 2, 2])
        for gate in (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0):
            wanted = []
            for number in group.tolist():
                known = []
                for row, own in zip(rewards.tolist(), group.tolist(), strict=True):
                    said = [figure for figure in row if not math.isnan(figure)]
                    if own == number and said:
                        known.append(sum(said))
                wanted.append(bool(known) and sum(known) / len(known) <= gate)
            assert given.unsolved(rewards, group, gate).tolist() == wanted


def test_the_gate_is_the_mean_reward_of_the_group():
    gate_oracle()


def test_the_gate_of_a_group_on_two_ranks_is_that_of_the_group():
    """Each rank has a part of it, and sees the whole through `gather`."""
    rewards = torch.tensor([[1.0], [0.0], [0.0], [0.0], [1.0], [math.nan]])
    group = torch.tensor([0, 0, 0, 0, 1, 1])

    def gather(local):
        return rewards.squeeze(1) if local.is_floating_point() else group

    found = [given.unsolved(rewards[part], group[part], 0.25, gather) for part in (slice(0, 2), slice(2, 6))]
    assert (
        torch.cat(found).tolist() == given.unsolved(rewards, group, 0.25).tolist() == [True] * 4 + [False] * 2
    )
    assert given.unsolved(rewards[:2], group[:2], 0.25).tolist() == [False] * 2, "a half of it alone"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rewards, group, gate: rewards.nansum(1) <= gate,  # of each completion by itself
        lambda rewards, group, gate: rewards.nansum(1).mean() <= gate,  # of the batch
        lambda rewards, group, gate: torch.stack(  # what says nothing is wrong
            [rewards.nansum(1)[group == one].mean() <= gate for one in group]
        ),
    ],
)
def test_another_gate_is_caught(wrong, monkeypatch):
    monkeypatch.setattr(given, "unsolved", lambda *a: wrong(*a).expand(6))
    with pytest.raises(AssertionError):
        gate_oracle()


def test_the_last_of_a_failing_group_gives_way(tokenizer, tmp_path):
    """Where the gate is reached or the row has no text all that was sampled stays, with its rewards."""
    asked = []

    def reward(prompts, completions, **_):
        asked.append(list(zip(prompts, completions, strict=True)))
        return [float(prompt == "b|") if said.replace(" ", "") != "aa" else 5.0 for prompt, said in asked[-1]]

    settings = {**GIVEN, "per_device_train_batch_size": 12, "given_gate": 0.5, "given_completions": 2}
    trainer = make(tmp_path, tokenizer, settings, advantage=GroupReward(), rewards=[reward])
    rows = [row for row in ROWS.select(range(3)) for _ in range(4)]
    alone = make(
        tmp_path, tokenizer, {**SETTINGS, "per_device_train_batch_size": 12}, advantage=GroupReward()
    )
    own, record = alone.sampled(rows).rollouts, trainer.sampled(rows)
    assert record.given.tolist() == [False, False, True, True] + [False] * 8
    for place, theirs in enumerate(record.given.tolist()):
        ids = record.rollouts.completion_ids[place][record.rollouts.completion_mask[place].bool()].tolist()
        sampled = own.completion_ids[place][own.completion_mask[place].bool()].tolist()
        assert ids == ([*tokenizer("aa")["input_ids"], 1] if theirs else sampled)
    assert record.rewards[:, 0].tolist() == [0, 0, 5, 5] + [1] * 4 + [0] * 4
    assert len(asked) == 2, "what was sampled first, and then what stands in its place"
    assert trainer.rollout_counts == alone.rollout_counts
    trainer.sampled([row for row in ROWS.select(range(1, 3)) for _ in range(4)])
    assert len(asked) == 3, "nothing is rewarded again where nothing gave way"


# Ratios.

SOME, REWARDS = ALL[::9][:4], torch.tensor([0.7, 1.0, -0.4, 0.3]).double()
THEIRS = torch.tensor([False, True, True, False])


def ratio_oracle(tokenizer, folder, ratio, epsilon):
    """Loops over tokens: q over the writer's probability on what is given, clipped as PPO does; 1 on the rest."""
    student, writer = model(0), model(1)
    settings = {"num_generations": 4, "given_completions": 1, "epsilon": epsilon}
    trainer = trainer_of(student, folder, tokenizer, settings=settings, advantage=GroupReward("none"))
    trainer.args.given_ratio = ratio
    record = record_of(SOME, rewards=REWARDS.unsqueeze(1), given=THEIRS)
    said = torch.zeros_like(record.rollouts.completion_mask, dtype=torch.float64)
    for place, completion in enumerate(SOME):
        said[place, : len(completion)] = token_logps(writer, completion).detach()
    record = replace(record, rollouts=replace(record.rollouts, log_probs=said))
    got = gradient(loss_of(trainer, record), student)
    wanted, clipped = 0, 0
    for place, (completion, theirs, reward) in enumerate(
        zip(SOME, THEIRS.tolist(), REWARDS.tolist(), strict=True)
    ):
        log_q = token_logps(student, completion)
        for t in range(len(completion)):
            rho = float((log_q[t].detach() - said[place, t]).exp()) if theirs and ratio == "written" else 1.0
            beyond = epsilon is not None and (rho > 1 + epsilon if reward > 0 else rho < 1 - epsilon)
            clipped += beyond
            wanted = wanted - (0 if beyond else reward * rho) * log_q[t]
    torch.testing.assert_close(got, gradient(wanted, student), rtol=1e-8, atol=1e-10)
    return clipped


@pytest.mark.parametrize(("ratio", "epsilon"), [("own", 0.2), ("written", None), ("written", 0.05)])
def test_what_is_given_is_learnt_by_the_ratio_to_who_wrote_it_or_as_one_s_own(
    ratio, epsilon, tokenizer, tmp_path
):
    clipped = ratio_oracle(tokenizer, tmp_path, ratio, epsilon)
    assert bool(clipped) == (epsilon == 0.05), "some tokens are beyond the narrow ends"


def misplaced(right):
    return lambda logps, anchor, *rest, **ends: right(logps, anchor.roll(1), *rest, **ends)


def unclipped(right):
    return lambda *args, **ends: right(*args, **{**ends, "low": None})


def as_own(right):
    return lambda logps, anchor, *rest, **ends: right(logps, logps.detach(), *rest, **ends)


@pytest.mark.parametrize("wrong", [misplaced, unclipped, as_own])
def test_mutations_of_the_ratio_are_seen(wrong, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "surrogate", wrong(module.surrogate))
    with pytest.raises(AssertionError):
        ratio_oracle(tokenizer, tmp_path, "written", 0.05)


def test_the_ratio_of_what_was_sampled_elsewhere_is_not_that_of_what_is_given(tokenizer, tmp_path):
    """Under a mixture own tokens are weighed by q over what was sampled from; of what is given nothing was sampled."""
    settings = {**GIVEN, "given_gate": 9.0, "given_ratio": "own", "teacher_mix": 0.4}
    trainer = make(
        tmp_path,
        tokenizer,
        settings,
        advantage=GroupReward(),
        rewards=[figures],
        teacher=[make_model(seed=1)],
    )
    inputs = trainer.scored(trainer.sampled([row for row in ROWS.select(range(2)) for _ in range(4)]))
    mask, theirs = inputs["mask"].bool(), inputs["given"].unsqueeze(1)
    assert theirs.sum() == 2 and (inputs["weights"][mask & theirs] == 1).all()
    assert not (inputs["weights"][mask & ~theirs] == 1).all()


# What stands beside the text.


def mixed(tokenizer, columns, longest=9):
    sampled = rollout(
        make_model(seed=0), [[3, 2], [4, 2]], max_new_tokens=2, eos_ids=[1], pad_id=0, log_probs=True
    )
    columns = {"prompt": ["a|", "b|"], "guide": ["aa", "bb"], **columns}
    which = torch.tensor([False, True])
    made = given.with_given(sampled, columns, which, tokenizer, longest=longest, column="guide", known=True)
    return sampled, made


def test_the_writer_s_log_probabilities_go_with_the_tokens(tokenizer):
    for longest in (2, 9):
        sampled, made = mixed(tokenizer, {"guide_log_probs": [None, [-0.5, -0.25, -2.0]]}, longest)
        count = min(3, longest)
        assert made.log_probs[1, :count].tolist() == [-0.5, -0.25, -2.0][:count]
        width = sampled.completion_ids.shape[1]
        assert torch.equal(made.log_probs[0, :width], sampled.log_probs[0])
        assert not made.log_probs[1, count:].any() and not made.log_probs[0, width:].any()


@pytest.mark.parametrize("said", [[-0.5, -0.25], None])
def test_log_probabilities_of_another_text_are_refused(said, tokenizer):
    count = len(said or ())
    with pytest.raises(
        MethodError, match=rf"prompt 'b\|' has {count} guide_log_probs, and its guide has 3 tokens"
    ):
        mixed(tokenizer, {"guide_log_probs": [None, said]})


def test_columns_and_ratios_that_are_not_there_are_refused(tokenizer, tmp_path):
    cases = [
        (
            {"given_completions": 0, "given_gate": 0.5},
            "given_gate is 0.5, and nothing is given: set given_completions",
        ),
        ({"given_ratio": "writen"}, r'no given_ratio "writen" \(did you mean "written"\?\)'),
        ({"given_column": "giude"}, r'needs rows with a "giude".*\(did you mean "guide"\?\)'),
        ({"given_column": "completion", "given_ratio": "written"}, '"completion_log_probs"'),
    ]
    for settings, message in cases:
        with pytest.raises(MethodError, match=message):
            make(tmp_path, tokenizer, {**GIVEN, **settings}, advantage=GroupReward(), rewards=[figures])
