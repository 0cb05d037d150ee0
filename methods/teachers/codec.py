"""Top-k distributions in few bytes: how many ids a row is worth, which they are, and how probable.

Ids are what costs (17 bits each at 128k), so there are as many as pay: a row keeps an id while it lowers the KL to the
teacher, tail spread evenly, by at least `gain` nats. Ids of equal (quantised) probability need no order: within a level
they are sorted and their differences stored, as a Huffman-coded bit length and the bits below it. Before that, ids are
renumbered by how common they are, which makes the differences small.

A probability is a level: -log p = 2 (exp(level * resolution / 2) - 1), so that neighbours are
resolution * (1 - log p / 2) nats apart, fine where the mass is. The tail is one more level; what is read sums to one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from methods.errors import MethodError
from methods.teachers.bits import bit_length, pack, squeeze, unpack, unsqueeze

NO_TAIL = 255  # level of a tail without mass: the row holds the whole vocabulary
ROW, LEVEL = 32, 24  # where the sort key of an id holds its row and level
LOWEST = -1e4  # nats; a level beyond NO_TAIL - 1 would need a teacher more certain than this
FRAME = struct.Struct("<IIIII")  # rows and bytes of: rows' symbols, levels, first and further bit lengths


@dataclass(frozen=True)
class Ragged:
    """Distributions of n rows: `counts` (n,) ids each, `ids` and `log_probs` (sum of counts,), `tail` (n,) log mass."""

    counts: np.ndarray
    ids: np.ndarray
    log_probs: np.ndarray
    tail: np.ndarray


@dataclass(frozen=True)
class TopKCodec:
    """Settings of the codec; `ranks` (V,) renumbers ids, common ones first (None: as they are)."""

    vocabulary: int
    max_k: int = 256
    gain: float = 2e-3
    resolution: float = 0.125
    ranks: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0 < self.vocabulary <= 1 << LEVEL:
            raise MethodError(f"a vocabulary of {self.vocabulary} ids cannot be stored")
        if not 0 < self.max_k < 1 << 16:
            raise MethodError(f"max_k must be between 1 and 65535, not {self.max_k}")
        if not 0.02 <= self.resolution <= 1:
            raise MethodError(f"the resolution must be between 0.02 and 1 nat, not {self.resolution}")
        if self.gain < 0:
            raise MethodError(f"the gain that an id must bring is negative: {self.gain}")
        if self.ranks is not None and not np.array_equal(np.sort(self.ranks), np.arange(self.vocabulary)):
            raise MethodError("the ranks of the ids are not a permutation of the vocabulary")

    # What is kept.

    def counts(self, log_probs: np.ndarray) -> np.ndarray:
        """How many of the leading ids each row keeps: `log_probs` (n, K), falling -> (n,), at least 1."""
        n, k = log_probs.shape
        finite = np.maximum((log_probs > -np.inf).sum(1), 1)
        if self.gain == 0:
            return finite
        p = np.exp(log_probs)
        rest = np.maximum(1 - np.cumsum(p, 1, dtype=np.float64), 1e-30).astype(p.dtype)
        ids_left = np.maximum(self.vocabulary - np.arange(1, k + 1), 1)
        spread = rest * (np.log(rest) - np.log(ids_left).astype(p.dtype))  # sum of p log p over an even tail
        pays = p * np.maximum(log_probs, LOWEST) + spread
        pays[:, 0] += np.log(self.vocabulary)
        pays[:, 1:] -= spread[:, :-1]
        pays = pays >= self.gain
        last = k - np.argmax(pays[:, ::-1], 1)
        return np.clip(np.where(pays.any(1), last, 1), 1, finite)

    def select(self, ids: np.ndarray, log_probs: np.ndarray, tail: np.ndarray | None = None) -> Ragged:
        """The ids worth keeping of `ids` and `log_probs` (n, K), most probable first; all other mass is tail.

        `tail` (n,) is the log mass outside the K ids, where it is known better than as 1 - sum.
        """
        counts = self.counts(log_probs)
        kept = np.arange(log_probs.shape[1]) < counts[:, None]
        p = np.exp(log_probs)
        total = p.sum(1, dtype=np.float64)
        outside = np.maximum(1 - total, 0) if tail is None else np.exp(tail.astype(np.float64))
        rest = np.where(kept, 0, p).sum(1, dtype=np.float64) + outside
        whole = counts == self.vocabulary
        # 1 - sum of fp32 probabilities is not known better than this
        log_rest = np.where(whole, -np.inf, np.log(np.maximum(rest, 1e-9 if tail is None else 1e-30)))
        return Ragged(counts, ids[kept].astype(np.int64), log_probs[kept].astype(np.float64), log_rest)

    # To bytes and back.

    def levels(self, log_probs: np.ndarray) -> np.ndarray:
        """Nearest level of each log-probability."""
        surprise = -np.clip(log_probs, LOWEST, 0)
        return np.minimum(np.rint(np.log1p(surprise / 2) * 2 / self.resolution), NO_TAIL - 1).astype(np.int64)

    def log_probs(self, levels: np.ndarray) -> np.ndarray:
        """What a level stands for."""
        return -2 * np.expm1(levels * (self.resolution / 2))

    def encode(self, rows: Ragged) -> bytes:
        """One example's rows as bytes."""
        counts, row = rows.counts, np.repeat(np.arange(len(rows.counts)), rows.counts)
        levels = self.levels(rows.log_probs)
        ids = rows.ids if self.ranks is None else self.ranks[rows.ids].astype(np.int64)
        key = np.sort((row << ROW) | (levels << LEVEL) | ids)  # far faster than to sort by it
        levels, ids = (key >> LEVEL) & 255, key & ((1 << LEVEL) - 1)
        heads = np.cumsum(counts) - counts  # of the rows in the flat arrays
        rise = np.diff(levels, prepend=0)
        rise[heads] = levels[heads]
        fresh = rise > 0
        fresh[heads] = True
        gaps = np.diff(ids, prepend=0) - 1
        gaps[fresh] = ids[fresh]
        lengths = bit_length(gaps)
        tail = np.where(np.isinf(rows.tail), NO_TAIL, self.levels(rows.tail))
        streams = [
            squeeze(np.concatenate([counts & 255, counts >> 8, tail])),
            squeeze(rise),
            squeeze(lengths[fresh]),
            squeeze(lengths[~fresh]),
        ]
        widths = np.maximum(lengths - 1, 0)
        low = pack(gaps & ((1 << widths) - 1), widths)  # the leading one is known
        return FRAME.pack(len(counts), *map(len, streams)) + b"".join(streams) + low

    def decode(self, records: Sequence[bytes | memoryview]) -> Ragged:
        """The rows of several examples, one after the other; within a row the most probable ids come first."""
        parts: list[list[np.ndarray]] = [[] for _ in range(5)]
        starts, low, done = [], [], 0
        for record in records:
            view = memoryview(record)
            n, *sizes = FRAME.unpack_from(view)
            ends = FRAME.size + np.cumsum(sizes)
            symbols, rise, first, further = (
                unsqueeze(view[end - size : end]) for end, size in zip(ends, sizes, strict=True)
            )
            counts = symbols[:n] | (symbols[n : 2 * n].astype(np.int64) << 8)
            fresh = rise > 0
            fresh[np.cumsum(counts) - counts] = True
            lengths = np.empty(len(rise), np.int64)
            lengths[fresh], lengths[~fresh] = first, further
            widths = np.maximum(lengths - 1, 0)
            starts.append(np.cumsum(widths) - widths + 8 * done)
            low.append(np.frombuffer(view[ends[-1] :], np.uint8))
            done += len(low[-1])
            for part, made in zip(parts, (counts, symbols[2 * n :], rise, fresh, lengths), strict=True):
                part.append(made)
        counts, tails, rise, fresh, lengths = map(np.concatenate, parts)
        data = np.concatenate([*low, np.zeros(4, np.uint8)])
        gaps = unpack(data, np.concatenate(starts), np.maximum(lengths - 1, 0))
        gaps |= np.where(lengths > 0, 1 << np.maximum(lengths - 1, 0), 0)
        heads = np.cumsum(counts) - counts
        levels = _restart(rise.astype(np.int64), heads, counts)
        runs = np.flatnonzero(fresh)
        ids = _restart(gaps + ~fresh, runs, np.diff(runs, append=len(gaps)))
        if self.ranks is not None:
            ids = self._by_rank[ids]
        log_probs = self.log_probs(levels)
        tail = np.where(tails == NO_TAIL, -np.inf, self.log_probs(tails.astype(np.int64)))
        total = np.log(np.add.reduceat(np.exp(log_probs), heads) + np.exp(tail))
        return Ragged(counts, ids, log_probs - np.repeat(total, counts), tail - total)

    @cached_property
    def _by_rank(self) -> np.ndarray:
        """The id at each rank."""
        assert self.ranks is not None
        made = np.empty(self.vocabulary, np.int64)
        made[self.ranks] = np.arange(self.vocabulary)
        return made


MOST_ROUNDS = 254  # a level is a byte, and one of them says that there is no tail


@dataclass(frozen=True)
class CountCodec(TopKCodec):
    """Ids that came in `rounds` draws, and how often, exactly: a level is by how much fewer times than always."""

    gain: float = 0.0
    rounds: int = 50

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise MethodError(f"rounds are between 1 and {MOST_ROUNDS}, not {self.rounds}")
        super().__post_init__()

    def levels(self, log_probs: np.ndarray) -> np.ndarray:
        """The level of each share of the draws."""
        return self.rounds - np.rint(np.exp(log_probs) * self.rounds).astype(np.int64)

    def log_probs(self, levels: np.ndarray) -> np.ndarray:
        """The log of the share that a level stands for."""
        with np.errstate(divide="ignore"):
            return np.log(np.maximum(self.rounds - levels, 0) / self.rounds)


def ranks_by_count(counts: np.ndarray) -> np.ndarray:
    """Ranks (V,) of ids by falling count; equal counts keep the tokenizer's order, itself one of frequency."""
    ranks = np.empty(len(counts), np.int32)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts), dtype=np.int32)
    return ranks


def _restart(steps: np.ndarray, heads: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Running sums of `steps` that begin anew at each of `heads`."""
    sums = np.cumsum(steps)
    return sums - np.repeat(sums[heads] - steps[heads], sizes)
