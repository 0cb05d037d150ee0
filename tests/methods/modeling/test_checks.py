"""Heads that are not what they seem, positions that end, ids that a model does not know."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BertConfig, OPTConfig, RobertaConfig

from methods.errors import MethodError
from methods.modeling.checks import check_head, check_ids, learned_positions
from tests.methods.conftest import make_model

SMALL = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def made(kind, **more):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | more))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=2.0)
    return model


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("gemma2", {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 2.0}),
        ("granite", {"intermediate_size": 32, "num_key_value_heads": 2, "logits_scaling": 8.0}),
        ("cohere", {"intermediate_size": 32, "num_key_value_heads": 2}),
        ("gpt2", {}),
    ],
)  # fmt: skip
def test_heads_that_are_known(kind, more):
    model = made(kind, **more).train()
    check_head(model)
    assert model.training, "left as it was"
    check_head(model.to(torch.bfloat16))


def test_a_head_under_another_name_is_refused():
    """RecurrentGemma caps its logits by `logits_soft_cap`: the losses were of another model, by up to 7 nats."""
    hybrid = {"num_hidden_layers": 3, "intermediate_size": 96, "num_key_value_heads": 1, "lru_width": 16}
    model = made("recurrent_gemma", **hybrid, attention_window_size=16, head_dim=8, logits_soft_cap=2.0)
    with pytest.raises(MethodError, match=r"RecurrentGemmaForCausalLM: the logits .* differ by up to"):
        check_head(model)


def test_an_encoder_with_a_head_is_refused():
    """Its attention reads the answer that it is to learn: the loss falls to nothing, and it cannot write a word."""
    parts = {"intermediate_size": 32, "max_position_embeddings": 32}
    with pytest.raises(
        MethodError, match="BertLMHeadModel: what it says after a token depends on the tokens that"
    ):
        check_head(made("bert", **parts))


def test_logits_of_other_ids_are_refused():
    class Cut(type(make_model())):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits[..., :20]
            return out

    with pytest.raises(MethodError, match="have 29 ids, its own 20"):
        check_head(Cut(make_model().config))


def test_only_learned_positions_end():
    with torch.device("meta"):  # no weights are needed for it
        gpt2 = AutoModelForCausalLM.from_config(make_model("gpt2").config)
        opt = AutoModelForCausalLM.from_config(OPTConfig(**SMALL, ffn_dim=32, max_position_embeddings=40))
        bert, roberta = (
            AutoModel.from_config(kind(**SMALL, intermediate_size=32, max_position_embeddings=42))
            for kind in (BertConfig, RobertaConfig)
        )
    assert learned_positions(gpt2) == 64
    assert learned_positions(opt) == 40
    assert learned_positions(bert) == 42
    assert learned_positions(roberta) == 40, "the first comes behind that of the padding"
    assert learned_positions(make_model()) is None


def test_an_id_that_a_model_lacks_is_named(tokenizer):
    check_ids(28, [make_model(), make_model(vocabulary=40)], tokenizer)
    with pytest.raises(
        MethodError, match=r"token 'z' \(id 28\), and LlamaForCausalLM knows the ids 0 to 19 only"
    ):
        check_ids(28, [make_model(), make_model(vocabulary=20)], tokenizer)
