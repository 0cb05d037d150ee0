"""Every distinct arm of scale tiny takes six steps: it trains, is measured, and does what the first edition's did.

first_edition_figures.json: per-example columns and token counts that the first edition's code made in these very runs,
before it was deleted. Another processor may draw another token here and there, so not every example must be equal.
"""

import json
from itertools import combinations
from pathlib import Path

import pytest

from reproductions.testbeds import changed
from tests.reproductions.papers.shortened import cases, check

SEED, ROWS, TEST_ROWS = 3, 256, 24
EQUAL = 22  # of the TEST_ROWS examples: see the last test
FIRST_EDITION = json.loads(Path(__file__).with_name("first_edition_figures.json").read_text())
PHASE = {"max_steps": 6, "per_device_train_batch_size": 8}
TEACHERS = {"six": (4, 2), "twelve": (4, 2), "imperfect": (6, 2)}  # steps and warm-up; the others: 4, 0


def short_testbed(bed):
    teachers = {}
    for name, tree in bed.get("teachers", {}).items():
        steps, warmup = TEACHERS.get(name, (4, 0))
        training = {"max_steps": steps, "per_device_train_batch_size": 8, "warmup_steps": warmup}
        teachers[name] = {"training": {**tree["training"], **training}}
    label = {"label": {"prompts": 96}} if "label" in bed["defaults"] else {}
    return changed(bed, {"revision": None, "teachers": teachers, "defaults": label})


def short_spec(spec):
    for part in {"training", "sft_start"} & set(spec):
        warmup = {"warmup_steps": 2} if "warmup_steps" in spec[part] else {}
        spec[part] = {**spec[part], **PHASE, **warmup}
    return {**spec, "curve": {"points": 0}, "test_examples": TEST_ROWS}


def fewer_rows(testbed):
    """The first rows of each kind; a testbed is loaded once for all who ask for it."""
    if getattr(testbed, "shortened", False):
        return
    testbed.shortened = True
    testbed.tokenizer, [testbed.teacher_tokenizer(name) for name in testbed.spec.get("teachers", {})]
    used = {"strangers"} & {tree.get("rows") for tree in testbed.spec.get("teachers", {}).values()}
    for name in {*testbed.task._make} - ({"strangers"} - used):  # they cost seconds
        rows, most = testbed.task.rows(name), TEST_ROWS if name in ("test", "validation") else ROWS
        testbed.task._made[name] = rows.select(range(min(len(rows), most)))


CASES = cases(["tiny"], short_testbed, short_spec)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_an_arm_trains_and_does_what_it_did(case, cache, stops):
    record = case.run(SEED, cache, fewer_rows)
    check(case, record)
    for paper, _, arm in case.arms:
        before = FIRST_EDITION.get(f"{paper}/{arm}")
        if before is not None:
            same_as_before(before, record)


def same_as_before(before, record):
    for name, column in before.items():
        if name == "tokens":
            now = [record["tokens"][who] for who in ("student", "teacher", "generated")]
            assert now == pytest.approx(column, rel=0.05), name
        else:
            equal = common(record["examples"][name], column)
            assert equal >= EQUAL, f"{name}: {equal} of {len(column)} examples are as they were"


def test_every_arm_of_the_first_edition_is_still_here():
    assert set(FIRST_EDITION) <= {f"{paper}/{arm}" for case in CASES for paper, _, arm in case.arms}


def test_figures_of_arms_that_differ_would_be_told_apart():
    """What EQUAL rests on: figures of two arms are either the same or differ in more than the slack."""
    columns = {
        arm: {name: column for name, column in figures.items() if name != "tokens"}
        for arm, figures in FIRST_EDITION.items()
    }
    alike = {
        (one, other)
        for one, other in combinations(columns, 2)
        if columns[one] != columns[other]
        and set(columns[one]) == set(columns[other])
        and min(common(columns[one][name], columns[other][name]) for name in columns[one]) >= EQUAL
    }
    assert alike == {("dac-kl/dac", "dac-kl/dac-fixed")}  # a learned band begins as the fixed one


def common(one, other):
    """How many of their examples are equal."""
    return sum(a == b for a, b in zip(one, other, strict=True))
