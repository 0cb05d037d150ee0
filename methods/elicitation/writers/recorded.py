"""Outputs that a teacher gave once, to somebody: read from JSON lines and given again to whoever asks the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from methods.elicitation.writers.protocol import FAILED, STOP, Answer, Meter, Request, Usage, failed
from methods.errors import MethodError


class RecordedWriter:
    """`texts` by question; a request is about `note["question"]`, or else about its last message.

    Blanks at the ends of a question do not count. Where a question has several texts, another seed begins with another
    one; a sample that was never recorded is failed. What it cost is not known, so nothing is counted.
    """

    def __init__(self, name: str, texts: Mapping[str, Sequence[str]], *, terms: str = "") -> None:
        self._texts = {question.strip(): tuple(said) for question, said in texts.items() if said}
        plain = json.dumps(sorted(self._texts.items())).encode()
        self.identity, self.terms = f"recorded:{name} {hashlib.sha256(plain).hexdigest()[:12]}", terms

    def expected(self, request: Request) -> Usage:
        """Nothing."""
        return Usage()

    def write(self, requests: Sequence[Request], meter: Meter) -> None:
        """One after another; a question that was not asked then is a failed answer."""
        for place, request in enumerate(requests):
            question = str(request.note.get("question", request.messages[-1].content)).strip()
            said = self._texts.get(question, ())
            if not said:
                meter.keep(place, failed(request, "not among the recorded outputs"))
                continue
            meter.begin(request, Usage())
            first = 0 if request.temperature == 0 else request.seed % len(said)
            turned = (said[first:] + said[:first])[: request.samples]
            missing = request.samples - len(turned)
            ends = (STOP,) * len(turned) + (FAILED,) * missing
            answer = Answer(turned + ("",) * missing, ends)
            meter.end(request, Usage(), answer)
            meter.keep(place, answer)


def read_recorded(
    paths: Iterable[Path], *, question: str = "instruction", answer: str = "output"
) -> dict[str, list[str]]:
    """Texts by question of JSON Lines files, in the files' order; raises MethodError with file and line."""
    found: dict[str, list[str]] = {}
    for path in paths:
        try:
            # Not splitlines: a text may hold a line separator of Unicode as it is.
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise MethodError(f"{path}: cannot be read: {error}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                asked, said = row[question], row[answer]
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise MethodError(
                    f'{path}:{number}: not an object with "{question}" and "{answer}"'
                ) from error
            if not isinstance(asked, str) or not isinstance(said, str):
                raise MethodError(f'{path}:{number}: "{question}" and "{answer}" must be text')
            found.setdefault(asked.strip(), []).append(said)
    return found
