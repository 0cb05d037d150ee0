"""How many records lack something may only shrink, and the file says how many there are."""

from __future__ import annotations

from catalog.schema import load_catalog
from tools.checks.missing import slack


def test_the_ratchet_holds_the_counts_of_today():
    assert slack(load_catalog()) == []
