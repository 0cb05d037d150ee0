"""Trimmed tokenizers and models behave as the originals do on kept text."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reproductions.engine.errors import KDError
from reproductions.models import trimming

TEXTS = [
    "Question: Tom has 12 apples and gives 5 away. How many are left?\nAnswer:",
    " He has 12-5=7 apples left.\n#### 7",
    "the theory of the other thing is that they gather together",
]
UNSEEN = "Überraschung! 日本 quixotic zebra \t tabs"


def byte_level_bpe(texts, size=400):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|other|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>")


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_bpe([*TEXTS * 20, UNSEEN, "gathering feathers " * 9])


@pytest.fixture(scope="module")
def trimmed(tokenizer):
    used = trimming.used_tokens(tokenizer, TEXTS[:2])
    names = {"pad": "<|endoftext|>", "eos": "<|im_end|>"}
    return trimming.trim_tokenizer(tokenizer, used, ["<|endoftext|>", "<|im_end|>"], **names)


def test_kept_text_is_cut_as_before(tokenizer, trimmed):
    small, ids = trimmed
    assert len(small) == len(ids) < len(tokenizer)
    for text in TEXTS[:2]:
        before, after = tokenizer(text)["input_ids"], small(text)["input_ids"]
        assert [ids[i] for i in after] == before
        assert small.decode(after) == text


def test_any_other_text_still_encodes(trimmed):
    small, _ = trimmed
    for text in (TEXTS[2], UNSEEN):
        assert small.decode(small(text)["input_ids"]) == text


def test_special_tokens_survive(tokenizer, trimmed):
    small, ids = trimmed
    assert small.pad_token_id != small.eos_token_id
    assert small("a<|im_end|>")["input_ids"][-1] == small.eos_token_id
    assert ids[small.eos_token_id] == tokenizer.eos_token_id
    assert "<|other|>" not in small.get_vocab()


def test_a_missing_special_token_is_an_error(tokenizer):
    with pytest.raises(KDError, match="no special token <nope>"):
        trimming.trim_tokenizer(tokenizer, set(), ["<nope>"], pad="<nope>", eos="<nope>")


def llama(size, layers=4):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def test_a_trimmed_model_gives_the_logits_of_the_kept_tokens(tokenizer, trimmed):
    small, ids = trimmed
    model = llama(len(tokenizer))
    cut = trimming.trim_vocabulary(model, ids, pad_id=small.pad_token_id, eos_id=small.eos_token_id).eval()
    assert cut.config.vocab_size == len(ids)
    with torch.no_grad():
        whole = model(**tokenizer(TEXTS[:1], return_tensors="pt", return_token_type_ids=False)).logits
        part = cut(**small(TEXTS[:1], return_tensors="pt", return_token_type_ids=False)).logits
    assert torch.allclose(part, whole[..., ids], atol=1e-5)
    assert cut.get_input_embeddings().weight is cut.get_output_embeddings().weight


def test_kept_layers_are_the_ones_asked_for():
    model = llama(30)
    cut = trimming.keep_layers(model, [0, 2, 3])
    assert cut.config.num_hidden_layers == 3
    for new, old in enumerate([0, 2, 3]):
        a, b = cut.model.layers[new].state_dict(), model.model.layers[old].state_dict()
        assert all(torch.equal(a[name], b[name]) for name in b)
    same = trimming.keep_layers(model, range(4)).eval()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(same(ids).logits, model(ids).logits)
