"""Token weights by hand: what each keeps, sequence by sequence, whatever else is in the micro-batch."""

import math
from dataclasses import replace

import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.registry import build, canonical
from methods.slots import token_weights
from methods.slots.scores import Entropy, LogRatio
from methods.slots.terms import Divergence, Window
from methods.slots.token_weights import (
    AnnealedLabels,
    ByScore,
    Complement,
    ExceptTokens,
    First,
    Gate,
    Normalised,
    Opening,
    PassRate,
    PrefixDrift,
    Shuffled,
    Sigmoid,
    Stretch,
    TopShare,
    Verified,
)
from tests.methods.slots.three_sequences import (
    COUNT,
    LAST,
    LENGTHS,
    PROMPTS,
    SIZE,
    Trainer,
    last_alone,
    log_probs,
    parts,
    three_sequences,
)

SCORES = [3.0, 1.0, 2.0, 2.0, 5.0, 0.5, 0.5, 4.0, 1.0, 1.0, 1.0]


def given(rows):
    return torch.tensor(SCORES, dtype=torch.float64)[: len(rows.labels)]


def test_scores_become_weights():
    rows = three_sequences()
    assert ByScore(given, power=2.0, most=9.0)(rows).tolist() == [min(9.0, x * x) for x in SCORES]
    assert Gate(given, 1.0)(rows).tolist() == [float(x > 1) for x in SCORES]
    assert (Gate(given, 1.0)(rows) + Gate(given, 1.0, below=True)(rows) == 1).all(), (
        "each token is on one side"
    )
    expected = [1 / (1 + math.exp(-(x - 1) / 0.5)) for x in SCORES]
    torch.testing.assert_close(Sigmoid(given, centre=1.0, width=0.5)(rows), torch.tensor(expected).double())


@pytest.mark.parametrize(
    ("share", "lowest", "kept"),
    [
        (0.5, False, [1, 0, 1, 0, 1, 1, 0, 1, 1, 0, 0]),  # of equals the earlier
        (0.5, True, [0, 1, 1, 0, 1, 1, 1, 0, 1, 0, 0]),
        (0.0, False, [1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0]),  # at least one
        (1.0, False, [1] * 11),
    ],
)
def test_the_top_share_of_each_sequence(share, lowest, kept):
    weights = TopShare(given, share, lowest=lowest)(three_sequences()).tolist()
    if (share, lowest) == (0.5, False):  # of six: 4.0, then the first two of the three ones
        kept = [1, 0, 1, 0, 1, 0, 0, 1, 1, 1, 0]
    assert weights == kept


def test_what_differs_by_rounding_is_equal():
    rows = three_sequences()
    nearly = given(rows) + torch.linspace(0, 1e-7, COUNT, dtype=torch.float64)
    share = TopShare(given, 0.5)(rows)
    assert torch.equal(TopShare(lambda rows: nearly, 0.5)(rows), share), "the later of equals is a hair above"


def test_tokens_are_drawn_in_proportion_to_their_scores():
    rows = three_sequences()
    counts = torch.zeros(4).double()
    drawn = TopShare(given, 0.25, drawn=True, seed=3)
    for step in range(1500):
        drawn.begin_step(Window(step / 1500))
        counts += parts(drawn(rows))[0]
    assert counts.sum() == 1500, "one of four at each step"
    torch.testing.assert_close(counts / 1500, torch.tensor([3, 1, 2, 2]).double() / 8, atol=0.05, rtol=0)
    assert drawn(rows).tolist() == drawn(rows).tolist(), "the same within a step"


def test_weights_do_not_depend_on_what_else_is_in_the_micro_batch():
    rows = three_sequences()
    alone = last_alone(rows)
    for weights in (
        TopShare(Entropy(), 0.5), TopShare(Entropy(), 0.5, drawn=True), Opening(Entropy(), 0.4), PrefixDrift(),
        PrefixDrift("ratio"), Normalised(ByScore(Entropy())), First(2), Stretch(0.3, 0.8), Verified(2),
        Shuffled(First(2)), Complement(First(2)), Verified(1, form="speculative"),
    ):  # fmt: skip
        torch.testing.assert_close(weights(rows)[LAST], weights(alone))


def test_the_opening_holds_a_share_of_the_sequence_s_score():
    # 8: up to 4 is reached by the second; 5 alone; 8: 0.5, 1.0, 5.0
    assert Opening(given, 0.5)(three_sequences()).tolist() == [1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0]


def test_the_first_tokens_may_become_more():
    rows, first = three_sequences(), First(1, grown=5)
    assert first(rows).tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    first.begin_step(Window(0.5))
    assert first(rows).tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0]
    with pytest.raises(MethodError, match="not shrink"):
        First(3, grown=2)


def check_stretches():
    """In whole numbers: the first three tenths of T tokens are those with 10 t < 3 T."""
    rows = three_sequences()
    first, middle, last = Stretch(0.0, 0.3)(rows), Stretch(0.3, 0.7)(rows), Stretch(0.7, 1.0)(rows)
    assert first.tolist() == [float(10 * t < 3 * size) for size in LENGTHS for t in range(size)]
    assert last.tolist() == [float(10 * t >= 7 * size) for size in LENGTHS for t in range(size)]
    assert (first + middle + last == 1).all(), "each token is in one of stretches that meet"
    half = [float(2 * t < size) for size in LENGTHS for t in range(size)]
    assert Stretch(0.0, 0.5)(rows).tolist() == half, "the third of four begins where the first half ends"


def test_a_stretch_holds_a_share_of_each_sequence():
    check_stretches()
    assert Stretch(0.0, 1.0)(three_sequences()).tolist() == [1.0] * COUNT
    with pytest.raises(MethodError, match="no token"):
        Stretch(0.5, 0.5)


def check_drift():
    rows = three_sequences()
    ratio = LogRatio()(rows)
    share, product = [], []
    for part in parts(ratio):
        for t in range(len(part)):
            before = sum(abs(float(x)) for x in part[:t])
            share.append(1 + 0.5 * (1 - before / float(part.abs().sum())))
            product.append(min(1.0, max(0.2, math.exp(sum(float(x) for x in part[:t])))))
    torch.testing.assert_close(PrefixDrift()(rows), torch.tensor(share).double())
    torch.testing.assert_close(PrefixDrift("ratio", floor=0.2)(rows), torch.tensor(product).double())


def test_drift_lowers_what_stands_behind_it():
    check_drift()
    rows = three_sequences()
    same = replace(rows, teachers=((rows.hidden, Head(rows.head.weight)),))
    assert PrefixDrift("ratio")(same).tolist() == [1.0] * COUNT, "no drift without a difference"


def with_its_own_drift(self, ratio):
    return 1 + self.gamma * (1 - ratio.abs().cumsum(0) / ratio.abs().sum())


def of_the_whole_micro_batch(function, rows, *values):
    return function(*values)


MUTATIONS = {
    "a token's own drift counts": (PrefixDrift, "_share", with_its_own_drift, check_drift),
    "the product the wrong way round": (
        PrefixDrift, "_ratio", lambda self, ratio: (ratio - ratio.cumsum(0)).exp().clamp(self.floor, 1), check_drift,
    ),
    "sequences run into one another": (
        token_weights, "by_sequence", of_the_whole_micro_batch,
        lambda: test_weights_do_not_depend_on_what_else_is_in_the_micro_batch(),
    ),
    "a stretch of the longest sequence": (
        Stretch, "_kept",
        lambda self, place: (place >= self.begin * max(LENGTHS)) & (place < self.end * max(LENGTHS)), check_stretches,
    ),
    "a stretch that ends behind its end": (
        Stretch, "_kept",
        lambda self, place: (place >= self.begin * len(place)) & (place <= self.end * len(place)), check_stretches,
    ),
    "a gate that opens below": (
        Gate, "__call__", lambda self, rows: (self.score(rows) < self.level).double(),
        lambda: test_scores_become_weights(),
    ),
    "a token short of the share": (
        Opening, "_kept", lambda self, score: (score.cumsum(0) < self.share * score.sum()).double(),
        lambda: test_the_opening_holds_a_share_of_the_sequence_s_score(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_wrong_is_caught(mutation, monkeypatch):
    where, name, wrong, check = MUTATIONS[mutation]
    check()
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        check()


def test_trl_s_trainer_weighs_the_same():
    from trl.experimental.iw_opd import IWOPDTrainer

    rows = three_sequences()
    for part, weights in zip(parts(LogRatio()(rows)), parts(PrefixDrift(gamma=0.7)(rows)), strict=True):
        trainer = type("Stub", (), {"temperature": 1.0, "iw_opd_gamma": 0.7, "iw_opd_epsilon": 1e-8})()
        trainer.model = torch.nn.Identity()
        trainer._metrics = {"train": __import__("collections").defaultdict(list)}
        size = len(part)
        z = torch.zeros(1, size, 4).double().requires_grad_()
        tokens = torch.zeros(1, size).long()
        loss = IWOPDTrainer._compute_iw_opd_loss(
            trainer, z, tokens, tokens, torch.log(torch.tensor(0.25).double()) + part.unsqueeze(0)
        )
        gradient = torch.autograd.grad(loss, z)[0][0, :, 0]  # -w a (1 - q) / n
        torch.testing.assert_close(gradient, -weights * part * 0.75 / size)


def test_a_pass_rate_weighs_a_prompt_most_where_it_is_open():
    rows, weights = three_sequences(), PassRate()
    weights.prepare(Trainer(0.0, 0.5, 0.25))
    assert weights(rows).tolist() == [0.0] * 4 + [0.25] + [0.1875] * 6
    hard = PassRate(between=[0.2, 0.3])
    hard.prepare(Trainer(0.0, 0.5, 0.25))
    assert hard(rows).tolist() == [0.0] * 5 + [1.0] * 6
    skewed = PassRate(rise=2.0, fall=1.0)
    assert skewed.weight(0.5) == 0.125 and skewed.weight(1.0) == 0
    with pytest.raises(MethodError, match="no rate between"):
        weights.weight(1.5)
    with pytest.raises(MethodError, match="two rates"):
        PassRate(between=[0.5, 0.2])
    unknown = PassRate()
    unknown.prepare(Trainer(0.1, 0.2))
    with pytest.raises(MethodError, match="no training row has"):
        unknown(rows)


def test_two_rows_of_one_prompt_must_agree():
    weights = PassRate()
    weights.rates.put(list(PROMPTS[0]), 0.5)
    weights.rates.put(list(PROMPTS[0]), 0.5)
    with pytest.raises(MethodError, match="two rows of one prompt"):
        weights.rates.put(list(PROMPTS[0]), 0.6)


def test_named_tokens_are_left_out(tokenizer):
    weights = ExceptTokens(["<eos>", "|"], tokenizer)
    assert weights(three_sequences()).tolist() == [float(x not in (1, 2)) for x in three_sequences().labels]
    with pytest.raises(MethodError, match="no token 'zz'"):
        ExceptTokens(["zz"], tokenizer)


def test_normalised_weights_average_to_one_in_each_sequence():
    rows = three_sequences()
    weights = Normalised(First(2))(rows)
    assert [float(part.mean()) for part in parts(weights)] == pytest.approx([1, 1, 1])
    assert parts(weights)[0].tolist() == [2, 2, 0, 0]
    assert Normalised(Gate(given, 99.0))(rows).tolist() == [0.0] * COUNT
    inner = PassRate()
    assert Normalised(inner).column == "pass_rate"


def test_a_loss_sees_its_weights_and_two_gates_share_it_out():
    rows = three_sequences(hidden=three_sequences().hidden.requires_grad_())
    score = Entropy("teacher")
    level = float(score(rows).median())
    whole = Divergence("reverse_kl").total(rows)
    split = sum(
        Divergence("reverse_kl", token_weights=Gate(score, level, below=below)).total(rows)
        for below in (False, True)
    )
    torch.testing.assert_close(split, whole)
    above = Divergence("reverse_kl", token_weights=Gate(score, level)).total(rows)
    assert 0 < float(above.detach()) < float(whole.detach())


def test_weights_are_made_of_plain_data_and_told_of_steps():
    tree = canonical(
        "token-weights",
        {"name": "normalised", "token_weights": {"name": "top-share", "score": "soft-or", "share": 0.5}},
    )
    weights = build("token-weights", tree, seed=4)
    assert weights.token_weights.seed == 4 and weights.token_weights.share == 0.5
    weights.begin_step(Window(0.25))
    assert weights.token_weights._progress == 0.25
    term = Divergence(token_weights=PassRate("rate"))
    assert term.columns == ("rate",) and "token_weights" in term.parts()


def test_the_complement_is_what_is_left_out():
    rows, easy = three_sequences(), TopShare(given, 0.5, lowest=True)
    assert (Complement(easy)(rows) + easy(rows) == 1).all()


def test_shuffled_weights_are_as_many_of_each_sequence_on_any_token():
    rows, shuffled = three_sequences(), Shuffled(First(2), seed=4)
    counts = torch.zeros(COUNT).double()
    for step in range(600):
        shuffled.begin_step(Window(step / 600))
        made = shuffled(rows)
        assert [part.sum() for part in parts(made)] == [2, 1, 2]
        counts += made
    expected = torch.tensor([2 / 4] * 4 + [1.0] + [2 / 6] * 6).double()
    torch.testing.assert_close(counts / 600, expected, atol=0.08, rtol=0)


def accepted_by_hand(k):
    """The student's first choice is one of the teacher's k."""
    rows = three_sequences()
    q, p = log_probs(rows).exp(), log_probs(rows, 0).exp()
    kept = []
    for n in range(COUNT):
        order = sorted(range(SIZE), key=lambda i: -float(p[n, i]))
        kept.append(max(range(SIZE), key=lambda i: float(q[n, i])) in order[:k])
    return kept


@pytest.mark.parametrize("k", [1, 2, 3, SIZE])
def test_a_student_s_choice_is_verified_among_the_teacher_s(k):
    expected = [1.0 if accepted else 0.25 for accepted in accepted_by_hand(k)]
    assert Verified(k, floor=0.25)(three_sequences()).tolist() == expected


def test_the_order_by_hand_catches_sides_that_are_swapped():
    rows, k = three_sequences(), 2
    teacher = rows.teachers[0]
    swapped = replace(rows, hidden=teacher[0], head=teacher[1], teachers=((rows.hidden, rows.head),))
    expected = [1.0 if accepted else 0.25 for accepted in accepted_by_hand(k)]
    assert Verified(k, floor=0.25)(swapped).tolist() != expected


def test_speculative_acceptance_has_the_overlap_s_chance():
    rows, draws = three_sequences(), 1500
    overlap = torch.minimum(log_probs(rows).exp(), log_probs(rows, 0).exp()).sum(-1)
    for k in (1, 2):
        verified, counts = Verified(k, form="speculative", floor=0.0, seed=5), torch.zeros(COUNT).double()
        for step in range(draws):
            verified.begin_step(Window(step / draws))
            counts += verified(rows)
        torch.testing.assert_close(counts / draws, 1 - (1 - overlap) ** k, atol=0.06, rtol=0)


def test_a_student_that_is_the_teacher_is_always_accepted():
    rows = three_sequences()
    same = replace(rows, hidden=rows.teachers[0][0], head=rows.teachers[0][1])
    for verified in (Verified(1), Verified(1, form="speculative")):
        assert verified(same).tolist() == [1.0] * COUNT


@pytest.mark.parametrize("wrong", [{"k": 0}, {"form": "greedy"}, {"floor": 2.0}])
def test_verification_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(MethodError):
        Verified(**wrong)


def check_annealed(weights, progress):
    """A label is dropped where another id has more than the threshold, by float64 one row after the other."""
    rows = three_sequences()
    weights.begin_step(Window(progress))
    level = 0.9 + (1 / len(rows.head.weight) - 0.9) * progress
    expected = []
    for hidden, label in zip(rows.hidden, rows.labels, strict=True):
        logits = rows.head.weight.double() @ hidden.double()
        shares = [math.exp(float(x - logits.max())) for x in logits]
        surest = max(range(len(shares)), key=shares.__getitem__)
        sure = shares[surest] / sum(shares) > level
        expected.append(0.0 if sure and surest != int(label) else 1.0)
    assert weights(rows).tolist() == expected
    return expected


def test_labels_that_the_student_surely_disagrees_with_are_dropped_ever_sooner():
    kept = [sum(check_annealed(AnnealedLabels(), progress)) for progress in (0.0, 0.5, 0.9, 1.0)]
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1]


@pytest.mark.parametrize("wrong", ["never falls", "drops what it agrees with"])
def test_annealing_that_is_another_is_caught(wrong, monkeypatch):
    right = AnnealedLabels.__call__
    if wrong == "never falls":
        monkeypatch.setattr(AnnealedLabels, "begin_step", lambda self, window: None)
    else:
        monkeypatch.setattr(AnnealedLabels, "__call__", lambda self, rows: 1 - right(self, rows))
    with pytest.raises(AssertionError):
        check_annealed(AnnealedLabels(), 1.0)


def test_pieces_of_rows_are_weighed_alike(monkeypatch):
    weights, rows = AnnealedLabels(), three_sequences()
    weights.begin_step(Window(0.8))
    whole = weights(rows)
    monkeypatch.setattr(token_weights, "AT_ONCE", 2 * len(rows.head.weight))
    assert torch.equal(weights(rows), whole)
    assert Divergence("cross-entropy", token_weights=weights).reads == "nothing", "no teacher is needed"
