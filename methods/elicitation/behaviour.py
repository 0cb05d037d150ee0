"""What each component of elicitation does to a few fixed records and a scripted teacher: its fingerprint's figures.

A component that asks otherwise (another prompt, another number of samples) or makes other records has other figures,
and what was recorded with it is stale; see `methods.fingerprints`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from methods.elicitation.records.record import Record, asked_of
from methods.elicitation.writers.oracle import FunctionWriter
from methods.elicitation.writers.protocol import Answer, Request, ask
from methods.elicitation.writers.session import Session
from methods.registry import load

SLOT = "elicitation"
# What a component needs that has no default, and what makes its other settings do something.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "allocate": {"keep": 2},
    "blend": {"count": 2, "share": 0.6},
    "classify": {"classes": ["birds", "the sea", "14"]},
    "expand": {"wanted": 5, "calls": 6, "shots": [2, 1]},
    "evolve": {"rounds": 2},
    "explain": {"chains": 2, "hint": "unsolved"},
    "hand-back": {"share": 0.5},
    "leaks": {"held_out": ["the rain falls on the old town"], "words": 4},
    "paraphrase": {"samples": 2},
    "pilot": {"prompts": 2, "measure": "score"},
    "query": {"samples": 2},
    "rank": {"window": 3, "step": 1},
    "revise": {"rounds": 2},
    "select": {"by": "distinct", "keep": 2},
    "verify": {"check": "number"},
    "write": {"count": 2},
}
# Of a record: what a new field of all records does not change.
_SHOWN = (
    "prompt", "completion", "component", "parents", "round", "label", "score", "verified", "dropped", "fields",
)  # fmt: skip
_TEXTS = (
    "First 3 + 4 = 7.\nThen 7 * 2 = 14.\n#### 14",
    "As 3+4 = 7 comes first, 7*2 = 14 comes next.\n#### 14",
    "It is 3 + 4 = 7.\nAnswer: 7",
    "sorry, the rain falls on the old town",
)
_SAID = (
    "1. Write a long story of the sea\n2. Name two birds of the night\nAnswer: 14\nScore: 3\nRevise: yes",
    "- Draw up a plan for the week\nAnswer: 7\nScore: 5\nRevise: no",
    "Equal, I think.\nScore: 2",
    "3 + 4 = 7\n7 - 2 = 5\n#### 5",
)


class _Scored(FunctionWriter):
    """A scripted teacher that can say how probable a text is."""

    def score(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]]:
        read = [len(request.messages[0].content) for request in requests]
        return [
            [-0.25 * (1 + (ord(letter) + n) % 8) for letter in text]
            for n, text in zip(read, texts, strict=True)
        ]


def figures(name: str, settings: Mapping[str, Any] | None = None) -> list[list[float]]:
    """[rows, rows that are data, requests] and three numbers below 2^20 made of all that was asked and came out."""
    asked: list[Any] = []

    def say(request: Request, sample: int) -> str:
        asked.append([request.plain(), sample])
        about = json.dumps([request.plain(), sample], sort_keys=True).encode()
        return _SAID[hashlib.sha256(about).digest()[0] % len(_SAID)]

    session = Session(_Scored("script", say), seed=1)
    made = load(SLOT, name)(toy_rows(), session, **{**SETTINGS.get(name, {}), **(settings or {})})
    plain = [[*(getattr(row, name) for name in _SHOWN), [one.component for one in row.asked]] for row in made]
    whole = json.dumps([plain, sorted(asked, key=json.dumps)], sort_keys=True, default=str)
    digest = hashlib.sha256(whole.encode()).hexdigest()
    counts = [float(len(made)), float(sum(row.alive for row in made)), float(len(asked))]
    return [counts, [float(int(digest[place : place + 5], 16)) for place in (0, 5, 10)]]


def toy_rows() -> list[Record]:
    """Records of everything a component looks at: answers right, wrong, unreadable and cut, of two teachers."""
    made = []
    for number in range(12):
        text = _TEXTS[number % 4]
        prompt = f"Write about the number {number // 4} and the sea" if number < 11 else "Poem"
        answer = Answer((text,), ("stop",), writer=f"teacher {number % 2}", request=str(number))
        row = Record(
            prompt,
            text,
            "label",
            score=0.1 * (number * 5 % 7),
            label=(None if number % 4 == 3 else text.split()[-1]),
            verified=(number % 4 == 1 if number % 4 < 3 and number < 8 else None),
            asked=(asked_of(answer, ask(prompt), "label"),),
            fields={
                "answer": "14",
                "level": "ab"[number // 2 % 2],
                "error": "printed 7" if number == 2 else "",
            },
        )
        made.append(row.drop("truncated") if number == 10 else row)
    return made
