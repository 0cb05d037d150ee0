import subprocess
import sys
from pathlib import Path

import pytest

from catalog.reader import read_yaml_with_lines
from reproductions.engine.errors import KDError
from reproductions.engine.verdicts.claims import Contrast, PaperNumbers, Source, name_at, sentence
from reproductions.engine.verdicts.reading import read_claims

PAGE = """\
paper: toy
claims:
  source: {arxiv: "2305.02301", version: 2, where: "Table 1"}
  metric: accuracy
  scales: [tiny, paper]
  setting: "accuracy, large -> small"
  orderings:
    beats-labels: {says: "Rationales help.", better: step, worse: labels, paper: [70, 65.5]}
    less-effort: {better: step, worse: labels, metric: effort, scales: [tiny], margin: 0.5,
      source: {where: "Figure 2"}}
  contrasts:
    gap-widens:
      greater: {step@share=0.125: 1, labels@share=0.125: -1, step@share=1: -1, labels@share=1.0: 1}
      paper: {step@share=1: 70}
      source: {version: null}
  equivalences:
    no-overhead: {arms: [step, labels], metric: effort, within: 1}
  thresholds:
    usable: {arm: step, better_than: 50, setting: "accuracy of random answers: 50"}
  values:
    - table: "3"
      tolerance: 1.5
      verified: true
      columns: {svamp: {metric: accuracy, column: "SVAMP"}, time: {metric: effort, column: "s"}}
      rows:
        step: {row: "Step-by-step", numbers: [70.5, null]}
        gold: {arm: labels, row: "Labels", numbers: [60, 2]}
findings:
  beats-labels: {tiny: "Too few labels."}
"""


TITLES = {"step": "step-by-step", "labels": "labels only"}
POINTS = ("share=0.125", "share=1")
ARMS = {
    **{f"{name}@{point}": f"{title} ({point})" for name, title in TITLES.items() for point in POINTS},
    **{name: f"{title} (share=1)" for name, title in TITLES.items()},
    "plain": "fine-tuning",
}


def read(text, tmp_path, **options):
    path = Path(tmp_path) / "toy.yaml"
    path.write_text(text)
    known = {
        "arms": ARMS,
        "sweep": {"share": [0.125, 1]},
        "scales": ["tiny", "paper"],
        "metrics": ["accuracy", "effort"],
    }
    return read_claims(*read_yaml_with_lines(path), **(known | options))


def test_every_claim_is_one_contrast(tmp_path):
    found = {claim.id: claim for claim in read(PAGE, tmp_path).claims}
    pair = {"step@share=1": 1.0, "labels@share=1": -1.0}
    assert {name: claim.contrast for name, claim in found.items()} == {
        "beats-labels": Contrast(pair, "greater", 0.0),
        "less-effort": Contrast(pair, "greater", 0.5),
        "gap-widens": Contrast(
            {
                "step@share=0.125": 1.0,
                "labels@share=0.125": -1.0,
                "step@share=1": -1.0,
                "labels@share=1": 1.0,
            },
            "greater",
            0.0,
        ),
        "no-overhead": Contrast(pair, "within", 1.0),
        "usable": Contrast({"step@share=1": 1.0}, "greater", 0.0, against=50.0),
    }
    assert [
        found[name].contrast.pair for name in ("beats-labels", "no-overhead", "gap-widens", "usable")
    ] == [
        ("step@share=1", "labels@share=1"),
        ("step@share=1", "labels@share=1"),
        None,
        None,
    ]


def test_what_a_claim_leaves_out_stands_once_for_all(tmp_path):
    found = {claim.id: claim for claim in read(PAGE, tmp_path).claims}
    assert found["beats-labels"].metric == "accuracy" and found["less-effort"].metric == "effort"
    assert found["beats-labels"].scales == ("tiny", "paper") and found["less-effort"].scales == ("tiny",)
    assert found["beats-labels"].source == Source("2305.02301", 2, "Table 1")
    assert found["less-effort"].source == Source("2305.02301", 2, "Figure 2")
    assert found["gap-widens"].source == Source("2305.02301", None, "Table 1")
    assert found["beats-labels"].source.label == "2305.02301v2"


def test_the_papers_numbers_belong_to_arms(tmp_path):
    found = {claim.id: claim.paper for claim in read(PAGE, tmp_path).claims}
    setting = "accuracy, large -> small"
    assert found == {
        "beats-labels": PaperNumbers({"step@share=1": 70.0, "labels@share=1": 65.5}, setting),
        "less-effort": None,
        "gap-widens": PaperNumbers({"step@share=1": 70.0}, setting),
        "no-overhead": None,
        "usable": PaperNumbers({}, "accuracy of random answers: 50"),
    }


def test_a_claim_without_words_gets_a_sentence_from_the_arms_titles(tmp_path):
    found = {claim.id: claim.statement for claim in read(PAGE, tmp_path).claims}
    assert found == {
        "beats-labels": "Rationales help.",
        "less-effort": "step-by-step (share=1) beats labels only (share=1) by more than 0.5.",
        "gap-widens": (
            "step-by-step (share=0.125) - labels only (share=0.125) - step-by-step (share=1) "
            "+ labels only (share=1) > 0."
        ),
        "no-overhead": "step-by-step (share=1) and labels only (share=1) differ by no more than 1.",
        "usable": "step-by-step (share=1) is better than 50.",
    }


def test_a_point_has_one_name():
    assert name_at("a", {}) == "a"
    assert name_at("a", {"share": 1.0, "on": True, "how": "fast"}) == "a@share=1,on=true,how=fast"


def test_formulas_read_as_arithmetic():
    assert Contrast({"a": 1.0, "b": -1.0}, "greater", 0.0).formula == "a - b > 0"
    assert Contrast({"a": -1.0, "b": 0.5}, "within", 2.0).formula == "|- a + 0.5 b| <= 2"
    assert Contrast({"a": 1.0}, "greater", 0.0, against=50.0).formula == "a - 50 > 0"


def test_numbers_of_a_table_are_values_of_arms(tmp_path):
    found = read(PAGE, tmp_path)
    where = Source("2305.02301", 2, "Table 3, Step-by-step, SVAMP")
    assert [value.id for value in found.values] == ["svamp-step", "svamp-gold", "time-gold"]
    first = found.values[0]
    assert (first.arm, first.metric, first.value, first.tolerance) == ("step@share=1", "accuracy", 70.5, 1.5)
    assert first.source == where and first.verified
    assert (found.values[1].arm, found.values[1].source.where) == ("labels@share=1", "Table 3, Labels, SVAMP")
    assert found.paper_number("labels@share=1", "effort") == 2
    assert found.paper_number("step@share=1", "effort") is None
    unseen = read(PAGE.replace("verified: true", "verified: false"), tmp_path)
    assert unseen.paper_number("labels@share=1", "effort") is None


def test_findings_explain_a_claim_at_a_scale(tmp_path):
    found = read(PAGE, tmp_path)
    assert found.explanation("beats-labels", "tiny") == "Too few labels."
    assert found.explanation("beats-labels", "paper") == found.explanation("usable", "tiny") == ""


def test_the_digest_is_of_what_is_claimed_and_of_nothing_else(tmp_path):
    page = read(PAGE, tmp_path)
    prose = PAGE.replace("Rationales help.", "They do help.").replace("Too few labels.", "?")
    prose = prose.replace('where: "Figure 2"', 'where: "Figure 3"').replace(
        "paper: [70, 65.5]", "paper: [71, 60]"
    )
    assert read(prose, tmp_path).digest() == page.digest()
    claimed = {
        "better: step, worse: labels, paper": "better: labels, worse: step, paper",
        "margin: 0.5": "margin: 0.4",
        "within: 1": "within: 2",
        "better_than: 50": "better_than: 51",
        "labels@share=0.125: -1": "labels@share=0.125: -2",
        "metric: accuracy\n  scales": "metric: effort\n  scales",
        "numbers: [60, 2]": "numbers: [60, 3]",
    }
    digests = {page.digest()}
    for old, new in claimed.items():
        assert PAGE.count(old) == 1
        digests.add(read(PAGE.replace(old, new), tmp_path).digest())
    assert len(digests) == 1 + len(claimed)


def test_the_smallest_effect_and_what_a_claim_needs_are_part_of_it(tmp_path):
    plain = {claim.id: claim for claim in read(PAGE, tmp_path).claims}
    assert {(claim.smallest_effect, claim.needs) for claim in plain.values()} == {(None, ())}
    assert not {"smallest_effect", "needs"} & plain["usable"].asserts.keys(), "as before there were any"
    both = PAGE.replace("  setting:", "  smallest_effect: 2\n  needs: [long-answers]\n  setting:")
    both = both.replace("margin: 0.5", "margin: 0.5, smallest_effect: 0.5, needs: [b-c, a]")
    found = {claim.id: claim for claim in read(both, tmp_path).claims}
    assert {name: claim.smallest_effect for name, claim in found.items()} == {
        "beats-labels": 2.0,
        "less-effort": 0.5,
        "gap-widens": 2.0,
        "no-overhead": None,  # has its bound
        "usable": 2.0,
    }
    assert found["less-effort"].needs == ("b-c", "a") and found["no-overhead"].needs == ("long-answers",)
    assert found["less-effort"].asserts["needs"] == ["a", "b-c"]
    digests = [read(text, tmp_path).digest("less-effort") for text in (PAGE, both)]
    digests.append(
        read(both.replace("smallest_effect: 0.5", "smallest_effect: 0.6"), tmp_path).digest("less-effort")
    )
    digests.append(read(both.replace("[b-c, a]", "[b-c]"), tmp_path).digest("less-effort"))
    assert len(set(digests)) == 4
    none = both.replace("needs: [b-c, a]", "needs: []")
    assert {claim.id: claim.needs for claim in read(none, tmp_path).claims}["less-effort"] == ()


def test_a_claim_may_need_something_else_at_another_scale(tmp_path):
    def page(needs):
        return PAGE.replace("paper: [70, 65.5]", f"paper: [70, 65.5], needs: {needs}")

    claim = read(page("{tiny: [a], paper: [c, b]}"), tmp_path).claim("beats-labels")
    assert [claim.on(scale).needs for scale in ("tiny", "paper")] == [("a",), ("c", "b")]
    assert claim.on("paper").needs_at == {} and claim.asserts["needs_at"] == {"paper": ["b", "c"]}
    assert read(page("{tiny: [a], paper: [a]}"), tmp_path).claim("beats-labels").needs_at == {}
    # What was asserted at the first scale is what it was.
    before, after = read(page("[a]"), tmp_path), read(page("{tiny: [a], paper: []}"), tmp_path)
    assert after.changed("tiny", before.digests("tiny")) == []
    assert after.changed("paper", before.digests("paper")) == ["beats-labels"]
    for wrong, message in (
        ("{tiny: [a]}", r':8: "needs" names no list for the scale "paper" of beats-labels'),
        ("{tiny: a, paper: []}", r':8: "needs" must be a list of properties'),
        ("{tinny: [a], paper: []}", r':8: unknown field "tinny" \(did you mean "tiny"'),
    ):
        with pytest.raises(KDError, match=message):
            read(page(wrong), tmp_path)
    for_all = PAGE.replace("  setting:", "  needs: {tiny: [a], paper: [b]}\n  setting:")
    found = read(for_all, tmp_path).claims
    assert {one.on(scale).needs for one in found for scale in one.scales if scale == "paper"} == {("b",)}
    with pytest.raises(KDError, match='unknown field "tinny"'):
        read(for_all.replace("{tiny: [a]", "{tinny: [a], tiny: [a]"), tmp_path)


def test_a_claim_may_have_another_metric_at_another_scale(tmp_path):
    own = PAGE.replace("paper: [70, 65.5]", "paper: [70, 65.5], metric: {tiny: accuracy, paper: effort}")
    before, after = read(PAGE, tmp_path), read(own, tmp_path)
    assert [found.at(scale)[0].metric for found in (before, after) for scale in ("tiny", "paper")] == [
        *("accuracy", "accuracy"),
        *("accuracy", "effort"),
    ]
    assert after.claim("beats-labels").metrics == {"paper": "effort"}
    # What was asserted at the first scale is what it was: its results keep their digest; all of it is another claim.
    frozen = before.digests("tiny")
    assert after.digests("tiny") == frozen and after.changed("tiny", frozen) == []
    assert after.changed("paper", frozen) == ["beats-labels"]
    assert before.digest("beats-labels") != after.digest("beats-labels") and before.digest() != after.digest()


def test_a_claim_changed_after_its_first_run_is_named(tmp_path):
    frozen = read(PAGE, tmp_path).digests("tiny")
    assert list(frozen) == ["beats-labels", "less-effort", "gap-widens", "no-overhead", "usable"]
    assert read(PAGE, tmp_path).changed("tiny", frozen) == []
    assert read(PAGE.replace("margin: 0.5", "margin: 0.1"), tmp_path).changed("tiny", frozen) == [
        "less-effort"
    ]
    assert list(read(PAGE, tmp_path).digests("tiny", "step@share=0.125")) == ["gap-widens"]
    assert list(read(PAGE, tmp_path).digests("paper")) == [
        "beats-labels",
        "gap-widens",
        "no-overhead",
        "usable",
    ]


def test_one_claim_is_found_by_its_name_or_the_nearest_is_offered(tmp_path):
    page = read(PAGE, tmp_path)
    assert page.claim("usable").id == "usable"
    with pytest.raises(KDError, match='no claim "usabel" .did you mean "usable"'):
        page.claim("usabel")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("paper: [70, 65.5]", "metric: {tiny: effort}", ':8: "paper" is missing'),
        ("paper: [70, 65.5]", "metric: {tiny: effort, smal: accuracy}", ':8: unknown scale of this claim "smal"'),
        ("paper: [70, 65.5]", "metric: {tiny: efort, paper: accuracy}", ':8: unknown metric "efort"'),
        ("metric: effort, within", "metric: {tiny: effort, paper: effort}, within", ':17: a claim on several metrics'),
        ("worse: labels, paper", "worse: label, paper", ':8: unknown arm "label" (did you mean "labels"?)'),
        ("worse: labels, paper", "worse: step, paper", ":8: step@share=1 is compared with itself"),
        ("metric: effort, scales", "metric: efort, scales", ':9: unknown metric "efort" (did you mean "effort"?)'),
        ("metric: accuracy\n  scales", "metric: acuracy\n  scales", ':4: unknown metric "acuracy"'),
        ("scales: [tiny], margin", "scales: [tinny], margin", ':9: unknown scale "tinny" (did you mean "tiny"?)'),
        ("scales: [tiny], margin", "scales: [], margin", ':9: "scales" must be a list that is not empty'),
        ("scales: [tiny], margin", "scales: [tiny, tiny], margin", ':9: scale "tiny" stands twice'),
        ("margin: 0.5", "margn: 0.5", ':9: unknown field "margn" (did you mean "margin"?)'),
        ("margin: 0.5", "margin: -1", ':9: "margin" must be 0 or more'),
        ("margin: 0.5", "margin: half", ':9: "margin" must be a number'),
        ("margin: 0.5", "smallest_effect: 0", ':9: "smallest_effect" must be more than 0'),
        ("margin: 0.5", "smallest_effect: -1", ':9: "smallest_effect" must be more than 0'),
        ("margin: 0.5", "smallest_effect: .nan", ':9: "smallest_effect" must be a number'),
        ("margin: 0.5", "smallest_effect: a lot", ':9: "smallest_effect" must be a number'),
        ("margin: 0.5", "smallest_efect: 1", ':9: unknown field "smallest_efect" (did you mean "smallest_effect"?)'),
        ("  setting:", "  smallest_effect: 0\n  setting:", ':6: "smallest_effect" must be more than 0'),
        ("within: 1}", "within: 1, smallest_effect: 1}", ':17: unknown field "smallest_effect"'),
        ("margin: 0.5", "needs: long-answers", ':9: "needs" must be a list of properties'),
        ("margin: 0.5", "needs: [Long answers]", ':9: "Long answers": a property has a-z, 0-9 and "-" only'),
        ("margin: 0.5", "needs: [a, a]", ':9: property "a" stands twice'),
        ("  setting:", "  needs: [1]\n  setting:", ':6: "needs" must be a list of properties'),
        ("margin: 0.5", "verdict: reproduced", ':9: unknown field "verdict"'),
        ("paper: [70, 65.5]", "paper: [70]", ':8: "paper" must hold one number for each of step@share=1, labels'),
        ("paper: [70, 65.5]", "paper: {step@share=0.125: 70}", ':8: unknown arm of this claim "step@share=0.125"'),
        ("paper: [70, 65.5]", "paper: seventy", ':8: "paper" must be a list of numbers'),
        ("worse: labels, paper: [70, 65.5]", "paper: [70, 65.5]", ':8: "worse" is missing'),
        ("labels@share=1.0: 1", "labels@share=2: 1", ':13: unknown point of share "2"'),
        ("labels@share=1.0: 1", "labels@shares=1: 1", ':13: unknown sweep "shares" (did you mean "share"?)'),
        ("labels@share=1.0: 1", "labels@share=0.125: 1", "stands twice"),
        ("labels@share=1.0: 1", "plain@share=1: 1", '"plain@share=1": plain does not vary over the sweep'),
        ("labels@share=1.0: 1", '"labels@share=1,share=1": 1', "names share twice"),
        ("labels@share=1.0: 1", "labels@share=1,share=1: 1", '"labels@share=1" has no weight; a name with a comma'),
        ("labels@share=1.0: 1", "step@share=1.0: 1", ":13: step@share=1 is compared with itself"),
        ("labels@share=1.0: 1", "labels@share=1.0: 0", '"labels@share=1.0" has weight 0'),
        ("within: 1", "within: 0", ':17: "within" must be more than 0'),
        ("arms: [step, labels]", "arms: [step]", ':17: "arms" must be a list of two arms'),
        ("    usable:", "    beats-labels:", ':19: claim "beats-labels" stands twice'),
        ("    usable:", "    Usable:", ':19: "Usable": a claim\'s name has a-z'),
        ("better_than: 50", "better_then: 50", ':19: unknown field "better_then" (did you mean "better_than"?)'),
        ('arxiv: "2305.02301"', "arxiv: 2305.02301", '"arxiv" must be text'),
        ("version: 2", "version: two", '"version" must be a whole number'),
        ('  source: {arxiv: "2305.02301", version: 2, where: "Table 1"}\n', "", '"source" without "arxiv"'),
        ('version: 2, where: "Table 1"', "version: 2", '"source" without "where"'),
        ("numbers: [70.5, null]", "numbers: [70.5]", ':26: "numbers" must hold one for each column: svamp, time'),
        ("verified: true", "verified: yes", '"verified" must be true or false'),
        ("arm: labels, row", "arm: lables, row", ':27: unknown arm "lables"'),
        ("  beats-labels: {tiny: ", "  beat-labels: {tiny: ", ':29: unknown claim "beat-labels"'),
        ("beats-labels: {tiny: ", "beats-labels: {tinny: ", ':29: unknown scale "tinny"'),
        ("  metric: accuracy\n", "", '"metric" is missing here and under "claims"'),
        ("  orderings:", "  ordering:", ':7: unknown field "ordering" (did you mean "orderings"?)'),
        ("claims:\n", "claim:\n", '"claims" is missing'),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence_with_file_and_line(tmp_path, old, new, message):
    assert PAGE.count(old) == 1
    with pytest.raises(ValueError) as error:
        read(PAGE.replace(old, new), tmp_path)
    assert "toy.yaml:" in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bare_name_is_that_of_the_arm_or_of_its_last_point(tmp_path):
    one = PAGE.replace("better: step, worse: labels, paper", "better: plain, worse: labels, paper")
    assert read(one, tmp_path).claims[0].contrast.weights == {"plain": 1.0, "labels@share=1": -1.0}
    threshold = Contrast({"a@n=2": 1.0}, "greater", 0.0, against=3.0)
    assert sentence(threshold, {"a": "A"}) == "A (n 2) is better than 3."


def test_a_question_of_our_own_has_no_paper(tmp_path):
    paper = 'source: {arxiv: "2305.02301", version: 2, where: "Table 1"}'
    assert paper in PAGE
    theirs, ours = (
        read(PAGE, tmp_path),
        read(PAGE.replace(paper, "source: {ours: true, where: issue 12}"), tmp_path),
    )
    one, other = theirs.claims[0], ours.claims[0]
    assert one.source.told == f"arXiv 2305.02301v2, {one.source.where}"
    assert one.source.url == "https://arxiv.org/abs/2305.02301v2"
    assert other.source.told.startswith("a question of our own: ") and other.source.url == ""
    assert theirs.digest(one.id) == ours.digest(other.id)
    for wrong in ("ours: true, version: 2", 'ours: true, arxiv: "2305.02301"', "ours: 1"):
        with pytest.raises(KDError, match='"ours: true" is a question of our own'):
            read(PAGE.replace(paper, f"source: {{{wrong}, where: issue 12}}"), tmp_path)


def test_points_need_a_sweep_and_metrics_may_be_unknown(tmp_path):
    with pytest.raises(KDError, match=r'"step@share=0.125": the experiment has no sweep'):
        read(PAGE, tmp_path, sweep={}, arms=TITLES)
    assert read(PAGE.replace("metric: accuracy", "metric: anything"), tmp_path, metrics=None).claims


def test_a_page_without_a_claim_is_refused(tmp_path):
    with pytest.raises(KDError, match="toy.yaml:1: no claim; name one under orderings, contrasts"):
        read("claims: {metric: accuracy}\n", tmp_path)


def test_reading_and_deciding_never_import_torch():
    code = (
        "import sys\n"
        "import reproductions.engine.store.results\n"
        "import reproductions.engine.verdicts.decide\n"
        "import reproductions.engine.verdicts.reading\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'datasets', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
