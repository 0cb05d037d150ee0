"""The Python beside an experiment: read by the plan, part of every key of its paper."""

from __future__ import annotations

import pytest

from catalog.errors import CatalogError
from methods.errors import MethodError
from reproductions.engine.errors import KDError
from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.plan.spec import key_of
from reproductions.testbeds import read_testbed


def test_a_papers_own_components_can_be_planned_and_their_source_is_part_of_every_key(toy):
    before = toy.plan()
    assert before.specs["method"]["method"]["trainer"] == {"name": "toy-fit", "guided": True}
    assert before.keys["ablation"] == before.keys["again"] != before.keys["baseline"]
    assert before.testbed["task"] == {"name": "toy-line"}
    toy.change("0.05 * torch.randn", "0.06 * torch.randn", "papers/toy.py")
    after = toy.plan()
    assert not set(before.keys.values()) & set(after.keys.values())
    assert {**after.specs["method"], "code": before.specs["method"]["code"]} == before.specs["method"]


def test_a_paper_without_python_says_nothing_of_code(papers):
    assert papers().code is None
    assert "code" not in load_experiment("akl").data


def test_the_settings_of_a_papers_own_component_are_checked(toy):
    toy.change("noise: 1.0", "nose: 1.0")
    with pytest.raises(CatalogError, match=r'toy\.yaml:\d+: .*no setting "nose" \(did you mean "noise"\?\)'):
        toy.plan()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("WIDTH = 48", "WIDTH = 48 +", r"toy\.py:\d+: cannot be imported: SyntaxError"),
        ("WIDTH = 48", "WIDTH = fourty", r"toy\.py:\d+: cannot be imported: NameError: name 'fourty'"),
        ('"trainer", "toy-fit"', '"trainer", "distillation"', r'toy\.py: trainer "distillation" is one of the library'),
        ('"trainer", "toy-fit"', '"trainr", "toy-fit"', r'no slot "trainr" \(did you mean "trainer"\?\)'),
        ('@task("toy-line")', '@task("pronunciation")', 'two tasks are called "pronunciation"'),
    ],
)  # fmt: skip
def test_python_that_cannot_be_used_has_one_line(toy, old, new, message):
    read_testbed(
        "pronunciation"
    )  # the tasks of the atlas are known, as in any process that plans other papers
    toy.change(old, new, "papers/toy.py")
    with pytest.raises((KDError, MethodError), match=message) as error:
        toy.plan()
    assert "\n" not in str(error.value)


def test_two_papers_cannot_give_one_name_to_two_components(toy):
    toy.plan()
    for ending in ("yaml", "py"):
        text = (toy.papers / f"toy.{ending}").read_text().replace("paper: toy\n", "paper: tin\n")
        (toy.papers / f"tin.{ending}").write_text(text)
    with pytest.raises(KDError, match='two tasks are called "toy-line"'):
        load_experiment("tin", toy.papers)


def test_testbeds_lie_beside_the_folder_of_experiments(toy):
    toy.change("testbed: line, seeds: 3", "testbed: lime, seeds: 3")
    with pytest.raises(
        CatalogError, match=r'toy\.yaml:\d+: unknown testbed "lime" \(did you mean "line"\?\)'
    ):
        toy.plan()


def test_keys_of_papers_without_python_are_those_of_before(papers):
    """Recorded results are found by them: nothing about other papers' code may enter."""
    from reproductions.engine.plan.spec import specs_at

    from .conftest import BED

    spec = specs_at(papers(), "tiny", BED)["sft"]
    assert set(spec) == {"version", "testbed", "method", "start", "training", "sft_start"}
    assert len(key_of(spec)) == 16
