"""Streams of small integers as bytes: fields of unequal width side by side, and Huffman-coded symbols."""

from __future__ import annotations

import zlib

import numpy as np

MAX_WIDTH = 24  # a field and its offset in a byte must fit into the 32 bits that are read at once


def pack(values: np.ndarray, widths: np.ndarray) -> bytes:
    """`values[i]` < 2**widths[i] in `widths[i]` bits, most significant first, one field after the other."""
    ends = np.cumsum(widths)
    size = (int(ends[-1]) + 7) // 8 if len(ends) else 0
    first, offset = (ends - widths) >> 3, (ends - widths) & 7
    window = values << (32 - offset - widths)
    total = np.zeros(size + 4)
    for step in range(4):  # fields share bytes, not bits: their sum is their union
        total += np.bincount(first + step, (window >> (24 - 8 * step)) & 255, size + 4)
    return total[:size].astype(np.uint8).tobytes()


def unpack(data: np.ndarray, starts: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Fields of `pack` out of the bytes `data`, which must have 4 bytes to spare; `starts` are in bits."""
    first = starts >> 3
    window = data[first].astype(np.int64)
    for step in (1, 2, 3):
        window = (window << 8) | data[first + step]
    return (window >> (32 - (starts & 7) - widths)) & ((1 << widths) - 1)


def bit_length(values: np.ndarray) -> np.ndarray:
    """Bits that each non-negative integer below 2**53 needs; 0 for 0."""
    return np.frexp(values.astype(np.float64))[1]


def squeeze(symbols: np.ndarray) -> bytes:
    """Bytes through deflate's Huffman coder alone: their statistics, no search for repetitions."""
    coder = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(symbols.astype(np.uint8).tobytes()) + coder.flush()


def unsqueeze(data: bytes | memoryview) -> np.ndarray:
    """The bytes that `squeeze` got."""
    return np.frombuffer(zlib.decompress(data, -15), np.uint8)
