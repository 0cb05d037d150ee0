"""Freezing an attempt: what was judged stands in its file, follows from the raw figures, and is written once."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.show import gather
from reproductions.engine.verdicts.attempts import read_attempts, recompute
from reproductions.engine.verdicts.freezing import freeze, renumber
from tools.verbs.evidence import attempt as verb

from .test_replicates import toy  # noqa: F401 - the toy paper as the checkout's, recorded

TEXT = "paper: toy\nabout: a toy\n\n# What it claims.\nclaims:\n  orderings: {}\n\narms: {}\n"


def test_what_was_judged_is_frozen_and_follows_from_the_raw_figures(toy, tmp_path):  # noqa: F811
    view = gather.gather("toy")
    path = freeze(view, "tiny", date="2026-11-29", commit="abc", folder=tmp_path)
    (found,) = read_attempts("toy", tmp_path)
    assert path.name == "toy.1.json" and found.engine == 2 and found.changed == "the first configuration"
    judged = {claim.id: claim.outcomes[0] for claim in view.claims if claim.outcomes[0].has_verdict}
    assert {claim.claim: (claim.verdict, claim.difference) for claim in found.claims} == {
        claim: (outcome.kind, outcome.difference) for claim, outcome in judged.items()
    }
    again = list(recompute(found, toy.results))
    assert again and all(one.agrees and one.estimate is not None for one in again)
    with pytest.raises(KDError, match="frozen already"):
        freeze(view, "tiny", date="2026-11-29", commit="abc", folder=tmp_path)


def test_a_claim_that_was_decided_early_is_read_again_with_its_own_seeds(toy, tmp_path):  # noqa: F811
    view = gather.gather("toy")
    path = freeze(view, "tiny", date="2026-11-29", commit="abc", folder=tmp_path)
    path.write_text(path.read_text().replace('"seeds": 3}', '"seeds": 2}', 1))
    (found,) = read_attempts("toy", tmp_path)
    assert [one.agrees for one in recompute(found, toy.results)].count(False) == 1


def test_nothing_judged_is_nothing_to_freeze(toy, tmp_path):  # noqa: F811
    with pytest.raises(KDError, match="nothing is judged at scale small"):
        freeze(gather.gather("toy"), "small", date="2026-11-29", commit="abc", folder=tmp_path)


def test_the_experiment_says_which_attempt_it_is():
    once = renumber(TEXT, 2, "more words")
    assert once == TEXT.replace("# What", "attempt:\n  number: 2\n  changed: >-\n    more words\n\n# What")
    assert renumber(once, 3, "fewer " * 40) == renumber(TEXT, 3, "fewer " * 40)
    with pytest.raises(KDError, match="no section of claims"):
        renumber("paper: toy\n", 2, "more words")


def test_the_verb_freezes_and_numbers(toy, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(gather, "ATTEMPTS", tmp_path)
    monkeypatch.setattr(
        "catalog.schema.load_catalog",
        lambda: SimpleNamespace(papers=["toy"], paper=lambda name: SimpleNamespace(id=name)),
    )
    given = argparse.Namespace(paper="toy", changed="more noise", scale="tiny")
    assert verb.main(given) == 0
    assert "toy.1.json is written; toy.yaml is attempt 2 now" in capsys.readouterr().out
    assert (tmp_path / "toy.1.json").is_file() and gather.gather("toy").attempt == (2, "more noise")
