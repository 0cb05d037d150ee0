"""Conversations as a tokenizer's chat template writes them: what is asked, and what the assistant says to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from methods.tokenizers.encoding import eos_token
from methods.tokenizers.templates import EndlessTemplate, chat_text
from reproductions.distill.data.files import BadRow

ASSISTANT = "assistant"
ROLES = ("system", "user", ASSISTANT, "tool", "developer")
# ShareGPT's words for who speaks.
SPEAKERS = {
    "human": "user",
    "gpt": ASSISTANT,
    "system": "system",
    "user": "user",
    ASSISTANT: ASSISTANT,
    "tool": "tool",
}
Message = Mapping[str, Any]


class Template:
    """A tokenizer's chat template. `found` counts what its texts have that a reader may want to know."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._end = tokenizer, eos_token(tokenizer)
        self._begin = _own_beginning(tokenizer)
        self._special = [text for text in tokenizer.all_special_tokens if text]
        self.found: dict[str, int] = {}

    def prompt(self, messages: Sequence[Message]) -> str:
        """What a model reads before it answers; without the beginning that the tokenizer puts there itself."""
        return self._written(messages, add_generation_prompt=True)

    def turns(
        self, messages: Sequence[Message], which: str = "all"
    ) -> list[tuple[list[Message], str, str]] | BadRow:
        """(messages before it, prompt, completion) of each turn of the assistant, or of the last one."""
        places = [n for n, one in enumerate(messages) if one["role"] == ASSISTANT]
        if not places or places[0] == 0:
            return BadRow("no answer", "no message of the assistant that answers anything")
        if which == "last":
            places = places[-1:]
        made = []
        for place in places:
            try:
                prompt = self.prompt(messages[:place])
                whole = self._written(messages[: place + 1], add_generation_prompt=False)
            except EndlessTemplate:  # and of every other row
                raise
            except Exception as error:  # a template raises what it likes
                return BadRow("refused by the chat template", f"the chat template: {_first(error)}")
            completion = self._answer(prompt, whole, str(messages[place].get("content") or ""))
            if not completion.strip():
                return BadRow("empty answer", f"message {place + 1}, of the assistant, is empty")
            made.append((list(messages[:place]), prompt, completion))
        self._count(messages)
        return made

    def _written(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        return chat_text(self._tokenizer, messages, ask=add_generation_prompt).removeprefix(self._begin)

    def _answer(self, prompt: str, whole: str, content: str) -> str:
        """What is written behind the prompt, without the end that the encoder adds."""
        if not whole.startswith(
            prompt
        ):  # a template that takes thoughts out of former turns, or asks for them
            self._add("answers that do not continue their prompt as the template writes it")
            return content
        said = whole[len(prompt) :]
        return said[: said.rindex(self._end)] if self._end in said else said.rstrip()

    def _count(self, messages: Sequence[Message]) -> None:
        texts = [str(one.get("content") or "") for one in messages]
        if any(token in text for token in self._special for text in texts):
            self._add("conversations that spell a special token of the student")

    def _add(self, what: str) -> None:
        self.found[what] = self.found.get(what, 0) + 1


def _own_beginning(tokenizer: Any) -> str:
    """The text of the token that a tokenizer puts before any text, '' where it puts none."""
    ids = tokenizer("a")["input_ids"]
    begin = tokenizer.bos_token
    return str(begin) if begin is not None and len(ids) > 1 and ids[0] == tokenizer.bos_token_id else ""


def messages_of(value: Any, system: str | None) -> list[Message] | BadRow:
    """The messages of a conversation as data sets have them, `role` and `content` or ShareGPT's `from` and `value`."""
    if not isinstance(value, list | tuple) or not value:
        return BadRow("no conversation", "a conversation is a list of messages")
    found: list[Message] = []
    for place, one in enumerate(value, 1):
        if not isinstance(one, Mapping):
            return BadRow("no conversation", f"message {place} is no message")
        if "role" not in one and "from" in one:
            one = {"role": SPEAKERS.get(str(one["from"]), one["from"]), "content": one.get("value")}
        if one.get("role") not in ROLES:
            return BadRow(
                "unknown role", f'message {place}: no role "{one.get("role")}"; known: {", ".join(ROLES)}'
            )
        content = one.get("content")
        if not isinstance(content, str) and not (content is None and one.get("tool_calls")):
            kind = "null" if content is None else "not text"
            return BadRow(kind, f'message {place}: "content" must be text')
        found.append({name: item for name, item in one.items() if item is not None})
    if system and found[0]["role"] not in ("system", "developer"):
        found.insert(0, {"role": "system", "content": system})
    return found


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
