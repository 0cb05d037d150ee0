"""Models out of some blocks of deeper ones: they compute what their blocks compute, and are plain models."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    Gemma3TextConfig,
    RobertaConfig,
)

from methods.errors import MethodError
from methods.modeling.core import blocks_of
from methods.modeling.cut import keep_blocks, spread
from tests.methods.conftest import make_model

SMALL = {"vocab_size": 29, "pad_token_id": 0}
ENCODERS = {
    "bert": BertConfig(hidden_size=16, num_hidden_layers=5, num_attention_heads=2, intermediate_size=32, **SMALL),
    "roberta": RobertaConfig(hidden_size=16, num_hidden_layers=5, num_attention_heads=2, intermediate_size=32, **SMALL),
    "distilbert": DistilBertConfig(dim=16, n_layers=5, n_heads=2, hidden_dim=32, **SMALL),
}  # fmt: skip
IDS = torch.tensor([[5, 2, 7, 9], [3, 4, 6, 1]])


def gemma():
    """Blocks of two kinds, of which the configuration keeps a list."""
    config = Gemma3TextConfig(
        hidden_size=16, num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        intermediate_size=32, sliding_window=2, layer_types=["sliding_attention"] * 4 + ["full_attention"], **SMALL,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def deep(kind):
    torch.manual_seed(0)
    if kind in ENCODERS:
        model = AutoModelForSequenceClassification.from_config(copy.deepcopy(ENCODERS[kind]))
    else:
        model = gemma() if kind == "gemma" else make_model(kind, layers=5)
    return model.eval()


@pytest.mark.parametrize(
    ("count", "blocks", "kept"),
    [(1, 12, [0]), (2, 6, [0, 5]), (3, 12, [0, 6, 11]), (6, 12, [0, 2, 4, 7, 9, 11]), (4, 4, [0, 1, 2, 3])],
)
def test_first_and_last_are_among_those_that_are_spread(count, blocks, kept):
    assert spread(count, blocks) == kept


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma", *ENCODERS])
def test_a_cut_model_is_the_whole_one_whose_other_blocks_pass_on_what_they_get(kind, tmp_path):
    whole, kept = deep(kind), [0, 2, 4]
    cut = keep_blocks(deep(kind), kept)
    for place, block in enumerate(blocks_of(whole)):
        if place not in kept:
            block.register_forward_hook(
                lambda _, given, made: (given[0], *made[1:]) if isinstance(made, tuple) else given[0]
            )
    with torch.no_grad():
        expected, found = whole(input_ids=IDS).logits, cut(input_ids=IDS).logits
    torch.testing.assert_close(found, expected)
    cut.save_pretrained(tmp_path)
    read, told = type(cut).from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and len(blocks_of(read)) == 3
    with torch.no_grad():
        torch.testing.assert_close(read.eval()(input_ids=IDS).logits, found)


def cached_logits(model, ids):
    """Logits of the last token, read token by token with transformers' own cache."""
    cache = None
    with torch.no_grad():
        for token in ids:
            said = model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = said.past_key_values
    return said.logits[0, -1]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma"])
def test_its_cache_has_as_many_parts_as_it_has_blocks(kind):
    """Token by token with a cache against the whole text at once; two blocks of one number would share a part of it."""
    cut, ids = keep_blocks(deep(kind), [1, 4]), [5, 2, 7, 9, 3]
    with torch.no_grad():
        whole = cut(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(cached_logits(cut, ids), whole)
    for module in cut.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = 0
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        torch.testing.assert_close(cached_logits(cut, ids), whole)


def test_lists_of_the_configuration_lose_what_the_model_loses():
    assert keep_blocks(deep("gemma"), 2).config.layer_types == ["sliding_attention", "full_attention"]


@pytest.mark.parametrize("keep", [0, 6, [], [0, 5], [1, 1], [-1]])
def test_blocks_that_are_not_there_are_refused(keep):
    with pytest.raises(MethodError, match="blocks"):
        keep_blocks(deep("llama"), keep)
