"""What must hold of every record and of the taxonomy that is committed."""

from __future__ import annotations

from catalog.schema import AXES, HERE, load_catalog

CATALOG = load_catalog()


def test_every_leaf_of_the_survey_is_there():
    count = {axis: len(CATALOG.taxonomy[axis].values) for axis in AXES}
    assert count == {"elicitation": 6, "algorithm": 4, "skill": 15, "vertical": 5}
    sections = [value.section for axis in CATALOG.taxonomy.values() for value in axis.values.values()]
    assert len(set(sections)) == len(sections)
    assert {"3.1.1", "3.2.4", "4.4.6", "4.5", "5.5"} <= set(sections)


def test_formulas_stand_where_the_survey_has_them():
    axes = CATALOG.taxonomy
    assert all(
        value.formulas for axis in ("elicitation", "algorithm") for value in axes[axis].values.values()
    )
    divergence = {formula.name for formula in axes["algorithm"].values["divergence-similarity"].formulas}
    assert {"forward KL", "reverse KL", "JS divergence", "L2-norm distance", "L1-norm distance"} <= divergence
    assert {"cross-entropy loss", "maximum mean discrepancy"} <= divergence
    assert {f.name for f in axes["algorithm"].values["rank-optimization"].formulas} == {"DPO", "RRHF", "PRO"}


def test_the_catalog_covers_all_four_axes():
    papers = CATALOG.papers.values()
    assert len(papers) >= 12 and "minillm" in CATALOG.papers
    for axis in ("elicitation", "algorithm"):
        for value in CATALOG.taxonomy[axis].values:
            assert any(value in paper.taxonomy[axis] for paper in papers), f"no paper has {axis} {value}"
    verticals = {value for paper in papers for value in paper.taxonomy["vertical"]}
    assert {"law", "medical-healthcare", "finance", "science"} <= verticals


def test_file_names_are_ids_and_nothing_else_lies_there():
    assert {path.name for path in (HERE / "papers").iterdir()} == {f"{name}.yaml" for name in CATALOG.papers}


def test_every_reproduction_belongs_to_a_record_whose_method_is_here():
    papers = {path.stem for path in (HERE.parent / "reproductions" / "papers").glob("*.yaml")}
    questions = {"coverage", "coverage-learned", "encoder-depths", "labels-against-text", "whose-prefixes"}
    assert papers - set(CATALOG.papers) == questions, "of our own, see tools/experiments.py"
    assert all(CATALOG.papers[name].method for name in papers & set(CATALOG.papers))
