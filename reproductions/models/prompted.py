"""Published language models that are asked for classes, and write: teachers of a testbed whose task classifies.

    teachers:
      main: {model: HuggingFaceTB/SmolLM2-135M-Instruct, prompted: {prompt: plain/sentiment, calibrate: pool}, draws: 5}

They read plain text that stops where the class, or a text, is to follow: a chat template is not used, and a base model
does as well. `calibrate` names rows of the task whose labels nobody reads. Weights are bf16. With `draws` what they
write is drawn so many times, and the run of seed s has draw s mod `draws`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.models.sources import Loading, load_pretrained

if TYPE_CHECKING:
    from methods.elicitation.writers.local import LocalWriter
    from methods.elicitation.writers.protocol import Meter, Request, Usage

BATCH = 64  # texts that are written, or read, together
UNLABELLED = 200  # texts that a prior is the mean over
SETTINGS: Mapping[str, Any] = {"prompt": "plain/sentiment", "before": " ", "ends": False, "calibrate": "none"}


class LateWriter:
    """A published model as a writer, read when it is first asked: most runs find what it wrote, and need its name."""

    terms = ""

    def __init__(self, hub_id: str) -> None:
        self.hub_id, self.identity = hub_id, f"local:{hub_id}"

    @cached_property
    def writer(self) -> LocalWriter:
        """The model itself, in bf16."""
        from methods.elicitation.writers.local import LocalWriter

        model, tokenizer = load_pretrained(self.hub_id, loading=Loading(dtype="bf16"))
        if model is None:
            raise KDError(f"{self.hub_id}: no model")
        tokenizer.chat_template = None
        return LocalWriter(model.eval().requires_grad_(False), tokenizer, self.hub_id, batch=BATCH)

    def expected(self, request: Request) -> Usage:
        """As of the model."""
        return self.writer.expected(request)

    def write(self, requests: Sequence[Request], meter: Meter) -> None:
        """As of the model."""
        self.writer.write(requests, meter)

    def score(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]]:
        """As of the model."""
        return self.writer.score(requests, texts)

    def first_tokens(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]] | None:
        """As of the model."""
        return self.writer.first_tokens(requests, texts)


def tokenizer_of(hub_id: str) -> Any:
    """Its tokenizer for plain text, padding on the left."""
    _, tokenizer = load_pretrained(hub_id, weights=False)
    tokenizer.chat_template = None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def prompted_classifier(
    tree: Mapping[str, Any],
    writer: LateWriter,
    tokenizer: Any,
    classes: Sequence[str],
    rows: Callable[[str], Any],
) -> Any:
    """The classifier that a teacher's tree says; `rows` gives the task's rows by name."""
    from methods.classes.prompted import PromptedClassifier

    chosen = {**SETTINGS, **tree["prompted"]}
    name = chosen.pop("calibrate")
    texts = None if name == "none" else lambda: list(rows(name)["prompt"])[:UNLABELLED]
    return PromptedClassifier(writer, tokenizer, classes, unlabelled=texts, **chosen)
