"""The verdicts of the first edition, as they stood when claims became contrasts and results moved into arms."""

import json
from pathlib import Path

import pytest

from reproductions.engine.store.first_edition import read_first_edition
from reproductions.engine.verdicts.claims import Claim, ClaimSet, Contrast, Source
from reproductions.engine.verdicts.decide import decide

PAPERS = Path(__file__).resolve().parents[4] / "reproductions" / "papers"
STOOD = json.loads((Path(__file__).parent / "first_edition_verdicts.json").read_text())


def claims_of(rows):
    """The claims as orderings, from what their verdicts say about them."""
    return ClaimSet(
        tuple(
            Claim(
                row["claim"],
                "",
                Source("", None, ""),
                row["metric"],
                Contrast(dict(zip(row["means"], (1.0, -1.0), strict=True)), "greater", row["margin"]),
                ("any",),
                None,
            )
            for row in rows
        ),
        (),
        {},
    )


def close(number):
    return None if number is None else pytest.approx(number, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", STOOD)
def test_every_recorded_figure_gives_the_verdict_it_gave(name):
    """To the last bit on one machine; here within rounding, and a p value within the ties of its resamples."""
    paper, scale = name.split("/")
    results = read_first_edition(PAPERS / paper.replace("-", "_") / "results" / f"{scale}.json").results
    decisions = decide(claims_of(STOOD[name]), "any", results)
    assert len(decisions) == len(STOOD[name])
    for found, stood in zip(decisions, STOOD[name], strict=True):
        assert (found.claim, found.verdict, found.seeds) == (stood["claim"], stood["verdict"], stood["seeds"])
        assert found.difference == close(stood["difference"])
        assert found.interval == close(stood["interval"])
        assert found.means == close(stood["means"])
        assert found.p == pytest.approx(stood["p"], abs=5e-3)
        assert found.p_holm == pytest.approx(stood["p_holm"], abs=5e-2)
        equal, equal_stood = found.equal_seconds, stood["equal_seconds"]
        assert (equal is None) == (equal_stood is None)
        if equal is not None:
            assert equal["difference"] == close(equal_stood["difference"])
            assert equal["interval"] == close(equal_stood["interval"])
            assert (equal["seconds"], equal["seeds"]) == (equal_stood["seconds"], equal_stood["seeds"])
