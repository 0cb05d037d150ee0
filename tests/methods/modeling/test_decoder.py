"""The written-out Llama against transformers' own; and which models are left to themselves."""

import pytest
import torch
from torch import nn

from methods.modeling import decoder
from methods.modeling.core import position_ids
from methods.modeling.decoder import ByForward, WrittenOut, decoder_for, is_written_out
from methods.modeling.rollouts import left_pad, rollout
from tests.methods.conftest import make_model

PROMPTS = [[5, 2], [7, 8, 9, 2, 11], [4, 2, 6], [3, 9, 2, 5, 5]]
NEW = 5


def masked(prompts=PROMPTS):
    ids, mask = left_pad(prompts, 0, torch.device("cpu"))
    return ids, torch.cat([mask, torch.ones(len(ids), NEW, dtype=mask.dtype)], 1)


def said(decode, ids, mask, tokens, change=lambda step, decode: None):
    """Logits (B, V) behind the prompts, and behind each of the columns of `tokens` (B, C)."""
    positions = position_ids(mask[:, : ids.shape[1]])
    found = [decode(ids, positions)]
    for step, column in enumerate(tokens.T):
        change(step, decode)
        positions = positions[:, -1:] + 1
        found.append(decode(column[:, None], positions))
    return torch.stack(found)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_logits_are_those_of_a_whole_pass_over_each_row_alone(padded, tied):
    """No cache, no padding, no batch in the oracle: a forward pass over what a row has said so far."""
    model = make_model(seed=3, layers=3, rms_norm_eps=1e-3, tie_word_embeddings=tied).eval()
    for parameter in model.parameters():
        parameter.data *= 0.7  # logits of ordinary size
    prompts = PROMPTS if padded else [PROMPTS[1], PROMPTS[3]]
    ids, mask = masked(prompts)
    tokens = torch.randint(3, 29, (len(ids), NEW - 1), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        found = said(decoder_for(model, mask), ids, mask, tokens)
        for row, prompt in enumerate(prompts):
            whole = model(torch.tensor([prompt + tokens[row].tolist()])).logits[0, len(prompt) - 1 :]
            torch.testing.assert_close(found[:, row], whole, atol=1e-5, rtol=1e-5)


def test_the_oracle_sees_a_wrong_angle_and_a_wrong_mask():
    model = make_model(seed=3, layers=3).eval()
    ids, mask = masked()
    tokens = torch.randint(3, 29, (len(ids), NEW - 1))
    with torch.no_grad():
        right = said(ByForward(model, mask), ids, mask, tokens)
        assert (said(WrittenOut(model, mask), ids, mask, tokens) - right).abs().max() < 1e-5
        turned = WrittenOut(model, mask)
        turned.sin = -turned.sin
        unmasked = WrittenOut(model, torch.ones_like(mask))
        for wrong in (turned, unmasked):
            assert (said(wrong, ids, mask, tokens) - right).abs().max() > 1e-2


@pytest.mark.parametrize("kind", [WrittenOut, ByForward])
def test_rows_that_are_kept_or_repeated_go_on_as_they_were(kind):
    model = make_model(seed=1).eval()
    ids, mask = masked()
    tokens = torch.randint(3, 29, (len(ids), NEW - 1))
    with torch.no_grad():
        right = said(kind(model, mask), ids, mask, tokens)
        one, places = kind(model, mask), torch.tensor([3, 0])
        one(ids, position_ids(mask[:, : ids.shape[1]]))
        one.keep(places)
        one.repeat(3)
        positions = (position_ids(mask)[:, ids.shape[1] : ids.shape[1] + 1])[places].repeat_interleave(3, 0)
        column = tokens[places, :1].repeat_interleave(3, 0)
        assert (one(column, positions) - right[1, places].repeat_interleave(3, 0)).abs().max() < 1e-5


def test_in_double_precision_too_as_transformers_normalises():
    model = make_model(seed=2).double().eval()
    ids, mask = masked()
    tokens = torch.randint(3, 29, (len(ids), NEW - 1))
    with torch.no_grad():
        both = [said(kind(model, mask), ids, mask, tokens) for kind in (WrittenOut, ByForward)]
    assert (both[0] - both[1]).abs().max() < 1e-6


@pytest.mark.parametrize("settings", [{"greedy": True}, {}, {"temperature": 0.6}])
def test_rollouts_are_those_of_the_models_own_forward(settings, monkeypatch):
    """Greedy and sampled tokens, given the same random numbers."""
    student, teacher = make_model(seed=4), make_model(seed=5, width=24)
    for more in ({}, {"teacher": teacher, "teacher_mix": 0.4}):

        def made(more=more):
            draws = torch.Generator().manual_seed(2)
            limits = {"max_new_tokens": 9, "eos_ids": [1, 6, 9], "pad_id": 0}
            return rollout(student, PROMPTS * 30, generator=draws, **limits, **settings, **more)

        with monkeypatch.context() as patch:
            patch.setattr(decoder, "is_written_out", lambda model: False)
            by_forward = made()
        written = made()
        assert is_written_out(student)
        assert torch.equal(written.completion_ids, by_forward.completion_ids)
        assert torch.equal(written.completion_mask, by_forward.completion_mask)


def hooked(model):
    model.model.layers[0].register_forward_hook(lambda *a: None)


def adapted(model):
    from peft import LoraConfig, get_peft_model

    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))


def autocasting(model):
    model._original_forward = model.forward


def biased(model):
    model.lm_head.bias = nn.Parameter(torch.ones(29))


def halved(model):
    model.to(torch.bfloat16)


@pytest.mark.parametrize("change", [hooked, adapted, autocasting, biased, halved])
def test_a_llama_that_computes_something_else_is_left_to_itself(change):
    model = make_model()
    assert is_written_out(model)
    change(model)
    assert not is_written_out(model)


def test_other_models_are_left_to_themselves():
    assert not is_written_out(make_model("gpt2"))
    assert not is_written_out(
        make_model(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    )
    assert not is_written_out(make_model(attention_bias=True))
    assert not is_written_out(make_model(hidden_act="gelu"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_written_out(make_model())
    # A module that learns along is part of a student in training, and of no forward pass.
    model = make_model()
    model.add_module("loss_terms", nn.ModuleList([nn.Conv1d(1, 1, 1)]))
    assert is_written_out(model)
