"""Experiments as data: likenesses, sweeps, strictness."""

from __future__ import annotations

import pytest

from catalog.errors import CatalogError
from reproductions.engine.errors import KDError
from reproductions.engine.plan.experiment import list_papers, load_experiment

from .conftest import TEXT

SWEPT = """\
paper: mine
claims: {}
data:
  gold: {from: testbed.train, share: $share}
  rows: {use: label, of: gold, teacher: $teacher}
arms:
  labels: {title: labels, method: sft, data: gold}
  told: {title: told, role: method, method: sft, data: rows}
  weak: {like: told, title: weak, teacher: weak}
  plain: {title: plain, method: sft}
sweep: {share: [0.125, 0.5, 1]}
scales:
  tiny: {testbed: bed, seeds: [7, 9]}
headline: [rouge_l]
"""


def test_an_arm_is_like_another_but_for_what_it_says(papers):
    experiment = papers()
    hard, large = experiment.arm("akl-hard"), experiment.arm("large")
    assert (hard.title, hard.role, hard.tree) == (
        "AKL",
        "ablation",
        {"method": "akl", "settings": {"head_mass": 0.9}},
    )
    assert (large.role, large.tree) == ("baseline", {"method": "akl", "teacher": "large"})
    assert experiment.scale("tiny").seeds == (0, 1, 2)


def test_a_swept_arm_is_one_arm_a_point_and_its_bare_name_the_last(papers):
    experiment = papers(text=SWEPT)
    assert list(experiment.arms_at("tiny")) == [
        *(f"{arm}@share={share}" for arm in ("labels", "told", "weak") for share in ("0.125", "0.5", "1")),
        "plain",
    ]
    assert experiment.arm("labels").point == {"share": 1}
    assert experiment.titles["told"] == "told (share=1)" and experiment.scale("tiny").seeds == (7, 9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arms:", "armes:", 'mine.yaml:8: an experiment has no "armes" (did you mean "arms"?)'),
        ("paper: mine", "paper: yours", 'mine.yaml:1: says paper "yours", the file is called mine.yaml'),
        ("method: akl}", "method: akk}", 'mine.yaml:10: no method "akk" (did you mean "akl"?)'),
        (
            "like: akl, role",
            "like: alk, role",
            'mine.yaml:11: arm "akl-hard" is like "alk" (did you mean "akl"?)',
        ),
        ("role: method", "role: methd", 'mine.yaml:10: role "methd" (did you mean "method"?)'),
        ("seeds: 3", "seeds: 0", 'mine.yaml:15: "seeds" is how many'),
        ("seeds: 3", "seeds: [1, 1]", "mine.yaml:15: the seeds must be all different"),
        ("testbed: bed", "testbd: bed", 'mine.yaml:15: a scale has no "testbd" (did you mean "testbed"?)'),
        ("arms: [sft,", "arms: [sftt,", 'mine.yaml:15: no arm "sftt" (did you mean "sft"?)'),
        ("title: SFT,", "titel: SFT,", 'mine.yaml:9: an arm has no "titel" (did you mean "title"?)'),
        ("learning_rate: 4.0e-3", "learning_rate: best", '"learning_rate" is a number or "swept"'),
        ("  sft: {title", "  S_F_T!: {title", 'arm "S_F_T!": only a-z'),
        ("scales:\n", "scale:\n", 'an experiment has no "scale" (did you mean "scales"?)'),
    ],
)
def test_a_mistake_has_its_line_and_the_nearest_name(papers, old, new, message):
    with pytest.raises(CatalogError) as error:
        papers(old, new)
    assert message in str(error.value)


def test_arms_may_not_be_like_each_other(papers):
    with pytest.raises(CatalogError, match="which is no other arm"):
        papers("akl: {title: AKL, role: method, method: akl}", "akl: {like: akl-hard}")


def test_unknown_papers_and_scales_are_told_with_the_nearest(papers, tmp_path):
    experiment = papers()
    with pytest.raises(KDError, match=r'no reproduction of a paper "mien" \(did you mean "mine"\?\)'):
        load_experiment("mien", tmp_path)
    with pytest.raises(KDError, match=r'mine has no scale "tiney" \(did you mean "tiny"\?\)'):
        experiment.scale("tiney")
    with pytest.raises(KDError, match=r'mine has no arm "aki"'):
        experiment.arm("aki")


def test_experiments_are_data():
    """At most six arms need Python of their own; here none does. A paper is read on a screen or four."""
    from reproductions.engine.plan.experiment import PAPERS_ROOT

    assert [path.name for path in PAPERS_ROOT.glob("*.py")] in ([], ["__init__.py"])
    assert len(list_papers()) >= 21 and TEXT
    for paper in list_papers():
        text = (PAPERS_ROOT / f"{paper}.yaml").read_text(encoding="utf-8")
        assert text.count("\n") < 200, f"{paper}: {text.count(chr(10))} lines"
        assert "!" not in text.replace("!=", "").split("claims:")[0], "no tags"
