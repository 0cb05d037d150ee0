"""Two tokenisations of one text, aligned by bytes: where each token ends, and the smallest chunks that both cut alike.

Every byte of a text belongs to exactly one token's span on each side. A span ends where its token does: by the token's
own bytes where the tokenizer says them (byte-level BPE, byte fallback, SentencePiece), else by the character offsets
that the tokenizer reports. Bytes that no token reports (blanks that a tokenizer drops) belong to the token after them,
those at the end to the last token. Tokens that the tokenizer's template adds (BOS, EOS) have empty spans, and so has
everything of a text that a tokenizer makes no token of (blanks alone, a control character unknown to it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from methods.errors import MethodError

SENTENCEPIECE_BLANK = "\u2581"


class Chunk(NamedTuple):
    """Tokens `first` and `second` (ranges of indices) that spell the same bytes `start` to `end` of a text."""

    first: range
    second: range
    start: int
    end: int


@dataclass(frozen=True)
class Spans:
    """The tokens of a text: token i spells the bytes from `ends[i - 1]` (0 for the first) to `ends[i]`."""

    ids: list[int]
    ends: list[int]

    def starts(self) -> list[int]:
        """The byte at which each token begins."""
        return [0, *self.ends[:-1]] if self.ends else []


class ByteSpans:
    """Says for a fast tokenizer which bytes of a text each token spells.

    Raises MethodError for a tokenizer that does not report offsets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not getattr(tokenizer, "is_fast", False):
            raise MethodError(
                f"{type(tokenizer).__name__} reports no character offsets: byte alignment needs a fast tokenizer"
            )
        self.tokenizer = tokenizer

    @cached_property
    def token_bytes(self) -> dict[int, bytes]:
        """The bytes of each token, without those whose bytes the tokenizer does not say."""
        return token_bytes(self.tokenizer)

    def __call__(self, texts: Sequence[str]) -> list[Spans]:
        """Tokens and spans of each text, with the tokens that the tokenizer's template adds."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), return_attention_mask=False)
        encodings: Any = encoded.encodings
        return [self._spans(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def text(self, ids: Sequence[int]) -> str:
        """What tokens spell behind other ones, without the special ones; U+FFFD for bytes that are no text."""
        special = set(self.tokenizer.all_special_ids)
        raw = b"".join(self.token_bytes.get(index, b"") for index in ids if index not in special)
        return raw.decode(errors="replace")

    def _spans(self, text: str, encoding: Any) -> Spans:
        raw = text.encode()
        places = [0]  # the byte at which each character begins, and the end
        for character in text:
            places.append(places[-1] + len(character.encode()))
        ends: list[int] = []
        cursor, last = 0, None
        for i, (token, (begin, stop), own) in enumerate(
            zip(encoding.ids, encoding.offsets, encoding.sequence_ids, strict=True)
        ):
            if own is not None:
                spelled = self.token_bytes.get(token)
                end = max(cursor, places[stop])
                if spelled:
                    by_bytes = cursor + len(spelled)
                    if raw[cursor:by_bytes] == spelled and places[begin] < by_bytes <= places[stop]:
                        end = by_bytes
                cursor, last = end, i
            ends.append(cursor)
        if last is not None:
            ends[last:] = [len(raw)] * (len(ends) - last)
        return Spans(list(encoding.ids), ends)


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """The bytes that each id stands for, as far as the tokenizer says; special tokens stand for their name."""
    spelling = _spelling(tokenizer)
    spelled = {index: spelling(token) for token, index in tokenizer.get_vocab().items()}
    own = {index: str(token.content).encode() for index, token in tokenizer.added_tokens_decoder.items()}
    return {index: raw for index, raw in spelled.items() if raw is not None} | own


def shared_tokens(
    first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase
) -> tuple[list[int], list[int]]:
    """Ids of the tokens that both tokenizers have, in one order: those of equal bytes, and the two EOS.

    Special tokens count as equal where they have one name. Each id is named once.
    """
    known = [_named(tokenizer) for tokenizer in (first, second)]
    names = sorted(known[0].keys() & known[1].keys())
    return [known[0][name] for name in names], [known[1][name] for name in names]


def _named(tokenizer: PreTrainedTokenizerBase) -> dict[tuple[str, bytes], int]:
    """The id of each token by what it is. Where several ids stand for the same bytes the last one is taken.

    That is the piece, not the byte fallback, which comes first in a vocabulary.
    """
    special = set(tokenizer.all_special_ids)
    named: dict[tuple[str, bytes], int] = {}
    for index, raw in sorted(token_bytes(tokenizer).items()):
        if index == tokenizer.eos_token_id:
            named["eos", b""] = index
        elif raw:
            named["special" if index in special else "text", raw] = index
    return named


def _spelling(tokenizer: Any) -> Callable[[str], bytes | None]:
    """A function from a token to its bytes, by the kind of tokenizer."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    kinds = {
        part["type"]
        for name in ("pre_tokenizer", "decoder")
        if described.get(name)
        for part in _flat(described[name])
    }
    if "ByteLevel" in kinds:
        alphabet = byte_level_alphabet()

        def byte_level(token: str) -> bytes | None:
            return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else None

        return byte_level
    if "ByteFallback" in kinds or "Metaspace" in kinds or described["model"].get("byte_fallback"):

        def sentencepiece(token: str) -> bytes:
            if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
                return bytes([int(token[3:5], 16)])
            return token.replace(SENTENCEPIECE_BLANK, " ").encode()

        return sentencepiece

    # Words as they are; where blanks are dropped each begins with one, unless it goes on with the word before.
    prefix = described["model"].get("continuing_subword_prefix") or ""
    drops = bool(kinds & {"Whitespace", "WhitespaceSplit", "BertPreTokenizer"})

    def word(token: str) -> bytes:
        if prefix and token.startswith(prefix):
            return token.removeprefix(prefix).encode()
        return (" " * drops + token).encode()

    return word


def _flat(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield part
    for name in ("pretokenizers", "decoders"):
        for inner in part.get(name, ()):
            yield from _flat(inner)


def byte_level_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE: printable ones for themselves, others moved up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = (byte for byte in range(256) if byte not in set(printable))
    return {chr(b): b for b in printable} | {chr(256 + i): byte for i, byte in enumerate(moved)}


def align(first: Sequence[int], second: Sequence[int]) -> list[Chunk]:
    """The smallest chunks of two tokenisations, given where their spans end, in order.

    Within a chunk no place but its end is the end of a span on both sides. Tokens with an empty span belong to the
    chunk of the byte after them, those at the end to the last chunk. No bytes or, on one side, no tokens: no chunks.
    Raises MethodError where the two do not spell equally many bytes.
    """
    sizes = [ends[-1] if ends else 0 for ends in (first, second)]
    if all(sizes) and sizes[0] != sizes[1]:
        raise MethodError(f"the two tokenisations spell {sizes[0]} and {sizes[1]} bytes: not one text")
    cuts = sorted((set(first) & set(second)) - {0})
    chunks: list[Chunk] = []
    i = j = start = 0
    for end in cuts:
        a, b = i, j
        i, j = _after(first, i, end), _after(second, j, end)
        chunks.append(Chunk(range(a, i), range(b, j), start, end))
        start = end
    if chunks:
        chunks[-1] = chunks[-1]._replace(
            first=range(chunks[-1].first.start, len(first)),
            second=range(chunks[-1].second.start, len(second)),
        )
    return chunks


def _after(ends: Sequence[int], index: int, end: int) -> int:
    """One past the first token from `index` on whose span ends at `end`."""
    while ends[index] < end:
        index += 1
    return index + 1


def starts_with(tokenizer: PreTrainedTokenizerBase, first_bytes: bytes, size: int) -> Tensor:
    """Which of `size` ids (bool) stand for bytes that begin with one of `first_bytes`, or for a special token.

    Ids that the tokenizer does not have are not among them.
    """
    special = set(tokenizer.all_special_ids)
    chosen = torch.zeros(size, dtype=torch.bool)
    for index, spelled in token_bytes(tokenizer).items():
        if index < size:
            chosen[index] = index in special or (len(spelled) > 0 and spelled[0] in first_bytes)
    return chosen
