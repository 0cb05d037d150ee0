"""The losses of other libraries beside ours, as functions that `kd conform` can call: `tools.conform.peers:trl_gkd`.

Liger is measured by `kd bench` and not here: it takes hidden states and a head on a device of its own choosing, and
is no dependency. What a library lacks in another version is said, not left out.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from methods.losses.conformance.check import check
from tools.conform.report import row

if TYPE_CHECKING:
    from torch import Tensor

#: What is shown: a name, the function's name here, and its settings that stay.
SHOWN: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("KD Atlas, forward_kl", "methods.losses.divergences:forward_kl", {}),
    (
        "KD Atlas, forward_kl, temperature_squared",
        "methods.losses.divergences:forward_kl",
        {"temperature_squared": True},
    ),
    ("KD Atlas, reverse_kl", "methods.losses.divergences:reverse_kl", {}),
    ("KD Atlas, jensen_shannon", "methods.losses.divergences:jensen_shannon", {}),
    ("KD Atlas, skew_forward_kl", "methods.losses.divergences:skew_forward_kl", {}),
    ("KD Atlas, skew_reverse_kl", "methods.losses.divergences:skew_reverse_kl", {}),
    ("KD Atlas, total_variation", "methods.losses.divergences:total_variation", {}),
    ("KD Atlas, fused with the head, forward KL", "fused", {"divergence": "forward_kl"}),
    ("KD Atlas, fused with the head, JSD", "fused_jensen_shannon", {}),
    ("KD Atlas, the teacher's top-k with a tail", "fused_top_k", {}),
    ("TRL GKDTrainer.generalized_jsd_loss", "trl_gkd", {}),
    ("TRL GOLDTrainer.generalized_jsd_loss", "trl_gold", {}),
    ("TRL IWOPDTrainer.generalized_jsd_loss, beta 0", "trl_iw_opd", {"beta": 0.0}),
    ("TRL IWOPDTrainer, beta 0, no tail", "trl_iw_opd", {"beta": 0.0, "add_tail": False}),
    ("TRL IWOPDTrainer.generalized_jsd_loss, beta 1", "trl_iw_opd", {"beta": 1.0}),
    ("TRL DistillationTrainer, chunked", "trl_distillation", {}),
    ("torch F.kl_div, batchmean", "torch_kl_div", {}),
    ("torch F.kl_div, mean", "torch_kl_div", {"reduction": "mean"}),
    ("torch F.cross_entropy, teacher's probabilities", "torch_cross_entropy", {}),
)


def table() -> dict[str, Any]:
    """Every row, with the versions that they are of; nothing that changes from run to run."""
    rows = []
    for name, target, fixed in SHOWN:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's about its own reduction, and about what TRL resizes
                report = check(function(target), fixed=fixed)
        except (ImportError, AttributeError):
            rows.append({"implementation": name, "missing": True})
            continue
        rows.append({"implementation": name, **row(report)})
    versions = {name: version(name).split("+")[0] for name in ("torch", "trl")}
    return {"schema": 1, "versions": versions, "rows": rows}


def function(target: str) -> Callable[..., Any]:
    """A loss by its name here, or module:function."""
    module, _, name = target.rpartition(":")
    if module:
        return getattr(importlib.import_module(module), name)
    made = globals()[target]
    return made() if target.startswith("trl_g") or target == "trl_iw_opd" else made


def fused(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    *,
    divergence: str = "forward_kl",
    **settings: Any,
) -> Tensor:
    """Our loss fused with the head: hidden states that are the logits, heads that are identities."""
    from methods.losses.fused.linear import linear_divergence

    loss = linear_divergence(
        *_through_a_head(student_logits),
        *_through_a_head(teacher_logits),
        mask,
        divergence=divergence,
        temperature=temperature,
        **settings,
    )
    return loss.total / mask.sum()


def fused_jensen_shannon(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor,
    teacher_weight: float,
    temperature: float = 1.0,
) -> Tensor:
    """The same, the JSD of a weight."""
    return fused(
        student_logits,
        teacher_logits,
        mask,
        temperature,
        divergence="jensen_shannon",
        teacher_weight=teacher_weight,
    )


def fused_top_k(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, temperature: float = 1.0, top_k: int = 1000
) -> Tensor:
    """Our forward KL on the teacher's likeliest ids, the rest as one outcome."""
    from methods.losses.fused.reduced import Reduction, linear_reduced_divergence

    loss = linear_reduced_divergence(
        *_through_a_head(student_logits),
        *_through_a_head(teacher_logits),
        mask,
        reduction=Reduction(of="teacher", k=top_k, rest="tail"),
        divergence="forward_kl",
        temperature=temperature,
    )
    return loss.total / mask.sum()


def trl_gkd() -> Callable[..., Tensor]:
    """GKD's, with labels."""
    return _trl("gkd.gkd_trainer").GKDTrainer.generalized_jsd_loss


def trl_gold() -> Callable[..., Tensor]:
    """GOLD's, with labels."""
    return _trl("gold.gold_trainer").GOLDTrainer.generalized_jsd_loss


def trl_iw_opd() -> Callable[..., Tensor]:
    """IW-OPD's, with labels and a top-k."""
    return _trl("iw_opd.iw_opd_trainer").IWOPDTrainer.generalized_jsd_loss


def trl_distillation(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, beta: float, temperature: float = 1.0
) -> Tensor:
    """The stable trainer's, on tiles: hidden states that are the logits, heads that are identities."""
    chunked = importlib.import_module("trl.trainer.distillation_trainer")._chunked_divergence_loss
    (hidden, head), (teacher_hidden, teacher_head) = map(_through_a_head, (student_logits, teacher_logits))
    loss, _, _ = chunked(
        hidden,
        teacher_hidden,
        head.weight,
        teacher_head.weight,
        mask,
        beta,
        student_lm_head_bias=head.bias,
        teacher_lm_head_bias=teacher_head.bias,
        temperature=temperature,
    )
    return loss


def torch_kl_div(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: str = "batchmean"
) -> Tensor:
    """As it stands in many scripts, without a mask: KL divergence of (B, T, V) as torch reduces it."""
    from torch.nn import functional

    log_q = functional.log_softmax(student_logits / temperature, -1)
    return functional.kl_div(log_q, functional.softmax(teacher_logits / temperature, -1), reduction=reduction)


def torch_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """With the teacher's probabilities as the target of each token."""
    from torch.nn import functional

    p = functional.softmax(teacher_logits / temperature, -1)
    return functional.cross_entropy((student_logits / temperature).flatten(0, 1), p.flatten(0, 1))


def _trl(place: str) -> Any:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    return importlib.import_module(f"trl.experimental.{place}")


def _through_a_head(logits: Tensor) -> tuple[Tensor, Any]:
    """Hidden states and a head that give these logits: an identity, with a bias for an id that no position says."""
    import torch

    from methods.losses.fused.linear import Head

    masked = logits.detach().isneginf().flatten(0, -2).all(0)
    bias = torch.zeros_like(logits[0, 0]).masked_fill(masked, -torch.inf) if masked.any() else None
    hidden = logits.masked_fill(masked, 0) if masked.any() else logits
    return hidden, Head(torch.eye(logits.shape[-1], dtype=logits.dtype), bias)
