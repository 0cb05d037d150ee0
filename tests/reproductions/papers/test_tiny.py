"""Every distinct arm of scale tiny takes two steps: it trains, and is measured with what its paper asks for."""

import pytest

from reproductions.testbeds import changed
from tests.reproductions.papers.shortened import cases, check, fewer_rows, short_phases, small_teachers

SEED = 3
PHASE = {"max_steps": 2, "per_device_train_batch_size": 8}
FEWER = {
    "classification": {"train_texts": 64, "validation_texts": 20, "test_texts": 24},
    "countdown": {"scribbles": 300, "corrections": 300},
    "navigate": {"walks": 300, "corrections": 300},
    "reasoning": {"train": 80, "base": 300, "solutions": 300, "test_problems": 20, "unseen_problems": 20},
    "reviews": {"train_texts": 64, "pool_texts": 24, "validation_texts": 20, "test_texts": 24},
    "trace": {"demonstrations": 300, "drafts": 300},
}


def short_testbed(bed):
    label = {"label": {"prompts": 32}} if "label" in bed["defaults"] else {}
    change = {"revision": None, "teachers": small_teachers(bed, PHASE, {}, (2, 0)), "defaults": label}
    bases = {name: {"base": {"training": PHASE}} for name, tree in bed["students"].items() if "base" in tree}
    return changed(bed, {**change, "students": bases, "task": FEWER.get(bed["task"]["name"], {})})


def short_spec(spec):
    """A student of two steps is never right: of its own answers all that ended are kept, and they are sampled."""
    spec["method"]["data"] = whatever_ended(spec["method"]["data"])
    return short_phases(spec, PHASE, 1)


def whatever_ended(data):
    """A tree of data whose right answers are all that ended; of texts that are sampled two for each prompt."""
    if isinstance(data, list):
        return [whatever_ended(part) for part in data]
    if not isinstance(data, dict):
        return data
    if data.get("use") == "right-answers":
        kept = {name: value for name, value in data.items() if name not in ("greedy", "samples")}
        return {**kept, "threshold": 0.0}
    if data.get("use") == "agreed-answers":  # one text agrees with itself, whatever it says
        return {**data, "samples": 1, "after": None}
    if data.get("use") in ("guide-answers", "teacher-traces"):
        data = {**data, "threshold": 0.0}
    for setting, most in (("samples", 2), ("count", 12), ("keep", 4)):
        if isinstance(data.get(setting), int):
            data = {**data, setting: min(most, data[setting])}
    return {name: whatever_ended(part) for name, part in data.items()}


CASES = cases(["tiny"], short_testbed, short_spec)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_an_arm_trains_and_is_measured(case, cache, stops, request):
    if "tokenizer" in case.bed:  # published models, of which there are replicas
        request.getfixturevalue("mirrors")
    check(case, case.run(SEED, cache, fewer_rows, wanted=case.metrics))
