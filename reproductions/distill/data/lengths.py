"""How long a user's rows are in tokens, and what a limit leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

SHARES = (0.5, 0.9, 0.99, 1.0)


def lengths_of(sizes: Sequence[tuple[int, int]], prompt_limit: int, completion_limit: int) -> dict[str, Any]:
    """Quantiles of prompts and answers, rows and tokens over the limits, and the limits that would keep them all."""
    made: dict[str, Any] = {}
    sides = (("prompt", prompt_limit, 0), ("completion", completion_limit, 1))
    for name, limit, side in sides:
        found = sorted(size[side] for size in sizes)
        over = [length - limit for length in found if length > limit]
        made[name] = {
            "quantiles": {f"{share:.0%}": quantile(found, share) for share in SHARES},
            "limit": limit,
            "rows_over": len(over),
            "most_over": max(over, default=0),
        }
    left = [sum(size) for size in sizes if size[0] > prompt_limit or not 0 < size[1] <= completion_limit]
    whole = sum(map(sum, sizes))
    return made | {"tokens": whole, "tokens_left_out": sum(left)}


def quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest length that so large a share of the rows does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def lines_of(lengths: dict[str, Any]) -> list[str]:
    """'prompts: 50 % have at most 31 tokens, 90 % 60, all 91; limit 512' and so on."""
    lines = []
    for name, what in (("prompt", "prompts"), ("completion", "answers")):
        side = lengths[name]
        parts = [f"{share.replace('%', ' %')} {count:,}" for share, count in side["quantiles"].items()]
        line = f"{what}: {', '.join(parts)} tokens at most; limit {side['limit']:,}"
        if side["rows_over"]:
            line += f": {side['rows_over']:,} are longer, by up to {side['most_over']:,}"
        lines.append(line)
    if lengths["tokens_left_out"]:
        share = lengths["tokens_left_out"] / max(1, lengths["tokens"])
        lines.append(f"left out as too long: {lengths['tokens_left_out']:,} tokens, {share:.1%} of all")
    return lines
