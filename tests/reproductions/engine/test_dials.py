"""Runs at the values of a dial: recorded beside the judged ones, shown, and judged nowhere."""

from __future__ import annotations

import pytest

from reproductions.engine.atlas.compute import at_own_values
from reproductions.engine.atlas.entrants import Names, declared, names_of, read_all
from reproductions.engine.dials import told, turn
from reproductions.engine.errors import KDError
from reproductions.engine.plan.dials import plan_at, points
from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.reproduce import BAD, DONE
from reproductions.engine.show import gather
from reproductions.engine.store.pair import arm_path
from reproductions.engine.work.sessions.progress import SilentReporter

from .test_reproduce import again, checkout, written  # noqa: F401 - a fixture

DIALS = "tiny: {testbed: line, dials: {points: [60]}, seeds: 3,"


@pytest.fixture
def recorded(checkout):  # noqa: F811
    """The judged runs recorded, and a dial declared."""
    checkout.change("tiny: {testbed: line, seeds: 3,", DIALS)
    again(checkout, record=True)
    return checkout


def turning(toy, **options):
    return turn(toy.plan(), reporter=SilentReporter(), quiet=True, workers=1, **options)


def test_what_is_recorded_is_shown_beside_the_judged_value_and_judges_nothing(recorded, capsys):
    before = gather.gather("toy")
    assert turning(recorded) == DONE
    assert gather.gather("toy") == before, "nothing is written without --record"
    there = written(recorded)
    assert turning(recorded, record=True) == DONE
    (point,) = points(recorded.plan().scale)
    at = plan_at(recorded.plan(), point)
    files = {arm_path(gather.RESULTS / "line", key) for key in at.keys.values()}
    new = set(written(recorded)) - set(there)
    assert {str(path.relative_to(recorded.root)) for path in files} <= new
    kept = {name: text for name, text in written(recorded).items() if name in there}
    assert {name for name in there if kept[name] != there[name]} == {"verdicts/toy.json"}

    after = gather.gather("toy")
    assert after.claims == before.claims and after.tally() == before.tally()
    rows = {(row.claim, row.value): row for scale in after.scales for row in scale.dials}
    assert set(rows) == {
        (claim, value) for claim in ("teacher-helps", "noise-helps") for value in ("60", "120")
    }
    for claim in after.claims:
        own, other = rows[claim.id, "120"], rows[claim.id, "60"]
        assert own.own and not other.own and own.seeds == other.seeds == 3
        assert own.difference == claim.outcomes[0].difference and own.interval == claim.outcomes[0].interval
    assert len(told(after.scales[0].dials)) == 6
    assert after.results_digest != before.results_digest
    assert "points = 60" in capsys.readouterr().err


def test_a_value_that_is_recorded_in_part_is_not_shown(recorded):
    assert turning(recorded, record=True) == DONE
    (point,) = points(recorded.plan().scale)
    key = plan_at(recorded.plan(), point).keys["method"]
    path = arm_path(gather.RESULTS / "line", key)
    path.unlink()
    path.with_suffix(".parquet").unlink()
    assert all(not scale.dials for scale in gather.gather("toy").scales)


def test_the_atlas_weighs_the_judged_arms_alone(recorded):
    """League tables, statements and disputes know nothing of an arm at another value of a dial."""
    names = names_of(declared(load_experiment("toy", recorded.papers)))
    before = {arm.key for arm in read_all(recorded.results)}
    assert turning(recorded, record=True) == DONE
    there, beds = read_all(recorded.results), recorded.papers.parent / "testbeds"
    turned = {arm.key for arm in there} - before
    assert turned and {arm.key for arm in at_own_values(there, names, beds)} == before
    no_more = names_of([])  # as if the experiment had moved to another testbed since
    assert {arm.key for arm in at_own_values(there, no_more, beds)} == before
    by_an_attempt = Names(dict.fromkeys(turned, [("toy", "tiny", "title")]), {})
    assert {arm.key for arm in at_own_values(there, by_an_attempt, beds)} == before | turned


def test_a_run_that_fails_says_so(recorded, monkeypatch, capsys):
    monkeypatch.setenv("TOY_FAULTS", "raise baseline 1")
    there = written(recorded)
    assert turning(recorded, record=True) == BAD
    assert "points = 60: 1 runs failed" in capsys.readouterr().err and written(recorded) == there


def test_a_scale_without_dials_says_so(checkout):  # noqa: F811
    with pytest.raises(KDError, match="toy has no dials at scale tiny"):
        turning(checkout)
