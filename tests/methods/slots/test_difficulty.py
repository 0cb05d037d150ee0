"""AdaKD's parts against loops in float64: a share that follows the loss, temperatures by difficulty, their squares."""

import math
from dataclasses import replace

import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.linear import Head, at_temperatures
from methods.slots.difficulty import DifficultyTemperature, Focused
from methods.slots.scores import Hellinger
from methods.slots.support import TopIds
from methods.slots.targets.sparse import TopIdsAndLabel
from methods.slots.terms import Divergence, Window
from methods.slots.token_weights import Gate, Normalised, Shuffled
from tests.methods.slots.three_sequences import (
    COUNT,
    LAST,
    LENGTHS,
    SIZE,
    last_alone,
    log_probs,
    normal,
    parts,
    three_sequences,
)


def distance(log_p, log_q):
    """sqrt of half the sum of (sqrt p - sqrt q)^2, a number at a time."""
    squares = [
        (math.exp(a) ** 0.5 - math.exp(b) ** 0.5) ** 2
        for a, b in zip(log_p.tolist(), log_q.tolist(), strict=True)
    ]
    return (sum(squares) / 2) ** 0.5


def difficulties(rows):
    return [distance(*pair) for pair in zip(log_probs(rows, 0), log_probs(rows), strict=True)]


def temperature_by_hand(scores, kept, reach, inverse=True):
    """Of one sequence: exp(-c tanh(log(s / median))), the lower median of what is kept; 1 for the others."""
    own = sorted(s for s, keep in zip(scores, kept, strict=True) if keep)
    middle = own[(len(own) - 1) // 2]
    sign = -1 if inverse else 1
    return [
        math.exp(sign * reach * math.tanh(math.log(s / middle))) if keep else 1.0
        for s, keep in zip(scores, kept, strict=True)
    ]


def test_the_distance_of_both_distributions():
    rows = three_sequences()
    torch.testing.assert_close(Hellinger()(rows), torch.tensor(difficulties(rows), dtype=torch.float64))
    apart = replace(rows, hidden=rows.hidden * 1e4, teachers=tuple((-h * 1e4, x) for h, x in rows.teachers))
    assert float(Hellinger()(apart).max()) <= 1 + 1e-9
    other = log_probs(rows, 1, SIZE + 1), log_probs(rows, size=SIZE + 1)
    second = [distance(*pair) for pair in zip(*other, strict=True)]
    torch.testing.assert_close(Hellinger(index=1)(rows), torch.tensor(second, dtype=torch.float64))


def course(losses, focused, begin=0.0):
    """The share after each of these losses, seen before the steps of a training ten times as long."""
    shares = []
    for n, loss in enumerate(losses):
        focused.begin_step(Window(begin + n / (10 * len(losses)), last=lambda loss=loss: loss))
        shares.append(focused.share)
    return shares


def shares_by_hand(losses, *, change, tolerance, momentum, warm_up, least):
    """The controller of the official code, written as its table says: mean, reference, share."""
    mean = reference = None
    share, found = 1.0, []
    for n, loss in enumerate(losses):
        if loss is not None:
            mean = loss if mean is None else momentum * mean + (1 - momentum) * loss
            if reference is not None:
                if mean > (1 + tolerance) * reference:
                    share, reference = min(1.0, share * (1 + change)), mean
                elif mean < (1 - tolerance) * reference:
                    share, reference = max(least, share * (1 - change)), mean
            elif n / (10 * len(losses)) > warm_up:
                reference = mean
        found.append(share)
    return found


FALLS_AND_RISES = [None, *[2.0 * 0.9**n for n in range(24)], *[0.2 * 1.2**n for n in range(20)]]
SETTINGS = {"change": 0.1, "tolerance": 0.04, "momentum": 0.6, "warm_up": 0.01, "least": 0.3}


def test_the_share_follows_the_loss():
    found = course(FALLS_AND_RISES, Focused(Hellinger(), **SETTINGS))
    assert found == pytest.approx(shares_by_hand(FALLS_AND_RISES, **SETTINGS))
    assert min(found) == 0.3 and found[-1] == 1.0 and len(set(found)) > 12, "down to the least and up again"
    steady = [None, *[1.0] * 30]
    assert set(course(steady, Focused(Hellinger(), **SETTINGS))) == {1.0}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_course_by_hand_catches_another_setting(name):
    other = {
        **SETTINGS,
        name: {"least": 0.5, "warm_up": 0.03, "tolerance": 0.2}.get(name, SETTINGS[name] * 1.5),
    }
    found = course(FALLS_AND_RISES, Focused(Hellinger(), **other))
    assert found != pytest.approx(shares_by_hand(FALLS_AND_RISES, **SETTINGS))


def test_the_share_goes_on_where_it_was():
    whole = course(FALLS_AND_RISES, Focused(Hellinger(), **SETTINGS))
    first, second = (Normalised(Shuffled(Focused(Hellinger(), **SETTINGS))) for _ in range(2))
    for n, loss in enumerate(FALLS_AND_RISES):
        now = first if n < 20 else second
        if n == 20:
            second.restore(first.state())
        now.begin_step(Window(n / (10 * len(FALLS_AND_RISES)), last=lambda loss=loss: loss))
        assert now.token_weights.token_weights.share == whole[n]
    assert not hasattr(Normalised(Gate(Hellinger(), 0.5)), "state"), "what remembers nothing needs no place"


def check_temperatures(rows, settings, reach=0.7, inverse=True):
    kept = torch.tensor([True, True, False, True, True, False, True, True, True, False, True])
    found = settings(rows, kept)["temperature"]
    scores, places = difficulties(rows), kept.tolist()
    expected, begin = [], 0
    for length in LENGTHS:
        own = slice(begin, begin + length)
        expected += temperature_by_hand(scores[own], places[own], reach, inverse)
        begin += length
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    return found, scores, places


def test_hard_tokens_are_sharpened_and_easy_ones_smoothed():
    rows = three_sequences(hidden=three_sequences().hidden.requires_grad_())
    rows = replace(rows, hidden=rows.hidden.detach())
    found, scores, kept = check_temperatures(rows, DifficultyTemperature(Hellinger(), reach=0.7))
    last = [(s, t) for s, t, k in list(zip(scores, found.tolist(), kept, strict=True))[LAST] if k]
    assert [t for _, t in sorted(last)] == sorted((t for _, t in last), reverse=True), "the harder, the lower"
    assert float(found.min()) < 1 < float(found.max()) and float(found[4]) == 1, "one token is its own median"
    turned, *_ = check_temperatures(
        rows, DifficultyTemperature(Hellinger(), reach=0.7, inverse=False), 0.7, False
    )
    torch.testing.assert_close(turned * found, torch.ones(COUNT).double())


def test_the_loops_catch_a_median_over_all_tokens():
    class OverAll(DifficultyTemperature):
        def _of(self, score, inside):
            return super()._of(score, torch.ones_like(inside))

    with pytest.raises(AssertionError):
        check_temperatures(three_sequences(), OverAll(Hellinger(), reach=0.7))


def test_a_sequence_does_not_depend_on_the_others():
    rows, settings = three_sequences(), DifficultyTemperature(Hellinger())
    whole = settings(rows, None)["temperature"]
    torch.testing.assert_close(settings(last_alone(rows), None)["temperature"], whole[LAST])
    focused = Focused(Hellinger())
    focused.share = 0.5
    torch.testing.assert_close(focused(rows)[LAST], focused(last_alone(rows)))
    assert [int(part.sum()) for part in parts(focused(rows))] == [2, 1, 3]
    assert (settings(rows, torch.zeros(COUNT, dtype=torch.bool))["temperature"] == 1).all()


def logits(rows, teacher=None):
    hidden, head = (rows.hidden, rows.head) if teacher is None else rows.teachers[teacher]
    bias = 0 if head.bias is None else head.bias
    return head.scale * (hidden @ head.weight.T + bias)[:, :SIZE]


def adakd_by_hand(rows, kept, temperatures, divergence, squared=True):
    """Mean over what is kept of each sequence, times its tokens: sum of T^2 D(p^(1/T), q^(1/T))."""
    total, begin = torch.zeros((), dtype=torch.float64), 0
    for length in LENGTHS:
        own = range(begin, begin + length)
        share = length / sum(kept[n] for n in own)
        for n in own:
            if kept[n]:
                log_q, log_p = (
                    (z[n] / temperatures[n]).log_softmax(-1) for z in (logits(rows), logits(rows, 0))
                )
                a, b = (log_q, log_p) if divergence == "reverse-kl" else (log_p, log_q)
                factor = temperatures[n] ** 2 if squared else 1.0
                total = total + share * factor * (a.exp() * (a - b)).sum()
        begin += length
    return total


def one_of_two(rows, divergence, **settings):
    """AdaKD's term with half of each sequence's tokens."""
    focused = Focused(Hellinger())
    focused.share = 0.5
    return Divergence(
        divergence, token_weights=Normalised(focused), row_settings=DifficultyTemperature(Hellinger(), reach=0.7),
        temperature_squared=True, **settings,
    )  # fmt: skip


def check_term(divergence="reverse-kl", *, temperature=1.0, biased=False, squared=True):
    rows = three_sequences()
    weight, hidden = rows.head.weight.clone().requires_grad_(), rows.hidden.clone().requires_grad_()
    bias = normal(len(weight), seed=9).requires_grad_() if biased else None
    rows = replace(rows, hidden=hidden, head=Head(weight, bias, scale=0.8), teachers=rows.teachers[:1])
    scores = difficulties(rows)
    kept, temperatures = [], []
    for part in torch.tensor(scores, dtype=torch.float64).split(LENGTHS):
        best = sorted(range(len(part)), key=lambda n: -float(part[n]))[: math.ceil(len(part) / 2)]
        here = [n in best for n in range(len(part))]
        kept += here
        temperatures += temperature_by_hand(part.tolist(), here, 0.7)
    total = one_of_two(rows, divergence, temperature=temperature).total(rows)
    expected = adakd_by_hand(rows, kept, [t * temperature for t in temperatures], divergence, squared)
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-9)
    learnt = [hidden, weight] + ([bias] if biased else [])
    ours, theirs = (torch.autograd.grad(value, learnt) for value in (total, expected))
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("divergence", ["reverse-kl", "forward-kl"])
def test_the_loss_and_its_gradient_are_those_of_each_token_at_its_temperature(divergence, biased):
    check_term(divergence, biased=biased)
    check_term(divergence, biased=biased, temperature=1.7)


def test_the_loops_catch_a_square_that_is_missing():
    with pytest.raises(AssertionError):
        check_term(squared=False)


def test_ids_that_a_bias_masks_stay_masked_at_every_temperature():
    hidden, temperatures = normal(5, 3, seed=1).requires_grad_(), torch.linspace(0.5, 2, 5).double()
    bias = normal(6, seed=2)
    bias[4] = -math.inf
    head = Head(normal(6, 3, seed=3), bias, scale=0.7)
    made = at_temperatures(hidden, head, temperatures)
    torch.testing.assert_close(made[1].logits(made[0]), head.logits(hidden) / temperatures.unsqueeze(-1))
    (gradient,) = torch.autograd.grad(made[0].sum(), hidden)
    assert bool(gradient.isfinite().all())


def test_a_support_and_labels_alone_have_temperatures_too():
    rows = three_sequences(teachers=three_sequences().teachers[:1])
    own = DifficultyTemperature(Hellinger(), reach=0.7)
    t = own(rows, None)["temperature"]
    z = rows.hidden @ rows.head.weight.T
    expected = -(z / t.unsqueeze(-1)).log_softmax(-1).gather(-1, rows.labels.unsqueeze(-1)).sum()
    torch.testing.assert_close(Divergence("cross-entropy", row_settings=own).total(rows), expected)
    term = Divergence("forward-kl", row_settings=own, support=TopIds(3, rest="renormalise"))
    p, q = (
        (logits(rows, 0) / t.unsqueeze(-1)).log_softmax(-1),
        (z[:, :SIZE] / t.unsqueeze(-1)).log_softmax(-1),
    )
    ids = p.topk(3).indices
    p, q = (x.gather(-1, ids).log_softmax(-1) for x in (p, q))
    torch.testing.assert_close(term.total(rows), (p.exp() * (p - q)).sum())


def test_what_has_one_temperature_alone_is_refused():
    rows, own = three_sequences(), DifficultyTemperature(Hellinger())
    with pytest.raises(MethodError, match="only some ids"):
        Divergence(target=TopIdsAndLabel(2), row_settings=own).total(rows)
    capped = replace(rows, head=Head(rows.head.weight, soft_cap=3.0))
    with pytest.raises(MethodError, match="soft cap"):
        Divergence(row_settings=own).total(capped)
    for wrong in ({"change": 2.0}, {"tolerance": -1.0}, {"momentum": 1.5}):
        with pytest.raises(MethodError, match=next(iter(wrong))):
            Focused(Hellinger(), **wrong)
    with pytest.raises(MethodError, match="reach"):
        DifficultyTemperature(Hellinger(), reach=-1.0)
