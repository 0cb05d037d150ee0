"""Of the labels alone, like the cross entropy, and with room left for other ids: entropic matching."""

from __future__ import annotations

from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_temperature
from methods.losses.fused.kernels import LabelObjective, Layout
from methods.losses.fused.linear import (
    Head,
    RowLoss,
    _check_ids,
    _in_forward,
    _Operands,
    _Rows,
    _same_rows,
    _softmax_dtype,
)
from methods.losses.fused.raw import Raw

LINEAR, LOG_SIGMOID = "linear", "log-sigmoid"
SLOPE = 0.01  # of the sigmoid, nats


def linear_entropic_matching(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    controller_temperature: float = 0.7,
    growth: str = LINEAR,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
) -> RowLoss:
    """Sum over rows of weight x sum_i r_i g_i (log q_i - log q_y), y the label, r and g constants.

    r = softmax(z / `controller_temperature`) of the student's logits z; g = 1 where `growth` is linear, and
    sigmoid((z_i - z_y) / 100) where it is log-sigmoid. Shapes as in `linear_cross_entropy`; the value may be negative.
    Raises MethodError for other settings, a label outside the vocabulary and a head that masks ids.
    """
    check_temperature(temperature)
    check_temperature(controller_temperature)
    if growth not in (LINEAR, LOG_SIGMOID):
        raise MethodError(f"growth is {growth!r}, neither {LINEAR} nor {LOG_SIGMOID}")
    _same_rows("labels", labels, hidden)
    rows = _Rows(hidden, mask)
    ids = rows.take(labels)
    _check_ids(ids, head)
    student = _Operands(rows.take(hidden), head, len(head.weight), temperature)
    layout = Layout.plan(len(ids), student.size, ids.device, _softmax_dtype(student), chunk_size)

    def objective() -> MatchingObjective:
        return MatchingObjective(ids, controller_temperature, growth)

    return _in_forward(student, objective, layout, rows.weights(weights))


class MatchingObjective(LabelObjective):
    """With a = r g and A its sum, the gradient to the logits is a_i, less A at the label: its sum over ids is zero."""

    def __init__(self, ids: Tensor, controller_temperature: float, growth: str):
        super().__init__(ids)
        self.controller_temperature, self.growth = controller_temperature, growth

    def allocate(self, layout: Layout, student_masked: Tensor | None) -> None:
        if student_masked is not None:
            raise MethodError("entropic matching cannot work with a head whose bias masks ids")
        super().allocate(layout, None)

    def raw(self) -> Raw | None:
        return None

    def block(self, log_q: Tensor, q: Tensor, rows: slice, within: slice) -> tuple[Tensor, Tensor]:
        ids = self.ids[rows].unsqueeze(-1)
        gap = log_q - log_q.gather(-1, ids)
        slope = (log_q / self.controller_temperature).softmax(-1)
        if self.growth == LOG_SIGMOID:
            slope.mul_((SLOPE * gap).sigmoid_())
        value = (slope * gap).sum(-1)
        return value, slope.scatter_add_(-1, ids, -slope.sum(-1, keepdim=True))
