"""A teacher behind an OpenAI-compatible server: its top log-probs for given completions, into a teacher store.

The server is asked to score tokens that we have, not to write: `completions` with the prompt echoed ("openai"), or
vLLM's `prompt_logprobs` ("vllm"), which names ids instead of texts. What the server does not tell is tail.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from methods.errors import MethodError
from methods.teachers.client import Client
from methods.teachers.codec import Ragged, TopKCodec
from methods.teachers.files import StoreWriter
from methods.teachers.fill import Batches, Progress, add_top_k, top_k_content, with_ranks
from methods.teachers.identity import Identity, data_fingerprint, example_keys, tokenizer_fingerprint

PROTOCOLS = ("openai", "vllm")
UNKNOWN = "\ufffd"  # what a decoder writes for a token that is only part of a character
TOKEN_ID = "token_id:"  # noqa: S105 (vLLM's return_tokens_as_token_ids)


class ServerTeacher:
    """Scores token ids through a `Client`; `top_k` log-probs a token, as many as the server gives.

    `tokenizer` must be the server's: each token of the answer is held against ours. `unnamed` counts alternatives whose
    text is not exactly one of our tokens; their mass goes to the tail.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        tokenizer: Any,
        *,
        top_k: int = 20,
        protocol: str = "vllm",
        max_tokens: int = 1,
    ):
        if protocol not in PROTOCOLS:
            raise MethodError(f"unknown protocol {protocol!r}; one of {', '.join(PROTOCOLS)}")
        self.client, self.model, self.tokenizer, self.protocol = client, model, tokenizer, protocol
        self.top_k, self.max_tokens, self.unnamed = top_k, max_tokens, 0

    def ask(self, ids: list[int]) -> dict[str, Any]:
        """The server's answer about these tokens. Several threads may ask at a time."""
        request: dict[str, Any] = {"model": self.model, "prompt": ids, "max_tokens": self.max_tokens}
        request |= {"temperature": 1.0}
        if self.protocol == "vllm":
            request["prompt_logprobs"] = self.top_k
        else:
            request |= {"logprobs": self.top_k, "echo": True}
        return self.client.ask("/completions", request, len(ids) + self.max_tokens)

    def score(self, ids: list[int], answer: Mapping[str, Any] | None = None) -> list[dict[int, float]]:
        """For each token but the first, the log-probs by id that the teacher gave in its place; asked unless given.

        Raises MethodError for an answer without log-probs, or one about other tokens than these.
        """
        answer = self.ask(ids) if answer is None else answer
        try:
            choice = answer["choices"][0]
            places = choice["prompt_logprobs"] if self.protocol == "vllm" else self._echoed(choice, ids)
        except (KeyError, IndexError, TypeError) as error:
            raise self._without_logprobs() from error
        if not places or any(not isinstance(place, dict) for place in places[1 : len(ids)]):
            raise self._without_logprobs()
        if len(places) < len(ids):
            raise MethodError(
                f"{self.model}: the server sees {len(places)} tokens where our tokenizer has {len(ids)}: they use "
                "different tokenizers, or the server cuts the prompt"
            )
        read = self._by_id if self.protocol == "vllm" else self._by_text
        return [read(place, token, n) for n, (place, token) in enumerate(zip(places, ids, strict=False)) if n]

    def rows(
        self, ids: list[int], wanted: np.ndarray, codec: TopKCodec, answer: Mapping[str, Any] | None = None
    ) -> Ragged:
        """What is worth keeping for the tokens of `wanted` (len(ids) - 1,), by the server's answer about `ids`."""
        chosen = [place for place, keep in zip(self.score(ids, answer), wanted, strict=True) if keep]
        width = max(1, max(map(len, chosen)))
        tokens, log_probs = np.zeros((len(chosen), width), np.int64), np.full((len(chosen), width), -np.inf)
        for row, place in enumerate(chosen):
            ordered = sorted(place.items(), key=lambda item: (-item[1], item[0]))
            if not ordered:
                raise MethodError(f"{self.model}: none of the server's alternatives is one of our tokens")
            for column, (token, value) in enumerate(ordered):
                tokens[row, column], log_probs[row, column] = token, value
        return codec.select(tokens[:, : codec.max_k], log_probs[:, : codec.max_k])

    def _without_logprobs(self) -> MethodError:
        asked = "prompt_logprobs" if self.protocol == "vllm" else "logprobs with echo"
        return MethodError(
            f"{self.model}: the server's answer has no log-probs of the prompt: it does not support {asked}, or allows "
            f"fewer than {self.top_k}"
        )

    def _echoed(self, choice: Mapping[str, Any], ids: list[int]) -> list[Any]:
        """The alternatives at each place, after a look at whether the tokens are ours."""
        found = choice["logprobs"]
        for place, (text, token) in enumerate(zip(found["tokens"], ids, strict=False)):
            self._compare(place, text, token)
        return found["top_logprobs"]

    def _compare(self, place: int, text: str, token: int) -> None:
        if text.startswith(TOKEN_ID):
            same, ours = text == f"{TOKEN_ID}{token}", f"{TOKEN_ID}{token}"
        else:
            ours = self._texts[token]
            same = text == ours or UNKNOWN in ours or UNKNOWN in text
        if not same:
            raise MethodError(
                f"{self.model}: token {place} is {text!r} for the server and {ours!r} for our tokenizer: they use "
                "different tokenizers"
            )

    def _by_id(self, place: Mapping[str, Any], token: int, number: int) -> dict[int, float]:
        try:
            given = {int(key): value["logprob"] for key, value in place.items()}
        except (TypeError, KeyError, ValueError) as error:
            raise self._without_logprobs() from error
        found = {key: self._checked(value) for key, value in given.items()}
        if token not in found:
            raise MethodError(
                f"{self.model}: the server gives no log-prob of token {number} ({self._texts[token]!r}): it reads the "
                "prompt with another tokenizer"
            )
        return self._whole({key: value for key, value in found.items() if self._is_token(key)})

    def _by_text(self, place: Mapping[str, Any], token: int, number: int) -> dict[int, float]:
        found = {}
        for text, value in place.items():
            named = text.removeprefix(TOKEN_ID) if text.startswith(TOKEN_ID) else None
            key = int(named) if named is not None and named.isdigit() else self._ids.get(text)
            if key is None or not self._is_token(key):
                self.unnamed += 1
            else:
                found[key] = self._checked(value)
        return self._whole(found)

    def _is_token(self, key: int) -> bool:
        return 0 <= key < len(self._texts)

    def _checked(self, value: Any) -> float:
        if not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
            raise MethodError(f"{self.model}: {value!r} is not a log-probability")
        return min(float(value), 0.0)

    def _whole(self, found: dict[int, float]) -> dict[int, float]:
        if sum(map(math.exp, found.values())) > 1.01:
            raise MethodError(f"{self.model}: the server's probabilities sum to more than one")
        return {key: value for key, value in found.items() if value > -1e3}  # servers write -9999 for -inf

    @cached_property
    def _texts(self) -> list[str]:
        """The text of each of our ids."""
        return [self.tokenizer.decode([i]) for i in range(len(self.tokenizer))]

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Ids by text, of texts that only one id has."""
        ids: dict[str, int] = {}
        shared = set()
        for i, text in enumerate(self._texts):
            if text in ids or UNKNOWN in text:
                shared.add(text)
            ids[text] = i
        return {text: i for text, i in ids.items() if text not in shared}


def fill_from_server(
    folder: str | Path,
    teacher: ServerTeacher,
    batches: Batches,
    *,
    max_k: int = 256,
    gain: float = 0.0,
    resolution: float = 0.125,
    parallel: int = 4,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a store of what the server says about the completion tokens of `batches`; returns its totals.

    As `methods.teachers.fill.fill`, with `parallel` requests under way at a time; everything that was paid for is kept
    unless `gain` says otherwise.
    Raises MethodError for what the client or the answers raise; the same call then goes on where it was.
    """
    folder, tokenizer = Path(folder), teacher.tokenizer
    identity = Identity(
        f"{teacher.model} at {teacher.client.url}",
        tokenizer_fingerprint(tokenizer),
        data_fingerprint(batches),
    )

    def count() -> np.ndarray:
        counts = np.zeros(len(tokenizer), np.int64)
        for batch in batches:
            labels = batch["labels"][batch["labels"] != -100].cpu().numpy()
            np.add.at(counts, labels, 1)
        return counts

    codec = with_ranks(folder, TopKCodec(len(tokenizer), min(max_k, len(tokenizer)), gain, resolution), count)
    with StoreWriter(folder, identity, top_k_content(codec, 1.0)) as writer:
        for example, answer in _answers(teacher, _unknown(batches, set(writer.keys)), parallel):
            add_top_k(writer, codec, example.key, teacher.rows(example.ids, example.wanted, codec, answer))
            if progress is not None:
                progress(len(writer.keys))
        return writer.finish()


class _Example(NamedTuple):
    key: bytes
    ids: list[int]
    wanted: np.ndarray


def _unknown(batches: Batches, known: set[bytes]) -> Iterator[_Example]:
    """Each example with completion tokens that is not known yet, once."""
    for batch in batches:
        for n, (key, rows) in enumerate(example_keys(batch)):
            if rows and key not in known:
                known.add(key)
                yield _Example(key, *tokens_of(batch, n))


def _answers(
    teacher: ServerTeacher, examples: Iterator[_Example], parallel: int
) -> Iterator[tuple[_Example, dict[str, Any]]]:
    """Examples in order with their answers; after an error nothing new is asked, what is under way is awaited."""
    pool = ThreadPoolExecutor(parallel)
    try:
        waiting: deque[tuple[_Example, Future[dict[str, Any]]]] = deque()
        for example in examples:
            waiting.append((example, pool.submit(teacher.ask, example.ids)))
            if len(waiting) >= parallel:
                asked, answer = waiting.popleft()
                yield asked, answer.result()
        for asked, answer in waiting:
            yield asked, answer.result()
    finally:
        pool.shutdown(cancel_futures=True)


def tokens_of(batch: Mapping[str, Tensor], example: int) -> tuple[list[int], np.ndarray]:
    """Ids of an example without padding, and which of them but the first are labels."""
    keep = batch["attention_mask"][example].bool()
    wanted = (batch["labels"][example][keep] != -100).cpu().numpy()
    return batch["input_ids"][example][keep].tolist(), wanted[1:]
