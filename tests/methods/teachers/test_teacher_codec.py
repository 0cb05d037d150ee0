"""What a store keeps of a distribution, and the loss on k + 1 outcomes, against full distributions in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.errors import MethodError
from methods.losses.divergences import DIVERGENCES
from methods.losses.fused.linear import Head, linear_divergence
from methods.teachers.bits import bit_length, pack, squeeze, unpack, unsqueeze
from methods.teachers.codec import NO_TAIL, TopKCodec, ranks_by_count
from methods.teachers.fill import logits, round_trip
from methods.teachers.top_k import TopK, linear_top_k_divergence

EXACT = {"gain": 0.0, "resolution": 0.02, "max_k": 29}  # every id of the letters' vocabulary


# The codec.


@given(st.lists(st.tuples(st.integers(0, 24), st.integers(0, 2**24 - 1)), max_size=60))
def test_fields_of_any_width_come_back(fields):
    widths = np.array([w for w, _ in fields], np.int64)
    values = np.array([v & ((1 << w) - 1) for w, v in fields], np.int64)
    data = pack(values, widths)
    assert len(data) == -(-int(widths.sum()) // 8)
    spare = np.concatenate([np.frombuffer(data, np.uint8), np.zeros(4, np.uint8)])
    assert np.array_equal(unpack(spare, np.cumsum(widths) - widths, widths), values)
    assert np.array_equal(bit_length(values), [int(v).bit_length() for v in values])
    symbols = (values & 255).astype(np.uint8)
    assert np.array_equal(unsqueeze(squeeze(symbols)), symbols)


@st.composite
def distributions(draw):
    """A codec, and the k most probable ids of a few rows under it."""
    vocabulary = draw(st.integers(2, 3000))
    k = draw(st.integers(1, min(vocabulary, 60)))
    source = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 0.5, 3.0, 30.0]))  # uniform, flat, usual, one-hot
    z = torch.from_numpy(source.normal(size=(draw(st.integers(1, 6)), vocabulary)) * scale)
    log_probs, ids = z.log_softmax(-1).topk(k, -1)
    ranks = ranks_by_count(source.integers(0, 5, vocabulary)) if draw(st.booleans()) else None
    codec = TopKCodec(
        vocabulary, k, draw(st.sampled_from([0.0, 1e-3, 0.05])), draw(st.sampled_from([0.03, 0.125])), ranks
    )
    return codec, ids.numpy(), log_probs.numpy()


@given(distributions(), distributions())
@settings(deadline=None)
def test_distributions_come_back(one, other):
    codec, ids, log_probs = one
    rows = codec.select(ids, log_probs)
    record = codec.encode(rows)
    back = codec.decode([record, record])
    n = len(ids)
    assert np.array_equal(back.counts[:n], rows.counts) and np.array_equal(back.counts[n:], rows.counts)
    flat = 0
    for i, count in enumerate(rows.counts):
        part = slice(flat, flat + count)
        assert 1 <= count <= ids.shape[1]
        sent = dict(zip(rows.ids[part].tolist(), rows.log_probs[part], strict=True))
        got = dict(zip(back.ids[part].tolist(), back.log_probs[part], strict=True))
        assert sent.keys() == got.keys() == set(ids[i, :count].tolist())
        total = np.exp(back.log_probs[part]).sum() + np.exp(back.tail[i])
        assert total == pytest.approx(1, abs=1e-9)
        assert back.log_probs[part][0] == max(got.values()), "the first id is one of the most probable"
        shift = [got[key] - codec.log_probs(codec.levels(sent[key])) for key in sent]
        assert np.ptp(shift) < 1e-9, "renormalising moves all ids of a row alike"
        flat += count
    # A level is at most half a step off, a step at log p being resolution * (1 - log p / 2) and a little more.
    half = codec.resolution / 2 * (1 - rows.log_probs / 2) * np.exp(codec.resolution / 2)
    kept = codec.log_probs(codec.levels(rows.log_probs))
    lowest = codec.log_probs(
        np.array(NO_TAIL - 1)
    )  # 88 nats at a resolution of 0.03; whatever is below comes back as it
    assert (np.abs(kept - rows.log_probs) <= half + 1e-9)[rows.log_probs >= lowest].all()
    assert (kept == lowest)[rows.log_probs < lowest].all()


def test_more_ids_are_kept_where_they_tell_more():
    codec = TopKCodec(1000, 100, 1e-3)
    sharp = torch.zeros(1, 1000).index_fill_(1, torch.tensor([3]), 15.0)
    zipf = -1.5 * torch.arange(1, 1001).log().unsqueeze(0)
    flat = torch.zeros(1, 1000)  # spread evenly: one id says it all
    counts = [int(codec.counts(z.log_softmax(-1).topk(100, -1)[0].numpy())[0]) for z in (sharp, zipf, flat)]
    assert counts[0] == counts[2] == 1 and 20 < counts[1] < 100
    # The rule is that of the exact KL to an even tail: one id less costs at least `gain`, each further one brings less.
    log_p = zipf.double().log_softmax(-1)[0]

    def lost(k):
        rest = log_p[k:].exp().sum()
        return float((log_p[k:].exp() * (log_p[k:] - (rest / (1000 - k)).log())).sum())

    k = counts[1]
    assert lost(k - 1) - lost(k) >= 1e-3 > lost(k) - lost(k + 1)


def test_the_reported_errors_are_those_of_full_distributions():
    g = torch.Generator().manual_seed(0)
    log_p = (torch.randn(5, 50, generator=g, dtype=torch.float64) * 2).log_softmax(-1)
    top, ids = log_p.topk(20, -1)
    codec = TopKCodec(50, 20, 5e-3, 0.25)
    rows = codec.select(ids.numpy(), top.numpy())
    entropy = -(log_p.exp() * log_p).sum(-1).numpy()
    error, spread = round_trip(codec, rows, codec.encode(rows), entropy)
    back = codec.decode([codec.encode(rows)])
    flat = 0
    for i, count in enumerate(rows.counts):
        part = slice(flat, flat := flat + count)
        kept = torch.zeros(50, dtype=torch.bool)
        kept[back.ids[part]] = True
        even = torch.full((50,), back.tail[i] - np.log(50 - count), dtype=torch.float64)
        even[back.ids[part]] = torch.from_numpy(back.log_probs[part])
        assert spread[i] == pytest.approx(float((log_p[i].exp() * (log_p[i] - even)).sum()), abs=1e-9)
        merged = torch.cat([log_p[i][kept], log_p[i][~kept].logsumexp(0, keepdim=True)])
        read = torch.cat([even[kept], torch.tensor([back.tail[i]])])
        assert error[i] == pytest.approx(float((merged.exp() * (merged - read)).sum()), abs=1e-9)
    assert 0 < error.mean() < 0.01 and spread.mean() > error.mean()


def test_a_usual_distribution_takes_less_than_100_bytes_and_0_003_nats():
    g = torch.Generator().manual_seed(0)
    size, n = 128_256, 40
    exponent = torch.linspace(1.5, 3.0, n).unsqueeze(1)  # 1.5 nats of entropy
    z = -exponent * torch.arange(1, size + 1).log() + 0.5 * torch.randn(n, size, generator=g)
    top, places = z.log_softmax(-1).topk(256, -1)
    ids = torch.stack([torch.randperm(size, generator=g) for _ in range(n)]).gather(1, places)
    codec = TopKCodec(size)
    rows = codec.select(ids.numpy(), top.numpy())
    record = codec.encode(rows)
    assert len(record) / n <= 100
    assert round_trip(codec, rows, record)[0].mean() < 0.003


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 0}, "vocabulary of 0"),
        ({"max_k": 0}, "max_k"),
        ({"resolution": 3.0}, "resolution"),
        ({"gain": -1.0}, "negative"),
        ({"ranks": np.zeros(10, int)}, "permutation"),
    ],
)
def test_a_codec_refuses_wrong_settings(options, message):
    with pytest.raises(MethodError, match=message):
        TopKCodec(**{"vocabulary": 10, **options})


# The loss: k + 1 outcomes.


def merged(log_p, ids, kept):
    """Log-probabilities (k + 1,) of one row over the ids kept and all others together."""
    inside = ids[kept]
    outside = torch.ones(len(log_p), dtype=torch.bool).index_fill_(0, inside, False)
    return torch.cat([log_p[inside], log_p[outside].logsumexp(0, keepdim=True)])


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
@pytest.mark.parametrize("head_options", [{}, {"bias": True, "scale": 0.5}, {"soft_cap": 5.0}])
def test_top_k_divergences_against_merged_full_logits(name, head_options):
    g = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    n, size, width, k = 9, 31, 5, 6
    hidden, weight = normal(n, width).requires_grad_(), normal(size, width).requires_grad_()
    options = dict(head_options)
    bias = normal(size).requires_grad_() if options.pop("bias", False) else None
    head = Head(weight, bias, **options)
    log_p = (2 * normal(n, size)).log_softmax(-1)
    top, ids = log_p.topk(k, -1)
    counts = torch.tensor([k, 3, 1, k, 2, k, 5, 4, k])
    kept = torch.arange(k) < counts.unsqueeze(1)
    ids = torch.where(kept, ids, ids[:, :1])
    tail = torch.log1p(-(top.exp() * kept).sum(-1))
    target = TopK(ids, top.masked_fill(~kept, -torch.inf), tail, size)
    mask = torch.tensor([True] * 7 + [False, True])
    weights = torch.rand(n, generator=g, dtype=torch.float64)
    settings_ = {"skew": torch.linspace(0.1, 0.9, n)} if name.startswith("skew") else {}
    got = linear_top_k_divergence(
        hidden, head, target, mask, divergence=name, weights=weights, chunk_size=4, **settings_
    )

    z = logits(hidden, head)
    values = []
    for i in range(n):
        own = {key: float(value[i]) for key, value in settings_.items()}
        pair = (merged(z[i].log_softmax(-1), ids[i], kept[i]), merged(log_p[i], ids[i], kept[i]))
        values.append(DIVERGENCES[name](*pair, **own))
    values = torch.stack(values)
    expected = (values * weights)[mask].sum()
    torch.testing.assert_close(got.values, values[mask].detach(), rtol=1e-6, atol=1e-10)
    assert got.total.item() == pytest.approx(expected.item(), rel=1e-6)
    inputs = [hidden, weight] if bias is None else [hidden, weight, bias]
    for mine, exact in zip(
        torch.autograd.grad(got.total, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(mine, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 40.0, -40.0, 300.0, -300.0])
@pytest.mark.parametrize("spread", [3.0, 60.0, 400.0])
def test_the_forward_kl_in_single_precision_whatever_the_size_of_the_logits(shift, spread):
    """Raw exponentials or normalised ones, with tails that vanish: what float64 gives, and never NaN."""
    g = torch.Generator().manual_seed(3)
    n, size, k = 5, 40, 6
    z = spread * torch.randn(n, size, generator=g, dtype=torch.float64) / 3
    z[:, 7] += spread  # one id far above all others
    head = Head(torch.eye(size, dtype=torch.float64), torch.full((size,), shift, dtype=torch.float64))
    top, ids = torch.randn(n, size, generator=g, dtype=torch.float64).log_softmax(-1).topk(k, -1)
    target = TopK(ids, top, torch.log1p(-top.exp().sum(-1)), size)

    def measured(dtype):
        hidden = z.to(dtype).requires_grad_()
        loss = linear_top_k_divergence(hidden, Head(head.weight.to(dtype), head.bias.to(dtype)), target)
        return loss.values.double(), torch.autograd.grad(loss.total, hidden)[0].double()

    (values, slopes), (exact, exact_slopes) = measured(torch.float32), measured(torch.float64)
    assert values.isfinite().all() and slopes.isfinite().all()
    if spread < 400:  # beyond, the tail is below the smallest number of single precision
        torch.testing.assert_close(values, exact, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(slopes, exact_slopes, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-3])
def test_the_forward_kl_from_a_teacher_that_is_nearly_the_student(gap):
    """Where the two tails are equal the tail's slopes vanish, and with them what all others are divided by."""
    g = torch.Generator().manual_seed(4)
    hidden = torch.randn(5, 8, generator=g).requires_grad_()
    weight = torch.randn(40, 8, generator=g)
    exact = hidden.detach().double() @ weight.double().T
    log_p = (exact + gap * torch.randn(5, 40, generator=g)).log_softmax(-1)
    top, ids = log_p.topk(6, -1)
    target = TopK(ids, top, torch.log1p(-top.exp().sum(-1)), 40)
    loss = linear_top_k_divergence(hidden, Head(weight), target)
    # The gradient of the merged forward KL by hand: q - p at an id, q (1 - p_T / q_T) elsewhere.
    q = exact.softmax(-1)
    outside = torch.ones_like(q).scatter_(-1, ids, 0)
    tail = (q * outside).sum(-1, keepdim=True)
    slopes = (q - log_p.exp()) * (1 - outside) + outside * q * (1 - target.tail.exp().unsqueeze(-1) / tail)
    expected = slopes @ weight.double()
    torch.testing.assert_close(
        torch.autograd.grad(loss.total, hidden)[0].double(), expected, rtol=1e-3, atol=1e-5
    )
    assert loss.values.abs().max() < 1e-5 + gap


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_all_ids_are_the_full_divergence(name):
    g = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(6, 4, generator=g, dtype=torch.float64) for _ in range(2))
    head, teacher_head = (Head(torch.randn(11, 4, generator=g, dtype=torch.float64)) for _ in range(2))
    student.requires_grad_()
    log_p, ids = (teacher @ teacher_head.weight.T).log_softmax(-1).sort(-1, descending=True)
    whole = TopK(ids, log_p, torch.full((6,), -torch.inf, dtype=torch.float64), 11)
    got = linear_top_k_divergence(student, head, whole, divergence=name)
    full = linear_divergence(student, head, teacher, teacher_head, divergence=name)
    torch.testing.assert_close(got.values, full.values, rtol=1e-9, atol=1e-12)
    mine, exact = (torch.autograd.grad(loss.total, student)[0] for loss in (got, full))
    torch.testing.assert_close(mine, exact, rtol=1e-8, atol=1e-11)


def test_a_smaller_head_sees_the_shared_ids_renormalised():
    p = torch.tensor([[0.4, 0.3, 0.1]], dtype=torch.float64)
    target = TopK(torch.tensor([[9, 2, 5]]), p.log(), torch.tensor([0.2], dtype=torch.float64).log(), 10)
    cut = target.within(8)
    assert cut.ids[0, :2].tolist() == [2, 5] and cut.ids[0, 2] == 2
    torch.testing.assert_close(cut.log_probs.exp()[0], torch.tensor([0.5, 1 / 6, 0.0], dtype=torch.float64))
    assert float(cut.tail.exp()) == pytest.approx(1 / 3) and target.within(10) is target


def test_a_loss_that_the_target_cannot_serve_is_refused():
    target = TopK(torch.zeros(2, 1).long(), torch.zeros(2, 1), torch.zeros(2), 5)
    head = Head(torch.zeros(5, 3))
    with pytest.raises(MethodError, match="temperature 1.0, the loss asks for 2.0"):
        linear_top_k_divergence(torch.zeros(2, 3), head, target, temperature=2.0)
    with pytest.raises(MethodError, match="2 rows of a teacher"):
        linear_top_k_divergence(torch.zeros(3, 3), head, target)
    masked = Head(torch.zeros(5, 3), torch.tensor([0, 0, 0, 0, -torch.inf]))
    with pytest.raises(MethodError, match="masks ids"):
        linear_top_k_divergence(torch.zeros(2, 3), masked, target)
