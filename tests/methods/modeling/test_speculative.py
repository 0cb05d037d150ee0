"""Speculative decoding says what the target alone would say, and counts what it cost."""

import itertools

import pytest
import torch

from methods.errors import MethodError
from methods.losses.divergences import total_variation
from methods.modeling.rollouts import rollout
from methods.modeling.speculative import acceptance_rate, expected_block_efficiency, keep_block, speculate
from tests.methods.conftest import make_model

PROMPTS = [[5], [6, 7, 8, 9], [10, 11], [3, 3, 3]]


def random_probabilities(*shape, seed=0):
    return (
        2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).softmax(-1)


def test_a_block_has_the_targets_distribution_by_enumeration():
    """All proposals of two tokens over three ids, all acceptances, all next tokens: summed up, exactly the target's."""
    size, block = 3, 2
    target = {
        c: random_probabilities(size, seed=hash(c) % 1000)
        for n in range(3)
        for c in itertools.product(range(size), repeat=n)
    }
    draft = {c: random_probabilities(size, seed=hash(c) % 1000 + 5000) for c in target}
    found = dict.fromkeys(itertools.product(range(size), repeat=block + 1), 0.0)
    for proposal in itertools.product(range(size), repeat=block):
        contexts = [proposal[:i] for i in range(block + 1)]
        p = torch.stack([target[c] for c in contexts]).unsqueeze(0)
        q = torch.stack([draft[c] for c in contexts[:block]]).unsqueeze(0)
        drawn = float(q[0, 0, proposal[0]] * q[0, 1, proposal[1]])
        ratios = [min(1.0, float(p[0, i, x] / q[0, i, x])) for i, x in enumerate(proposal)]
        for kept in range(block + 1):
            # Uniforms that keep exactly so many: the middle of the interval that does.
            chance, uniforms = drawn, []
            for i, ratio in enumerate(ratios):
                if i < kept:
                    chance, u = chance * ratio, ratio / 2
                else:
                    chance, u = chance * (1 - ratio) if i == kept else chance, (1 + ratio) / 2
                uniforms.append(u)
            if chance == 0:
                continue
            number, rest = keep_block(p, q, torch.tensor([proposal]), torch.tensor([uniforms]).double())
            assert int(number) == kept
            for token in range(size):
                said = (*proposal[:kept], token)
                # What the block left open the target says by itself.
                for tail in itertools.product(range(size), repeat=block - kept):
                    whole, weight = said, chance * float(rest[0, token])
                    for x in tail:
                        weight *= float(target[whole][x])
                        whole = (*whole, x)
                    found[whole] += weight
    for whole, probability in found.items():
        expected = 1.0
        for i, x in enumerate(whole):
            expected *= float(target[whole[:i]][x])
        assert probability == pytest.approx(expected, rel=1e-9)


def test_the_share_that_is_kept_is_one_minus_the_total_variation():
    z, t = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, p = z.softmax(-1), t.softmax(-1)
    torch.testing.assert_close(acceptance_rate(z, t), torch.minimum(p, q).sum(-1))
    torch.testing.assert_close(
        acceptance_rate(z, t, temperature=2.0), 1 - total_variation(z, t, temperature=2.0)
    )
    # A grid of uniforms over all tokens, weighed by the draft: the same by counting.
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for row in range(6):
        share = 0.0
        for token in range(9):
            kept, _ = keep_block(
                p[row].expand(1000, 2, 9),
                q[row].expand(1000, 1, 9),
                torch.full((1000, 1), token),
                grid.unsqueeze(1),
            )
            share += float(q[row, token]) * float(kept.double().mean())
        assert share == pytest.approx(float(acceptance_rate(z[row], t[row])), abs=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("block_length", [1, 3, 6])
def test_greedy_answers_are_those_of_the_target(kind, block_length):
    target = make_model(kind, seed=1, width=24)
    common = {"max_new_tokens": 9, "eos_ids": [1, 4], "pad_id": 0, "greedy": True}
    expected = rollout(target, PROMPTS, **common)
    wanted = [
        ids[m.bool()].tolist()
        for ids, m in zip(expected.completion_ids, expected.completion_mask, strict=True)
    ]
    drafts = {"other": make_model(kind, seed=2), "itself": target}
    for name, draft in drafts.items():
        got = speculate(target, draft, PROMPTS, block_length=block_length, **common)
        assert got.answers() == wanted
        assert got.truncated.tolist() == expected.truncated.tolist()
        assert got.tokens.tolist() == [len(a) for a in wanted]
        if name == "itself":  # everything is kept: block_length + 1 tokens a call
            assert torch.equal(got.accepted, got.examined)
            assert got.target_calls.tolist() == [-(-len(a) // (block_length + 1)) for a in wanted]


def exact_distribution(model, prompt, length, eos):
    """Probability of every answer of at most `length` tokens, by plain forward passes without a cache."""
    done, open_ = {}, {(): 1.0}
    for _ in range(length):
        following = {}
        for said, chance in open_.items():
            logits = model(input_ids=torch.tensor([[*prompt, *said]])).logits[0, -1].double()
            for token, p in enumerate(logits.softmax(-1).tolist()):
                (done if token == eos else following)[(*said, token)] = chance * p
        open_ = following
    return done | open_


@pytest.mark.parametrize(("kind", "block_length"), [("llama", 2), ("gpt2", 3)])
@torch.no_grad()
def test_samples_have_the_targets_distribution(kind, block_length):
    """Chi-square over all answers of up to three tokens, in a batch where another prompt pads them."""
    target, draft = (
        make_model(kind, seed=3, vocabulary=5, width=8),
        make_model(kind, seed=4, vocabulary=5, width=8),
    )
    draws, prompt = 6_000, [2, 3]
    prompts = [prompt] * draws + [[4, 3, 2, 2, 3]] * 50
    got = speculate(
        target, draft, prompts, max_new_tokens=3, eos_ids=[1], pad_id=0, block_length=block_length,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    expected = exact_distribution(target, prompt, 3, eos=1)
    counts = dict.fromkeys(expected, 0)
    for answer in got.answers()[:draws]:
        counts[tuple(answer)] += 1
    common = [a for a, p in expected.items() if p * draws >= 5]
    rare = draws - sum(counts[a] for a in common), draws - sum(expected[a] * draws for a in common)
    cells = [(counts[a], expected[a] * draws) for a in common] + ([rare] if rare[1] >= 5 else [])
    statistic = sum((n - e) ** 2 / e for n, e in cells)
    freedom = len(cells) - 1
    assert freedom > 15
    # Wilson and Hilferty's approximation of the 99.99 % quantile of chi-square.
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3
    # The same test does see a wrong distribution: the draft's own samples.
    alone = rollout(
        draft,
        [prompt] * draws,
        max_new_tokens=3,
        eos_ids=[1],
        pad_id=0,
        generator=torch.Generator().manual_seed(0),
    )
    wrong = dict.fromkeys(expected, 0)
    for ids, m in zip(alone.completion_ids, alone.completion_mask, strict=True):
        wrong[tuple(ids[m.bool()].tolist())] += 1
    assert sum((wrong[a] - expected[a] * draws) ** 2 / (expected[a] * draws) for a in common) > 10 * freedom


def constant_logits(model, seed):
    """The same next-token distribution everywhere: proposals are then independent of each other."""
    for block in model.model.layers:
        for layer in (block.self_attn.o_proj, block.mlp.down_proj):
            torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = 1.0
        model.lm_head.weight.copy_(
            0.2 * torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(seed))
        )
    return model


def test_counts_are_those_that_the_acceptance_rate_foretells():
    target, draft = (constant_logits(make_model(seed=s, vocabulary=12), s) for s in (1, 2))
    with torch.no_grad():
        z, t = (m(input_ids=torch.tensor([[5, 6]])).logits[0] for m in (draft, target))
        rate = float(acceptance_rate(z[-1], t[-1]))
    torch.testing.assert_close(t[0], t[1])
    assert 0.4 < rate < 0.95
    got = speculate(
        target, draft, [[5]] * 500, max_new_tokens=40, eos_ids=[99], pad_id=0, block_length=3,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert got.truncated.all() and (got.tokens == 40).all()
    assert float(got.accepted.sum() / got.examined.sum()) == pytest.approx(rate, abs=0.015)
    # The last block is cut by the limit, which costs a little.
    efficiency = float(got.tokens.sum() / got.target_calls.sum())
    assert efficiency == pytest.approx(expected_block_efficiency(rate, 3), rel=0.05)
    # Without cuts every token comes from an accepted proposal or is a call's own.
    assert ((got.tokens - got.accepted) <= got.target_calls).all()


def test_expected_block_efficiency_of_a_case_done_by_hand():
    assert expected_block_efficiency(0.5, 2) == 1.75
    assert expected_block_efficiency(1.0, 4) == 5
    assert expected_block_efficiency(0.0, 4) == 1


@pytest.mark.parametrize(("smaller", "larger"), [("draft", "target"), ("target", "draft")])
def test_heads_of_different_size(smaller, larger):
    sizes = {smaller: 29, larger: 37}
    target = make_model(seed=1, vocabulary=sizes["target"])
    draft = make_model(seed=2, vocabulary=sizes["draft"])
    common = {"max_new_tokens": 6, "eos_ids": [1], "pad_id": 0, "greedy": True}
    expected = rollout(target, PROMPTS, **common)
    if smaller == "draft":  # the target does say what the draft can neither propose nor read
        assert expected.completion_ids.max() >= 29
    got = speculate(target, draft, PROMPTS, block_length=2, **common)
    assert got.answers() == [
        i[m.bool()].tolist() for i, m in zip(expected.completion_ids, expected.completion_mask, strict=True)
    ]


def test_the_answer_of_a_row_does_not_depend_on_its_neighbours():
    target, draft = make_model("gpt2", seed=1), make_model("gpt2", seed=2)
    common = {"max_new_tokens": 8, "eos_ids": [1], "pad_id": 0, "greedy": True, "block_length": 3}
    whole = speculate(target, draft, PROMPTS, **common)
    for i, prompt in enumerate(PROMPTS):
        alone = speculate(target, draft, [prompt], **common)
        assert alone.answers()[0] == whole.answers()[i]
        for name in ("examined", "accepted", "target_calls"):
            assert getattr(alone, name)[0] == getattr(whole, name)[i], name


def test_models_get_back_their_mode_and_bad_input_is_refused():
    target, draft = make_model(seed=1).train(), make_model(seed=2).eval()
    common = {"max_new_tokens": 2, "eos_ids": [1], "pad_id": 0}
    speculate(target, draft, [[5]], **common)
    assert target.training and not draft.training
    with pytest.raises(MethodError, match="empty prompt"):
        speculate(target, draft, [[5], []], **common)
    with pytest.raises(MethodError, match="at least one token"):
        speculate(target, draft, [[5]], block_length=0, **common)
