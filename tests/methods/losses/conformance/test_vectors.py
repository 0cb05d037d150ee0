"""The golden vectors are what the oracle makes of the definitions, and tell every convention from every other."""

import itertools

import pytest
import torch

from methods.losses.conformance.check import TOLERANCE
from methods.losses.conformance.vectors import AXES, FILE, candidates, position_values, problem, runs
from methods.losses.divergences import DIVERGENCES
from methods.losses.fused.linear import Head, linear_divergence
from methods.losses.fused.reduced import Reduction, linear_reduced_divergence
from tests.methods.losses.conformance import golden

#: Names of the file, and how the library says it.
OURS = {
    "forward-kl": ("forward_kl", None),
    "reverse-kl": ("reverse_kl", None),
    "total-variation": ("total_variation", None),
    "jsd": ("jensen_shannon", "teacher_weight"),
    "skew-forward-kl": ("skew_forward_kl", "skew"),
    "skew-reverse-kl": ("skew_reverse_kl", "skew"),
}
CASES = [one for one in golden.wanted() if one[4] in OURS]
WHOLE = [one for one in CASES if one[1] == one[2] and one[3] in ("all", "renormalised")]
# Hidden states are finite: a masked vocabulary goes through the head's bias, and `kd conform --peers` asks for it.
FINITE = [one for one in WHOLE if one[0] != "masked-teacher"]


def named(case):
    return "-".join(map(str, case))


@pytest.mark.slow
def test_the_file_is_what_the_oracle_writes():
    assert FILE == golden.FILE
    assert FILE.read_text(encoding="utf-8") == golden.text()


def test_known_values_by_hand():
    """p = (1/2, 1/2), q = (3/4, 1/4)."""
    from decimal import Decimal as D
    from decimal import localcontext

    with localcontext() as context:
        context.prec = golden.DIGITS
        known_values(D)


def known_values(D):
    p, q, half = [D("0.5")] * 2, [D("0.75"), D("0.25")], D("0.5")
    ln = lambda text: D(text).ln()  # noqa: E731
    close = D(10) ** -25
    assert abs(golden.divergence("forward-kl", half, p, q) - half * (D(4) / 3).ln()) < close
    assert abs(golden.divergence("reverse-kl", half, p, q) - (D("0.75") * ln("3") - ln("2"))) < close
    assert abs(golden.divergence("total-variation", half, p, q) - D("0.25")) < close
    assert (
        abs(golden.divergence("skew-forward-kl", half, p, q) - half * (ln("0.8") + (D(4) / 3).ln())) < close
    )
    row = [D("0.5"), D("-1"), D("2")]
    slope = golden.gradient(lambda z: golden.softmax(z, D(1))[0], row)
    first = golden.softmax(row, D(1))
    assert abs(slope[0] - first[0] * (1 - first[0])) < close and abs(slope[1] + first[0] * first[1]) < close


def test_losses_are_the_values_summed_by_the_coefficients():
    import json

    file = json.loads(FILE.read_text(encoding="utf-8"))
    for case in file["cases"]:
        for reduction, loss in case["losses"].items():
            weights = torch.tensor(
                file["coefficients"][case["problem"]][reduction]["ignored"], dtype=torch.float64
            )
            if loss is None:
                assert None in [value for row in case["values"] for value in row]
            else:
                total = (weights * torch.tensor(case["values"], dtype=torch.float64)).sum().item()
                assert total == pytest.approx(loss, abs=1e-14)


@pytest.mark.parametrize("case", WHOLE, ids=named)
def test_our_divergences_pass(case):
    place, temperature, _, support, name, share = case
    given = problem(place)
    student = given.student.requires_grad_()
    function, setting = OURS[name]
    settings = {} if setting is None else {setting: share}
    values = DIVERGENCES[function](student, given.teacher, temperature=temperature, **settings)
    expected, slopes = position_values(
        place, name, share, temperatures=(temperature, temperature), support=support
    )
    torch.testing.assert_close(values.detach(), expected, rtol=1e-12, atol=1e-13)
    if expected.isfinite().all() and values.requires_grad:
        (found,) = torch.autograd.grad(values.sum(), student)
        torch.testing.assert_close(found, slopes, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", FINITE, ids=named)
def test_our_fused_losses_pass(case):
    place, temperature, _, support, name, share = case
    given = problem(place)
    student = given.student.requires_grad_()
    function, setting = OURS[name]
    settings = {} if setting is None else {setting: share}
    heads = [Head(torch.eye(logits.shape[-1]).double()) for logits in (student, given.teacher)]
    loss = linear_divergence(
        student,
        heads[0],
        given.teacher,
        heads[1],
        given.mask,
        divergence=function,
        temperature=temperature,
        **settings,
    )
    expected, slopes = position_values(
        place, name, share, temperatures=(temperature, temperature), support=support
    )
    torch.testing.assert_close(loss.values, expected[given.mask], rtol=1e-12, atol=1e-13)
    (found,) = torch.autograd.grad(loss.total, student)
    torch.testing.assert_close(found, slopes * given.mask[..., None], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize("rest", ["renormalise", "tail", "drop"])
@pytest.mark.parametrize("name", ["forward-kl", "reverse-kl"])
def test_our_losses_on_a_few_ids_pass(side, rest, name):
    given = problem("plain")
    student = given.student.requires_grad_()
    head = Head(torch.eye(5).double())
    loss = linear_reduced_divergence(
        student, head, given.teacher, head, given.mask,
        reduction=Reduction(of=side, k=2, rest=rest), divergence=OURS[name][0],
    )  # fmt: skip
    expected, slopes = position_values("plain", name, support=f"{side}:{rest}")
    torch.testing.assert_close(loss.values, expected.flatten(), rtol=1e-12, atol=1e-13)
    (found,) = torch.autograd.grad(loss.total, student)
    torch.testing.assert_close(found, slopes, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("varied", ["", "weight", "skew"])
def test_no_two_conventions_agree_on_every_vector(varied):
    """By ten times the tolerance, but for those that are the same by definition."""
    asked = [run for run in runs() if run.edge in (None, "empty")]
    asked = [
        run
        for run in asked
        if (run.weight is None or varied == "weight") and (run.skew is None or varied == "skew")
    ]
    figures = {}
    for run in asked:
        known = candidates(run, varied)
        numbers = torch.cat([known.values[:, None], known.gradients.flatten(1)], 1)
        for one, row in zip(known.conventions, numbers, strict=True):
            figures.setdefault(one, []).append(row)
    complete = {one: torch.cat(parts) for one, parts in figures.items() if len(parts) == len(asked)}
    names = list(complete)
    assert len({one.divergence for one in names}) > 6
    apart = torch.stack([complete[one] for one in names])
    for place, one in enumerate(names):
        gaps = (apart - apart[place]).abs().max(-1).values
        for other in (gaps < 10 * TOLERANCE).nonzero().flatten().tolist():
            assert canonical(one) == canonical(names[other]), (one, names[other])


def canonical(one):
    """By definition the same: where nothing is counted padding adds nothing; means over equally many are one mean."""
    if one.reduction in ("sum", "batch-mean") and one.padding == "zeroed":
        return one._replace(padding="ignored")
    if one.reduction.endswith("sequence-mean") and one.padding in ("zeroed", "included"):
        return one._replace(reduction="token-mean")
    return one


def test_a_name_belongs_to_one_axis():
    names = list(itertools.chain(*AXES.values()))
    assert len(names) == len(set(names)) and not any("," in name for name in names)
