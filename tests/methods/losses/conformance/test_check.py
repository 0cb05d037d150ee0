"""Functions with a known fault: the report names the fault."""

import pytest
import torch
from torch.nn import functional

from methods.errors import MethodError
from methods.losses.conformance.check import check
from methods.losses.conformance.vectors import Convention
from methods.losses.divergences import DIVERGENCES, forward_kl

GOOD = Convention("forward-kl", "both", "T^2", "token-mean", "ignored")


def loss(
    direction="forward-kl",
    temperature="both",
    factor="T^2",
    reduction="token-mean",
    padding="ignored",
    dtype=None,
):
    """A plain loss with one thing changed, written apart from the library."""

    def function(student_logits, teacher_logits, mask, tau=1.0):
        hot = {"both": (tau, tau), "student-only": (tau, 1), "teacher-only": (1, tau), "unheated": (1, 1)}
        by_student, by_teacher = hot[temperature]
        size = min(student_logits.shape[-1], teacher_logits.shape[-1])
        q = torch.softmax((student_logits[..., :size] / by_student).to(dtype or torch.float64), -1)
        p = torch.softmax((teacher_logits[..., :size] / by_teacher).to(dtype or torch.float64), -1)
        a, b = (q, p) if direction == "reverse-kl" else (p, q)
        terms = torch.where(a > 0, a * (a.clamp_min(1e-300).log() - b.log()), 0)
        if direction == "cross-entropy":
            terms = -p * q.log()
        values = terms.sum(-1) * tau ** int(factor[-1])
        if padding == "shifted":
            mask = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
        counted = torch.ones_like(mask) if padding in ("zeroed", "included") else mask
        kept = values * (counted if padding == "included" else mask)
        if reduction == "sum":
            return kept.sum()
        if reduction == "batch-mean":
            return kept.sum() / len(mask)
        if "sequence" in reduction:
            means = kept.sum(-1) / counted.sum(-1).clamp_min(1)
            return means.mean() if reduction == "sequence-mean" else means.sum() / counted.any(-1).sum()
        whole = kept.sum() / counted.sum()
        return whole / size if reduction == "element-mean" else whole

    return function


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"direction": "reverse-kl"},
        {"direction": "cross-entropy"},
        {"temperature": "student-only"},
        {"temperature": "teacher-only"},
        {"temperature": "unheated"},
        {"factor": "T^0"},
        {"factor": "T^1"},
        {"reduction": "sum"},
        {"reduction": "batch-mean"},
        {"reduction": "sequence-mean"},
        {"reduction": "filled-sequence-mean"},
        {"reduction": "element-mean"},
        {"padding": "zeroed"},
        {"padding": "included"},
        {"padding": "shifted"},
    ],
    ids=lambda fault: "-".join(fault.values()) or "none",
)
def test_the_fault_is_named(fault):
    report = check(loss(**fault))
    changed = {"divergence" if axis == "direction" else axis: name for axis, name in fault.items()}
    assert report.convention == GOOD._replace(**changed)
    assert report.conventions[0] == report.likeliest
    assert not any(one.refused for one in report.outcomes)
    [wide] = [one for one in report.outcomes if one.run.name == "larger-teacher"]
    assert {match.edge for match in wide.matches} == {"renormalised"}


def test_without_a_temperature_its_axes_stay_unseen():
    def function(student_logits, teacher_logits, labels):
        values = forward_kl(student_logits, teacher_logits)
        return values[labels != -100].mean()

    report = check(function)
    assert report.unseen == ("temperature", "factor")
    assert {one[2] for one in report.conventions} == {"T^0", "T^1", "T^2"}
    assert report.convention._replace(factor="T^2") == GOOD
    assert report.left_out["warm"] == "temperature" and report.left_out["weight-0.1"] == "weight"


def test_a_change_of_convention_between_temperatures_is_no_convention():
    def function(student_logits, teacher_logits, mask, temperature):
        factor = temperature**2 if temperature > 1 else 1.0
        return (
            (forward_kl(student_logits, teacher_logits, temperature=temperature) * mask).sum()
            / mask.sum()
            * factor
        )

    report = check(function)
    assert report.convention is None
    wrong = [one.run.name for one in report.outcomes if report.likeliest not in one.conventions]
    assert wrong in (["warm"], ["cold"])


def test_a_nan_where_the_teacher_is_masked_is_no_match():
    def function(student_logits, teacher_logits, mask, temperature):
        log_q, log_p = (torch.log_softmax(z / temperature, -1) for z in (student_logits, teacher_logits))
        terms = functional.kl_div(log_q, log_p, log_target=True, reduction="none")
        return (terms.sum(-1) * mask).sum() / mask.sum()

    report = check(function)
    assert report.convention is None and report.likeliest == GOOD._replace(factor="T^0")
    broken = [one for one in report.outcomes if report.likeliest not in one.conventions and not one.refused]
    assert [one.run.name for one in broken] == ["masked-teacher"]


def test_nothing_known_has_a_nearest():
    def function(student_logits, teacher_logits, mask, temperature):
        return loss()(student_logits, teacher_logits, mask, temperature) + 0.01

    report = check(function)
    assert report.convention is None and report.likeliest is None
    assert report.outcomes[1].nearest.value_error == pytest.approx(0.01)
    assert report.outcomes[1].nearest.convention.divergence == "forward-kl"


def test_a_wrong_gradient_is_no_match_though_the_value_is_right():
    def function(student_logits, teacher_logits, mask, temperature):
        right = loss()(student_logits, teacher_logits, mask, temperature)
        return right.detach() + 2 * (right - right.detach())

    report = check(function)
    assert not any(one.matches for one in report.outcomes)
    nearest = report.outcomes[0].nearest
    assert nearest.value_error < 1e-9 < 1e-2 < nearest.gradient_error


def test_single_precision_passes_and_half_precision_does_not():
    assert check(loss(dtype=torch.float32)).convention == GOOD
    assert check(loss(dtype=torch.bfloat16)).convention is None
    assert check(loss(dtype=torch.bfloat16), tolerance=0.03).convention is not None


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "total_variation"])
def test_our_own_are_what_their_names_say(name):
    report = check(DIVERGENCES[name])
    assert report.convention == Convention(name.replace("_", "-"), "both", "T^0", "unreduced", "ignored")
    squared = check(DIVERGENCES[name], fixed={"temperature_squared": True})
    assert squared.convention.factor == "T^2"


def test_weights_and_skews_are_told_from_their_mirror_images():
    jsd = DIVERGENCES["jensen_shannon"]
    assert check(jsd).convention.divergence == "jsd"
    assert check(lambda student, teacher, beta: jsd(student, teacher, teacher_weight=1 - beta)).convention[
        0
    ] == ("jsd-mirrored")

    def ends(student, teacher, beta):
        if beta in (0, 1):
            return DIVERGENCES["reverse_kl" if beta else "forward_kl"](student, teacher)
        return jsd(student, teacher, teacher_weight=beta)

    assert check(ends).convention.divergence == "jsd-kl-ends"

    def blend(student, teacher, share):
        return share * forward_kl(student, teacher) + (1 - share) * DIVERGENCES["reverse_kl"](
            student, teacher
        )

    assert check(blend, names={"weight": "share"}).convention.divergence == "kl-blend"
    for name in ("skew_forward_kl", "skew_reverse_kl"):
        assert check(DIVERGENCES[name]).convention.divergence == name.replace("_", "-")
        mirrored = check(
            lambda student, teacher, skew, f=DIVERGENCES[name]: f(student, teacher, skew=1 - skew),
            fixed={"f": DIVERGENCES[name]},
        )
        assert mirrored.convention.divergence == f"{name.replace('_', '-')}-mirrored"


def test_arguments_go_by_their_names():
    def swapped(teacher_logits, student_logits, attention_mask, /, *, scale):
        return scale * (forward_kl(student_logits, teacher_logits) * attention_mask).sum()

    assert check(swapped, fixed={"scale": 1.0}).convention[3] == "sum"
    assert check(lambda a, b: forward_kl(a, b)).convention[0] == "forward-kl"
    assert check(lambda a, b: forward_kl(b, a)).convention[0] == "reverse-kl"


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (lambda a: a.sum(), {}, "no two arguments"),
        (lambda a, b, chunks: a.sum(), {}, 'needs "chunks", which the vectors do not have'),
        (lambda a, b: 1.0, {}, "returned a float, not a tensor"),
        (lambda a, b: a, {}, "a scalar is wanted"),
        (lambda a, b: a.detach().sum(), {}, "no gradient"),
        (lambda a, b: a.nonsense, {}, 'on the vectors "plain" the function raised AttributeError'),
        (lambda a, b, beta=1.0: a.sum(), {"fixed": {"bta": 1}}, 'no parameter "bta" (did you mean "beta"?)'),
        (
            lambda a, b: a.sum(),
            {"names": {"wieght": "a"}},
            'no setting is called "wieght" (did you mean "weight"?)',
        ),
        (
            lambda a, b, share: a.sum(),
            {"names": {"weight": "shar"}},
            'no parameter "shar" (did you mean "share"?)',
        ),
    ],
)
def test_what_cannot_be_called_is_said_in_a_sentence(function, settings, message):
    with pytest.raises(MethodError) as error:
        check(function, **settings)
    assert message in str(error.value) and "\n" not in str(error.value)
