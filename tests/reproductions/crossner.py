"""A replica of CrossNER in its published form, and of a Gemma with byte-fallback tokens beside SmolLM2."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from reproductions.tasks.extraction import DOMAINS
from tests.reproductions.replicas import NAMES, write_rows

TEACHER, STUDENT = "google/gemma-3-270m", "HuggingFaceTB/SmolLM2-135M-Instruct"


def conversation(sentence, **answers):
    turns = [f"Text: {sentence}", "I've read this text."]
    for kind, entities in answers.items():
        turns += [f"What describes {kind} in the text?", json.dumps(entities)]
    return {"id": "0", "conversations": [{"from": "x", "value": turn} for turn in turns]}


def conversations():
    rows = []
    for i in range(40):
        name, place = NAMES[i % 10], f"{NAMES[i % 7]}ville {i}"
        rows.append(
            conversation(f"{name} lives in {place} .", person=[name], location=[place, place], event=[])
        )
        rows.append(conversation(f"{name} lives in {place} .", person=[name]))
    rows.append(conversation("long " * 40, person=["long"]))
    rows.append(conversation("A , B and C .", person=["A", "B", "C"]))
    return rows


def byte_fallback_bpe(texts):
    """As Gemma's: blanks become a sign, unknown characters bytes, BOS in front, several merges for one token."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    single = [f"<0x{byte:02X}>" for byte in range(256)]
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=420, special_tokens=[*special, *single]))
    described = json.loads(core.to_str())
    vocab, merges = described["model"]["vocab"], described["model"]["merges"]
    known = {tuple(pair) for pair in merges}
    more = [  # what SentencePiece's list has: every split of a token whose halves are tokens
        [token[:i], token[i:]]
        for token in vocab
        for i in range(1, len(token))
        if token not in (*special, *single) and token[:i] in vocab and token[i:] in vocab
    ]
    described["model"]["merges"] = merges + [pair for pair in more if tuple(pair) not in known]
    described["added_tokens"] = [e for e in described["added_tokens"] if e["content"] in special]
    core = Tokenizer.from_str(json.dumps(described))
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def gemma_tokenizer():
    return byte_fallback_bpe([turn["value"] for row in conversations() for turn in row["conversations"]])


@pytest.fixture(scope="session")
def crossner_root(replicas, tmp_path_factory, gemma_tokenizer):
    """Folders `models` and `data` with both."""
    config = Gemma3TextConfig(
        vocab_size=len(gemma_tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("crossner")
    folder = root / "models"
    (folder / STUDENT).parent.mkdir(parents=True)
    (folder / STUDENT).symlink_to(replicas / "models" / STUDENT)
    Gemma3ForCausalLM(config).save_pretrained(folder / TEACHER)
    gemma_tokenizer.save_pretrained(folder / TEACHER)
    for domain in DOMAINS:
        rows = conversations() if domain == "ai" else conversations()[-2:]
        write_rows(root / "data/crossner" / f"{domain}.jsonl", rows)
    return root


@pytest.fixture
def crossner(crossner_root, monkeypatch):
    """KD_DATA_DIR and KD_MODEL_DIR with both."""
    monkeypatch.setenv("KD_MODEL_DIR", str(crossner_root / "models"))
    monkeypatch.setenv("KD_DATA_DIR", str(crossner_root / "data"))
    return crossner_root
