"""A Hugging Face model on this machine: asked in batches, and able to say how probable a text is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from methods.elicitation.writers.protocol import INVALID, LENGTH, STOP, Answer, Meter, Request, Usage, failed
from methods.elicitation.writers.structured import allowed
from methods.modeling.core import eos_ids, position_ids
from methods.modeling.decoder import decoder_for
from methods.modeling.rollouts import left_pad, prompt_tokens
from methods.tokenizers.templates import chat_text


class LocalWriter:
    """`model` with its chat template; without one the messages are joined by blank lines, as a base model reads them.

    `name` names model and revision and is the identity. Each text has random numbers of its own, drawn from its
    request's seed: what is sampled does not depend on who else is asked. `batch` texts are written at a time.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, name: str, *, terms: str = "", batch: int = 16
    ) -> None:
        self.model, self.tokenizer, self.terms, self.batch = model, tokenizer, terms, batch
        self.identity = f"local:{name}"
        self._stops = eos_ids(model, tokenizer)

    def expected(self, request: Request) -> Usage:
        """The prompt's own tokens, and all that may be written."""
        return Usage(len(self._ids(request)), request.samples * request.max_tokens)

    def write(self, requests: Sequence[Request], meter: Meter) -> None:
        """Batches of prompts of about one length, in an order that depends on the requests alone."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        prompts: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            ids = self._ids(request)
            if limit is not None and len(ids) + request.max_tokens > limit:
                why = f"{len(ids)} tokens of prompt and {request.max_tokens} of text do not fit into {limit}"
                meter.keep(place, failed(request, why))
            else:
                prompts[place] = ids
        order = sorted(prompts, key=lambda place: (len(prompts[place]), requests[place].max_tokens, place))
        batch: list[int] = []
        for place in order:
            if batch and sum(requests[other].samples for other in batch) >= self.batch:
                self._write(batch, requests, prompts, meter)
                batch = []
            batch.append(place)
        if batch:
            self._write(batch, requests, prompts, meter)

    @torch.no_grad()
    def score(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]]:
        """Log-probabilities, in nats at temperature 1, of each text's tokens and of the end behind them."""
        found = []
        self.model.eval()
        for request, text in zip(requests, texts, strict=True):
            prompt = self._ids(request)
            answer = self.tokenizer(text, add_special_tokens=False)["input_ids"] + self._stops[:1]
            ids = torch.tensor([prompt + answer], device=self.model.device)
            logits = self.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
            values = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1)
            found.append([float(value) for value in values])
        return found

    def _write(
        self, batch: list[int], requests: Sequence[Request], prompts: dict[int, list[int]], meter: Meter
    ) -> None:
        expected = {
            place: Usage(len(prompts[place]), requests[place].samples * requests[place].max_tokens)
            for place in batch
        }
        for place in batch:
            meter.begin(requests[place], expected[place])
        rows = [(place, sample) for place in batch for sample in range(requests[place].samples)]
        said = self._texts([(requests[place], prompts[place], sample) for place, sample in rows])
        for place in batch:
            mine = [one for (owner, _), one in zip(rows, said, strict=True) if owner == place]
            used = Usage(len(prompts[place]), sum(tokens for _, _, tokens in mine))
            answer = Answer(tuple(text for text, _, _ in mine), tuple(end for _, end, _ in mine), used)
            meter.end(requests[place], expected[place], answer)
            meter.keep(place, answer)

    @torch.no_grad()
    def _texts(self, rows: Sequence[tuple[Request, list[int], int]]) -> list[tuple[str, str, int]]:
        """Text, end and number of tokens of each row."""
        self.model.eval()
        device = self.model.device
        stops = set(self._stops)
        pad = self._stops[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        ids, mask = left_pad([prompt for _, prompt, _ in rows], pad, device)
        positions = position_ids(mask)
        longest = max(request.max_tokens for request, _, _ in rows)
        decode = decoder_for(self.model, torch.cat([mask, mask.new_ones(len(rows), longest)], 1))
        draws = [_draws(request, sample) for request, _, sample in rows]
        written: list[list[int]] = [[] for _ in rows]
        ended: list[tuple[str, str] | None] = [None for _ in rows]
        for _ in range(longest):
            logits = decode(ids, positions).float()
            tokens = []
            for row, (request, _, _) in enumerate(rows):
                if ended[row] is not None:
                    tokens.append(pad)
                    continue
                token = _next(logits[row], request, draws[row])
                tokens.append(token)
                written[row].append(token)
                ended[row] = self._end(written[row], request, stops)
            if all(end is not None for end in ended):
                break
            ids, positions = torch.tensor(tokens, device=device).unsqueeze(1), positions[:, -1:] + 1
        made = []
        for (request, _, _), tokens, end in zip(rows, written, ended, strict=True):
            text, how = end or (self._text(tokens), LENGTH)
            made.append((text, INVALID if how == STOP and not allowed(text, request) else how, len(tokens)))
        return made

    def _end(self, written: list[int], request: Request, stops: set[int]) -> tuple[str, str] | None:
        """Text and end of a row that has ended, None while it goes on."""
        if written[-1] in stops:
            return self._text(written[:-1]), STOP
        if request.stop:
            text = self._text(written)
            places = [text.find(stop) for stop in request.stop if stop in text]
            if places:
                return text[: min(places)], STOP
        return (self._text(written), LENGTH) if len(written) >= request.max_tokens else None

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def _ids(self, request: Request) -> list[int]:
        if self.tokenizer.chat_template is None:
            text = "\n\n".join(message.content for message in request.messages)
            return prompt_tokens(self.tokenizer, [text])[0]
        turns = [{"role": message.role, "content": message.content} for message in request.messages]
        made = chat_text(self.tokenizer, turns)
        return self.tokenizer(made, add_special_tokens=False)["input_ids"]


def _draws(request: Request, sample: int) -> torch.Generator:
    """The random numbers of one text."""
    seed = random.Random(f"{request.seed}/{sample}/{request.key('local')}").getrandbits(63)
    return torch.Generator().manual_seed(seed)


def _next(logits: torch.Tensor, request: Request, draws: torch.Generator) -> int:
    """The next token's id by logits (V,): the most probable at temperature 0, else drawn within the nucleus."""
    if request.temperature == 0:
        return int(logits.argmax())
    probs = (logits.cpu() / request.temperature).softmax(-1)
    if request.top_p < 1:
        ordered, order = probs.sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= request.top_p
        probs = probs.index_fill(0, order[outside], 0.0)
    return int(torch.multinomial(probs, 1, generator=draws))
