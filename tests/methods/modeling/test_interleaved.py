"""Who writes which token: laws of the rules by enumeration, rollouts against full forward passes, limits."""

import itertools
import math

import pytest
import torch

from methods.errors import MethodError
from methods.modeling.interleaved import (
    Alone,
    HandingOver,
    Speculative,
    Switching,
    forward_kl,
    interleaved,
    jensen_shannon,
    truncated,
)
from methods.modeling.rollouts import rollout
from tests.methods.conftest import make_model

PROMPTS = [[5, 2], [7, 8, 9, 2], [4, 2]]
CPU = torch.device("cpu")


def some(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


def law(rule, q, p):
    """The distribution of the token and the teacher's share, by going through every pair of draws."""
    size, found, by_teacher = len(q), torch.zeros_like(q), 0.0
    for own, theirs in itertools.product(range(size), repeat=2):

        def draw(probs, own=own, theirs=theirs):
            return torch.tensor([own if torch.equal(probs[0], q) else theirs])

        rule.begin(1, CPU)
        token, teacher = rule(q[None], p[None], draw, 0)
        found[token] += q[own] * p[theirs]
        by_teacher += float(q[own] * p[theirs]) * float(teacher)
    return found, by_teacher


def check_speculative(top_k):
    q, p = some(6, seed=1), some(6, seed=2)
    inside = torch.zeros(6, dtype=torch.bool).index_fill(0, p.topk(top_k).indices, True)
    found, by_teacher = law(Speculative(top_k), q, p)
    outside = float(q[~inside].sum())
    torch.testing.assert_close(found, q * inside + outside * p)
    assert by_teacher == pytest.approx(outside)


@pytest.mark.parametrize("top_k", [1, 2, 4, 6])
def test_a_speculative_token_is_the_student_s_within_the_teacher_s_top_k(top_k):
    check_speculative(top_k)


def test_both_may_draw_among_the_likeliest_alone():
    q, p = some(6, seed=1), some(6, seed=2)
    kept = [truncated(side, None, 0.5) for side in (q, p)]
    assert all((side == 0).any() for side in kept)
    drawn = []

    def draw(probs):
        drawn.append(probs[0])
        return probs.argmax(-1)

    token, by_teacher = Speculative(2, 0.5)(q[None], p[None], draw, 0)
    assert torch.equal(torch.stack(drawn), torch.stack(kept))
    accepted = bool((p.topk(2).indices == q.argmax()).any())
    assert bool(by_teacher) is not accepted and int(token) == int((q if accepted else p).argmax())


def both(model, teacher, rule, **settings):
    return interleaved(
        model, teacher, PROMPTS, rule=rule, eos_ids=[1], pad_id=0, **{"max_new_tokens": 6, **settings}
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_ends_of_every_dial_are_one_model_alone(kind):
    student, teacher = make_model(kind, seed=3), make_model(kind, seed=4, width=24)
    own, theirs = (
        rollout(m, PROMPTS, max_new_tokens=6, eos_ids=[1], pad_id=0, greedy=True) for m in (student, teacher)
    )
    for rule, expected in (
        (Speculative(29), own), (Speculative(1), theirs), (Switching(1.0, 0.0), own), (Switching(0.0, 0.0), theirs),
        (HandingOver(1e9), own), (Alone(), own),
    ):  # fmt: skip
        made = both(student, teacher, rule, greedy=True)
        assert torch.equal(made.rollouts.completion_ids, expected.completion_ids), type(rule)
        assert torch.equal(made.rollouts.completion_mask, expected.completion_mask)
        assert torch.equal(made.rollouts.truncated, expected.truncated)
        written = made.by_teacher[expected.completion_mask.bool()]
        if isinstance(rule, Switching):
            assert bool(written.all()) == (expected is theirs)
        elif expected is own:
            assert not written.any()
        assert not made.by_teacher[~expected.completion_mask.bool()].any()


def check_switching():
    """Greedy, prompt by prompt, without cache or padding."""
    student, teacher = make_model(seed=3).eval(), make_model(seed=4, width=24, vocabulary=33).eval()
    rule = Switching(0.6, 0.3)
    made = both(student, teacher, rule, greedy=True)
    switched = []
    for row, prompt in enumerate(PROMPTS):
        ids = list(prompt)
        for place in range(6):
            q, p = (
                m(torch.tensor([ids])).logits[0, -1, :29].detach().softmax(-1) for m in (student, teacher)
            )
            switched.append(float(jensen_shannon(q, p)) > 0.6 * math.exp(-0.3 * place))
            assert bool(made.by_teacher[row, place]) == switched[-1]
            ids.append(int((p if switched[-1] else q).argmax()))
            if ids[-1] == 1:
                break
        kept = made.rollouts.completion_ids[row][made.rollouts.completion_mask[row].bool()].tolist()
        assert kept == ids[len(prompt) :]
    assert any(switched) and not all(switched), "the rule decides something"


def test_each_token_is_what_the_rule_makes_of_full_forward_passes():
    check_switching()


def told(rule, gaps):
    """Who writes, of student and teacher so far apart: KL(p || q) grows with the gap."""
    rule.begin(1, CPU)
    return [bool(rule(*apart(x), lambda probs: probs.argmax(-1), n)[1]) for n, x in enumerate(gaps)]


def apart(gap):
    return torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5 + gap, 0.5 - gap]])


def check_handing_over():
    assert told(HandingOver(2.0, recent=3), [0.4, 0.1, 0.1, 0.1, 0.3, 0.0, 0.0]) == [False] * 4 + [True] * 3


def by_the_student_s_top_k(self, student, teacher, draw, place):
    proposed, instead = draw(student), draw(teacher)
    replaced = (student.topk(min(self.top_k, 6), -1).indices != proposed.unsqueeze(-1)).all(-1)
    return torch.where(replaced, instead, proposed), replaced


def rising(self, student, teacher, draw, place):
    by_teacher = jensen_shannon(student, teacher) > self.threshold * math.exp(self.decay * place)
    return draw(torch.where(by_teacher.unsqueeze(-1), teacher, student)), by_teacher


def there_and_back(self, student, teacher, draw, place):
    gap = forward_kl(student, teacher)
    gone = gap > self.factor * torch.stack(self._seen[-3:]).mean(0) if self._seen else gap < 0
    self._seen.append(gap)
    return draw(student), gone


MUTATIONS = {
    "the student's own top k": (Speculative, by_the_student_s_top_k, lambda: check_speculative(2)),
    "a threshold that rises": (Switching, rising, check_switching),
    "a switch back": (HandingOver, there_and_back, check_handing_over),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_wrong_is_caught(mutation, monkeypatch):
    rule, wrong, check = MUTATIONS[mutation]
    check()
    monkeypatch.setattr(rule, "__call__", wrong)
    with pytest.raises(AssertionError):
        check()


def test_handing_over_is_for_good_and_waits_for_something_to_compare_with():
    gaps = [0.4, 0.1, 0.1, 0.1, 0.3, 0.0, 0.0]
    kls = [float(forward_kl(*apart(x))) for x in gaps]
    assert kls[0] > 3 * kls[4] / 2, "the large first gap is not compared with anything"
    assert told(HandingOver(2.0), gaps) == [False] * 7, "the mean remembers the first gap"
    assert told(HandingOver(2.0, recent=3), gaps) == [False] * 4 + [True] * 3
    assert told(HandingOver(0.5), [0.2, 0.2, 0.0]) == [False, True, True]
    rule = HandingOver(0.5)
    assert told(rule, [0.2, 0.2]) == told(rule, [0.2, 0.2]), "another rollout begins anew"


def test_a_nucleus_is_the_fewest_likeliest_ids():
    probs = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    for top_k, top_p, kept in (
        (None, 1.0, [0, 1, 2, 3]), (2, 1.0, [1, 2]), (None, 0.69, [1, 2]), (None, 0.71, [1, 2, 3]), (3, 0.4, [1]),
        (None, 0.01, [1]),
    ):  # fmt: skip
        assert truncated(probs, top_k, top_p)[0].nonzero().flatten().tolist() == kept
    assert truncated(probs, 2, 1.0)[0, 1] / truncated(probs, 2, 1.0)[0, 2] == pytest.approx(4 / 3)


def test_samples_follow_the_law():
    student, teacher = make_model(seed=1), make_model(seed=2, width=24)
    draws = 20_000
    made = interleaved(
        student, teacher, [[5, 2]] * draws, rule=Speculative(3), max_new_tokens=1, eos_ids=[1], pad_id=0,
        temperature=1.3, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        q, p = (m(torch.tensor([[5, 2]])).logits[0, -1].div(1.3).softmax(-1) for m in (student, teacher))
    inside = torch.zeros(29, dtype=torch.bool).index_fill(0, p.topk(3).indices, True)
    expected = q * inside + q[~inside].sum() * p
    frequency = torch.bincount(made.rollouts.completion_ids[:, 0], minlength=29) / draws
    assert (frequency - expected).abs().max() < 4 * (0.25 / draws) ** 0.5
    assert float(made.by_teacher.float().mean()) == pytest.approx(float(q[~inside].sum()), abs=0.02)


def test_models_get_back_their_mode_and_nothing_is_written_that_one_of_them_lacks():
    student, teacher = make_model(seed=1, vocabulary=33).train(), make_model(seed=2, width=24).train()
    made = both(student, teacher, Switching(0.3, 0.0), temperature=5.0, vocabulary=20)
    assert student.training and teacher.training
    assert int(made.rollouts.completion_ids.max()) < 20
    with pytest.raises(MethodError, match="Speculative needs a teacher"):
        both(student, None, Speculative(2))
    with pytest.raises(MethodError, match="empty prompt"):
        interleaved(student, None, [[]], rule=Alone(), max_new_tokens=2, eos_ids=[1], pad_id=0)
    with pytest.raises(MethodError, match="temperature"):
        both(student, None, Alone(), temperature=0.0)
