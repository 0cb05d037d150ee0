"""Claims decided from results that no training made, on testbeds whose gate passed, failed or is missing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.engine.store.results import gather
from reproductions.engine.verdicts import words
from reproductions.engine.verdicts.claims import Claim, ClaimSet, Contrast, PaperNumbers, Source, Value
from reproductions.engine.verdicts.decide import decide, decide_values
from reproductions.engine.verdicts.statistics import estimate, over_seeds
from reproductions.engine.verdicts.units import Units, units_of

from ..store.made import METRICS, levels, made_arm, made_run

SOURCE = Source("0000.00000", 1, "Table 1")


@dataclass(frozen=True)
class Gate:
    """A gate's record."""

    passed: bool = True
    covers: frozenset = frozenset({"headroom"})
    figures: dict = field(default_factory=lambda: {"error": {"baseline": 2.0, "teacher": 0.0}})


def claim(identifier="better", weights=None, relation="greater", bound=0.0, metric="error", **more):
    weights = weights or {"method": 1.0, "baseline": -1.0}
    own = {name: more.pop(name) for name in ("paper", "smallest_effect", "needs", "scales") if name in more}
    contrast = Contrast(weights, relation, bound, **more)
    return Claim(
        identifier, "It is.", SOURCE, metric, contrast, **{"scales": ("tiny", "paper"), "paper": None, **own}
    )


def results(seeds=range(5), **arms):
    made = {
        name: arm if hasattr(arm, "runs") else made_arm(arm)
        for name, arm in ((name.replace("_", "-"), arm) for name, arm in arms.items())
    }
    return gather(made, made, tuple(seeds))


def decided(claims, found, gate=Gate(), scale="tiny", **more):  # noqa: B008 - frozen
    return decide(ClaimSet(tuple(claims), (), {}), scale, found, gate, **more)


def words_of(claims, found, **more):
    return [item.verdict for item in decided(claims, found, **more)]


def noisy(mean, seed=0, seeds=5, spread=0.3, examples=40):
    """Rows around a mean whose seeds and examples differ."""
    rng = np.random.default_rng(seed)
    return mean + spread * rng.normal(size=(seeds, 1)) + spread * rng.normal(size=(seeds, examples))


APART = {"method": levels(1, 1, 1, 1, 1), "baseline": levels(2, 2.01, 2.02, 2, 2)}


def test_every_word_comes_out_of_the_figures():
    apart = results(**APART)
    assert words_of([claim(smallest_effect=0.5)], apart) == ["reproduced"]
    assert words_of([claim(smallest_effect=1.5)], apart) == ["weaker"]
    assert words_of([claim("worse", {"baseline": 1.0, "method": -1.0})], apart) == ["reversed"]
    assert words_of([claim("absent", {"method": 1.0, "elsewhere": -1.0})], apart) == ["not run"]
    assert words_of([claim()], None) == ["not run"]
    assert words_of([claim()], results(method=levels(1, 1, 1))) == ["not run"]
    same = results(method=levels(1, 1.01, 1, 1, 1), baseline=levels(1.01, 1, 1, 1.01, 1))
    assert words_of([claim(smallest_effect=0.5)], same) == ["no difference"]
    assert words_of([claim(smallest_effect=1e-3)], same) == ["open"]


@pytest.mark.parametrize(
    "margin, word",
    [(0, "reproduced"), (0.5, "reproduced"), (1.5, "reversed"), (0.95, "weaker"), (1.05, "no difference")],
)
def test_the_verdict_is_relative_to_the_margin(margin, word):
    assert words_of([claim(bound=margin, smallest_effect=0.2)], results(**APART)) == [word]


def test_a_decision_says_what_it_rests_on():
    found = results(method=levels(1, 1, 1, 1, 1), baseline=noisy(2, examples=20))
    (decision,) = decided([claim(smallest_effect=0.25)], found)
    assert (decision.seeds, decision.look, decision.next_look, decision.groups) == (5, 5, None, 0)
    assert (decision.effect, decision.effect_from) == (0.25, "declared")
    low, high = decision.interval
    assert high - decision.difference == pytest.approx(decision.difference - low)
    assert decision.difference == pytest.approx(decision.worse_mean - decision.better_mean)
    assert (
        decision.p < 0.01 and decision.p_equal > 0.9 and decision.standard_error > 0 and decision.degrees >= 4
    )
    assert decision.as_dict()["means"] == decision.means


def test_it_is_the_estimate_of_the_very_figures():
    method, baseline = noisy(1.0, 1), noisy(1.2, 2)
    (decision,) = decided([claim(smallest_effect=0.1)], results(method=method, baseline=baseline))
    wanted = estimate("mean", [method[..., None], baseline[..., None]], [1, -1], higher_is_better=False)
    assert decision.difference == pytest.approx(wanted.difference)
    assert decision.interval == pytest.approx(wanted.interval(words.LEVEL))


def test_the_default_smallest_effect_comes_from_the_gate():
    apart = results(**APART)
    (unknown,) = decided([claim()], apart)
    assert (unknown.effect, unknown.effect_from) == (pytest.approx(0.2), "10 % of the headroom")
    (known,) = decided([claim(paper=PaperNumbers({"method": 30.0, "baseline": 40.0}, None))], apart)
    assert known.effect == pytest.approx(0.25) and known.effect_from == "half of the paper's relative effect"
    (tiny,) = decided([claim(paper=PaperNumbers({"method": 39.9, "baseline": 40.0}, None))], apart)
    assert tiny.effect == pytest.approx(0.1) and tiny.effect_from == "5 % of the headroom"


def test_without_a_gate_nothing_is_judged_but_at_the_papers_own_scale():
    apart = results(**APART)
    for gate in (None, Gate(passed=False)):
        (decision,) = decided([claim(smallest_effect=0.5)], apart, gate)
        assert decision.verdict == "needs a gate" and decision.interval is not None and decision.look == 5
        assert decision.next_look is None
    small = claim(smallest_effect=0.5, scales=("small",))
    assert words_of([small], apart, gate=None, scale="small") == ["needs a gate"]
    assert words_of([claim(smallest_effect=0.5)], apart, gate=None, scale="paper") == ["reproduced"]
    numbers = PaperNumbers({"method": 1.0, "baseline": 2.0}, None)
    (own,) = decided([claim(paper=numbers)], apart, None, "paper")
    assert own.effect == 0.5 and own.verdict == "reproduced"
    assert words_of([claim()], apart, gate=None, scale="paper") == ["needs a smallest effect"]


def test_what_a_gate_does_not_show_is_named():
    apart = results(**APART)
    asks = claim(needs=("long-answers", "capacity-gap"), smallest_effect=0.5)
    assert words_of([asks], apart) == ["needs long answers and capacity gap"]
    some = Gate(covers=frozenset({"headroom", "long-answers"}))
    assert words_of([asks], apart, gate=some) == ["needs capacity gap"]
    every = Gate(covers=frozenset({"headroom", "long-answers", "capacity-gap"}))
    assert words_of([asks], apart, gate=every) == ["reproduced"]
    assert words_of([claim(smallest_effect=0.5)], apart, gate=Gate(covers=frozenset())) == ["needs headroom"]
    assert words.kind_of("needs long answers") == "needs" and words.kind_of("reversed") == "reversed"


def test_a_metric_that_the_gate_did_not_measure_needs_a_smallest_effect():
    (decision,) = decided([claim(metric="accuracy")], results(**APART))
    assert decision.verdict == "needs a smallest effect" and decision.effect is None
    assert decision.difference == 0 and decision.p_equal is None
    level = Gate(figures={"error": {"baseline": 2.0, "teacher": 2.0}})
    assert words_of([claim()], results(**APART), gate=level) == ["needs a smallest effect"]


def test_claims_of_equivalence_have_their_bound():
    found = results(method=levels(1, 1.01, 0.99, 1, 1), baseline=levels(1.1, 1.09, 1.12, 1.1, 1.1))
    same = [claim("near", relation="within", bound=bound) for bound in (0.5, 0.1, 0.01)]
    decisions = decided(same, found, Gate(figures={}))
    assert [item.verdict for item in decisions] == ["reproduced", "open", "reversed"]
    assert {(item.effect, item.equal_seconds, item.p_equal) for item in decisions} == {(None, None, None)}
    assert decisions[0].p < 0.01 < decisions[1].p and decisions[2].p < 0.01, (
        "what is shown not to be is as sure"
    )
    assert decided(same[:1], found, None)[0].verdict == "needs a gate"


def test_an_interaction_weighs_four_arms():
    gap = claim(weights={"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0}, smallest_effect=0.5)
    five = dict.fromkeys("abcd")
    widens = results(**{name: levels(*[mean] * 5) for name, mean in zip(five, (1, 3, 1, 2), strict=True)})
    (decision,) = decided([gap], widens)
    assert decision.difference == pytest.approx(1.0) and decision.verdict == "reproduced"
    assert (
        decision.better_mean is None
        and decision.equal_seconds is None
        and list(decision.means) == list("abcd")
    )


def test_a_threshold_compares_an_arm_with_a_number():
    found = results(method=levels(1, 1, 1, 1, 1))
    below = {2.0: "reproduced", 0.5: "reversed"}  # error: less is better
    for number, word in below.items():
        assert words_of([claim(weights={"method": 1.0}, against=number)], found) == [word]


def of_seeds(count, mean, spread, seed):
    return made_arm(noisy(mean, seed, count, spread))


def test_a_claim_is_decided_at_the_first_look_that_can():
    """Open at five, decided at ten; what came after ten for another claim changes nothing."""
    method, baseline = noisy(1.0, 2, 40, 1.2), noisy(2.8, 22, 40, 1.2)
    asks = claim(smallest_effect=0.1)
    at = {}
    for count in (4, 5, 9, 10, 25, 40):
        (at[count],) = decided([asks], results(range(40), method=method[:count], baseline=baseline[:count]))
    assert [at[count].verdict for count in (4, 5, 9)] == ["open"] * 3
    assert [(at[count].look, at[count].next_look) for count in (4, 5, 9)] == [(0, 5), (5, 10), (5, 10)]
    assert at[4].seeds == 4 and at[9] == at[5]
    assert (at[10].verdict, at[10].look, at[10].seeds, at[10].next_look) == ("reproduced", 10, 10, None)
    assert at[25] == at[10] == at[40]


def test_an_open_claim_says_where_it_stands():
    method, baseline = noisy(1.0, 1, 40, 3), noisy(1.05, 2, 40, 3)
    asks = claim(smallest_effect=0.01)
    for seeds, look, ahead in ((12, 10, 20), (40, 40, None)):
        (found,) = decided([asks], results(range(40), method=method[:seeds], baseline=baseline[:seeds]))
        assert (found.verdict, found.look, found.next_look) == ("open", look, ahead)
    (capped,) = decided([asks], results(range(5), method=method[:5], baseline=baseline[:5]))
    assert (capped.look, capped.next_look) == (5, None)
    (part,) = decided([asks], results(range(2), method=method[:2], baseline=baseline[:2]), cap=5)
    assert (part.verdict, part.look, part.next_look, part.seeds) == ("open", 0, 5, 2)
    sure = results(range(2), **{name: rows[:2] for name, rows in APART.items()})
    assert words_of([claim(smallest_effect=0.5)], sure, cap=5) == ["open"], "two of five seeds are no look"


def test_arms_may_have_other_numbers_of_seeds():
    found = results(
        range(40),
        a=of_seeds(40, 1, 0.1, 1),
        b=of_seeds(10, 2, 0.1, 2),
        c=of_seeds(20, 1, 0.1, 3),
    )
    three = claim(weights={"a": 1.0, "b": -0.5, "c": -0.5}, smallest_effect=0.9)
    (decision,) = decided([three], found)
    assert (decision.verdict, decision.seeds) == ("weaker", 5)
    assert decided([replace(three, smallest_effect=1e-6)], found)[0].seeds == 5
    (far,) = decided([claim(weights={"a": 1.0, "c": -1.0}, smallest_effect=1e-6)], found)
    assert far.seeds in (10, 20)


def test_only_the_first_declared_seeds_count():
    method = {seed: row for seed, row in enumerate(levels(1, 1, 1, 1, 1)) if seed != 1}
    (decision,) = decided([claim(smallest_effect=0.5)], results(method=method, baseline=APART["baseline"]))
    assert (decision.verdict, decision.seeds, decision.interval) == ("open", 1, None)
    none = {seed: row for seed, row in method.items() if seed != 0}
    assert words_of([claim()], results(method=none, baseline=APART["baseline"])) == ["not run"]


def test_seeds_that_were_not_declared_do_not_count():
    method = made_arm([*APART["method"], *levels(9, 9)])
    baseline = made_arm([*APART["baseline"], *levels(0, 0)])
    (found,) = decided([claim()], results(method=method, baseline=baseline))
    assert found.verdict == "reproduced" and found.seeds == 5


def drawn(arm, draws):
    return replace(arm, spec={"testbed": {"teachers": {"main": {"draws": draws}, "large": {}}}})


def test_units_are_the_draws_of_teachers_and_of_the_task():
    teachers = {"testbed": {"teachers": {"main": {"draws": 2}, "large": {"draws": 1}, "small": {}}}}
    task = {"testbed": {"teachers": {}, "draws": 3}}
    assert units_of([{}], range(3)) == Units((0, 1, 2), False)
    assert units_of([teachers, {}], range(3)) == Units(((0,), (1,), (0,)), False)
    assert units_of([teachers, task], range(4)) == Units(((0, 0), (1, 1), (0, 2), (1, 0)), True)
    assert units_of([task], [0, 3, 6]) == Units(((0,),) * 3, False), "one draw: the same examples"
    assert [units_of([task], range(count)).shared for count in (1, 3, 4)] == [0, 0, 3]
    assert units_of([task], range(6)).first(3).shared == 0


def test_seeds_with_their_own_draw_of_the_task_are_judged_by_their_figures():
    method, baseline = noisy(1, 1, 5, 0.3), noisy(2, 2, 5, 0.3)
    both = [
        replace(made_arm(one), spec={"testbed": {"teachers": {}, "draws": 9}}) for one in (method, baseline)
    ]
    asks = claim(smallest_effect=0.01)
    (found,) = decided([asks], results(range(5), method=both[0], baseline=both[1]))
    wanted = over_seeds((method - baseline).mean(axis=1))
    assert found.standard_error == pytest.approx(wanted.standard_error) and found.groups == 0


def test_seeds_that_share_a_draw_of_the_teacher_are_a_group():
    rng = np.random.default_rng(3)
    of_draw = np.tile(rng.normal(scale=0.5, size=5), 2)[:, None]
    method, baseline = noisy(1, 1, 10, 0.1) + of_draw, noisy(2, 2, 10, 0.1)
    asks = claim(smallest_effect=0.01)
    alone = results(range(10), method=method, baseline=baseline)
    shared = results(range(10), method=drawn(made_arm(method), 5), baseline=baseline)
    looks = [decided([asks], found)[0] for found in (alone, shared)]
    if looks[1].look == 5:  # as many draws as seeds: each stands for itself
        assert looks[0] == looks[1]
    wide = replace(asks, contrast=Contrast(asks.contrast.weights, "within", 1.05))
    (one,), (other,) = decided([wide], alone), decided([wide], shared)
    assert one.look == other.look == 10 and (one.groups, other.groups) == (0, 5)
    wanted = estimate(
        "mean",
        [method[..., None], baseline[..., None]],
        [1, -1],
        higher_is_better=False,
        groups=[seed % 5 for seed in range(10)],
    )
    assert other.interval == pytest.approx(wanted.interval()) and other.degrees < one.degrees
    (single,) = decided([wide], results(range(10), method=drawn(made_arm(method), 1), baseline=baseline))
    assert single == one


BOTH = {
    **METRICS,
    "matched_error": Metric("mean", ("matched",), higher_is_better=False, title="error, matched"),
}


def with_matched(rows, matched):
    """An arm that was also sampled at its own best temperature."""
    plain = made_arm(rows)
    columns = [np.asarray(row, dtype=float) for row in matched]
    runs = {
        seed: replace(
            run,
            columns={**run.columns, "matched": columns[seed]},
            metrics={**run.metrics, "matched_error": float(columns[seed].mean())},
        )
        for seed, run in plain.runs.items()
    }
    return replace(plain, runs=runs, metrics=BOTH)


def test_a_claim_on_sampled_text_also_stands_at_matched_decoding():
    sharp = results(
        method=with_matched(APART["method"], APART["baseline"]),
        baseline=with_matched(APART["baseline"], APART["method"]),
    )
    (decision,) = decided([claim(smallest_effect=0.5)], sharp)
    assert decision.verdict == "reproduced" and decision.matched["verdict"] == "reversed"
    assert decision.matched["difference"] == pytest.approx(-decision.difference)
    assert decision.matched["interval"][1] < 0 and decision.matched["seeds"] == 5
    (ungated,) = decided([claim(smallest_effect=0.5)], sharp, None)
    assert ungated.matched["verdict"] == "needs a gate"
    half = results(method=with_matched(APART["method"], APART["baseline"]), baseline=APART["baseline"])
    assert decided([claim(smallest_effect=0.5)], half)[0].matched is None


def test_equal_seconds_stops_the_slower_arm_at_the_faster_ones_time():
    fast = [{"step": n, "train_seconds": 1.0 * n, "metrics": {"error": 3.0 - n}} for n in range(3)]
    slow = [{"step": n, "train_seconds": 8.0 * n, "metrics": {"error": 3.0 - 2 * n}} for n in range(3)]
    baseline = made_arm(levels(1, 1, 1, 1, 1), curve=fast)
    found = results(method=made_arm(levels(-1, -1, -1, -1, -1), curve=slow), baseline=baseline)
    equal = decided([claim()], found)[0].equal_seconds
    # After 2 s the fast arm is at 1, the slow one a quarter of the way from 3 to 1: at equal steps it won by 2.
    assert equal["difference"] == pytest.approx(1.0 - 2.5)
    assert equal["seconds"] == 2 and equal["seeds"] == 5
    late = made_arm(
        levels(-1, -1, -1, -1, -1), curve=[{"step": 1, "train_seconds": 4.0, "metrics": {"error": 1.0}}]
    )
    assert decided([claim()], results(method=late, baseline=baseline))[0].equal_seconds is None


def test_runs_that_do_not_compare_are_an_error_that_names_the_claim():
    method = made_arm(levels(1, 1))
    shorter = made_arm([row[:10] for row in levels(2, 2)])
    with pytest.raises(KDError, match="claim better: its runs were not measured on the same examples"):
        words_of([claim()], results(method=method, baseline=shorter))
    other = replace(made_arm(levels(2, 2)), data_revision="revision-2")
    with pytest.raises(
        KDError, match="claim better: its arms were measured on different data: revision-1, revision-2"
    ):
        words_of([claim()], results(method=method, baseline=other))
    turned = {"error": replace(METRICS["error"], higher_is_better=True)}
    with pytest.raises(KDError, match='metric "error" means something else for arm baseline'):
        words_of([claim()], results(method=method, baseline=made_arm(levels(2, 2), metrics=turned)))
    few = {"accuracy": METRICS["accuracy"]}
    with pytest.raises(KDError, match='claim better: metric "error" was not measured for arm baseline'):
        words_of([claim()], results(method=method, baseline=made_arm(levels(2, 2), metrics=few)))
    partly = replace(method, runs={**method.runs, 1: made_run(1, levels(1)[0], metrics=few)})
    with pytest.raises(KDError, match='"error" was not measured for arm method, seed 1'):
        words_of([claim()], results(method=partly, baseline=made_arm(levels(2, 2))))


def test_values_are_decided_at_scale_paper_only_and_only_when_verified():
    values = tuple(
        Value(name, "method", "error", number, 0.1, SOURCE, verified)
        for name, number, verified in (("near", 1.0, True), ("far", 7.0, True), ("unseen", 7.0, False))
    )
    absent = Value("absent", "elsewhere", "error", 1.0, 0.1, SOURCE, True)
    claims = ClaimSet((claim(),), (*values, absent), {})
    found = results(method=levels(1, 1.01), seeds=(0, 1))
    assert decide_values(claims, "tiny", found) == []
    assert {item.value: item.verdict for item in decide_values(claims, "paper", found)} == {
        "near": "reproduced",
        "far": "reversed",
        "absent": "not run",
    }
    single = decide_values(claims, "paper", results(method=levels(1), seeds=(0,)))
    assert single[0].verdict == "open" and single[0].interval is None
    assert {item.verdict for item in decide_values(claims, "paper", None)} == {"not run"}


def test_a_claim_is_decided_on_the_metric_of_its_scale():
    both = replace(claim(smallest_effect=0.5, scales=("tiny", "small")), metrics={"small": "accuracy"})
    found = results(method=levels(1, 1, 1, 1, 1), baseline=levels(0.5, 0.51, 0.5, 0.5, 0.52))
    (tiny,), (small,) = decided([both], found), decided([both], found, scale="small")
    assert tiny.verdict == "reversed" and tiny.better_mean > tiny.worse_mean  # errors
    assert small.means == {"method": 0.0, "baseline": 100.0} and small.difference == -100.0
