"""A teacher that says what a test tells it to: by what it is asked, and which sample it is."""

from __future__ import annotations

from methods.elicitation.records.record import Record
from methods.elicitation.writers.oracle import FunctionWriter
from methods.elicitation.writers.protocol import LENGTH, STOP, Answer, Usage
from methods.elicitation.writers.session import Session


class Script:
    """Notes every request; `say(asked, request, sample)` writes, where `asked` is the last message."""

    def __init__(self, say, seed=0):
        self.requests, self.say = [], say
        self.session = Session(FunctionWriter("script", self._write), seed=seed)

    def _write(self, request, sample):
        if sample == 0:
            self.requests.append(request)
        return self.say(request.messages[-1].content, request, sample)

    @property
    def asked(self):
        """The last message of each request."""
        return [request.messages[-1].content for request in self.requests]


class CutWriter:
    """A teacher every text of which is cut."""

    identity, terms = "cut", ""

    def expected(self, request):
        return Usage()

    def write(self, requests, meter):
        for place, request in enumerate(requests):
            answer = Answer(("1. Write a short poem\n2. Wri",) * request.samples, (LENGTH,) * request.samples)
            meter.begin(request, Usage())
            meter.end(request, Usage(), answer)
            meter.keep(place, answer)


class EmptyWriter(CutWriter):
    """A teacher that says nothing."""

    def write(self, requests, meter):
        for place, request in enumerate(requests):
            answer = Answer(("",) * request.samples, (STOP,) * request.samples)
            meter.begin(request, Usage())
            meter.end(request, Usage(), answer)
            meter.keep(place, answer)


def rows(*prompts, **fields):
    """Seeds, each with an answer of its own where `answers` are given."""
    answers = fields.pop("answers", [None] * len(prompts))
    return [
        Record(prompt, fields={**fields, **({} if answer is None else {"answer": answer})})
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def reasons(made):
    return [row.dropped for row in made]
