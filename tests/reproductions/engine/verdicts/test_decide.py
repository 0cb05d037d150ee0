from dataclasses import replace

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.store.results import gather
from reproductions.engine.verdicts.claims import Claim, ClaimSet, Contrast, Source, Value
from reproductions.engine.verdicts.decide import decide, decide_values

from ..store.made import METRICS, levels, made_arm, made_run

SOURCE = Source("0000.00000", 1, "Table 1")


def claim(identifier="better", weights=None, relation="greater", bound=0.0, metric="error", **more):
    weights = weights or {"method": 1.0, "baseline": -1.0}
    contrast = Contrast(weights, relation, bound, **more)
    return Claim(identifier, "It is.", SOURCE, metric, contrast, ("tiny", "paper"), None)


def results(seeds=(0, 1, 2), **arms):
    made = {
        name: arm if hasattr(arm, "runs") else made_arm(arm)
        for name, arm in ((name.replace("_", "-"), arm) for name, arm in arms.items())
    }
    return gather(made, made, seeds)


def words(claims, found):
    return [item.verdict for item in decide(ClaimSet(tuple(claims), (), {}), "tiny", found)]


def test_all_four_verdicts_come_out_of_the_figures():
    apart = results(method=levels(1, 1, 1), baseline=levels(2, 2.01, 2.02))
    back = claim("worse", {"baseline": 1.0, "method": -1.0})
    absent = claim("absent", {"method": 1.0, "elsewhere": -1.0})
    assert words([claim(), back, absent], apart) == ["reproduced", "not reproduced", "not run"]
    mixed = results(method=levels(1, 3, 1), baseline=levels(2, 1, 2))
    assert words([claim()], mixed) == ["inconclusive"]
    assert words([claim()], None) == ["not run"]
    assert words([claim()], results(method=levels(1, 1, 1))) == ["not run"]


@pytest.mark.parametrize("margin, word", [(0, "reproduced"), (0.5, "reproduced"), (1.5, "not reproduced")])
def test_the_verdict_follows_the_margin(margin, word):
    found = results(method=levels(1, 1, 1), baseline=levels(2, 2.01, 2.02))
    assert words([claim(bound=margin)], found) == [word]


def test_a_decision_says_what_it_rests_on():
    found = results(method=levels(1, 1, 1), baseline=levels(2, 2, 2))
    decision = decide(ClaimSet((claim(),), (), {}), "tiny", found)[0]
    assert (decision.better_mean, decision.worse_mean) == pytest.approx((1.023, 2.023))
    assert decision.difference == pytest.approx(1.0) and decision.seeds == 3
    assert decision.as_dict()["means"] == decision.means


def test_claims_of_equivalence_rest_on_the_interval_alone():
    found = results(method=levels(1, 1.01, 0.99), baseline=levels(1.1, 1.09, 1.12))
    same = [claim("near", relation="within", bound=bound) for bound in (0.5, 0.1, 0.01)]
    decisions = decide(ClaimSet((claim(), *same), (), {}), "tiny", found)
    assert [item.verdict for item in decisions[1:]] == ["reproduced", "inconclusive", "not reproduced"]
    assert {(item.p, item.p_holm, item.equal_seconds) for item in decisions[1:]} == {(None, None, None)}
    assert decisions[0].p == decisions[0].p_holm, "an equivalence takes no part in Holm's correction"


def test_an_interaction_weighs_four_arms():
    gap = claim(weights={"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0}, metric="error")
    widens = results(a=levels(1, 1, 1), b=levels(3, 3, 3), c=levels(1, 1, 1), d=levels(2, 2, 2))
    decision = decide(ClaimSet((gap,), (), {}), "tiny", widens)[0]
    assert decision.difference == pytest.approx(1.0) and decision.verdict == "reproduced"
    assert (
        decision.better_mean is None
        and decision.equal_seconds is None
        and list(decision.means) == list("abcd")
    )


def test_arms_of_an_interaction_must_share_their_seeds():
    gap = claim(weights={"a": 1.0, "b": -1.0, "c": -1.0})
    with pytest.raises(
        KDError,
        match="claim better: its arms must have the same seeds; they have a: 0, 1, 2; b: 0, 1, 2; c: 0, 1$",
    ):
        words([gap], results(a=levels(1, 1, 1), b=levels(1, 1, 1), c=levels(1, 1)))
    pair = decide(
        ClaimSet((claim(),), (), {}), "tiny", results(method=levels(1, 1), baseline=levels(2, 2, 2))
    )
    assert pair[0].seeds == 2


def test_a_threshold_compares_an_arm_with_a_number():
    found = results(method=levels(1, 1, 1))
    below = {2.0: "reproduced", 0.5: "not reproduced"}  # error: less is better
    for number, word in below.items():
        assert words([claim(weights={"method": 1.0}, against=number)], found) == [word]


def test_p_values_are_corrected_over_the_claims_decided_at_a_scale():
    found = results(method=levels(1, 1, 1), baseline=levels(2, 2.4, 1.5), ablation=levels(1, 1.2, 0.8))
    second = claim("second", {"method": 1.0, "ablation": -1.0})
    elsewhere = replace(claim("elsewhere"), scales=("paper",))
    one, two = decide(ClaimSet((claim(), second, elsewhere), (), {}), "tiny", found)
    smaller, larger = sorted([one, two], key=lambda item: item.p)
    assert smaller.p_holm == pytest.approx(min(1, 2 * smaller.p))
    assert larger.p_holm == pytest.approx(max(smaller.p_holm, larger.p))


def test_equal_seconds_stops_the_slower_arm_at_the_faster_ones_time():
    fast = [{"step": n, "train_seconds": 1.0 * n, "metrics": {"error": 3.0 - n}} for n in range(3)]
    slow = [{"step": n, "train_seconds": 8.0 * n, "metrics": {"error": 3.0 - 2 * n}} for n in range(3)]
    baseline = made_arm(levels(1, 1, 1), curve=fast)
    found = results(method=made_arm(levels(-1, -1, -1), curve=slow), baseline=baseline)
    equal = decide(ClaimSet((claim(),), (), {}), "tiny", found)[0].equal_seconds
    # After 2 s the fast arm is at 1, the slow one a quarter of the way from 3 to 1: at equal steps it won by 2.
    assert equal["difference"] == pytest.approx(1.0 - 2.5)
    assert equal["seconds"] == 2 and equal["seeds"] == 3
    late = made_arm(levels(-1, -1, -1), curve=[{"step": 1, "train_seconds": 4.0, "metrics": {"error": 1.0}}])
    assert (
        decide(ClaimSet((claim(),), (), {}), "tiny", results(method=late, baseline=baseline))[0].equal_seconds
        is None
    )


def test_runs_that_do_not_compare_are_an_error_that_names_the_claim():
    method = made_arm(levels(1, 1))
    shorter = made_arm([row[:10] for row in levels(2, 2)])
    with pytest.raises(KDError, match="claim better: its runs were not measured on the same examples"):
        words([claim()], results(method=method, baseline=shorter))
    other = replace(made_arm(levels(2, 2)), data_revision="revision-2")
    with pytest.raises(
        KDError, match="claim better: its arms were measured on different data: revision-1, revision-2"
    ):
        words([claim()], results(method=method, baseline=other))
    turned = {"error": replace(METRICS["error"], higher_is_better=True)}
    with pytest.raises(KDError, match='metric "error" means something else for arm baseline'):
        words([claim()], results(method=method, baseline=made_arm(levels(2, 2), metrics=turned)))
    few = {"accuracy": METRICS["accuracy"]}
    with pytest.raises(KDError, match='claim better: metric "error" was not measured for arm baseline'):
        words([claim()], results(method=method, baseline=made_arm(levels(2, 2), metrics=few)))
    partly = replace(method, runs={**method.runs, 1: made_run(1, levels(1)[0], metrics=few)})
    with pytest.raises(KDError, match='"error" was not measured for arm method, seed 1'):
        words([claim()], results(method=partly, baseline=made_arm(levels(2, 2))))


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
        "far": "not reproduced",
        "absent": "not run",
    }
    single = decide_values(claims, "paper", results(method=levels(1), seeds=(0,)))
    assert single[0].verdict == "inconclusive" and single[0].interval is None
    assert {item.verdict for item in decide_values(claims, "paper", None)} == {"not run"}


def test_seeds_that_were_not_declared_do_not_count():
    method, baseline = made_arm(levels(1, 1, 1, 9, 9)), made_arm(levels(2, 2.01, 2.02, 0, 0))
    found = decide(ClaimSet((claim(),), (), {}), "tiny", results(method=method, baseline=baseline))[0]
    assert found.verdict == "reproduced" and found.seeds == 3
