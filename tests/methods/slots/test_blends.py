"""Targets of several models against their logits, and the identities that papers rely on."""

import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.linear import Head, linear_divergence
from methods.slots.support import SampledToken, TopIds
from methods.slots.targets import blends, mix_logits
from methods.slots.targets.blends import CombinedLogits, LikeliestToken, TeacherByRow
from methods.slots.terms import Divergence, Window
from methods.teachers.top_k import TopK
from tests.methods.slots.three_sequences import COUNT, LENGTHS, SIZE, Trainer, log_probs, three_sequences


def of(target, size=SIZE):
    hidden, head = target
    z = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
    return z[:, :size].log_softmax(-1)


def check_powers():
    rows = three_sequences()
    p, b, q = log_probs(rows, 0), log_probs(rows, 1), log_probs(rows)
    target = CombinedLogits([1.25, -0.25], student_start=0.3, student_end=0.9)
    torch.testing.assert_close(of(target(rows)), (1.25 * p - 0.25 * b + 0.3 * q).log_softmax(-1))
    target.begin_step(Window(0.5))
    torch.testing.assert_close(of(target(rows)), (1.25 * p - 0.25 * b + 0.6 * q).log_softmax(-1))
    torch.testing.assert_close(of(CombinedLogits([1.0, 0.0])(rows)), p)


def test_powers_of_distributions_are_sums_of_logits():
    check_powers()
    rows = three_sequences()
    with pytest.raises(MethodError, match="1 coefficients for 2 teachers"):
        CombinedLogits()(rows)
    with pytest.raises(MethodError, match="all zero"):
        CombinedLogits([0.0, 0.0])


def test_the_sampled_extrapolation_is_on_average_reverse_kl_to_the_combined_target():
    """G-OPD: the reward lambda log p/b - log q/b, enumerated, against KL(q || p^lambda b^(1 - lambda))."""
    rows = three_sequences(
        head=Head(three_sequences().head.weight[:SIZE]), hidden=three_sequences().hidden.requires_grad_()
    )
    p, b, log_q = log_probs(rows, 0), log_probs(rows, 1), log_probs(rows)
    power = 1.25
    reward = (power * (p - b) - (log_q - b)).detach()
    sampled = -(log_q.exp().detach() * reward * log_q).sum()
    exact = Divergence("reverse_kl", target=CombinedLogits([power, 1 - power])).total(rows)
    torch.testing.assert_close(
        torch.autograd.grad(exact, rows.hidden)[0], torch.autograd.grad(sampled, rows.hidden)[0]
    )


def check_teachers_by_row():
    rows, target = three_sequences(), TeacherByRow({"maths": 1, "code": 0})
    target.prepare(Trainer("maths", "code", "maths"))
    p, second = log_probs(rows, 0), log_probs(rows, 1)
    own = torch.tensor([1, 0, 1]).repeat_interleave(torch.tensor(LENGTHS)).bool()
    expected = torch.where(own.unsqueeze(-1), second, p)
    torch.testing.assert_close(of(target(rows)), expected)


def test_each_sequence_has_the_teacher_that_its_row_names():
    check_teachers_by_row()
    rows, target = three_sequences(), TeacherByRow({"maths": 1, "code": 0})
    assert target.column == "domain"
    with pytest.raises(MethodError, match="'law' names no teacher; known: maths, code"):
        TeacherByRow({"maths": 1, "code": 0}).prepare(Trainer("law"))
    far = TeacherByRow({"maths": 2})
    far.prepare(Trainer("maths", "maths", "maths"))
    with pytest.raises(MethodError, match="no teacher number 2"):
        far(rows)


def backwards(self, rows):
    return torch.tensor([1, 1, 0]).repeat_interleave(torch.tensor(LENGTHS))


MUTATIONS = {
    "the student's share never moves": (CombinedLogits, "begin_step", lambda self, window: None, check_powers),
    "coefficients made to sum to one": (
        blends, "mix_logits", lambda parts: mix_logits([(c / sum(x[0] for x in parts), *x) for c, *x in parts]),
        check_powers,
    ),
    "another sequence's teacher": (TeacherByRow, "chosen", backwards, check_teachers_by_row),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_wrong_is_caught(mutation, monkeypatch):
    where, name, wrong, check = MUTATIONS[mutation]
    check()
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        check()


def test_who_wrote_a_sequence_may_choose_its_teacher():
    rows = three_sequences()  # data, student, teacher
    target = TeacherByRow({"data": 0, "student": 1, "teacher": 0}, column="source")
    target.prepare(None)
    own = torch.tensor([0, 1, 0]).repeat_interleave(torch.tensor(LENGTHS)).bool()
    expected = torch.where(own.unsqueeze(-1), log_probs(rows, 1), log_probs(rows, 0))
    torch.testing.assert_close(of(target(rows)), expected)
    assert target.column is None


def test_the_teacher_s_first_choice_is_a_label():
    rows = three_sequences(hidden=three_sequences().hidden.requires_grad_())
    got = Divergence("forward_kl", target=LikeliestToken()).total(rows)
    choice = log_probs(rows, 0).argmax(-1)
    nll = -log_probs(rows, size=SIZE + 2)[torch.arange(COUNT), choice].sum()
    torch.testing.assert_close(got, nll, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        torch.autograd.grad(got, rows.hidden)[0],
        torch.autograd.grad(nll, rows.hidden)[0],
        rtol=1e-6,
        atol=1e-8,
    )


def test_a_support_narrows_any_target_but_one_that_is_narrow():
    rows = three_sequences()
    target = CombinedLogits([0.5, 0.5])
    narrow = Divergence("forward_kl", target=target, support=TopIds(SIZE - 1)).total(rows)
    hidden, head = target(rows)
    torch.testing.assert_close(narrow, linear_divergence(rows.hidden, rows.head, hidden, head).total)
    with pytest.raises(MethodError, match="support of its own"):
        Divergence("forward_kl", target=LikeliestToken(), support=TopIds(2)).total(rows)
    with pytest.raises(MethodError, match="labels alone has no support"):
        Divergence("cross_entropy", support=SampledToken())
    with pytest.raises(MethodError, match="neither teacher nor student"):
        TopIds(2, of="sampled")
    stored = TopK(torch.zeros(COUNT, 1).long(), torch.zeros(COUNT, 1), torch.zeros(COUNT), SIZE)
    with pytest.raises(MethodError, match="top-k teacher store"):
        CombinedLogits()(three_sequences(teachers=(stored,)))
