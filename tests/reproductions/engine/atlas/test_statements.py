"""Contrasts are found by what arms compute, and only those that differ in the named respect."""

from __future__ import annotations

import pytest

from catalog.errors import CatalogError
from reproductions.engine.atlas.compute import record_of
from reproductions.engine.atlas.record import ROOT
from reproductions.engine.atlas.statements import Pair, Statement, contrasts, read_statements
from tests.reproductions.engine.atlas.made import arm, league, method

FKL, RKL = {"divergence": "forward-kl"}, {"divergence": "reverse-kl"}
ON = {"sampler": {"name": "on-policy"}, "teachers": ["main"]}
OFF = {"teachers": ["main"]}


def found(pair, *arms):
    statement = Statement("s", "S", "says", (Pair(*pair),))
    return [(a.key, b.key) for a, b in contrasts(statement, league(*arms))]


def test_on_policy_is_found_for_each_loss_and_nothing_else():
    arms = [
        arm("fkl-on", method([FKL], **ON), 1),
        arm("fkl", method([FKL], **OFF), 1, rate=0.002),
        arm("rkl-on", method([RKL], **ON), 1),
        arm("rkl", method([RKL], **OFF), 1),
        arm("half", method([FKL], teachers=["main"], sampler={"name": "on-policy", "fraction": 0.5}), 1),
        arm("labels", method([FKL], data={"use": "label"}, **OFF), 1),
        arm("warm", {**method([RKL], **OFF), "gradient_balance": True}, 1),
    ]
    pair = ("sampler", {"name": "on-policy", "fraction": None}, None)
    assert found(pair, *arms) == [("fkl-on", "fkl"), ("rkl-on", "rkl")]


def test_other_teachers_or_other_steps_make_no_contrast():
    small = {"main": {"shape": "small"}}
    arms = [
        arm("on", method([FKL], **ON), 1),
        arm("off", method([FKL], **OFF), 1, teachers=small),
        arm("third", method(), 1),
    ]
    assert found(("sampler", {"name": "on-policy"}, None), *arms) == []


def test_terms_may_differ_in_the_named_keys_alone():
    nll = {"term": "next-token"}
    arms = [
        arm("fkl", method([FKL], **OFF), 1),
        arm("rkl", method([RKL], **OFF), 1),
        arm("fkl-hot", method([{**FKL, "temperature": 2.0}], **OFF), 1),
        arm("rkl-hot", method([{**RKL, "temperature": 2.0}], **OFF), 1),
        arm("sft-fkl", method([nll, FKL], **OFF), 1),
        arm("sft-rkl", method([nll, RKL], **OFF), 1),
        arm("sft", method([nll]), 1),
    ]
    pair = ("terms", {"divergence": "reverse-kl"}, {"divergence": "forward-kl"})
    assert sorted(found(pair, *arms)) == [("rkl", "fkl"), ("rkl-hot", "fkl-hot"), ("sft-rkl", "sft-fkl")]
    assert found(("terms", {"divergence": "forward-kl"}, None), *arms) == [("sft-fkl", "sft")]


def test_terms_that_ask_other_teachers_make_no_contrast():
    beds = {"main": {"shape": 2}, "large": {"shape": 3}}
    arms = [
        arm("fkl-large", method([FKL], teachers=["large"]), 1, teachers={"large": beds["large"]}),
        arm("rkl", method([RKL], **OFF), 1, teachers={"main": beds["main"]}),
        arm("rkl-other-main", method([RKL], **OFF), 1, teachers={"main": beds["large"]}),
        arm("fkl", method([FKL], **OFF), 1, teachers=beds),
    ]
    pair = ("terms", {"divergence": "reverse-kl"}, {"divergence": "forward-kl"})
    assert found(pair, *arms) == [("rkl", "fkl")]


def test_two_rates_of_one_method_are_one_contrast():
    arms = [
        arm("on", method([FKL], **ON), 1),
        arm("off", method([FKL], **OFF), 1),
        arm("off-again", method([FKL], **OFF), 1, rate=0.008, seeds=range(10)),
    ]
    assert len(found(("sampler", {"name": "on-policy"}, None), *arms)) == 1


def test_teachers_and_data():
    arms = [
        arm("large", method([FKL], teachers=["large"]), 1, teachers={"large": {"shape": 3}}),
        arm("main", method([FKL], teachers=["main"]), 1, teachers={"main": {"shape": 2}}),
        arm("gold", method(), 1),
        arm("text", method(data={"use": "label", "batch_size": 512}), 1, teachers={"main": {"shape": 2}}),
    ]
    assert found(("teachers", ["large"], ["main"]), *arms) == [("large", "main")]
    assert found(("data", {"use": "label"}, "train"), *arms) == [("text", "gold")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("- {part: sampler, more: {name: a}}", 'a pair needs "less"'),
        ("- {part: samplers, more: {name: a}, less: null}", '"samplers" is no part of a method'),
        ("- {part: sampler, more: null, less: null}", '"more" and "less" must differ'),
        ("- {part: terms, more: reverse-kl, less: null}", "mappings or null"),
        ("- {part: sampler, more: {name: a}, less: null, least: 3}", 'has no "least"'),
    ],
)
def test_a_wrong_statement_names_its_line(tmp_path, line, message):
    path = tmp_path / "statements.yaml"
    path.write_text(f"statements:\n  s:\n    title: T\n    says: S.\n    pairs:\n      {line}\n")
    with pytest.raises(CatalogError) as raised:
        read_statements(path)
    assert message in str(raised.value) and ":6:" in str(raised.value)


def test_a_statement_is_pooled_over_its_contrasts():
    arms = [
        arm("fkl-on", method([FKL], **ON), 62, claims=["gkd"]),
        arm("fkl", method([FKL], **OFF), 60, claims=["gkd", "akl"]),
        arm("rkl-on", method([RKL], **ON), 63),
        arm("rkl", method([RKL], **OFF), 60),
    ]
    statement = Statement("on", "On", "says", (Pair("sampler", {"name": "on-policy"}, None),))
    (row,) = record_of([], arms, [statement]).statements
    assert row.metric == "greedy_exact_match" and len(row.contrasts) == 2
    assert row.mean == pytest.approx(2.5, abs=0.4)
    assert row.contrasts[0].papers == ("akl", "gkd") and row.contrasts[0].seeds == 5
    assert row.prediction is None and row.interval is not None and row.interval[0] < 2.5


def test_the_committed_statements_can_be_read():
    found = read_statements(ROOT / "reproductions" / "statements.yaml")
    assert {"on-policy", "mode-seeking", "teacher-text", "hidden-states", "larger-teachers"} <= {
        statement.id for statement in found
    }
