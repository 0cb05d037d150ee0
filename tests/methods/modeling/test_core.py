import copy

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.modeling.core import eos_ids, freeze, hidden_states, position_ids, shared_vocabulary, snapshot
from methods.slots.terms import NextToken
from methods.trainers import Distiller, SFTConfig
from tests.methods.conftest import make_model

IDS = torch.tensor([[5, 6, 7]])


def test_snapshot_of_a_trained_model_computes_with_its_own_weights(tokenizer, tmp_path):
    model = make_model(seed=0)
    data = Dataset.from_list([{"prompt": "a|", "completion": "b"}] * 2)
    args = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_steps=1, save_strategy="no",
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    Distiller(model, terms=[NextToken()], args=args, train_dataset=data, processing_class=tokenizer).train()
    model.eval()
    before = model(IDS).logits
    copied, naive = snapshot(model), copy.deepcopy(model)
    for other in (copied, naive):
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
    assert copied(IDS).logits.abs().max() == 0
    assert naive(IDS).logits.abs().max() > 0, "deepcopy is safe again: snapshot() is no longer needed"
    torch.testing.assert_close(model(IDS).logits, before)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_hidden_states_ignore_left_padding(kind):
    model = make_model(kind, seed=0).eval()
    padded, mask = torch.tensor([[0, 0, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1]])
    alone = hidden_states(model, IDS, torch.ones_like(IDS))
    torch.testing.assert_close(hidden_states(model, padded, mask)[:, 2:], alone, rtol=1e-5, atol=1e-5)


def test_positions_count_attended_tokens():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_every_declared_end_of_sequence_token_counts(tokenizer):
    model = make_model()
    model.generation_config.eos_token_id = [7, 9]
    assert eos_ids(model, tokenizer) == [1, 7, 9]
    model.generation_config.eos_token_id = None
    assert eos_ids(model, tokenizer) == [1]
    tokenizer_without = tokenizer.__class__(tokenizer_object=tokenizer._tokenizer, pad_token="<pad>")
    with pytest.raises(MethodError, match="end-of-sequence"):
        eos_ids(model, tokenizer_without)


def test_a_model_without_a_generation_config_ends_with_the_tokenizers_token(tokenizer):
    program = torch.nn.Module()
    assert not hasattr(program, "generation_config")
    assert eos_ids(program, tokenizer) == [tokenizer.eos_token_id]


def test_freeze():
    model = freeze(make_model().train())
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_padded_heads_share_their_leading_ids(tokenizer):
    assert shared_vocabulary(make_model(vocabulary=29), make_model(vocabulary=64), tokenizer, tokenizer) == 29
