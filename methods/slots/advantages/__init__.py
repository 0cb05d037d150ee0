"""How much better than expected each sampled token was: of rewards, of log-ratios, and of both combined."""

from methods.slots.advantages.combine import ByColumn, Clipped, Constant, Only, Powered, ReturnToGo, Sum
from methods.slots.advantages.conditions import (
    AnotherRight,
    During,
    GroupUnsolved,
    HighestEntropy,
    LowestProbability,
    RewardBelow,
    RewardFrom,
    Sign,
    Where,
    wheres_of,
)
from methods.slots.advantages.outcomes import MarginShifted, RewardAndLogRatio
from methods.slots.advantages.ratios import (
    CentredLogRatio,
    EntropyScaled,
    LogRatio,
    PrefixWeighted,
    ScaledByRatio,
    StepWeighted,
)
from methods.slots.advantages.rewards import GroupReward, PerplexityWeighted, WithinBudget
from methods.slots.advantages.signals import START, Advantage, Condition, Signals, asked_of

__all__ = [
    "START",
    "Advantage",
    "AnotherRight",
    "ByColumn",
    "CentredLogRatio",
    "Clipped",
    "Condition",
    "Constant",
    "During",
    "EntropyScaled",
    "GroupReward",
    "GroupUnsolved",
    "HighestEntropy",
    "LogRatio",
    "LowestProbability",
    "MarginShifted",
    "Only",
    "PerplexityWeighted",
    "Powered",
    "PrefixWeighted",
    "ReturnToGo",
    "RewardAndLogRatio",
    "RewardBelow",
    "RewardFrom",
    "ScaledByRatio",
    "Sign",
    "Signals",
    "StepWeighted",
    "Sum",
    "Where",
    "WithinBudget",
    "asked_of",
    "wheres_of",
]
