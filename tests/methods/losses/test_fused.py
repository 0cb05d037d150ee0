"""The fused losses against the same losses on logits that exist: values and every gradient, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
)

from methods.errors import MethodError
from methods.losses.divergences import DIVERGENCES
from methods.losses.fused import kernels as fused_kernels
from methods.losses.fused.linear import (
    FUSED_DIVERGENCES,
    Head,
    head_of,
    linear_cross_entropy,
    linear_divergence,
    linear_log_probs,
)
from tests.methods.losses.fused_sides import (
    ROWS,
    VOCABULARY,
    WIDTH,
    assert_same_gradients,
    bias,
    leaves,
    logits,
    normal,
    student_side,
    teacher_side,
)

NAMES = sorted(DIVERGENCES)
CASES = {
    "plain": ({}, {}, {}),
    "bias": ({"bias": bias(5)}, {"bias": bias(6)}, {}),
    "scale": ({"scale": 0.3}, {"scale": 1.7}, {}),
    "soft cap": ({"soft_cap": 2.0}, {"soft_cap": 3.0}, {}),
    "temperature": ({}, {}, {"temperature": 2.5}),
    "temperature squared": ({}, {}, {"temperature": 0.5, "temperature_squared": True}),
    "everything": (
        {"bias": bias(5), "scale": 0.7, "soft_cap": 2.0},
        {"bias": bias(6), "scale": 1.2, "soft_cap": 3.0},
        {"temperature": 1.5},
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_divergence_matches_dense_logits(name, case, weighted):
    student, teacher, options = CASES[case]
    hidden, head = student_side(**student)
    teacher_hidden, teacher_head = teacher_side(**teacher)
    weights = normal(ROWS, seed=8).requires_grad_() if weighted else None
    expected = DIVERGENCES[name](logits(hidden, head), logits(teacher_hidden, teacher_head), **options)
    loss = linear_divergence(
        hidden, head, teacher_hidden, teacher_head, divergence=name, weights=weights, chunk_size=4, **options
    )
    torch.testing.assert_close(loss.values, expected.detach())
    assert not loss.values.requires_grad
    total = (expected if weights is None else expected * weights.detach()).sum()
    torch.testing.assert_close(loss.total, total)
    assert_same_gradients(total * 3, loss.total * 3, leaves(hidden, head))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [(37, 41), (41, 37)])
def test_unequal_vocabularies_share_their_first_ids_and_no_head_is_resized(name, sizes):
    hidden, head = student_side(vocabulary=sizes[0], bias=bias(5, sizes[0]))
    teacher_hidden, teacher_head = teacher_side(vocabulary=sizes[1])
    expected = DIVERGENCES[name](logits(hidden, head), logits(teacher_hidden, teacher_head)).sum()
    loss = linear_divergence(hidden, head, teacher_hidden, teacher_head, divergence=name, chunk_size=3)
    assert_same_gradients(expected, loss.total, leaves(hidden, head))
    assert len(head.weight) == sizes[0] and len(teacher_head.weight) == sizes[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [([3, 4], [3, 4]), ([3, 4], []), ([], [5]), ([3, 4], [4, 7])])
def test_masked_ids_give_the_dense_values_and_gradients_never_nan(name, masked):
    ours, theirs = bias(5).detach(), bias(6).detach()
    ours[masked[0]], theirs[masked[1]] = -math.inf, -math.inf
    hidden, head = student_side(bias=ours.requires_grad_())
    teacher_hidden, teacher_head = teacher_side(bias=theirs)
    expected = DIVERGENCES[name](logits(hidden, head), logits(teacher_hidden, teacher_head))
    loss = linear_divergence(hidden, head, teacher_hidden, teacher_head, divergence=name, chunk_size=4)
    torch.testing.assert_close(loss.values, expected.detach())
    assert_same_gradients(expected.sum(), loss.total, leaves(hidden, head))


def test_rows_outside_the_mask_never_reach_the_vocabulary():
    hidden, head = student_side(rows=(3, 4))
    teacher_hidden, teacher_head = teacher_side(rows=(3, 4))
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.bool)
    spoilt = hidden.detach().clone()
    spoilt[~mask] = math.nan
    spoilt.requires_grad_()
    loss = linear_divergence(spoilt, head, teacher_hidden, teacher_head, mask)
    expected = DIVERGENCES["forward_kl"](logits(hidden, head), logits(teacher_hidden, teacher_head))[mask]
    torch.testing.assert_close(loss.values, expected.detach())
    loss.total.backward()
    torch.testing.assert_close(spoilt.grad, torch.autograd.grad(expected.sum(), hidden)[0])


def test_no_row_gives_zero_and_zero_gradients():
    hidden, head = student_side(bias=bias(5))
    teacher_hidden, teacher_head = teacher_side()
    nothing = torch.zeros(ROWS, dtype=torch.bool)
    loss = linear_divergence(hidden, head, teacher_hidden, teacher_head, nothing)
    assert loss.total.item() == 0 and loss.values.shape == (0,)
    for gradient in torch.autograd.grad(loss.total, leaves(hidden, head)):
        assert not gradient.any()


def test_tied_head_adds_up_with_the_embedding():
    """The head's gradient and the embedding's meet in one parameter."""
    weight = normal(VOCABULARY, WIDTH, seed=2).requires_grad_()
    ids = torch.arange(ROWS)
    teacher_hidden, teacher_head = teacher_side()
    hidden = torch.tanh(weight[ids])
    expected = DIVERGENCES["jensen_shannon"](hidden @ weight.t(), logits(teacher_hidden, teacher_head)).sum()
    loss = linear_divergence(hidden, Head(weight), teacher_hidden, teacher_head, divergence="jensen_shannon")
    assert_same_gradients(expected, loss.total, [weight])


def test_a_frozen_head_gets_no_gradient_and_costs_no_gemm(monkeypatch):
    made = []
    add = fused_kernels._add
    monkeypatch.setattr(
        fused_kernels, "_add", lambda gradients, *rest: (made.append(gradients), add(gradients, *rest))
    )
    hidden, head = student_side()
    head.weight.requires_grad_(False)
    teacher_hidden, teacher_head = teacher_side()
    loss = linear_divergence(hidden, head, teacher_hidden, teacher_head)
    expected = DIVERGENCES["forward_kl"](logits(hidden, head), logits(teacher_hidden, teacher_head)).sum()
    assert_same_gradients(expected, loss.total, [hidden])
    assert head.weight.grad is None and all(gradients.weight is None for gradients in made)


def test_without_gradients_only_values_are_made(monkeypatch):
    monkeypatch.setattr(fused_kernels, "_add", None)
    hidden, head = student_side()
    with torch.no_grad():
        loss = linear_divergence(hidden, head, *teacher_side())
    assert not loss.total.requires_grad and loss.total > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "adaptive_kl"])
def test_gradcheck(name):
    hidden, head = student_side(rows=(3,), vocabulary=6, bias=bias(5, 6), scale=0.5, soft_cap=2.0)
    teacher_hidden, teacher_head = teacher_side(rows=(3,), vocabulary=6)

    def loss(hidden, weight, bias):
        ours = replace(head, weight=weight, bias=bias)
        return linear_divergence(
            hidden, ours, teacher_hidden, teacher_head, divergence=name, chunk_size=2
        ).total

    assert torch.autograd.gradcheck(loss, (hidden, head.weight, head.bias))


def test_a_second_backward_pass_over_a_retained_graph_gives_the_same():
    hidden, head = student_side()
    loss = linear_divergence(hidden, head, *teacher_side(), chunk_size=4).total
    first = [g.clone() for g in torch.autograd.grad(loss, leaves(hidden, head), retain_graph=True)]
    for again in (2.0, 3.0):
        for a, b in zip(
            first, torch.autograd.grad(again * loss, leaves(hidden, head), retain_graph=True), strict=True
        ):
            torch.testing.assert_close(b, again * a)


def test_double_backward_raises():
    hidden, head = student_side()
    loss = linear_divergence(hidden, head, *teacher_side()).total
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|does not require grad|twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_fp32_is_close_to_float64(name):
    exact_hidden, exact_head = student_side(vocabulary=700)
    exact = linear_divergence(exact_hidden, exact_head, *teacher_side(vocabulary=700), divergence=name)
    hidden, head = student_side(vocabulary=700, dtype=torch.float32)
    loss = linear_divergence(
        hidden, head, *teacher_side(vocabulary=700, dtype=torch.float32), divergence=name
    )
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.values.double(), exact.values, rtol=1e-5, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(exact.total, leaves(exact_hidden, exact_head)),
        torch.autograd.grad(loss.total, leaves(hidden, head)),
        strict=True,
    ):
        assert (b.double() - a).norm() / a.norm() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_bf16_inputs_keep_an_fp32_softmax(name):
    """The error is that of bf16 operands; TRL's and Liger's bf16 softmax is 12 % off for JSD."""
    tolerance = 0.1 if name == "total_variation" else 0.03  # its slope jumps where p = q
    hidden, head = student_side(vocabulary=700, dtype=torch.bfloat16)
    teacher_hidden, teacher_head = teacher_side(vocabulary=700, dtype=torch.bfloat16)
    loss = linear_divergence(hidden, head, teacher_hidden, teacher_head, divergence=name, chunk_size=4)
    wide, wide_head = (
        hidden.detach().double().requires_grad_(),
        Head(head.weight.detach().double().requires_grad_()),
    )
    exact = linear_divergence(
        wide, wide_head, teacher_hidden.double(), Head(teacher_head.weight.double()), divergence=name
    )
    assert loss.values.dtype == torch.float32
    torch.testing.assert_close(loss.total.double(), exact.total, rtol=0.02, atol=0)
    for a, b in zip(
        torch.autograd.grad(exact.total, leaves(wide, wide_head)),
        torch.autograd.grad(loss.total, leaves(hidden, head)),
        strict=True,
    ):
        assert b.dtype == torch.bfloat16
        assert (b.double() - a).norm() / a.norm() < tolerance


def test_autocast_chooses_the_dtype_of_the_gemms_not_of_the_softmax():
    hidden, head = student_side(vocabulary=300, dtype=torch.float32)
    teacher = teacher_side(vocabulary=300, dtype=torch.float32)
    plain = linear_divergence(hidden, head, *teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_divergence(hidden, head, *teacher)
    assert loss.values.dtype == torch.float32 and not torch.equal(loss.values, plain.values)
    torch.testing.assert_close(loss.total, plain.total, rtol=0.02, atol=0)
    for a, b in zip(
        torch.autograd.grad(plain.total, leaves(hidden, head)),
        torch.autograd.grad(loss.total, leaves(hidden, head)),
        strict=True,
    ):
        assert b.dtype == torch.float32 and (b - a).norm() / a.norm() < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_no_formula_relies_on_which_buffer_holds_what(name, monkeypatch):
    """On CUDA the log-softmax comes back in the spare tensor and the softmax in the logits' one."""

    def swapped(logits, spare, masked):
        assert masked is None
        spare.copy_(torch.log_softmax(logits, -1))
        return spare, torch.exp(spare, out=logits)

    monkeypatch.setattr(fused_kernels, "softmax_pair", swapped)
    hidden, head = student_side()
    teacher_hidden, teacher_head = teacher_side()
    expected = DIVERGENCES[name](logits(hidden, head), logits(teacher_hidden, teacher_head))
    loss = linear_divergence(hidden, head, teacher_hidden, teacher_head, divergence=name, chunk_size=4)
    torch.testing.assert_close(loss.values, expected.detach())
    assert_same_gradients(expected.sum(), loss.total, leaves(hidden, head))


@pytest.mark.parametrize("rows", [1, 100, 700, 1024, 5000])
@pytest.mark.parametrize("size", [29, 32_000, 128_256, 256_000])
def test_chunks_are_even_and_of_bounded_memory(rows, size):
    layout = fused_kernels.Layout.plan(rows, size, torch.device("cpu"), torch.float32, None)
    lengths = [chunk.stop - chunk.start for chunk in layout.chunks()]
    assert sum(lengths) == rows and max(lengths) - min(lengths) < len(lengths)
    assert layout.chunk * size <= max(fused_kernels.CPU_CHUNK, fused_kernels.CPU_ROWS[0] * size)


class LargestTensor(TorchDispatchMode):
    """The most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_never_all_exist(name):
    rows, vocabulary = 200, 1000
    hidden, head = student_side(rows=(rows,), vocabulary=vocabulary, dtype=torch.float32)
    teacher = teacher_side(rows=(rows,), vocabulary=vocabulary, dtype=torch.float32)
    with LargestTensor() as largest:
        linear_divergence(hidden, head, *teacher, divergence=name, chunk_size=16).total.backward()
        linear_log_probs(hidden, head, torch.zeros(rows, dtype=torch.long), chunk_size=16).sum().backward()
    assert largest.elements <= 16 * vocabulary


def test_a_divergence_of_ones_own_needs_its_value_and_slope_only():
    """Squared Hellinger distance, 1 - sum sqrt(p q): dD/dq = -sqrt(p / q) / 2."""

    def hellinger(block):
        root = (block.p * block.q).sqrt()
        return 1 - root.sum(-1), -0.5 * root

    hidden, head = student_side()
    teacher_hidden, teacher_head = teacher_side()
    p, q = logits(teacher_hidden, teacher_head).softmax(-1), logits(hidden, head).softmax(-1)
    loss = linear_divergence(hidden, head, teacher_hidden, teacher_head, divergence=hellinger)
    assert_same_gradients((1 - (p * q).sqrt().sum(-1)).sum(), loss.total, leaves(hidden, head))


@pytest.mark.parametrize("case", ["plain", "bias", "soft cap", "temperature", "everything"])
def test_log_probs_and_cross_entropy_match_dense_logits(case):
    head_options, _, options = CASES[case]
    hidden, head = student_side(**head_options)
    ids = torch.arange(ROWS) * 3
    mask = torch.arange(ROWS) % 3 != 1
    temperature = options.get("temperature", 1.0)
    all_rows = (
        torch.log_softmax(logits(hidden, head) / temperature, -1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    )
    expected, inputs = all_rows[mask], leaves(hidden, head)
    factors = normal(len(expected), seed=9)

    got = linear_log_probs(hidden, head, ids, mask, temperature=temperature, chunk_size=3)
    torch.testing.assert_close(got, expected)
    assert_same_gradients((expected * factors).sum(), (got * factors).sum(), inputs)

    labels = torch.where(mask, ids, -100)
    weights = torch.zeros(ROWS, dtype=torch.float64)
    weights[mask] = factors
    loss = linear_cross_entropy(hidden, head, labels, temperature=temperature, weights=weights, chunk_size=3)
    torch.testing.assert_close(loss.values, -expected.detach())
    assert_same_gradients(-(expected * factors).sum(), loss.total, inputs)


@pytest.mark.parametrize(
    "model",
    [
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)),
        lambda: CohereForCausalLM(CohereConfig(logit_scale=0.25, **SMALL)),
        lambda: GraniteForCausalLM(GraniteConfig(logits_scaling=8.0, **SMALL)),
        lambda: Gemma2ForCausalLM(Gemma2Config(final_logit_softcapping=0.5, head_dim=8, **SMALL)),
    ],
    ids=["gpt2", "cohere", "granite", "gemma2"],
)
def test_head_of_reads_what_the_architecture_does_to_its_logits(model):
    torch.manual_seed(0)
    model = model().eval()
    ids = torch.arange(2, 8).unsqueeze(0)
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        made = logits(out.hidden_states[-1], head_of(model))
    torch.testing.assert_close(made, out.logits)


SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_bad_input_is_one_clear_error():
    hidden, head = student_side()
    teacher = teacher_side()
    with pytest.raises(MethodError, match='no divergence .revers_kl.*did you mean "reverse_kl"'):
        linear_divergence(hidden, head, *teacher, divergence="revers_kl")
    with pytest.raises(MethodError, match='no parameter .beta.*did you mean "teacher_weight"'):
        linear_divergence(hidden, head, *teacher, divergence="jensen_shannon", beta=0.5)
    with pytest.raises(MethodError, match="do not fit an LM head"):
        linear_divergence(hidden, teacher[1], *teacher)
    with pytest.raises(MethodError, match="differ in more than their last"):
        linear_divergence(hidden[:3], head, *teacher)
    with pytest.raises(MethodError, match="mask"):
        linear_divergence(hidden, head, *teacher, torch.ones(3, dtype=torch.bool))
    with pytest.raises(MethodError, match="vocabulary"):
        linear_log_probs(hidden, head, torch.full((ROWS,), VOCABULARY))
    with pytest.raises(MethodError, match="no output embeddings"):
        head_of(torch.nn.Linear(2, 2))


def test_both_registries_name_the_same_divergences():
    # The one without a plain form has a gradient that is not its value's: tests/methods/slots/test_weights.py.
    assert set(FUSED_DIVERGENCES) == set(DIVERGENCES) | {"detached_skew_reverse_kl"}
