"""Parts of a loss on the student's own tokens; those between two tokenizers are in methods.tokenizers.terms."""

from methods.slots.term import Term, Window
from methods.slots.terms.clipped import ClippedKL, FixedBand, LearnedBand
from methods.slots.terms.divergence import Divergence, NextToken
from methods.slots.terms.hidden import HiddenMatch, TaskFilters
from methods.slots.terms.inside import AttentionMatch, RelationMatch, TokenStatesMatch
from methods.slots.terms.logits import LogitMatch
from methods.slots.terms.plain_text import PlainText
from methods.slots.terms.preference import FirstChoices, Preference
from methods.slots.terms.ranking import RankedChoices
from methods.slots.terms.sampled import SampledKL
from methods.slots.terms.spans import SpanConsistency

__all__ = [
    "AttentionMatch",
    "ClippedKL",
    "Divergence",
    "FirstChoices",
    "FixedBand",
    "HiddenMatch",
    "LearnedBand",
    "LogitMatch",
    "NextToken",
    "PlainText",
    "Preference",
    "RankedChoices",
    "RelationMatch",
    "SampledKL",
    "SpanConsistency",
    "TaskFilters",
    "Term",
    "TokenStatesMatch",
    "Window",
]
