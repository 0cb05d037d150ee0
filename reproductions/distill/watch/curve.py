"""The loss of a training as a picture, and step by step as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

LOG, PICTURE = "log.jsonl", "loss.svg"
WIDTH, HEIGHT, LEFT, BELOW, ABOVE = 640, 320, 64, 40, 28
KEPT = ("loss", "learning_rate", "grad_norm")


def log_of(history: Sequence[Mapping[str, Any]]) -> str:
    """One line a look at the loss, with all numbers that the trainer logged there."""
    lines = []
    for log in history:
        if "loss" in log:
            names = ["step", *KEPT, *sorted(set(log) - {"step", *KEPT})]  # a checkpoint forgets their order
            lines.append(
                json.dumps({name: log[name] for name in names if isinstance(log.get(name), int | float)})
            )
    return "".join(f"{line}\n" for line in lines)


def picture_of(history: Sequence[Mapping[str, Any]], title: str) -> str | None:
    """The loss over the steps as SVG; None where it was read less than twice."""
    points = [(int(log["step"]), float(log["loss"])) for log in history if "loss" in log]
    if len(points) < 2:
        return None
    (first, last), values = (points[0][0], points[-1][0]), [value for _, value in points]
    low, high = min(values), max(values)
    spread = (high - low) or max(abs(high), 1.0)
    wide, tall = WIDTH - LEFT - 16, HEIGHT - ABOVE - BELOW

    def place(step: float, value: float) -> str:
        across = LEFT + wide * (step - first) / max(1, last - first)
        return f"{across:.1f},{ABOVE + tall * (1 - (value - low) / spread):.1f}"

    ticks = []
    for share in (0.0, 0.5, 1.0):
        value, step = low + share * spread, first + share * (last - first)
        up, across = ABOVE + tall * (1 - share), LEFT + wide * share
        ticks.append(f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{up:.1f}" y2="{up:.1f}" stroke="#ddd"/>')
        ticks.append(f'<text x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        ticks.append(f'<text x="{across:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{step:.0f}</text>')
    line = " ".join(place(step, value) for step, value in points)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            'font-size="12" fill="#333">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>',
            *ticks,
            f'<text x="{LEFT + wide / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">step</text>',
            f'<polyline fill="none" stroke="#1f6feb" stroke-width="2" points="{line}"/>',
            "</svg>",
            "",
        ]
    )
