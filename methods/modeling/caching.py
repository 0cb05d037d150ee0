"""The key-value cache that token-by-token decoding reads."""

import inspect

from transformers import DynamicCache, PreTrainedModel

from methods.errors import MethodError
from methods.modeling.core import core_model


def key_value_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for `model`.

    Raises MethodError for a model that would not read it: state-space and recurrent ones (Mamba, RWKV, xLSTM) keep a
    state of their own and swallow the argument, so that each token would be made from the one before it alone.
    """
    kind = type(core_model(model))
    if "past_key_values" not in inspect.signature(kind.forward).parameters:
        raise MethodError(
            f"{kind.__name__} reads no key-value cache, so nothing can be decoded from it token by token here: take a "
            "method that trains on given text (word-level KD, SFT), or another model"
        )
    return DynamicCache(config=model.config)
