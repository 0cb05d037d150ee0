"""What a tokenizer cannot write: text that becomes an unknown token, or nothing at all, counted and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catalog.errors import cut

STUDENT = "the student's tokenizer"
SHOWN = 5  # pieces of text that a sentence names
BROKEN = "\ufffd"  # what half of a character's bytes are read as


@dataclass
class Lacking:
    """What of some texts a tokenizer lacks, by piece: `unknown` how often it is one token, `lost` in how many texts.

    `texts` counts those that hold either, `vanish` those in which something is lost.
    """

    texts: int = 0
    vanish: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def told(self, who: str) -> dict[str, int]:
        """What is counted in a record, by its words; nothing where nothing lacks."""
        found = {
            f"rows with what {who} lacks ({_named(self.unknown + self.lost)})": self.texts,
            f"unknown tokens of {who}": self.unknown.total(),
            f"rows in which characters vanish for {who}": self.vanish,
        }
        return {words: count for words, count in found.items() if count}

    def sentence(self, who: str, of: int) -> str:
        """What is said before anything is trained, '' where nothing lacks."""
        if not self.texts:
            return ""
        parts = [
            f"{self.unknown.total():,} unknown tokens stand for {_named(self.unknown)}"
            if self.unknown
            else "",
            f"{_named(self.lost)} {'vanishes' if len(self.lost) == 1 else 'vanish'}" if self.lost else "",
        ]
        said = ", and ".join(part for part in parts if part)
        return f"warning: {who} lacks what {self.texts:,} of {of:,} rows hold: {said}"


def lacking(texts: Sequence[str], ids: Sequence[Sequence[int]], tokenizer: Any) -> Lacking:
    """What of the texts the tokenizer lacks, `ids` being theirs: unknown tokens, and characters that leave no trace.

    White space counts only where words that it parts are read as one. A tokenizer that writes bytes lacks nothing.
    """
    found, which, vanish = Lacking(), set[int](), set[int]()
    unknown = unknown_id(tokenizer)
    if unknown is not None:
        for place in [place for place, row in enumerate(ids) if unknown in row]:
            pieces = _unknown_in(texts[place], unknown, tokenizer)
            found.unknown.update(pieces)
            which |= {place} if pieces else set()
    for character in _without_trace(texts, tokenizer):
        holding = [place for place, text in enumerate(texts) if character in text]
        found.lost[character] = len(holding)
        vanish.update(holding)
    found.texts, found.vanish = len(which | vanish), len(vanish)
    return found


def of_each(texts: Sequence[str], tokenizers: Mapping[str, Any]) -> tuple[dict[str, int], list[str]]:
    """What tokenizers, by whose they are, lack of the texts: what is counted, and a sentence of each that lacks any."""
    told, said = dict[str, int](), []
    for who, tokenizer in tokenizers.items():
        found = lacking(texts, tokenizer(list(texts), verbose=False)["input_ids"], tokenizer)
        told |= found.told(who)
        said.append(found.sentence(who, len(texts)))
    return told, [sentence for sentence in said if sentence]


def of_teachers(theirs: Sequence[Any], student: Any) -> dict[str, Any]:
    """The tokenizers of teachers by whose they are, but those that have the student's tokens."""
    known, one = student.get_vocab(), len(theirs) == 1
    return {
        "the teacher's tokenizer" if one else f"the tokenizer of teacher {place}": its
        for place, its in enumerate(theirs, 1)
        if its.get_vocab() != known
    }


def unknown_id(tokenizer: Any) -> int | None:
    """The id of what a tokenizer lacks, whether it is declared or not; None where there is none, as among bytes."""
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if model is not None and hasattr(model, "unk_token"):
        return tokenizer.backend_tokenizer.token_to_id(model.unk_token) if model.unk_token else None
    return tokenizer.unk_token_id


def _unknown_in(text: str, unknown: int, tokenizer: Any) -> list[str]:
    """The pieces of a text that became the unknown token; not where somebody wrote that token, or it ends a text."""
    special = set(tokenizer.all_special_tokens)
    if not tokenizer.is_fast:
        known = text.count(str(tokenizer.unk_token))
        return [str(tokenizer.unk_token)] * (list(tokenizer(text)["input_ids"]).count(unknown) - known)
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = [
        text[begin:end]
        for one, (begin, end) in zip(made["input_ids"], made["offset_mapping"], strict=True)
        if one == unknown
    ]
    return [piece.strip() or piece for piece in spans if piece.strip() not in special]


def _without_trace(texts: Sequence[str], tokenizer: Any) -> list[str]:
    """Characters that no token stands for: the first text that holds one reads the same, or broken, without it."""
    seen: set[str] = set()
    seen.update(*texts)
    alone = sorted(seen)
    plain: dict[str, Any] = {"add_special_tokens": False}
    written = tokenizer(alone, **plain)["input_ids"] if alone else []
    doubted = [
        one
        for one, ids in zip(alone, written, strict=True)
        if not ids or (not one.isascii() and BROKEN in tokenizer.decode(ids) and one != BROKEN)
    ]
    lost = []
    for one in doubted:
        text = next((text for text in texts if one in (text.strip() if one.isspace() else text)), "")
        with_it, without = tokenizer([text, text.replace(one, "")], **plain)["input_ids"]
        if text and (with_it == without or (with_it and BROKEN in tokenizer.decode(with_it))):
            lost.append(one)
    return lost


def _named(pieces: Counter[str]) -> str:
    """'"é", "漢" and 3 more', the most frequent first."""
    names = [f'"{cut(piece, 20)}"' for piece, _ in pieces.most_common(SHOWN)]
    more = len(pieces) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")
