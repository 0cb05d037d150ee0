"""Sampling, and probabilities of what was sampled, against loops without cache and padding."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from reproductions.metrics.decoding import sampling as ev
from reproductions.metrics.decoding.decoder import uniforms

EOS, PAD, V = 1, 0, 23


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    torch.manual_seed(0)
    if request.param == "gpt2":
        config = GPT2Config(
            vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=40, initializer_range=0.5
        )
        config.bos_token_id = config.eos_token_id = EOS
        return GPT2LMHeadModel(config)  # in training mode, with dropout: sampling must switch that off
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=40,
            initializer_range=0.5,
        )
    )


def prompts():
    ids = torch.tensor([[PAD, PAD, 5, 6], [7, 8, 9, 10], [PAD, 11, 12, 13]])
    return ids, (ids != PAD).long()


def draw(model, uniforms, rows=slice(None), tokens=12):
    ids, mask = prompts()
    return ev.sample(
        model,
        ids[rows],
        mask[rows],
        max_new_tokens=tokens,
        eos_ids=[EOS],
        pad_id=PAD,
        uniforms=None if uniforms is None else uniforms[rows],
    )


def test_greedy_decoding_equals_a_loop_without_cache_and_padding(model):
    found = draw(model, None)
    model.eval()
    ids, mask = prompts()
    for row in range(3):
        text = ids[row][mask[row].bool()].tolist()
        for step in range(12):
            with torch.no_grad():
                logp = model(input_ids=torch.tensor([text])).logits[0, -1].log_softmax(-1)
            token = int(logp.argmax())
            assert found.mask[row, step]
            assert int(found.ids[row, step]) == token
            assert float(found.logprobs[row, step]) == pytest.approx(float(logp[token]), abs=1e-4)
            if token == EOS:
                assert not found.mask[row, step + 1 :].any()
                break
            text.append(token)


def test_a_row_is_drawn_the_same_alone_and_in_a_batch(model):
    uniforms = torch.rand(3, 12, generator=torch.Generator().manual_seed(4))
    together = draw(model, uniforms)
    for row in range(3):
        alone = draw(model, uniforms, slice(row, row + 1))
        assert torch.equal(alone.ids[0], together.ids[row])


@pytest.mark.parametrize("together", [1, 5, 512])
def test_answers_that_begin_alike_are_drawn_as_each_alone(model, monkeypatch, together):
    """Six answers to each prompt, some of which share their first tokens, in blocks of any size."""
    ids, mask = prompts()
    common = {"max_new_tokens": 6, "eos_ids": [EOS, 4], "pad_id": PAD, "temperature": 0.7}
    uniforms = torch.rand(18, 6, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(ev, "TOGETHER", together)
    found = ev.sample(model, ids, mask, uniforms=uniforms, **common)
    firsts = found.ids[:, 0].view(6, 3)
    assert any(len(set(column)) < 6 for column in firsts.T.tolist()), "none begin alike"
    assert len(set(found.mask.sum(1).tolist())) > 1, "all end together"
    for row in range(18):
        one = slice(row % 3, row % 3 + 1)
        alone = ev.sample(model, ids[one], mask[one], uniforms=uniforms[row : row + 1], **common)
        assert torch.equal(alone.ids[0], found.ids[row])
        assert torch.equal(alone.mask[0], found.mask[row])
        assert torch.allclose(alone.logprobs[0], found.logprobs[row], atol=1e-4)


def test_a_temperature_divides_the_logits(model):
    uniforms = torch.rand(3, 1, generator=torch.Generator().manual_seed(5))
    ids, mask = prompts()
    found = ev.sample(
        model, ids, mask, max_new_tokens=1, eos_ids=[EOS], pad_id=PAD, uniforms=uniforms, temperature=0.4
    )
    with torch.no_grad():
        for row in range(3):
            logits = model.eval()(ids[row][mask[row].bool()][None]).logits[0, -1]
            p = (logits.double() / 0.4).softmax(-1)
            token = int((p.cumsum(0) <= float(uniforms[row])).sum())
            assert int(found.ids[row, 0]) == token
            assert float(found.logprobs[row, 0]) == pytest.approx(float(p[token].log()), abs=1e-4)


def test_sampling_leaves_the_training_mode_as_it_was(model):
    for mode in (True, False):
        model.train(mode)
        draw(model, None, tokens=1)
        assert model.training is mode


def test_completion_logprobs_are_those_of_the_sampling(model):
    samples = draw(model, torch.rand(3, 12, generator=torch.Generator().manual_seed(2)))
    logp = ev.completion_logprobs(model, *prompts(), samples)
    assert logp.shape == (3, 12, V)
    again = logp.gather(-1, samples.ids[..., None])[..., 0] * samples.mask
    assert torch.allclose(again, samples.logprobs, atol=1e-4)


def test_inverting_the_distribution_gives_its_frequencies():
    logp = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3]).log()
    u = torch.linspace(0, 1 - 2**-24, 1000)[:, None]
    counts = torch.bincount(ev.invert(logp.expand(1000, 5), u)[:, 0], minlength=5)
    assert counts[[0, 2]].tolist() == [0, 0]
    assert (counts / 1000).tolist() == pytest.approx([0, 0.5, 0, 0.2, 0.3], abs=0.002)


def test_finished_and_answers():
    ids = torch.tensor([[4, 5, EOS, PAD], [4, 5, 6, 7], [EOS, PAD, PAD, PAD]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    samples = ev.Samples(ids, mask, torch.zeros(3, 4))
    assert samples.finished([EOS]).tolist() == [True, False, True]
    assert samples.answers([EOS]) == [[4, 5], [4, 5, 6, 7], []]


def test_accumulated_kl_by_hand():
    p = torch.tensor([[[0.5, 0.5], [0.0, 1.0], [0.9, 0.1]]]).log()
    q = torch.tensor([[[0.25, 0.75], [0.5, 0.5], [0.2, 0.8]]]).log()
    by_hand = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75) + math.log(2)
    got = ev.accumulated_kl(p, q, torch.tensor([[True, True, False]]))
    assert float(got) == pytest.approx(by_hand)


def test_a_draw_belongs_to_its_seed_copy_row_and_place():
    """However many rows, copies and tokens there are; and every number is another."""
    drawn = uniforms(3, 50, 4, 7)
    assert drawn.shape == (4, 50, 7) and drawn.dtype == torch.float32
    assert torch.equal(uniforms(3, 20, 2, 7), drawn[:2, :20])
    assert float(drawn.min()) >= 0 and float(drawn.max()) < 1
    others = torch.stack([drawn, uniforms(4, 50, 4, 7), uniforms(2**40 + 3, 50, 4, 7)])
    assert len(others.unique()) > 0.999 * others.numel()
    assert float(others.mean()) == pytest.approx(0.5, abs=0.02)
