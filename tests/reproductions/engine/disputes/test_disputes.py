"""Disputes are answered by what arms compute or are called, with few arms and with many; what is missing is said."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from catalog.errors import CatalogError
from catalog.schema import load_catalog
from reproductions.engine.atlas.compute import record_of
from reproductions.engine.atlas.entrants import Declared
from reproductions.engine.atlas.record import ROOT, read, write
from reproductions.engine.disputes import answers
from reproductions.engine.disputes.reading import read_disputes
from reproductions.engine.errors import KDError
from tests.reproductions.engine.atlas.made import METRICS, arm, method, spec

TEXT = """\
disputes:
  which:
    asks: "Own answers or given ones?"
    sides:
      - {says: "Own ones.", papers: [gkd]}
      - {says: "Given ones.", papers: [seqkd]}
    answers:
      - says: "Own answers are better, with the reverse KL."
        pairs:
          - {part: sampler, more: {name: on-policy}, less: null, where: {teachers: [main]}}
      - says: "A is better than B."
        arms: [{more: ours/a, less: ours/b}]
      - says: "One recipe is better than another."
        recipes: [{more: gkd, less: sft}]
  never:
    asks: "And what of that?"
    unanswered: "nobody can know."
    sides: [{says: "This.", papers: [gkd]}, {says: "That.", papers: [sft]}]
    answers: []
"""
FKL, RKL = [{"divergence": "forward-kl"}], [{"divergence": "reverse-kl"}]
ON = {"sampler": {"name": "on-policy"}, "teachers": ["main"]}


@pytest.fixture(autouse=True)
def _no_orders(monkeypatch):
    """The papers' own orders need whole experiments."""
    monkeypatch.setattr("reproductions.engine.atlas.compute.agreements", lambda *_: ())


def disputes(tmp_path, text=TEXT):
    path = tmp_path / "disputes.yaml"
    path.write_text(text)
    return read_disputes(path)


def declared(paper="ours", scale="tiny", recorded=True, recipes=None, **methods):
    """An experiment with these arms; their keys are their names."""

    def arm_of(name):
        if name not in arms:
            raise KDError(f'{paper} has no arm "{name}"')
        return arms[name]

    arms = {
        name: SimpleNamespace(tree={"method": (recipes or {}).get(name)}, role="method", title=name)
        for name in methods
    }
    experiment = SimpleNamespace(paper=paper, arms=arms, arm=arm_of)
    keys = {name: name for name in methods} if recorded else {}
    bed = SimpleNamespace(name=scale, testbed="toy")
    return Declared(experiment, bed, {name: spec(how) for name, how in methods.items()}, keys)


METHODS = {
    "a": method(RKL, **ON),
    "b": method(RKL, teachers=["main"]),
    "c": method(FKL, **ON),
    "d": method(FKL, teachers=["other"]),
    "e": method(FKL, teachers=["other"], sampler={"name": "on-policy"}),
}
LEVELS = {"a": 60, "b": 50, "c": 55, "d": 40, "e": 70}


def computed(tmp_path, names, *known, text=TEXT, **more):
    made = [arm(name, METHODS[name], LEVELS[name]) for name in names]
    found = record_of(list(known), made, [], disputes=disputes(tmp_path, text), **more).disputes
    return {one.id: one for one in found}


def test_arms_are_found_by_what_they_compute_and_by_name(tmp_path):
    known = declared(recipes={"a": "gkd", "d": "sft"}, **METHODS)
    which = computed(tmp_path, METHODS, known)["which"]
    own, named, recipes = which.answers
    # `where` leaves out the pair of another teacher (e, d), which is the same pair otherwise.
    assert [one.keys for one in own.rows[0].contrasts] == [("a", "b")]
    assert own.rows[0].contrasts[0].difference == pytest.approx(10, abs=0.5)
    assert [one.keys for one in named.rows[0].contrasts] == [("a", "b")]
    assert recipes.rows == ()  # they ask different teachers
    assert [answer.missing for answer in which.answers] == [(), (), ()]


def test_arms_that_are_named_are_weighed_whatever_teachers_they_ask(tmp_path):
    """As of own prefixes against those that another teacher wrote: that is what the two differ in."""
    text = TEXT.replace("less: ours/b", "less: ours/d")
    which = computed(tmp_path, METHODS, declared(recipes={"a": "gkd", "d": "sft"}, **METHODS), text=text)[
        "which"
    ]
    named, recipes = which.answers[1:]
    assert [one.keys for one in named.rows[0].contrasts] == [("a", "d")] and recipes.rows == ()


def test_without_recorded_arms_it_says_which_are_missing(tmp_path):
    rest = ["c", "d", "e"]
    nothing = computed(tmp_path, rest)["which"]
    assert [answer.rows for answer in nothing.answers] == [(), (), ()]
    own, named, recipes = (answer.missing for answer in nothing.answers)
    assert own == ("no experiment has two arms that differ so in sampler: name on-policy against none",)
    assert named == ("ours/a: no such experiment", "ours/b: no such experiment")
    assert recipes == ("gkd: no experiment has an arm of it", "sft: no experiment has an arm of it")
    both = declared(recorded=False, recipes={"a": "gkd", "b": "sft"}, a=METHODS["a"], b=METHODS["b"])
    again = declared("twin", recorded=False, x=METHODS["a"], y=METHODS["b"])
    waiting = computed(tmp_path, rest, both, again)["which"]
    missing = ("ours/a on toy: not recorded", "ours/b on toy: not recorded")  # the twin's are the same arms
    assert [answer.missing for answer in waiting.answers] == [missing, missing, missing]


def test_two_experiments_may_have_one_arm_each(tmp_path):
    one = declared("one", recorded=False, a=METHODS["a"])
    two = declared("two", recorded=False, b=METHODS["b"], c=METHODS["c"])
    which = computed(tmp_path, ["c", "d", "e"], one, two)["which"]
    assert which.answers[0].missing == ("one/a on toy: not recorded", "two/b on toy: not recorded")
    longer = declared("two", recorded=False, b=METHODS["b"])
    longer.specs["b"]["training"]["max_steps"] = 200  # another budget is no contrast
    which = computed(tmp_path, ["c", "d", "e"], one, longer)["which"]
    assert which.answers[0].missing[0].startswith("no experiment has two arms")


def test_one_arm_of_two_is_missing(tmp_path):
    known = declared(a=METHODS["a"], b=METHODS["b"])
    which = computed(tmp_path, ["a", "c", "d", "e"], known)["which"]
    assert which.answers[1].rows == () and which.answers[1].missing == ("ours/b on toy: not recorded",)


def test_only_testbeds_that_may_judge_answer(tmp_path):
    known = declared(**METHODS)
    which = computed(tmp_path, METHODS, known, may_judge=lambda testbed: testbed != "toy")["which"]
    assert all(answer.rows == () for answer in which.answers)


def test_an_answer_may_be_about_another_metric(tmp_path, monkeypatch):
    text = TEXT.replace(
        'says: "A is better than B."', 'says: "A is better than B."\n        metric: exact_match'
    )
    monkeypatch.setattr(answers, "read_testbed_of", lambda experiment, scale: scale.testbed)
    monkeypatch.setattr(answers, "metrics_of", lambda testbed: METRICS)
    which = computed(tmp_path, METHODS, declared(**METHODS), text=text)["which"]
    assert which.answers[1].rows[0].metric == "exact_match"
    other = text.replace(
        "metric: exact_match", "metric: regret"
    )  # nothing measures it there, so nothing is missing
    which = computed(tmp_path, ["c", "d", "e"], declared(recorded=False, **METHODS), text=other)["which"]
    assert which.answers[1].rows == () and which.answers[1].missing == ()


def test_what_cannot_be_answered_says_why(tmp_path):
    never = computed(tmp_path, METHODS)["never"]
    assert never.unanswered == "nobody can know." and never.answers == ()


def test_an_arm_that_its_experiment_lacks_is_a_mistake(tmp_path):
    with pytest.raises(KDError, match='no arm "a"'):
        computed(tmp_path, METHODS, declared(c=METHODS["c"]))


def test_the_record_keeps_them(tmp_path):
    made = [arm(name, METHODS[name], LEVELS[name]) for name in METHODS]
    record = record_of([declared(**METHODS)], made, [], disputes=disputes(tmp_path))
    (tmp_path / "reproductions").mkdir()
    write(record, tmp_path)
    assert read(tmp_path) == record and record.disputes[0].answers[0].rows


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("asks: \"Own", "ask: \"Own", 'there is no "ask" here (did you mean "asks"?)'),
        ("      - {says: \"Given ones.\", papers: [seqkd]}\n", "", "two sides or more"),
        ("papers: [seqkd]", "papers: []", '"papers" must be a list of ids'),
        ("part: sampler", "part: samplers", '"samplers" is no part of a method'),
        ("where: {teachers", "where: {sampler", '"where" maps other parts'),
        ("more: ours/a", "more: a", 'an arm is written "experiment/arm"'),
        ("more: gkd, less: sft", "more: sft, less: sft", "must differ"),
        ("recipes: [{more: gkd, less: sft}]", "metric: m", "an answer has pairs, recipes or arms"),
        ('    unanswered: "nobody can know."\n', "", 'says why it is "unanswered"'),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(tmp_path, old, new, message):
    assert TEXT.count(old) == 1
    with pytest.raises(CatalogError) as error:
        disputes(tmp_path, TEXT.replace(old, new))
    assert message in str(error.value) and "disputes.yaml:" in str(error.value)


def test_the_disputes_of_this_repository_name_papers_of_the_catalog():
    found, catalog = read_disputes(ROOT / "reproductions" / "disputes.yaml"), load_catalog()
    assert len(found) == 8
    assert not {p for one in found for side in one.sides for p in side.papers} - set(catalog.papers)
    assert not any(one.unanswered for one in found)
