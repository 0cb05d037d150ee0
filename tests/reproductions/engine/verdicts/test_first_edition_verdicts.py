"""The verdicts of the first edition, as they stood when claims became contrasts and results moved into arms."""

import json
from pathlib import Path

import pytest

from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.plan.plan import make_plan
from reproductions.engine.show import gather
from reproductions.engine.verdicts.decide import decide

STOOD = json.loads((Path(__file__).parent / "first_edition_verdicts.json").read_text())


def close(number):
    return None if number is None else pytest.approx(number, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", STOOD)
def test_every_recorded_figure_gives_the_verdict_it_gave(name):
    """Figures to 1e-9 of what they were; a p value to the ties of its resamples, which another machine may break."""
    paper, scale = name.split("/")
    decisions = {
        found.claim: found
        for found in decide(
            gather.claims_of(load_experiment(paper)), scale, gather.recorded(make_plan(paper, scale))
        )
    }
    assert sorted(decisions) == sorted(stood["claim"] for stood in STOOD[name])
    for stood in STOOD[name]:
        found = decisions[stood["claim"]]
        assert (found.verdict, found.seeds) == (stood["verdict"], stood["seeds"])
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
