"""A conversation as a tokenizer's chat template writes it, within a time: a template is a program, and may not end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from methods.errors import MethodError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0  # of computing, for one conversation; a template that works takes milliseconds


class EndlessTemplate(MethodError):
    """A chat template that was not done with one conversation after `SECONDS` of computing."""


def chat_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], *, ask: bool = True
) -> str:
    """Messages (`role`, `content`) in the tokenizer's chat template; `ask`: with what stands before an answer.

    Raises EndlessTemplate where the template does not end, and whatever else a template raises. In another thread than
    the main one, and on Windows, there is no such limit.
    """
    with _within(SECONDS, tokenizer.name_or_path or "the tokenizer"):
        plain = [dict(one) for one in messages]
        return str(tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=ask))


@contextlib.contextmanager
def _within(seconds: float, whose: str) -> Iterator[None]:
    """Raises EndlessTemplate in what computes for longer; a process that waits or sleeps loses nothing of its time."""

    def late(number: int, frame: object) -> None:
        raise EndlessTemplate(
            f"{whose}: its chat template does not end: {seconds:g} s for one conversation; see whether a loop of it "
            "comes to its end"
        )

    try:
        before = signal.signal(signal.SIGVTALRM, late)
    except (ValueError, AttributeError):  # not the main thread, or no such signal
        yield
        return
    rest, _ = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, rest)
        signal.signal(signal.SIGVTALRM, before)
