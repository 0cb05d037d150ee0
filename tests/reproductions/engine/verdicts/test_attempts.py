"""Earlier attempts: what was frozen follows from the raw figures, and nothing of it can be lost or edited unseen."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections import Counter

import pytest

from catalog.reader import read_yaml_with_lines
from reproductions.engine.errors import KDError
from reproductions.engine.show import gather
from reproductions.engine.show.former import attempt_row
from reproductions.engine.verdicts.attempts import current, read_attempts, recompute
from reproductions.engine.verdicts.claims import Claim, ClaimSet, Contrast, Source
from reproductions.engine.verdicts.statistics import decide_at
from tests.reproductions.recorded import PassedGate

FIRST = sorted({path.stem.rpartition(".")[0] for path in gather.ATTEMPTS.glob("*.json")})


@pytest.mark.parametrize("paper", FIRST)
def test_every_frozen_difference_follows_from_the_raw_figures(paper):
    """To 1e-6 of what the first edition's engine gave; its interval and word are its own and stay as they were."""
    for attempt in read_attempts(paper, gather.ATTEMPTS):
        assert attempt.claims and attempt.commit and attempt.changed
        for found in recompute(attempt, gather.RESULTS):
            assert found.agrees and (found.estimate is None) == (attempt.raw is not None)


def test_what_todays_interval_says_of_the_first_editions_figures():
    """Its intervals were 1.48 x too wide in the median; and none without zero may stand beside "open" any more."""
    ratios = []
    for paper in FIRST:
        for attempt in read_attempts(paper, gather.ATTEMPTS):
            for found in recompute(attempt, gather.RESULTS):
                if found.estimate is None:
                    continue
                low, high = found.estimate.interval(0.95)
                if high > low:
                    ratios.append((found.judged.interval[1] - found.judged.interval[0]) / (high - low))
                low, high = found.estimate.interval()
                for share in (0.3, 1.0, 3.0, 10.0):
                    smallest = share * found.estimate.standard_error or share
                    word = decide_at(found.estimate, smallest=smallest)
                    assert word != "open" or low <= 0 <= high, found.judged.claim
    assert len(ratios) > 130 and 1.4 < statistics.median(ratios) < 1.56


def test_the_first_edition_is_counted_as_it_stood():
    """128 claims at tiny, 12 at small; and four papers whose first configuration came out otherwise."""
    attempts = [attempt for paper in FIRST for attempt in read_attempts(paper, gather.ATTEMPTS)]
    first = [attempt for attempt in attempts if attempt.engine == 1]
    assert len(first) == 28 and len({attempt.paper for attempt in first}) == 21
    counts = {scale: Counter() for scale in ("tiny", "small")}
    for attempt in first:
        if attempt.raw is None:
            counts[attempt.scale].update(attempt.verdicts)
    assert counts["tiny"] == {"reproduced": 35, "not reproduced": 12, "inconclusive": 81}
    assert counts["small"] == {"inconclusive": 12}
    earlier = {attempt.paper: dict(attempt.verdicts) for attempt in first if attempt.raw}
    assert earlier == {
        "teacher-hacking": {"inconclusive": 6},
        "simct": {"reproduced": 1, "not reproduced": 1, "inconclusive": 1},
        "taid": {"not reproduced": 2, "inconclusive": 5},
        "babyllama": {"not reproduced": 1, "inconclusive": 4},
    }


@pytest.fixture
def copied(tmp_path):
    """The attempts at one paper and the raw figures of its latest, free to be harmed."""
    folder, results = tmp_path / "attempts", tmp_path / "results"
    folder.mkdir()
    for path in gather.ATTEMPTS.glob("simct.*.json"):
        shutil.copy(path, folder)
    *_, last = read_attempts("simct", folder)
    for key in {key for judged in last.claims for key in judged.keys.values()}:
        for ending in ("json", "parquet"):
            path = gather.RESULTS / last.testbed / f"{key}.{ending}"
            (results / last.testbed).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, results / last.testbed)
    return folder, results


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_an_edited_difference_is_found(copied):
    folder, results = copied
    path = folder / "simct.2.json"
    claims = json.loads(path.read_text())["claims"]
    claims[0]["difference"] *= 1 + 1e-5
    change(path, claims=claims)
    agrees = [found.agrees for found in recompute(read_attempts("simct", folder)[1], results)]
    assert agrees == [False, True, True]


def test_raw_figures_that_are_gone_are_missed(copied):
    folder, results = copied
    (attempt,) = read_attempts("simct", folder)[1:]
    key = attempt.claims[0].keys["opd-shared"]
    (results / attempt.testbed / f"{key}.json").unlink()
    found = list(recompute(attempt, results))
    assert [item.agrees for item in found] == [False, True, True] and found[0].lost


def test_an_attempt_cannot_be_removed(copied):
    folder, _ = copied
    (folder / "simct.1.json").unlink()
    with pytest.raises(KDError, match="attempt 1 of simct is missing; attempts are never removed"):
        read_attempts("simct", folder)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"number": 7}, "holds attempt 7 of simct"),
        ({"paper": "gkd"}, "holds attempt 2 of gkd"),
        ({"verdicts": {"reproduced": 3}}, "its claims have other verdicts than it counts"),
        ({"chnged": ""}, 'unknown field "chnged" .did you mean "changed"'),
        ({"seeds": 5}, '"seeds" is of the wrong kind'),
        ({"claims": [7]}, r"claims\[0\]: must be an object"),
        ({"claims": [{}]}, r'claims\[0\]: "claim" is missing'),
    ],
)
def test_a_broken_file_is_refused_by_name(copied, fields, message):
    folder, _ = copied
    change(folder / "simct.2.json", **fields)
    with pytest.raises(KDError, match=rf"simct\.2\.json: {message}"):
        read_attempts("simct", folder)


def test_keys_are_those_of_the_two_arms(copied):
    folder, _ = copied
    path = folder / "simct.2.json"
    path.write_text(re.sub(r'"opd-shared": "', '"other": "', path.read_text()))
    with pytest.raises(KDError, match=r"claims\[0\]: keys of simct, other, not of its two arms"):
        read_attempts("simct", folder)


def test_a_claim_whose_rows_are_lost_still_counts(copied):
    folder, results = copied
    change(folder / "simct.1.json", claims=[])
    first, _ = read_attempts("simct", folder)
    assert first.verdicts == {"reproduced": 1, "not reproduced": 1, "inconclusive": 1}
    assert list(recompute(first, results)) == []


def test_todays_interval_stands_beside_with_its_word_where_a_smallest_effect_is_known(copied):
    folder, results = copied
    attempt = read_attempts("simct", folder)[1]
    claims = ClaimSet(
        tuple(
            Claim(
                judged.claim,
                "It is.",
                Source("0", 1, "T"),
                judged.metric,
                Contrast({judged.better: 1.0, judged.worse: -1.0}, "greater", 0.0),
                ("tiny",),
                None,
                smallest,
            )
            for judged, smallest in zip(attempt.claims, (1.0, 20.0, None), strict=True)
        ),
        (),
        {},
    )
    rows = attempt_row(attempt, claims, {}, results, None).claims
    assert [row.now_verdict for row in rows] == ["reversed", "no difference", ""]
    assert all(row.now[0] < row.difference < row.now[1] for row in rows)
    gate = PassedGate(figures={"exact_match": {"baseline": 10.0, "teacher": 500.0}})
    assert attempt_row(attempt, claims, {}, results, gate).claims[2].now_verdict == "no difference"
    past = attempt_row(read_attempts("simct", folder)[0], claims, {}, results, gate).claims
    assert {(row.now, row.now_verdict, row.agrees) for row in past} == {(None, "", True)}


@pytest.mark.parametrize(
    "text, message",
    [
        ("attempt: 3", ':2: "attempt" is written'),
        ("attempt: {number: 3}", ':2: "attempt" is written'),
        ('attempt: {number: 2, changed: "a"}', ":2: 2 earlier attempts are recorded, so this is number 3"),
        ("attempt: {number: 3, changed: 7}", ':2: "changed" must say what changed'),
    ],
)
def test_an_experiment_says_which_attempt_it_is(tmp_path, copied, text, message):
    attempts = read_attempts("simct", copied[0])
    path = tmp_path / "simct.yaml"

    def read(text):
        path.write_text(f"paper: simct\n{text}\n")
        return current(*read_yaml_with_lines(path), attempts)

    assert read('attempt: {number: 3, changed: "more seeds"}') == (3, "more seeds")
    assert read("about: x") == (0, "")
    with pytest.raises(KDError) as error:
        read(text)
    assert "simct.yaml" in str(error.value) and message in str(error.value)
