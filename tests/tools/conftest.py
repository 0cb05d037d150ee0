"""A judged paper that no run had to make."""

from __future__ import annotations

import pytest

from tools.evidence import ClaimRow, EqualSeconds, Outcome


def outcome(verdict: str, scale: str = "tiny", explanation: str = "") -> Outcome:
    """An outcome with round numbers."""
    return Outcome(
        scale=scale,
        verdict=verdict,
        better_mean=61.5,
        worse_mean=58.25,
        difference=3.25,
        interval=(1.5, 5.0),
        p_holm=0.0123,
        seeds=5,
        equal_seconds=EqualSeconds(2.5, (-0.5, 5.5), 20.0),
        explanation=explanation,
    )


def claim(name: str, *outcomes: Outcome, statement: str = "Arm a is better than arm b.") -> ClaimRow:
    """A claim with the paper's numbers."""
    return ClaimRow(
        id=name,
        statement=statement,
        source="arXiv 2306.08543v5, Table 1",
        metric="rouge_l",
        better="minillm",
        worse="sft",
        margin=0,
        paper_better=24.6,
        paper_worse=23.3,
        paper_setting="GPT-2 120M",
        outcomes=outcomes,
    )


@pytest.fixture
def judged() -> list[ClaimRow]:
    """One claim that held at one scale and not at another, one that was not run."""
    return [
        claim("beats-sft", outcome("reproduced"), outcome("inconclusive", "small", "The gap is small here.")),
        claim("beats-kd", outcome("not reproduced")),
        claim("beats-none"),
    ]
