"""The policy trainers of the matrix: what each is given beside the student, the rows and the arguments."""

from __future__ import annotations

from datasets import Dataset

from methods.slots.advantages import (
    AnotherRight,
    EntropyScaled,
    GroupReward,
    LogRatio,
    LowestProbability,
    Only,
    PerplexityWeighted,
    ReturnToGo,
    RewardBelow,
    ScaledByRatio,
    Sign,
    Sum,
    Where,
)
from methods.slots.terms import Divergence, PlainText, SampledKL

CORPUS = Dataset.from_list([{"text": text} for text in ("plain", "text|of", "unequal", "le")])


def spread_reward(completion_ids, **_):
    """A figure that differs between completions of one prompt; None for some."""
    return [None if len(ids) == 3 else sum(i % 7 for i in ids) / 9 for ids in completion_ids]


# Of the policy trainer: one group over all ranks, one of its completions the data's, without a gate and behind one, and
# everything at once on a prompt each.
POLICIES = {
    "policy-group": lambda: {
        "advantage": GroupReward(own=True),
        "rewards": [spread_reward],
        "settings": {"num_generations": 4, "loss_type": "grpo", "given_completions": 1},
        "teachers": 0,
    },
    "policy-gated": lambda: {
        "advantage": GroupReward(),
        "rewards": [spread_reward],
        "settings": {"num_generations": 4, "given_completions": 1, "given_gate": 9.0, "given_ratio": "own"},
        "teachers": 0,
    },
    "policy-privileged": lambda: {
        "advantage": ScaledByRatio(GroupReward()),
        "rewards": [spread_reward],
        "terms": [Divergence("jensen_shannon", token_weights=Where(AnotherRight(1.2)))],
        "settings": {"num_generations": 4},
        "teachers": 1,
        "reads": True,
        "sibling_reward": 1.2,
    },
    "policy-dense": lambda: {
        "advantage": Sum(
            [
                ReturnToGo(LogRatio(), discount=0.9),
                Only(EntropyScaled(), LowestProbability(0.3)),
                GroupReward("leave-one-out"),
                LogRatio(1, "start", weight=0.3),
                PerplexityWeighted(LogRatio(), RewardBelow(0.5), of=0, power=-1.0),
            ]
        ),
        "rewards": [spread_reward],
        "terms": [
            Divergence("forward_kl", token_weights=Where(Sign(LogRatio(), sign="non-positive"))),
            PlainText(CORPUS, weight=0.7),
            SampledKL("k3", to="start", weight=0.1),
            SampledKL("k2", to=1, weight=0.2),
        ],
        "settings": {"num_generations": 2, "anchor_teacher_share": 0.3},
        "teachers": 2,
    },
}
