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

NUCLEUS = 512  # tokens among which a nucleus is looked for first


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
        self._pad = self._stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id

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
        """Log-probabilities, in nats at temperature 1, of each text's tokens and of the end behind them.

        Texts of about one length are read together, `batch` at a time; only their own tokens are compared with the
        vocabulary.
        """
        pairs = []
        for request, text in zip(requests, texts, strict=True):
            answer = self.tokenizer(text, add_special_tokens=False)["input_ids"] + self._stops[:1]
            pairs.append((self._ids(request), answer))
        order = sorted(range(len(pairs)), key=lambda place: (sum(map(len, pairs[place])), place))
        found: dict[int, list[float]] = {}
        self.model.eval()
        for start in range(0, len(order), self.batch):
            places = order[start : start + self.batch]
            found |= zip(places, self._scores([pairs[place] for place in places]), strict=True)
        return [found[place] for place in range(len(pairs))]

    @torch.no_grad()
    def first_tokens(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]] | None:
        """Log-probabilities (R, T), in nats, of each of the texts right behind each request, whatever follows.

        Each request is read once, for all texts; None where one of them has several tokens: then `score` them.
        """
        tokens = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        if any(len(own) != 1 for own in tokens):
            return None
        wanted = torch.tensor([own[0] for own in tokens], device=self.model.device)
        prompts = [self._ids(request) for request in requests]
        order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place]), place))
        found: dict[int, list[float]] = {}
        self.model.eval()
        for start in range(0, len(order), self.batch):
            places = order[start : start + self.batch]
            ids, mask = left_pad([prompts[place] for place in places], self._pad, self.model.device)
            logits = self.model(
                input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), logits_to_keep=1
            ).logits[:, -1]
            found |= zip(places, logits.float().log_softmax(-1)[:, wanted].tolist(), strict=True)
        return [found[place] for place in range(len(prompts))]

    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        """Of each answer's tokens behind its prompt, which were padded on the left."""
        ids, mask = left_pad([prompt + answer for prompt, answer in pairs], self._pad, self.model.device)
        longest = max(len(answer) for _, answer in pairs)
        logits = self.model(
            input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), logits_to_keep=longest + 1
        ).logits[:, :-1]
        said = logits.float().log_softmax(-1).gather(2, ids[:, -longest:, None]).squeeze(2).tolist()
        return [row[longest - len(answer) :] for row, (_, answer) in zip(said, pairs, strict=True)]

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
        asked = [(requests[place], prompts[place], sample) for place, sample in rows]
        said = [
            text
            for start in range(0, len(asked), self.batch)
            for text in self._texts(asked[start : start + self.batch])
        ]
        for place in batch:
            mine = [one for (owner, _), one in zip(rows, said, strict=True) if owner == place]
            used = Usage(len(prompts[place]), sum(tokens for _, _, tokens in mine))
            answer = Answer(tuple(text for text, _, _ in mine), tuple(end for _, end, _ in mine), used)
            meter.end(requests[place], expected[place], answer)
            meter.keep(place, answer)

    @torch.no_grad()
    def _texts(self, rows: Sequence[tuple[Request, list[int], int]]) -> list[tuple[str, str, int]]:
        """Text, end and number of tokens of each row; when half of those under way have ended the rest go on alone."""
        self.model.eval()
        device = self.model.device
        stops = set(self._stops)
        ids, mask = left_pad([prompt for _, prompt, _ in rows], self._pad, device)
        positions = position_ids(mask)
        longest = max(request.max_tokens for request, _, _ in rows)
        decode = decoder_for(self.model, torch.cat([mask, mask.new_ones(len(rows), longest)], 1))
        draws = [_draws(request, sample) for request, _, sample in rows]
        written: list[list[int]] = [[] for _ in rows]
        ended: list[tuple[str, str] | None] = [None for _ in rows]
        under_way = list(range(len(rows)))
        for _ in range(longest):
            logits = decode(ids, positions).float()
            tokens = []
            for place, row in enumerate(under_way):
                if ended[row] is not None:
                    tokens.append(self._pad)
                    continue
                request = rows[row][0]
                token = _next(logits[place], request, draws[row])
                tokens.append(token)
                written[row].append(token)
                ended[row] = self._end(written[row], request, stops)
            open_ones = [place for place, row in enumerate(under_way) if ended[row] is None]
            if not open_ones:
                break
            ids, positions = torch.tensor(tokens, device=device).unsqueeze(1), positions[:, -1:] + 1
            if 2 * len(open_ones) <= len(under_way):
                kept = torch.tensor(open_ones, device=device)
                decode.keep(kept)
                ids, positions = ids[kept], positions[kept]
                under_way = [under_way[place] for place in open_ones]
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
        probs = _nucleus(probs, request.top_p)
    return int(torch.multinomial(probs, 1, generator=draws))


def _nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities (V,) of the likeliest tokens that together reach `top_p`, 0 for all others.

    A whole vocabulary is sorted only where its first tokens are not enough: sorting took most of a small model's time.
    """
    count = min(NUCLEUS, len(probs))
    ordered, order = probs.topk(count)
    if float(ordered.sum()) < top_p and count < len(probs):
        ordered, order = probs.sort(descending=True)
    inside = order[ordered.cumsum(-1) - ordered < top_p]
    return torch.zeros_like(probs).index_copy(0, inside, probs[inside])
