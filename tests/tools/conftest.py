"""A judged paper that no run had to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from reproductions.engine.show.view import (
    ArmRow,
    Budget,
    ClaimRow,
    Curve,
    EqualSeconds,
    Figure,
    Metric,
    Outcome,
    PaperView,
    ScaleRow,
)
from tests.reproductions.recorded import copy_of_a_paper


def outcome(verdict: str, scale: str = "tiny", explanation: str = "") -> Outcome:
    """An outcome with round numbers."""
    return Outcome(
        scale=scale,
        verdict=verdict,
        better_mean=61.5,
        worse_mean=58.25,
        difference=3.25,
        interval=(1.5, 5.0),
        seeds=5,
        equal_seconds=EqualSeconds(2.5, (-0.5, 5.5), 20.0),
        explanation=explanation,
        look=5,
        p=0.0012,
        p_equal=0.9,
        effect=1.25,
        effect_from="10 % of the headroom",
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


def view_of(paper: str, *claims: ClaimRow) -> PaperView:
    """A paper with these claims, and an arm with round numbers at every scale that they were judged at."""
    scales = list(dict.fromkeys(outcome.scale for row in claims for outcome in row.outcomes)) or ["tiny"]
    return PaperView(
        paper=paper,
        scales=tuple(
            ScaleRow(
                name=scale,
                testbed="pronunciation",
                minutes=4,
                seeds=5,
                arms=(
                    ArmRow(
                        "minillm",
                        "MiniLLM",
                        "method",
                        5,
                        "terms: [reverse-kl]",
                        (Figure("rouge_l", 61.5, (60.0, 63.0), 24.6, (60.0, 63.0)),),
                        Budget(114_000, 0, 2_500_000, 9.1, 13.1, 0.02, None),
                        (Curve("rouge_l", ((0, 0, 40), (240, 9.1, 61.5))),),
                        "0123456789abcdef",
                    ),
                    ArmRow("late", "Never run", "baseline"),
                ),
                metrics=(Metric("rouge_l", "ROUGE-L", "%", True),),
                headline=("rouge_l",),
                stands_in="world",
                made="cpu, torch 2.13.0",
                results=("reproductions/results/pronunciation/0123456789abcdef.json",),
            )
            for scale in scales
        ),
        claims=claims,
        values=(),
        places=(("experiment", "reproductions/papers/minillm.yaml"),),
        claims_digest="0" * 16,
        results_digest="1" * 16,
    )


@pytest.fixture
def judged() -> PaperView:
    """One claim that held at one scale and not at another, one that was not run."""
    return view_of(
        "minillm",
        claim("beats-sft", outcome("reproduced"), outcome("open", "small", "The gap is small here.")),
        claim("beats-kd", outcome("reversed")),
        claim("beats-none"),
    )


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A copy of one recorded paper (codi), with verdicts and pages as they would be committed; commands look there."""
    from catalog.schema import load_catalog
    from reproductions.engine.atlas import record
    from reproductions.engine.atlas.compute import compute
    from reproductions.engine.show import files, gather
    from tools.pages import documents
    from tools.pages.atlas import Atlas

    copy_of_a_paper(tmp_path, monkeypatch)
    for module in ("tools.paths", "tools.checks.missing"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path)
    view = gather.gather("codi")
    files.write(view)
    record.write(compute(tmp_path), tmp_path)
    texts, differing = documents.own(Atlas(load_catalog(), {"codi": view})), documents.differing
    documents.write(texts, tmp_path)
    monkeypatch.setattr(documents, "differing", lambda texts, root=tmp_path: differing(texts, root))
    return tmp_path
