"""Decoding with a cache is refused for a model that would not read it."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, RwkvConfig

from methods.errors import MethodError
from methods.modeling.latent_reasoning import attach_latent, think
from methods.modeling.rollouts import rollout
from methods.modeling.speculative import speculate
from tests.methods.conftest import make_model

SMALL = {"vocab_size": 29, "hidden_size": 16, "num_hidden_layers": 2}
LIMITS = {"max_new_tokens": 4, "eos_ids": [1], "pad_id": 0}


@pytest.fixture(params=["mamba", "rwkv"])
def recurrent(request):
    """A model whose forward swallows `past_key_values` among other words it does not know, or fails on it."""
    kinds = {
        "mamba": MambaConfig(**SMALL, state_size=4),
        "rwkv": RwkvConfig(**SMALL, attention_hidden_size=16),
    }
    return AutoModelForCausalLM.from_config(kinds[request.param])


def test_a_rollout_is_refused(recurrent):
    with pytest.raises(MethodError, match="ForCausalLM reads no key-value cache"):
        rollout(recurrent, [[5, 6]], **LIMITS)
    with pytest.raises(MethodError, match="reads no key-value cache"):  # as the teacher of a mixture
        rollout(make_model(), [[5, 6]], teacher=recurrent, teacher_mix=0.5, **LIMITS)


def test_speculative_decoding_is_refused(recurrent):
    for target, draft in ((recurrent, make_model()), (make_model(), recurrent)):
        with pytest.raises(MethodError, match="reads no key-value cache"):
            speculate(target, draft, [[5, 6]], **LIMITS)


def test_latent_thoughts_are_refused(recurrent):
    attach_latent(recurrent, steps=2, begin_id=3, end_id=4)
    with pytest.raises(MethodError, match="reads no key-value cache"):
        think(recurrent, torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.long))
