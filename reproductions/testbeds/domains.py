"""Scale tiny: four domains of unequal difficulty made from one lexicon, for papers about mixtures of domains.

Saying a word, saying it backwards, spelling what is heard, and spelling backwards. The last is a rule that both sides
learn; the others are as ambiguous as English is. A tag in front says which is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from datasets import Dataset

from reproductions.testbeds.pronunciation import MAX_LETTERS, Pronunciation, make_tokenizer

Letters = list[str]
Phonemes = list[str]

DOMAINS: Mapping[str, Callable[[Letters, Phonemes], tuple[list[str], list[str]]]] = {
    "say": lambda letters, phonemes: (letters, phonemes),
    "say-backwards": lambda letters, phonemes: (letters, phonemes[::-1]),
    "spell": lambda letters, phonemes: (phonemes, letters),
    "spell-backwards": lambda letters, phonemes: (letters, letters[::-1]),
}
TRAIN_WORDS = 24_000


class PronunciationDomains(Pronunciation):
    """Pronunciation's words, split as there; word i of a split belongs to domain i mod 4, and to no other."""

    name = "pronunciation-domains"
    max_prompt_tokens = MAX_LETTERS + 2  # the tag and |

    def __init__(self, lexicon: Mapping[str, str]) -> None:
        super().__init__(lexicon)
        phonemes = {p for said in lexicon.values() for p in said.split()}
        self.tokenizer = make_tokenizer([*phonemes, *(f"<{name}>" for name in DOMAINS)])
        self._judge.tokenizer = self.tokenizer

    @cached_property
    def revision(self) -> str:
        """Hash of every row of every split."""
        rows = f"{super().revision} {' '.join(DOMAINS)} {TRAIN_WORDS}"
        return hashlib.sha256(rows.encode()).hexdigest()[:16]

    def _rows(self, words: Sequence[str]) -> Dataset:
        names = list(DOMAINS)
        columns: dict[str, list[str]] = {"prompt": [], "completion": [], "domain": []}
        for place, word in enumerate(words):
            name = names[place % len(names)]
            asked, answer = DOMAINS[name](list(word), self._lexicon[word].split())
            columns["prompt"].append(f"<{name}> {' '.join(asked)} |")
            columns["completion"].append(f" {' '.join(answer)}")
            columns["domain"].append(name)
        return Dataset.from_dict(columns)

    @cached_property
    def train(self) -> Dataset:
        return self._rows(self._words["train"][:TRAIN_WORDS])


def by_domain(rows: Dataset) -> dict[str, Dataset]:
    """The rows of each domain, in order."""
    places: dict[str, list[int]] = {name: [] for name in DOMAINS}
    for place, name in enumerate(rows["domain"]):
        places[name].append(place)
    return {name: rows.select(chosen) for name, chosen in places.items()}
