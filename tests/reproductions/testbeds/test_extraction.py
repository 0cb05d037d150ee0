"""The extraction testbed on replicas: CrossNER's form, a Gemma with byte-fallback tokens, SmolLM2."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from methods.elicitation.labelling import prompt_tokens
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.testbeds import extraction
from reproductions.testbeds.trimming import trim_tokenizer, used_tokens
from tests.reproductions.testbeds.conftest import NAMES, write_rows


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


@pytest.fixture(scope="module")
def gemma_tokenizer():
    return byte_fallback_bpe([turn["value"] for row in conversations() for turn in row["conversations"]])


@pytest.fixture
def testbed(mirrors, tmp_path, monkeypatch, gemma_tokenizer):
    config = Gemma3TextConfig(
        vocab_size=len(gemma_tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path / "models"
    for hub_id in (extraction.STUDENT,):
        (folder / hub_id).parent.mkdir(parents=True)
        (folder / hub_id).symlink_to(mirrors / "models" / hub_id)
    Gemma3ForCausalLM(config).save_pretrained(folder / extraction.TEACHER)
    gemma_tokenizer.save_pretrained(folder / extraction.TEACHER)
    for domain in extraction.DOMAINS:
        write_rows(
            tmp_path / "data/crossner" / f"{domain}.jsonl",
            conversations() if domain == "ai" else conversations()[-2:],
        )
    monkeypatch.setenv("KD_MODEL_DIR", str(folder))
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(extraction, "TEST_SENTENCES", 6)
    monkeypatch.setattr(extraction, "VALIDATION_SENTENCES", 4)
    monkeypatch.setattr(extraction, "TEACHER_TRAINING", {"max_steps": 2, "per_device_train_batch_size": 4})
    return extraction.load()


def test_rows_have_answers_and_no_sentence_is_on_two_sides(testbed):
    parts = [testbed.train, testbed.validation, testbed.test]
    assert [len(part) for part in parts] == [
        60,
        8,
        12,
    ]  # two questions about each of 40 sentences, none twice
    sentences = [{prompt.partition("\n")[0] for prompt in part["prompt"]} for part in parts]
    assert (
        not sentences[0] & sentences[1]
        and not sentences[0] & sentences[2]
        and not sentences[1] & sentences[2]
    )
    rows = [row for part in parts for row in part]
    assert {"prompt", "completion"} == set(rows[0])
    assert "Text: Ann lives in Annville 0 .\nWhat describes location in the text?\nAnswer:" in {
        r["prompt"] for r in rows
    }
    assert {r["completion"] for r in rows if "location" in r["prompt"]} == {
        f" {NAMES[i % 7]}ville {i}" for i in range(40)
    }


def test_both_sides_encode_prompts_that_completions_go_on_from(testbed):
    for tokenizer in (testbed.tokenizer, testbed.teacher_tokenizer):
        for row in testbed.train:
            ids = tokenizer(row["prompt"])["input_ids"]
            assert tokenizer(row["prompt"] + row["completion"])["input_ids"][: len(ids)] == ids
            assert len(ids) <= testbed.max_prompt_tokens


def test_arms_of_two_tokenizers_run_on_it(testbed, trial):
    run = trial(testbed)
    teacher = testbed.other_teacher(run)
    assert teacher.config.vocab_size == len(testbed.teacher_tokenizer)
    columns = testbed.evaluate(testbed.student(run), run, split="validation")
    assert {len(column) for column in columns.values()} == {8}
    assert set(values(testbed.metrics, columns)) == set(testbed.metrics)
    same = testbed.measure(testbed.teacher_judge, testbed.teacher_tokenizer, teacher, run, testbed.validation)
    assert set(same) == set(columns)


def test_a_right_answer_counts_fully(testbed, trial):
    class Oracle:
        """Says what is right: `greedy` and `sampled` as Judge's."""

        def sampled(self, model, run, prompts):
            known = dict(zip(testbed.test["prompt"], testbed.test["completion"], strict=True))
            return [testbed.tokenizer(known[prompt])["input_ids"] for prompt in prompts]

        def greedy(self, model, run, prompts):
            return self.sampled(model, run, prompts), torch.full((len(prompts),), 0.5).numpy()

    columns = testbed.measure(Oracle(), testbed.tokenizer, None, trial(testbed), testbed.test)
    found = values(testbed.metrics, columns)
    assert found == {
        "rouge_l": 100,
        "exact_match": 100,
        "greedy_exact_match": 100,
        "greedy_f1": 100,
        "ece": 0.5,
    }


@pytest.mark.parametrize(
    ("said", "wanted", "f1"),
    [
        ("Paris", "paris", 100),
        ("New York", "York", 200 / 3),
        ("", "a", 0),
        ("a a", "a", 200 / 3),
        ("b", "a", 0),
    ],
)
def test_word_f1(said, wanted, f1):
    assert extraction.word_f1(said, wanted) == pytest.approx(f1)


def test_missing_data_says_what_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path))
    with pytest.raises(KDError, match=r"ai, literature.*crossner.*universal-ner"):
        extraction.load()


def test_a_byte_fallback_tokenizer_is_trimmed_by_any_of_its_merges(gemma_tokenizer):
    texts = ["Text: Ann lives in Bobville 3 .", "What describes person in the text?"]
    used = used_tokens(gemma_tokenizer, texts)
    small, ids = trim_tokenizer(gemma_tokenizer, used, ["<pad>", "<eos>"], pad="<pad>", eos="<eos>")
    assert len(ids) < len(gemma_tokenizer)
    for text in texts:
        before, after = gemma_tokenizer(text)["input_ids"], small(text)["input_ids"]
        assert [ids[i] for i in after] == before
    other = "zürich € 😀 lives"
    assert small.decode(small(other)["input_ids"], skip_special_tokens=True) == other


def test_prompts_are_labelled_as_training_encodes_them(gemma_tokenizer):
    bos = gemma_tokenizer.convert_tokens_to_ids("<bos>")
    ((first, *rest),) = prompt_tokens(gemma_tokenizer, ["Ann lives"])
    assert first == bos and bos not in rest
    gemma_tokenizer.backend_tokenizer.post_processor, kept = (
        processors.TemplateProcessing(
            single="$A <eos>", special_tokens=[("<eos>", gemma_tokenizer.eos_token_id)]
        ),
        gemma_tokenizer.backend_tokenizer.post_processor,
    )
    try:
        (row,) = prompt_tokens(gemma_tokenizer, ["Ann lives"])
        assert gemma_tokenizer.eos_token_id not in row and row == rest
    finally:
        gemma_tokenizer.backend_tokenizer.post_processor = kept
