"""Divergences on a few ids against dense float64 formulas, enumeration and identities; what each oracle catches."""

import math

import pytest
import torch

from methods.errors import MethodError
from methods.losses.divergences import DIVERGENCES
from methods.losses.fused import reduced
from methods.losses.fused.linear import Head, linear_divergence
from methods.losses.fused.reduced import ReducedObjective, Reduction, linear_reduced_divergence
from methods.slots.support import RecalibratedTopIds
from methods.teachers.top_k import TopK, linear_top_k_divergence
from tests.methods.losses.fused_sides import (
    ROWS,
    VOCABULARY,
    assert_same_gradients,
    leaves,
    logits,
    normal,
    student_side,
    teacher_side,
)
from tests.methods.losses.test_order import draw

NAMES = sorted(DIVERGENCES)
# Of an id: what it adds to the divergence.
SUMMANDS = {
    "forward_kl": lambda p, q: p * (p / q).log(),
    "reverse_kl": lambda p, q: q * (q / p).log(),
    "jensen_shannon": lambda p, q: (p * (2 * p / (p + q)).log() + q * (2 * q / (p + q)).log()) / 2,
    "skew_forward_kl": lambda p, q: p * (p / (0.1 * p + 0.9 * q)).log(),
    "skew_reverse_kl": lambda p, q: q * (q / (0.9 * p + 0.1 * q)).log(),
    "detached_skew_reverse_kl": lambda p, q: q * (q / (0.9 * p + 0.1 * q.detach())).log(),
    "total_variation": lambda p, q: (p - q).abs() / 2,
}
K = 5


def both(**options):
    hidden, head = student_side()
    return hidden, head, *teacher_side(), options


def chosen(of, z, t, k=K):
    return (t if of == "teacher" else z).topk(k, -1).indices


def tail_oracle(name, z, t, ids):
    """k + 1 outcomes by hand, their logarithms as logits."""
    outside = torch.ones_like(z).scatter(-1, ids, 0)
    log_q, log_p = (
        torch.cat(
            [x.log_softmax(-1).gather(-1, ids), (x.softmax(-1) * outside).sum(-1, keepdim=True).log()], -1
        )
        for x in (z, t)
    )
    return DIVERGENCES[name](log_q, log_p)


def renormalised_oracle(name, z, t, ids):
    return DIVERGENCES[name](z.gather(-1, ids), t.gather(-1, ids))


def dropped_oracle(name, z, t, ids):
    return SUMMANDS[name](t.softmax(-1).gather(-1, ids), z.softmax(-1).gather(-1, ids)).sum(-1)


def excess_oracle(name, z, t, ids):
    p, q = t.softmax(-1).gather(-1, ids), z.softmax(-1).gather(-1, ids)
    return dropped_oracle(name, z, t, ids) + ((p - q) if name == "reverse_kl" else (q - p)).sum(-1)


def rewards_oracle(name, z, t, ids):
    """The excess, each id's share of the student's mass within the ids in the place of its probability."""
    return excess_oracle(name, z, t, ids) / z.softmax(-1).gather(-1, ids).sum(-1).detach()


ORACLES = {
    "tail": (tail_oracle, NAMES),
    "renormalise": (renormalised_oracle, NAMES),
    "drop": (dropped_oracle, sorted(SUMMANDS)),
    "excess": (excess_oracle, ["forward_kl", "reverse_kl"]),
    "rewards": (rewards_oracle, ["forward_kl", "reverse_kl"]),
}
CASES = [(rest, name) for rest, (_, names) in ORACLES.items() for name in names]


def check(rest, name, of):
    hidden, head, theirs, their_head, _ = both()
    weights = normal(ROWS, seed=8)
    z, t = logits(hidden, head), logits(theirs, their_head)
    expected = ORACLES[rest][0](name, z, t, chosen(of, z, t))
    loss = linear_reduced_divergence(
        hidden, head, theirs, their_head,
        reduction=Reduction(of, K, rest), divergence=name, weights=weights, chunk_size=4,
    )  # fmt: skip
    torch.testing.assert_close(loss.values, expected.detach())
    assert_same_gradients((expected * weights).sum() * 3, loss.total * 3, leaves(hidden, head))


@pytest.mark.parametrize(("rest", "name"), CASES)
@pytest.mark.parametrize("of", ["teacher", "student"])
def test_values_and_gradients_are_those_of_dense_formulas(rest, name, of):
    check(rest, name, of)


def test_rewards_have_the_gradient_of_a_policy_s_that_may_say_each_id():
    """Rethinking OPD's code: A = w (log p - log q), w the share of q within the k ids; minus the sum of A d log q."""
    hidden, head, theirs, their_head, _ = both()
    z, t = logits(hidden, head), logits(theirs, their_head)
    ids = chosen("student", z, t)
    log_q, log_p = (x.log_softmax(-1).gather(-1, ids) for x in (z, t))
    advantage = (log_p - log_q).detach() * log_q.detach().softmax(-1)
    loss = linear_reduced_divergence(
        hidden, head, theirs, their_head, reduction=Reduction("student", K, "rewards"), divergence="reverse_kl"
    )  # fmt: skip
    assert_same_gradients(-(advantage * log_q).sum(), loss.total, leaves(hidden, head))


def without_tail_slope(self, kept, ids, q, p, rows):
    value, slope, outside = with_tail(self, kept, ids, q, p, rows)
    return value, slope, torch.zeros_like(outside)


def without_projection(self, kept, rows):
    log_q, log_p = kept[0].log_softmax(-1), kept[2].log_softmax(-1)
    return self._divergence([log_q, log_q.exp(), log_p, log_p.exp()], rows)


def without_masks(self, kept, rows):
    return self._divergence(kept, rows)


with_tail = ReducedObjective._with_tail
MUTATIONS = {
    "no gradient outside": ("tail", "_with_tail", without_tail_slope, "forward_kl"),
    "no projection": ("renormalise", "_renormalised", without_projection, "forward_kl"),
    "a constant left out": ("drop", "_dropped", without_masks, "reverse_kl"),
    "another constant left out": ("drop", "_dropped", without_masks, "skew_reverse_kl"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_oracles_catch_what_is_wrong(mutation, monkeypatch):
    rest, method, wrong, name = MUTATIONS[mutation]
    check(rest, name, "teacher")
    monkeypatch.setattr(ReducedObjective, method, wrong)
    with pytest.raises(AssertionError):
        check(rest, name, "teacher")


def test_a_wrong_sign_of_the_excess_is_caught(monkeypatch):
    monkeypatch.setattr(reduced, "EXCESS", {f: -c for f, c in reduced.EXCESS.items()})
    with pytest.raises(AssertionError):
        check("excess", "reverse_kl", "teacher")


@pytest.mark.parametrize("rest", ["tail", "renormalise", "drop", "excess"])
def test_more_ids_than_there_are_is_all_of_them(rest):
    hidden, head, theirs, their_head, _ = both()
    whole = linear_divergence(hidden, head, theirs, their_head, divergence="reverse_kl")
    for k in (VOCABULARY, 99):
        got = linear_reduced_divergence(
            hidden, head, theirs, their_head, reduction=Reduction("teacher", k, rest), divergence="reverse_kl"
        )
        torch.testing.assert_close(got.values, whole.values)
        assert_same_gradients(whole.total, got.total, leaves(hidden, head))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"adaptive_kl"}))
def test_fewer_ids_never_say_more_and_all_but_one_say_everything(name):
    hidden, head, theirs, their_head, _ = both()
    whole = linear_divergence(hidden, head, theirs, their_head, divergence=name)
    for of in ("teacher", "student"):
        values = [
            linear_reduced_divergence(
                hidden, head, theirs, their_head, reduction=Reduction(of, k), divergence=name
            )
            for k in (1, 3, 12, VOCABULARY - 1)
        ]
        assert all((one.values <= whole.values + 1e-12).all() for one in values)
        torch.testing.assert_close(values[-1].values, whole.values)
        assert_same_gradients(whole.total, values[-1].total, leaves(hidden, head))


def estimates(name, drawn_from, **options):
    """The expectation over the sampled id of value and gradient, by enumeration of the vocabulary."""
    hidden, head, theirs, their_head, _ = both()
    writer = logits(hidden, head).detach() if drawn_from == "student" else logits(theirs, their_head)
    labels = torch.arange(VOCABULARY).repeat_interleave(ROWS)
    chances = writer.softmax(-1).T.reshape(-1)
    loss = linear_reduced_divergence(
        hidden.repeat(VOCABULARY, 1), head, theirs.repeat(VOCABULARY, 1), their_head, labels=labels,
        reduction=Reduction("sampled", 1, "estimate", drawn_from, **options), divergence=name, weights=chances,
    )  # fmt: skip
    return hidden, head, loss, linear_divergence(hidden, head, theirs, their_head, divergence=name)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"adaptive_kl"}))
@pytest.mark.parametrize("drawn_from", ["student", "teacher"])
def test_a_sampled_token_is_right_on_average(name, drawn_from):
    hidden, head, got, whole = estimates(name, drawn_from)
    torch.testing.assert_close(got.total, whole.total)
    assert_same_gradients(whole.total, got.total, leaves(hidden, head))


def test_what_another_wrote_is_no_fair_sample():
    hidden, head, _, whole = estimates("reverse_kl", "student")
    theirs, their_head = teacher_side()
    labels = torch.arange(VOCABULARY).repeat_interleave(ROWS)
    wrong = linear_reduced_divergence(
        hidden.repeat(VOCABULARY, 1), head, theirs.repeat(VOCABULARY, 1), their_head, labels=labels,
        reduction=Reduction("sampled", 1, "estimate"), divergence="reverse_kl",
        weights=logits(theirs, their_head).softmax(-1).T.reshape(-1),
    )  # fmt: skip
    with pytest.raises(AssertionError):
        assert_same_gradients(whole.total, wrong.total, leaves(hidden, head))


def test_reverse_kl_of_a_sampled_token_is_the_policy_gradient_and_clips_its_reward():
    hidden, head, theirs, their_head, _ = both()
    labels = torch.arange(ROWS) % VOCABULARY
    for clip in (None, 0.7):
        log_q, log_p = (
            z.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
            for z in (logits(hidden, head), logits(theirs, their_head))
        )
        advantage = (log_p - log_q).detach()
        advantage = advantage if clip is None else advantage.clamp(-clip, clip)
        loss = linear_reduced_divergence(
            hidden, head, theirs, their_head, labels=labels, divergence="reverse_kl",
            reduction=Reduction("sampled", 1, "estimate", clip=clip),
        )  # fmt: skip
        torch.testing.assert_close(loss.values, (log_q - log_p).detach())
        assert_same_gradients(-(advantage * log_q).sum(), loss.total, leaves(hidden, head))


def test_what_the_teacher_wrote_makes_forward_kl_the_cross_entropy():
    hidden, head, theirs, their_head, _ = both()
    labels = torch.arange(ROWS) % VOCABULARY
    loss = linear_reduced_divergence(
        hidden, head, theirs, their_head, labels=labels,
        reduction=Reduction("sampled", 1, "estimate", "teacher"),
    )  # fmt: skip
    nll = -logits(hidden, head).log_softmax(-1).gather(-1, labels[:, None]).sum()
    assert_same_gradients(nll, loss.total, leaves(hidden, head))


def test_only_the_excess_puts_the_minimum_to_where_both_agree():
    hidden, head = student_side()
    same = hidden.detach(), type(head)(head.weight.detach())
    for rest, name, zero in (
        ("excess", "reverse_kl", True), ("excess", "forward_kl", True), ("tail", "reverse_kl", True),
        ("drop", "reverse_kl", False), ("drop", "forward_kl", False),
    ):  # fmt: skip
        loss = linear_reduced_divergence(
            hidden, head, *same, reduction=Reduction("teacher", K, rest), divergence=name
        )
        gradient = torch.autograd.grad(loss.total, hidden)[0].abs().max()
        assert (float(gradient) < 1e-12) == zero, (rest, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_store_of_the_same_ids_says_the_same(name):
    hidden, head, theirs, their_head, _ = both()
    log_p = logits(theirs, their_head).log_softmax(-1)
    top = log_p.topk(K)
    tail = log_p.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    stored = linear_top_k_divergence(
        hidden, head, TopK(top.indices, top.values, tail, VOCABULARY), divergence=name
    )
    live = linear_reduced_divergence(
        hidden, head, theirs, their_head, reduction=Reduction("teacher", K), divergence=name
    )
    torch.testing.assert_close(live.values, stored.values)
    assert_same_gradients(stored.total, live.total, leaves(hidden, head))


def test_rows_settings_temperature_and_masks_are_those_of_the_whole_divergence():
    hidden, head, theirs, their_head, _ = both()
    mask, skew = torch.arange(ROWS) % 3 != 0, torch.linspace(0.05, 0.6, ROWS).double()
    common = {"mask": mask, "divergence": "skew_forward_kl", "temperature": 1.7, "skew": skew}
    whole = linear_divergence(hidden, head, theirs, their_head, **common)
    got = linear_reduced_divergence(
        hidden, head, theirs, their_head, reduction=Reduction("student", VOCABULARY - 1), **common
    )
    torch.testing.assert_close(got.values, whole.values)
    assert_same_gradients(whole.total, got.total, leaves(hidden, head))


def test_unequal_heads_share_their_first_ids_and_fp32_is_close():
    hidden, head = student_side(vocabulary=41)
    theirs, their_head = teacher_side()
    expected = tail_oracle(
        "reverse_kl", logits(hidden, head)[:, :VOCABULARY], logits(theirs, their_head),
        chosen("teacher", None, logits(theirs, their_head)),
    )  # fmt: skip
    got = linear_reduced_divergence(
        hidden, head, theirs, their_head, reduction=Reduction("teacher", K), divergence="reverse_kl"
    )
    torch.testing.assert_close(got.values, expected.detach())
    single = linear_reduced_divergence(
        hidden.float(), type(head)(head.weight.float()), theirs.float(), type(head)(their_head.weight.float()),
        reduction=Reduction("teacher", K), divergence="reverse_kl",
    )  # fmt: skip
    torch.testing.assert_close(single.values.double(), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": "techer"}, "of is 'techer'"),
        ({"rest": "tial"}, "rest is 'tial'"),
        ({"k": 0}, "at least one id"),
        ({"k": 1, "rest": "renormalise"}, "one id renormalised"),
        ({"rest": "estimate"}, "needs the sampled token"),
        ({"clip": 1.0}, "clip is a positive number"),
        ({"of": "sampled", "rest": "estimate", "clip": 0.0}, "clip is a positive number"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(MethodError, match=message):
        Reduction(**settings)


def test_what_cannot_be_computed_is_refused():
    hidden, head, theirs, their_head, _ = both()
    sides = hidden, head, theirs, their_head
    with pytest.raises(MethodError, match="no labels"):
        linear_reduced_divergence(*sides, reduction=Reduction("sampled"))
    with pytest.raises(MethodError, match="id 37 was sampled"):
        linear_reduced_divergence(*sides, reduction=Reduction("sampled"), labels=torch.full((ROWS,), 37))
    with pytest.raises(MethodError, match="excess is known"):
        linear_reduced_divergence(
            *sides, reduction=Reduction(k=2, rest="excess"), divergence="total_variation"
        )
    masked = type(head)(
        head.weight, torch.zeros(VOCABULARY).double().index_fill(0, torch.tensor([3]), -torch.inf)
    )
    with pytest.raises(MethodError, match="masks ids"):
        linear_reduced_divergence(hidden, masked, theirs, their_head, reduction=Reduction(k=2))


def others_oracle(name, z, t, labels):
    """Both renormalised without the label, row by row."""
    keep = torch.ones_like(z, dtype=torch.bool).scatter(-1, labels.unsqueeze(-1), False)
    left = [torch.stack([row[kept] for row, kept in zip(x, keep, strict=True)]) for x in (z, t)]
    return DIVERGENCES[name](*left)


def check_others(name, oracle=others_oracle):
    hidden, head = student_side()
    teacher, labels = teacher_side(), torch.arange(ROWS) % VOCABULARY
    made = linear_reduced_divergence(
        hidden,
        head,
        *teacher,
        reduction=Reduction("others", 1, "renormalise"),
        labels=labels,
        divergence=name,
    )
    dense = oracle(name, logits(hidden, head), logits(*teacher), labels)
    torch.testing.assert_close(made.values, dense.detach())
    ours, theirs = (torch.autograd.grad(total, leaves(hidden, head)) for total in (made.total, dense.sum()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_the_ids_beside_the_label(name):
    check_others(name)


def test_the_oracle_catches_a_label_that_stays():
    with pytest.raises(AssertionError):
        check_others("forward_kl", lambda name, z, t, labels: DIVERGENCES[name](z, t))


def test_label_and_others_make_the_whole_forward_kl():
    """KL(p || q) = KL of the label against the rest + (1 - p_label) times the KL among the others."""
    hidden, head = student_side()
    teacher, labels = teacher_side(), torch.arange(ROWS) % VOCABULARY
    one, others = (
        linear_reduced_divergence(hidden, head, *teacher, reduction=reduction, labels=labels).values
        for reduction in (Reduction("sampled", 1, "tail"), Reduction("others", 1, "renormalise"))
    )
    p = logits(*teacher).softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    whole = linear_divergence(hidden, head, *teacher).values
    torch.testing.assert_close(one + (1 - p) * others, whole)


def test_others_are_renormalised_or_nothing():
    with pytest.raises(MethodError, match="are renormalised"):
        Reduction("others", 1, "tail")


def recalibrated_by_hand(z, t, k, c):
    """Row by row: of the teacher's k likeliest the softmax of p / c, the student's divided by their sum."""
    total = []
    for log_q, p in zip(z.log_softmax(-1), t.softmax(-1), strict=True):
        ids = sorted(range(len(p)), key=lambda i: -float(p[i]))[:k]
        powers = [math.exp(float(p[i]) / c) for i in ids]
        target = [x / sum(powers) for x in powers]
        mass = sum(log_q[i].exp() for i in ids).log()
        total.append(sum(x * (math.log(x) - (log_q[i] - mass)) for x, i in zip(target, ids, strict=True)))
    return torch.stack(total).sum()


def check_recalibrated(c=0.3, taken=0.3):
    z, t = (2 * draw(6, 9, seed=n) for n in (1, 2))
    z.requires_grad_()
    eye = Head(torch.eye(9, dtype=torch.float64))
    found = linear_reduced_divergence(
        z, eye, t, eye, reduction=RecalibratedTopIds(4, recalibration=taken).reduction
    )
    expected = recalibrated_by_hand(z, t, 4, c)
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in (found.total, expected)))


@pytest.mark.parametrize("c", [0.1, 0.3, 1.0])
def test_the_teacher_s_probabilities_are_recalibrated_within_its_likeliest_ids(c):
    check_recalibrated(c, c)


def test_the_recalibration_by_hand_catches_another_c_and_logits_in_the_place_of_probabilities(monkeypatch):
    with pytest.raises(AssertionError):
        check_recalibrated(0.3, 0.4)
    right = reduced.ReducedObjective._renormalised
    monkeypatch.setattr(
        reduced.ReducedObjective,
        "_renormalised",
        lambda self, kept, rows: right(self, [kept[0], kept[1], kept[2], kept[2]], rows),
    )
    with pytest.raises(AssertionError):
        check_recalibrated()


def test_a_recalibration_goes_with_renormalised_ids():
    for wrong in ({"rest": "tail", "recalibration": 0.3}, {"rest": "renormalise", "recalibration": 0.0}):
        with pytest.raises(MethodError, match="recalibration"):
            Reduction(k=3, **wrong)
