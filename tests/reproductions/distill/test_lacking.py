"""Text that a tokenizer lacks is counted and named before anything is trained, and again in the record."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reproductions.distill.classes.data import Labelled, lacks
from reproductions.distill.config import load_config
from reproductions.distill.data.lacking import lacking, of_each, of_teachers
from reproductions.distill.data.rows import Limits, read_rows
from reproductions.distill.data.spec import DataSpec
from reproductions.distill.preflight import rows_for
from reproductions.distill.record import summary
from reproductions.distill.run import distil
from reproductions.engine.errors import KDError
from tests.methods.conftest import LETTERS, letter_tokenizer

from .conftest import config_of, made

BYTES = pre_tokenizers.ByteLevel.alphabet()


def of(model, pieces=None, **tokens):
    core = Tokenizer(model)
    core.pre_tokenizer = pieces
    return PreTrainedTokenizerFast(tokenizer_object=core, **tokens)


def letters_without_a_word_for_the_rest():
    """Characters that are not among them vanish: BPE without an unknown token."""
    return of(
        models.BPE({letter: n for n, letter in enumerate(["<eos>", "|", *LETTERS])}, []), eos_token="<eos>"
    )


def bytes_without(*missing):
    vocab = ["<end>", *sorted(set(BYTES) - set(missing))]
    made = of(
        models.BPE({one: n for n, one in enumerate(vocab)}, []),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        eos_token="<end>", unk_token="<end>",
    )  # fmt: skip
    made.backend_tokenizer.decoder = decoders.ByteLevel()
    return made


def words(*known):
    vocab = {word: n for n, word in enumerate(["<end>", "<unk>", *known])}
    pieces = pre_tokenizers.WhitespaceSplit()
    return of(models.WordLevel(vocab, unk_token="<unk>"), pieces, eos_token="<end>", unk_token="<unk>")


def found_in(tokenizer, *texts):
    return lacking(list(texts), tokenizer(list(texts))["input_ids"], tokenizer)


def test_unknown_tokens_are_counted_by_what_they_stand_for():
    found = found_in(letter_tokenizer(), "abé", "ab", "éü é")  # its unknown token is not declared
    assert dict(found.unknown) == {"é": 3, "ü": 1, " ": 1} and not found.lost and found.texts == 2
    assert found.told("the reader") == {
        'rows with what the reader lacks ("é", "ü", " ")': 2, "unknown tokens of the reader": 5
    }  # fmt: skip
    said = 'warning: the reader lacks what 2 of 3 rows hold: 5 unknown tokens stand for "é", "ü", " "'
    assert found.sentence("the reader", 3) == said


def test_characters_that_leave_no_trace_are_counted():
    found = found_in(letters_without_a_word_for_the_rest(), "ab", "a漢b漢", "z漢!", "a b")
    assert not found.unknown and dict(found.lost) == {"漢": 2, "!": 1, " ": 1}
    assert (found.texts, found.vanish) == (3, 3)
    assert 'lacks what 3 of 4 rows hold: "漢", ' in found.sentence("the reader", 4)


def test_half_of_a_character_s_bytes_is_none():
    whole = bytes_without()
    assert (
        found_in(whole, "naïve 漢字 <end>", "a\nb").told("it") == {}
    )  # it is the unknown token, and somebody's text
    second = whole.tokenize("ï")[1]
    found = found_in(bytes_without(second), "naïve", "plain")
    assert dict(found.lost) == {"ï": 1} and found.vanish == 1


def test_words_are_known_whose_letters_are_not():
    found = found_in(words("cat", "dog"), "cat dog", "cat  dog", "cow <unk>")
    assert dict(found.unknown) == {"cow": 1} and not found.lost and found.texts == 1


def test_what_a_tokenizer_takes_out_of_every_text_is_told():
    tokenizer = letter_tokenizer()
    parts = [normalizers.NFD(), normalizers.StripAccents()]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(parts)
    assert found_in(tokenizer, "café").told("it") == {}  # é is read as e
    assert dict(found_in(tokenizer, "cafe\u0301").lost) == {"\u0301": 1}


def test_teachers_with_the_student_s_tokens_are_not_asked_twice():
    student, other = letter_tokenizer(), words("ab")
    assert of_teachers([letter_tokenizer()], student) == {}
    named = of_teachers([letter_tokenizer(), other], student)
    assert named == {"the tokenizer of teacher 2": other}
    told, said = of_each(["ab", "cd"], named)
    assert told == {
        'rows with what the tokenizer of teacher 2 lacks ("cd")': 1,
        "unknown tokens of the tokenizer of teacher 2": 1,
    }
    assert len(said) == 1


def rows_in(tmp_path, *texts, tokenizer=None, **more):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{asked}|", "completion": answer} for asked, answer in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_rows(DataSpec(path), tokenizer or letter_tokenizer(), Limits(16, 16), **more)


def test_answers_that_the_student_cannot_write_are_left_out(tmp_path):
    """They would teach it to say nothing, or the unknown token."""
    for tokenizer in (letter_tokenizer(), letters_without_a_word_for_the_rest()):
        found = rows_in(tmp_path, ("ab", "ba"), ("cd", "漢字"), ("é", "e"), tokenizer=tokenizer)
        assert found.counts == {"read": 3, "too_long": 0, "unwritten": 1, "held_out": 0}
        assert found.train["completion"][:] == ["ba", "e"]
        assert len(found.warnings) == 1 and "lacks what 2 of 3 rows hold" in found.warnings[0]
    with pytest.raises(KDError, match="the student's tokenizer lacks every character of every answer"):
        rows_in(tmp_path, ("ab", "漢"), ("cd", "字"))


@pytest.mark.parametrize(
    ("method", "kept"),
    [("sft", 1), ("gkd", 1), ("paced", 1), ("seqkd", 2), ("dpkd", 2), ("star", 2), ("eotd", 2)],
)
def test_answers_that_others_write_are_not_held_to_the_student_s_letters(folder, method, kept):
    """A right answer in digits may be what a teacher's words are held to, or never be looked at."""
    rows = [{"prompt": "ab", "completion": text, "pass_rate": 0.5} for text in ("cd", "12")]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = {"teacher": None} if method in ("sft", "star") else {}
    config = load_config(config_of(folder, method, **alone))
    assert len(rows_for(config, letter_tokenizer()).train) == kept


def test_texts_of_a_classifier_are_held_to_every_tokenizer():
    rows = Labelled(["ab", "é", "abé"], ["x", "y", "x"])
    said = lacks(rows, letter_tokenizer(), [words("ab", "é")])
    assert [one.partition(" lacks")[0] for one in said] == [
        "warning: the student's tokenizer", "warning: the teacher's tokenizer"
    ]  # fmt: skip
    assert rows.told == {
        'rows with what the student\'s tokenizer lacks ("é")': 2, "unknown tokens of the student's tokenizer": 2,
        'rows with what the teacher\'s tokenizer lacks ("abé")': 1, "unknown tokens of the teacher's tokenizer": 1,
    }  # fmt: skip


def test_a_training_says_it_before_and_after(folder):
    with (folder / "data.jsonl").open("a") as file:
        file.write('{"prompt": "ü|", "completion": "ab"}\n{"prompt": "b|", "completion": "漢"}\n')
    said = []
    path = config_of(folder, "sft", teacher=None)
    record = distil(load_config(path), lambda *_: None, said.append)
    assert any(
        "the student's tokenizer lacks what 2 of 10 rows hold: 2 unknown tokens" in one for one in said
    )
    assert record["told"]["unknown tokens of the student's tokenizer"] == 2
    assert record["rows"]["unwritten"] == 1 and record["rows"]["trained_on"] == 9
    lines = "\n".join(summary(record))
    assert "1 left out as answers without a character that the student's tokenizer has" in lines
    assert '2 rows with what the student\'s tokenizer lacks ("ü", "漢")' in lines
    assert made(path) == record
