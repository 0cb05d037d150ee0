"""A key is the hash of what a run computes: whatever changes a figure changes it, and nothing else does."""

from __future__ import annotations

import copy

import pytest

from catalog.errors import CatalogError
from reproductions.engine.errors import KDError
from reproductions.engine.plan.experiment import list_papers, load_experiment
from reproductions.engine.plan.measures import measures_of
from reproductions.engine.plan.spec import key_of, read_testbed_of, spec_of, specs_at

from .conftest import BED


def keys(experiment, bed=BED):
    return {arm: key_of(spec) for arm, spec in specs_at(experiment, "tiny", bed).items()}


def test_another_divergence_is_another_key(papers):
    """The first edition hashed the names of arms: AKL's loss could be exchanged, and nobody noticed."""
    before = keys(papers())
    after = keys(
        papers("method: akl}", "terms: [{divergence: total-variation}]}", ", settings: {head_mass: 0.9}", "")
    )
    assert before["akl"] != after["akl"] and before["sft"] == after["sft"]


def test_another_learning_rate_of_the_teacher_is_another_key_for_those_who_ask_it(papers):
    """The first edition kept a list of settings that runs read, which lacked this one: two teachers, one key."""
    other = copy.deepcopy(BED)
    other["teachers"]["large"]["training"]["learning_rate"] = 1e-5
    before, after = keys(papers()), keys(papers(), other)
    assert {arm for arm in before if before[arm] != after[arm]} == {"large"}
    scaled = papers("seeds: 3,", "seeds: 3, teacher: {large: {shape: {layers: 5}}},")
    assert {arm for arm, key in keys(scaled).items() if key != before[arm]} == {"large"}


def test_a_student_of_the_scale_is_one_for_those_who_name_it(papers):
    before = keys(papers())
    own = ("seeds: 3,", "seeds: 3, student: {tiny: {shape: {layers: 1}}},")
    assert keys(papers(*own)) == before
    named = papers(*own, "large: {like: akl, teacher: large}", "large: {like: akl, student: tiny}")
    spec = specs_at(named, "tiny", BED)["large"]
    assert spec["student"] == "tiny" and spec["testbed"]["students"] == {"tiny": {"shape": {"layers": 1}}}
    assert {arm for arm, key in keys(named).items() if key != before[arm]} == {"large"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title: SFT", "title: another title"),
        ("role: method", "role: baseline"),
        ("  sft:", "  # a comment\n  sft:"),
        ("about: A paper.", "about: Another text."),
        ("seeds: 3", "seeds: 5, minutes: 7, device: cpu, download: true"),
        ("better: akl", "says: x, better: akl"),
        ("method: akl}", "method: akl, settings: {head_mass: 0.5}}"),  # the recipe's own default
        ("headline: [rouge_l]", "headline: [rouge_l, ece]"),
    ],
)
def test_what_changes_no_figure_changes_no_key(papers, old, new):
    assert keys(papers(old, new)) == keys(papers())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("learning_rate: 4.0e-3", "learning_rate: 2.0e-3"),
        ("learning_rate: 4.0e-3", "learning_rate: 4.0e-3, training: {max_steps: 10}"),
        ("learning_rate: 4.0e-3", "learning_rate: 4.0e-3, start: pretrained"),
        ("learning_rate: 4.0e-3", "learning_rate: 4.0e-3, sft_start: {max_steps: 10}"),
        ("learning_rate: 4.0e-3", "learning_rate: 4.0e-3, precision: bf16-autocast"),
        ("learning_rate: 4.0e-3", "learning_rate: 4.0e-3, test_examples: 10"),
    ],
)
def test_what_changes_figures_changes_every_key(papers, old, new):
    before, after = keys(papers()), keys(papers(old, new))
    assert not set(before.values()) & set(after.values())


def test_data_task_and_students_are_part_of_it(papers):
    before = keys(papers())
    for change in (
        {"revision": "f" * 16},
        {"task": {"name": "arithmetic"}},
        {"students": {"main": {"shape": {"layers": 3}}}},
    ):
        assert not set(before.values()) & set(keys(papers(), BED | change).values()), change
    shown = BED | {"about": "x", "name": "another"}
    assert keys(papers(), shown) == before


def test_what_is_measured_on_a_student_is_no_part_of_it(papers):
    before = keys(papers())
    for change in (
        {"metrics": {"answers": {"sampled": ["rouge_l"]}, "excess-error": {}}},
        {"decoding": {"batch": 7, "samples": 8}},
        {"defaults": {**BED["defaults"], "curve": {"points": 4}}},
    ):
        assert keys(papers(), BED | {"decoding": {}} | change) == keys(papers(), BED | {"decoding": {}}), (
            change
        )
    assert keys(papers("learning_rate: 4.0e-3", "learning_rate: 4.0e-3, curve: {points: 7}")) == before
    assert keys(papers(), BED | {"decoding": {"completion": 8}}) != before


def test_a_plan_measures_what_its_headline_and_claims_ask(papers):
    bed = BED | {
        "metrics": {"answers": {"sampled": ["rouge_l", "exact_match"], "greedy": ["exact_match"]}},
    }
    claim = "orderings: {beats-sft: {better: akl, worse: sft, metric: greedy_exact_match}}"
    text = papers(
        "orderings: {beats-sft: {better: akl, worse: sft}}",
        claim,
        "[rouge_l]",
        "[rouge_l]\nmetrics: [greedy_exact_match]",
    )
    found = measures_of(text, text.scale("tiny"), bed)
    both = ("rouge_l", "greedy_exact_match")
    assert found == {
        "sft": both,
        "akl": both,
        "akl-hard": ("rouge_l",),
        "large": ("rouge_l",),
        "told": ("rouge_l",),
    }


def test_how_a_teacher_is_asked_by_default_belongs_to_those_who_ask_it(papers):
    other = copy.deepcopy(BED)
    other["defaults"]["label"]["temperature"] = 0.7
    before, after = keys(papers()), keys(papers(), other)
    assert {arm for arm in before if before[arm] != after[arm]} == {"told"}
    assert (
        keys(papers("method: seqkd}", "method: seqkd, settings: {temperature: 0.7}}"))["told"]
        == after["told"]
    )


def test_what_is_no_plain_data_is_refused(papers):
    bed = BED | {"students": {"main": {"shape": print}}}
    with pytest.raises(CatalogError, match=r"mine\.yaml:9: arm sft: not plain JSON data"):
        spec_of(papers(), "tiny", "sft", bed)
    with pytest.raises(KDError, match="not plain JSON data"):
        key_of({"a": {1, 2}})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("teacher: large", "teacher: larg", 'testbed bed has no teacher "larg" (did you mean "large"?)'),
        (
            "head_mass: 0.9",
            "head_mas: 0.9",
            'mine.yaml:11: akl has no setting "head_mas" (did you mean "head_mass"?)',
        ),
        (
            "method: akl}",
            "terms: [{divergence: forwrd-kl}]}",
            'no divergence "forwrd-kl" (did you mean "forward-kl"?)',
        ),
        ("method: sft}", "method: sft, settings: {head_mass: $mas}}", 'nothing is called "$mas"'),
        ("learning_rate: 4.0e-3", "start: random", '"start" is sft or pretrained'),
    ],
)
def test_a_mistake_has_its_line_and_the_nearest_name(papers, old, new, message):
    with pytest.raises(CatalogError) as error:
        if "head_mas" in new and "larg" not in new:
            keys(papers(old, new))
        else:
            keys(papers(old, new, *([", settings: {head_mass: 0.9}", ""] if "forwrd" in new else [])))
    assert message in str(error.value)


@pytest.mark.parametrize("paper", list_papers())
def test_every_experiment_can_be_planned_at_every_scale(paper):
    experiment = load_experiment(paper)
    for scale in experiment.scales:
        specs = specs_at(experiment, scale, unswept=True)
        assert list(specs) == list(experiment.scale(scale).arms)
        assert all(spec["training"] and "learning_rate" in spec["training"] for spec in specs.values())


def test_papers_with_one_arm_have_one_key():
    """The forward KL on fixed data stands in five papers, and is one sweep and, at one rate, one run."""
    found = {
        (paper, arm): key_of(
            specs_at(experiment, "tiny", unswept=True)[arm]
            | {"training": training_without_rate(experiment, arm)}
        )
        for paper, arm in (
            ("akl", "fkl"),
            ("gkd", "fkl"),
            ("distillm", "fkl"),
            ("taid", "fkl"),
            ("minillm", "word-kd"),
        )
        for experiment in (load_experiment(paper),)
    }
    assert len(set(found.values())) == 1


def training_without_rate(experiment, arm):
    """An arm's training; not every paper has its sweep yet."""
    training = specs_at(experiment, "tiny", unswept=True)[arm]["training"]
    return {name: value for name, value in training.items() if name != "learning_rate"}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("{model: m, poled: mean}", '"one" has no "poled".*pooled'),
        ("{model: m, pooled: max}", '"pooled" is mean, and of models that classify'),
        ("{like: main, model: m}", '"one" has no "like"'),
        ("{pooled: mean}", 'a model has either a "shape", from scratch, or a "model"'),
        ("[model]", '"one" is a mapping'),
    ],
)
def test_a_scale_s_own_student_is_held_to_the_rules_of_a_testbed_s(papers, tree, message):
    experiment = papers("testbed: bed, seeds: 3,", f"testbed: topics, seeds: 3, student: {{one: {tree}}},")
    with pytest.raises(CatalogError, match=rf"mine.yaml:\d+: .*{message}"):
        read_testbed_of(experiment, experiment.scale("tiny"))


def test_a_list_of_students_is_refused(papers):
    experiment = papers("testbed: bed, seeds: 3,", "testbed: topics, seeds: 3, student: [one],")
    with pytest.raises(CatalogError, match='"student" is a mapping'):
        read_testbed_of(experiment, experiment.scale("tiny"))
