"""The policy gradients of papers against exact objectives, by enumeration; and mutations that this must catch."""

import pytest
import torch

from methods.slots.advantages import (
    CentredLogRatio,
    GroupReward,
    LogRatio,
    Only,
    ReturnToGo,
    Sign,
    Sum,
    Where,
)
from methods.slots.support import SampledToken
from methods.slots.terms import Divergence, SampledKL
from methods.trainers.optimisation import Record, scoring
from methods.trainers.optimisation import trainer as module
from tests.methods.trainers.optimisation.enumeration import (
    ALL,
    chosen,
    every_next,
    expected,
    expected_terms,
    gradient,
    loss_of,
    model,
    next_token_kl,
    positions_kl,
    probabilities,
    record_of,
    reverse,
    token_logps,
    trainer_of,
)

REWARDS = torch.linspace(-1, 2, len(ALL)).square()


@pytest.fixture
def student():
    return model(0)


@pytest.fixture
def teacher():
    return model(1)


def close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)
    assert wanted.norm() > 1e-3


def closer(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)
    assert wanted.norm() > 1e-3


def test_centring_leaves_the_expected_gradient_and_no_sample_s(student, teacher, tokenizer, tmp_path):
    """A baseline at each prefix. It need not lower the variance: the best one weighs by the slope of log q."""
    plain, centred = (
        trainer_of(student, tmp_path, tokenizer, teachers=[teacher], advantage=advantage)
        for advantage in (LogRatio(), CentredLogRatio())
    )
    closer(expected(centred, student), expected(plain, student))
    one, other = (trainer.scored(record_of())["advantages"] for trainer in (plain, centred))
    own = [next_token_kl(student, teacher, y) for y in ALL]
    for place, gap in enumerate(own):
        torch.testing.assert_close(other[place, : len(gap)], one[place, : len(gap)] + gap.detach())


class Negative(LogRatio):
    """A mutation: the wrong sign."""

    def __call__(self, signals):
        return -super().__call__(signals)


# The gradient of the expected reward.


def reward_gradient(trainer, student):
    close(
        expected(trainer, student, record_of(rewards=REWARDS[:, None].float())),
        -gradient(
            (REWARDS.float().double() * chosen(every_next(student)).sum(1).exp()).sum(),
            student,
        ),
    )


def test_a_reward_gives_the_gradient_of_its_expectation(student, tokenizer, tmp_path):
    reward_gradient(
        trainer_of(student, tmp_path, tokenizer, advantage=GroupReward("none"), rewards=[lambda **_: []]),
        student,
    )


# Sequence and token reverse KL.


def sequence_oracle(student, teacher, advantage, tokenizer, folder):
    log_q, log_p = chosen(every_next(student)).sum(1), chosen(every_next(teacher)).sum(1).detach()
    wanted = gradient((log_q.exp() * (log_q - log_p)).sum(), student)
    trainer = trainer_of(student, folder, tokenizer, teachers=[teacher], advantage=advantage)
    closer(expected(trainer, student), wanted)


def token_oracle(student, teacher, advantage, tokenizer, folder):
    wanted = gradient(positions_kl(student, reverse(every_next(teacher))), student)
    trainer = trainer_of(student, folder, tokenizer, teachers=[teacher], advantage=advantage)
    closer(expected(trainer, student), wanted)


def test_the_log_ratio_s_return_is_the_sequence_reverse_kl(student, teacher, tokenizer, tmp_path):
    sequence_oracle(student, teacher, ReturnToGo(LogRatio()), tokenizer, tmp_path)


def test_the_log_ratio_alone_is_the_reverse_kl_at_each_prefix(student, teacher, tokenizer, tmp_path):
    token_oracle(student, teacher, LogRatio(), tokenizer, tmp_path)


@pytest.mark.parametrize("mutation", ["sign", "discount", "no return", "clipped", "temperature"])
def test_mutations_of_the_log_ratio_are_seen(mutation, student, teacher, tokenizer, tmp_path, monkeypatch):
    advantage = ReturnToGo(LogRatio())
    if mutation == "sign":
        advantage = ReturnToGo(Negative())
    elif mutation == "discount":
        advantage = ReturnToGo(LogRatio(), discount=0.9)
    elif mutation == "no return":
        advantage = LogRatio()
    elif mutation == "clipped":
        right = module.surrogate
        monkeypatch.setattr(
            module, "surrogate", lambda logps, anchor, a, **k: right(logps, anchor, a.clamp(-0.1, 0.1), **k)
        )
    else:
        right = scoring.looked_at
        monkeypatch.setattr(scoring, "looked_at", lambda *a, **k: right(*a, **{**k, "temperature": 1.1}))
    with pytest.raises(AssertionError):
        sequence_oracle(student, teacher, advantage, tokenizer, tmp_path)


# Each completion by itself, where a missing stop-gradient shows that vanishes in expectation.


def completion_oracle(student, teacher, tokenizer, folder):
    trainer = trainer_of(student, folder, tokenizer, teachers=[teacher], advantage=ReturnToGo(LogRatio()))
    for completion in ALL[::7]:
        log_q, log_p = token_logps(student, completion), token_logps(teacher, completion).detach()
        ratio = (log_p - log_q).detach()
        wanted = sum(-ratio[t:].sum() * log_q[t] for t in range(len(completion)))
        got = gradient(loss_of(trainer, record_of([completion])), student)
        torch.testing.assert_close(got, gradient(wanted, student), rtol=1e-8, atol=1e-10)


def test_every_completion_gets_its_own_gradient(student, teacher, tokenizer, tmp_path):
    completion_oracle(student, teacher, tokenizer, tmp_path)


@pytest.mark.parametrize("mutation", ["advantage with gradient", "anchor with gradient"])
def test_missing_stop_gradients_are_seen(mutation, student, teacher, tokenizer, tmp_path, monkeypatch):
    if mutation == "advantage with gradient":  # the student's part of A_t is not a constant
        monkeypatch.setattr(
            module,
            "surrogate",
            lambda logps, anchor, a, **k: -(logps - anchor.detach()).exp() * (a - logps + logps.detach()),
        )
    else:
        monkeypatch.setattr(module, "surrogate", lambda logps, anchor, a, **k: -(logps - logps).exp() * a)
    with pytest.raises(AssertionError):
        completion_oracle(student, teacher, tokenizer, tmp_path)


# LUFFY: completions that the data give.


def given_oracle(student, tokenizer, folder, shape=0.1):
    """The closed form of the shaped ratio's slope on what is given, the plain policy gradient on the rest."""
    settings = {"num_generations": 4, "given_completions": 1, "given_shape": shape}
    trainer = trainer_of(student, folder, tokenizer, settings=settings, advantage=GroupReward("none"))
    some = ALL[::9][:4]
    given, rewards = torch.tensor([False, True, True, False]), torch.tensor([0.7, 1.0, -0.4, 0.3]).double()
    record = record_of(some, rewards=rewards.unsqueeze(1), given=given)
    got = gradient(loss_of(trainer, record), student)
    wanted = 0
    for completion, theirs, reward in zip(some, given.tolist(), rewards.tolist(), strict=True):
        log_q = token_logps(student, completion)
        q = log_q.detach().exp()
        shaped = q if shape is None else shape * q / (q + shape).square()
        slope = shaped if theirs else torch.ones_like(q)
        wanted = wanted - reward * (slope * log_q).sum()
    closer(got, gradient(wanted, student))


@pytest.mark.parametrize("shape", [0.1, 0.5, None])
def test_what_is_given_is_learnt_by_the_shaped_ratio(shape, student, tokenizer, tmp_path):
    given_oracle(student, tokenizer, tmp_path, shape)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logps, a, shape: -a * logps,  # SFT weighed by the advantage
        lambda logps, a, shape: -a * logps.exp(),  # the ratio as it is
        lambda logps, a, shape: (
            -a * logps.exp() / (logps.exp().detach() + shape)
        ),  # a part of the slope is missing
        lambda logps, a, shape: a * logps.exp() / (logps.exp() + shape),
    ],
)
def test_mutations_of_the_shaped_ratio_are_seen(wrong, student, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "shaped_surrogate", wrong)
    with pytest.raises(AssertionError):
        given_oracle(student, tokenizer, tmp_path)


# G-OPD: two equal forms.


def extrapolation_oracle(student, teacher, base, extra, tokenizer, folder, advantage=None):
    mixture = (1 + extra) * every_next(teacher) - extra * every_next(base)
    wanted = gradient(positions_kl(student, reverse(mixture.log_softmax(-1))), student)
    advantage = advantage or Sum([LogRatio(), LogRatio(0, 1, weight=extra)])
    trainer = trainer_of(student, folder, tokenizer, teachers=[teacher, base], advantage=advantage)
    closer(expected(trainer, student), wanted)


@pytest.mark.parametrize("extra", [0.25, -0.5])
def test_sampled_extrapolation_is_the_exact_reverse_kl_to_the_mixture(
    extra, student, teacher, tokenizer, tmp_path
):
    extrapolation_oracle(student, teacher, model(2), extra, tokenizer, tmp_path)


def test_extrapolation_from_the_wrong_side_is_seen(student, teacher, tokenizer, tmp_path):
    wrong = Sum([LogRatio(), LogRatio(1, 0, weight=0.25)])
    with pytest.raises(AssertionError):
        extrapolation_oracle(student, teacher, model(2), 0.25, tokenizer, tmp_path, wrong)


def test_extrapolation_of_one_is_plain_distillation(student, teacher, tokenizer, tmp_path):
    one, other = (
        expected(trainer_of(student, tmp_path, tokenizer, teachers=[teacher], advantage=a), student)
        for a in (Sum([LogRatio(), LogRatio(0, "start", weight=0.0)]), LogRatio())
    )
    assert torch.equal(one, other)


# RLAD's anchor.


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_an_anchor_without_teacher_is_grpo_bit_for_bit(loss_type, student, teacher, tokenizer, tmp_path):
    record = record_of(rewards=REWARDS[:, None].float(), group=torch.arange(len(ALL)) // 8)
    settings = {"loss_type": loss_type, "epsilon": 0.2, "steps_per_generation": 2}
    parts = {"advantage": GroupReward(), "rewards": [lambda **_: []]}
    losses = []
    for teachers, share in (((), None), ([teacher], 0.0)):
        own = settings if share is None else {**settings, "anchor_teacher_share": share}
        losses.append(
            loss_of(
                trainer_of(student, tmp_path, tokenizer, teachers=teachers, settings=own, **parts), record
            )
        )
    assert torch.equal(*losses)
    assert torch.equal(*(gradient(loss, student) for loss in losses))


def test_a_teacher_in_the_anchor_moves_the_ratio_and_does_nothing_alone(
    student, teacher, tokenizer, tmp_path
):
    """RLAD: rho = q / (q_old^a p^(1 - a)), and where A = 0 no gradient (unlike a sum with the teacher's log-ratio)."""
    share, clip = 0.4, 0.2
    settings = {"anchor_teacher_share": share, "epsilon": clip}
    parts = {"advantage": GroupReward("none"), "rewards": [lambda **_: []], "teachers": [teacher]}
    trainer = trainer_of(student, tmp_path, tokenizer, settings=settings, **parts)
    wanted, some = 0.0, ALL[::6]
    rewards = torch.tensor([(-1.0) ** n for n in range(len(some))])
    for reward, completion in zip(rewards, some, strict=True):
        log_q, log_p = token_logps(student, completion), token_logps(teacher, completion).detach()
        ratio = (log_q - (1 - share) * log_q.detach() - share * log_p).exp()
        clipped = ratio.clamp(1 - clip, 1 + clip)
        wanted = wanted - torch.minimum(ratio * reward, clipped * reward).sum()
    loss = loss_of(trainer, record_of(some, rewards=rewards[:, None]))
    closer(gradient(loss, student), gradient(wanted, student))
    nothing = loss_of(trainer, record_of(some, rewards=torch.zeros(len(some), 1)))
    assert not gradient(nothing, student).any()


# AOPD.


def asymmetric(student, teachers, tokenizer, folder):
    below = Sign(LogRatio(), sign="non-positive")
    return trainer_of(
        student, folder, tokenizer, teachers=teachers, advantage=Only(LogRatio(), Sign(LogRatio())),
        terms=[Divergence("forward_kl", token_weights=Where(below))],
    )  # fmt: skip


def test_by_sign_a_policy_gradient_or_the_exact_divergence(student, teacher, tokenizer, tmp_path):
    some, wanted = ALL[::5], 0.0
    for completion in some:
        ids = torch.tensor([[2, *completion]])
        log_q, log_p = (m(ids).logits[0].log_softmax(-1)[:-1] for m in (student, teacher))
        for t, token in enumerate(completion):
            gain = float(log_p[t, token] - log_q[t, token])
            forward = (log_p[t].exp() * (log_p[t] - log_q[t])).detach() * 0 + log_p[
                t
            ].exp().detach() * -log_q[t]
            wanted = wanted + (-gain * log_q[t, token] if gain > 0 else forward.sum())
    loss = loss_of(asymmetric(student, [teacher], tokenizer, tmp_path), record_of(some))
    closer(gradient(loss, student), gradient(wanted, student))


def test_a_teacher_that_is_the_student_teaches_nothing(student, tokenizer, tmp_path):
    loss = loss_of(asymmetric(student, [model(0)], tokenizer, tmp_path), record_of())
    assert abs(float(loss)) < 1e-12 and gradient(loss, student).abs().max() < 1e-12


# Terms on the same completions.


def test_the_exact_term_is_what_the_sampled_advantage_estimates(student, teacher, tokenizer, tmp_path):
    exact = trainer_of(student, tmp_path, tokenizer, teachers=[teacher], terms=[Divergence("reverse_kl")])
    sampled = trainer_of(student, tmp_path, tokenizer, teachers=[teacher], advantage=LogRatio())
    closer(expected(sampled, student), expected_terms(exact, student))


def test_the_reverse_kl_on_the_sampled_token_is_the_log_ratio(student, teacher, tokenizer, tmp_path):
    """On-policy distillation as a term and as an advantage: one gradient, completion by completion."""
    term = Divergence("reverse_kl", support=SampledToken())
    as_term = trainer_of(student, tmp_path, tokenizer, teachers=[teacher], terms=[term])
    as_advantage = trainer_of(student, tmp_path, tokenizer, teachers=[teacher], advantage=LogRatio())
    for some in (ALL[3:4], ALL[::4]):
        one, other = (gradient(loss_of(t, record_of(some)), student) for t in (as_term, as_advantage))
        closer(one, other)


@pytest.mark.parametrize(("estimator", "direction"), [("k1", None), ("k2", "reverse"), ("k3", "forward")])
def test_estimators_have_the_gradients_of_their_directions(
    estimator, direction, student, teacher, tokenizer, tmp_path
):
    trainer = trainer_of(student, tmp_path, tokenizer, teachers=[teacher], terms=[SampledKL(estimator)])
    got = expected_terms(trainer, student)
    if direction is None:
        assert got.abs().max() < 1e-10
        return

    log_p = every_next(teacher).detach()
    gap = reverse(log_p) if direction == "reverse" else lambda log_q: -(log_p.exp() * log_q).sum(-1)
    closer(got, gradient(positions_kl(student, gap), student))


def test_a_sum_with_the_log_ratio_is_grpo_with_the_k2_term(student, teacher, tokenizer, tmp_path):
    """KDRL's loss, -J_GRPO + beta k2, and its form as an advantage: one gradient, completion by completion."""
    record = record_of(rewards=REWARDS[:, None].float(), group=torch.arange(len(ALL)) // 8)
    given = {"teachers": [teacher], "rewards": [lambda **_: []]}
    as_sum = trainer_of(
        student, tmp_path, tokenizer, advantage=Sum([GroupReward(), LogRatio(weight=0.05)]), **given
    )
    as_term = trainer_of(
        student, tmp_path, tokenizer, advantage=GroupReward(), terms=[SampledKL("k2", weight=0.05)], **given
    )
    closer(gradient(loss_of(as_sum, record), student), gradient(loss_of(as_term, record), student))


def test_a_term_to_the_start_pulls_back(student, tokenizer, tmp_path):
    """At the start the k3 term is zero; away from it, it is that of the frozen start, whatever the student does."""
    trainer = trainer_of(student, tmp_path, tokenizer, terms=[SampledKL("k3", to="start")])
    first = loss_of(trainer, record_of())
    assert abs(float(first)) < 1e-12
    start = model(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    ratio = chosen(every_next(start)) - chosen(every_next(student))
    wanted = (ratio.expm1() - ratio).sum()
    torch.testing.assert_close(loss_of(trainer, record_of()), wanted.detach(), rtol=1e-10, atol=1e-12)


# Turns.


def turns_oracle(student, teacher, tokenizer, folder):
    some = [y for y in ALL if len(y) == 3][:6]
    written = torch.tensor([[1, 0, 1]] * len(some))
    trainer = trainer_of(
        student, folder, tokenizer, teachers=[teacher], advantage=ReturnToGo(LogRatio()),
        terms=[Divergence("reverse_kl", weight=0.5)],
    )  # fmt: skip
    wanted = 0.0
    for y in some:
        log_q, log_p = token_logps(student, y), token_logps(teacher, y).detach()
        ratio, kl = (log_p - log_q).detach(), next_token_kl(student, teacher, y)
        wanted = wanted - (ratio[0] + ratio[2]) * log_q[0] - ratio[2] * log_q[2] + 0.5 * (kl[0] + kl[2])
    got = gradient(loss_of(trainer, record_of(some, model_tokens=written)), student)
    closer(got, gradient(wanted, student))


def test_what_an_environment_wrote_is_read_and_not_learnt(student, teacher, tokenizer, tmp_path):
    turns_oracle(student, teacher, tokenizer, tmp_path)


def test_a_mask_without_turns_is_seen(student, teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(Record, "mask", property(lambda record: record.rollouts.completion_mask))
    with pytest.raises(AssertionError):
        turns_oracle(student, teacher, tokenizer, tmp_path)


def test_probabilities_are_complete(student):
    torch.testing.assert_close(probabilities(student).sum(), torch.tensor(1.0, dtype=torch.float64))
