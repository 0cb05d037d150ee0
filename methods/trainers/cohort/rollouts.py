"""Rollouts of all members together, and the meeting at which their samplers wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from methods.errors import MethodError
from methods.losses.divergences import check_temperature
from methods.modeling.core import position_ids
from methods.modeling.rollouts import DROP_AT, Rollouts, draw_with, left_pad
from methods.trainers.cohort.stack import StackedModel

Answer = TypeVar("Answer")
# Added to the score of what may not be seen: exp of it is 0, and padding that sees nothing gets no NaN.
HIDDEN = -1e9


@dataclass
class _Seat:
    """One who takes part: what it asks goes out, what it is answered comes in; `done` with a result or an error."""

    says: SimpleQueue[tuple[str, Any]] = field(default_factory=SimpleQueue)
    hears: SimpleQueue[tuple[Any, BaseException | None]] = field(default_factory=SimpleQueue)

    def ask(self, request: Any) -> Any:
        self.says.put(("asks", request))
        answer, error = self.hears.get()
        if error is not None:
            raise error
        return answer


class Meeting:
    """Several functions side by side, one at a time, that may each ask for something which is better made for all.

    `serve` gets what is asked by place, once everybody has asked or ended, and answers by place. So samplers need not
    know that others wait for rollouts too. The functions run in threads that take turns: what they draw and count does
    not depend on how threads are scheduled.
    """

    def __init__(self, serve: Callable[[Mapping[int, Any]], Mapping[int, Any]]):
        self._serve = serve
        self._seats: list[_Seat] = []

    def ask(self, place: int, request: Any) -> Any:
        """Called by the function of a place; waits for the answer."""
        return self._seats[place].ask(request)

    def hold(self, functions: Sequence[Callable[[], Answer]]) -> list[Answer]:
        """What the functions return. Raises what one of them or `serve` raises."""
        self._seats = [_Seat() for _ in functions]
        threads = [
            threading.Thread(target=self._take_part, args=pair, daemon=True)
            for pair in zip(self._seats, functions, strict=True)
        ]
        results: dict[int, Any] = {}
        asked: dict[int, Any] = {}
        error: BaseException | None = None

        def listen(place: int) -> None:
            nonlocal error
            kind, what = self._seats[place].says.get()
            if kind == "asks":
                asked[place] = what
            elif kind == "fails":
                error = error or what
            else:
                results[place] = what

        for place, thread in enumerate(threads):
            thread.start()
            listen(place)
        while asked:
            waiting, answers = dict(asked), {}
            asked.clear()
            if error is None:
                try:
                    answers = dict(self._serve(waiting))
                except BaseException as raised:
                    error = raised
            for place in waiting:
                self._seats[place].hears.put((answers.get(place), error))
                listen(place)
        for thread in threads:
            thread.join()
        if error is not None:
            raise error
        return [results[place] for place in range(len(functions))]

    @staticmethod
    def _take_part(seat: _Seat, function: Callable[[], Any]) -> None:
        try:
            result = function()
        except BaseException as error:
            seat.says.put(("fails", error))
        else:
            seat.says.put(("ends", result))


@dataclass(frozen=True)
class Request:
    """What a member asks of `methods.modeling.rollouts.rollout`, its model and generator aside."""

    prompts: list[list[int]]
    generator: torch.Generator | None
    settings: Mapping[str, Any]  # the same for all who are answered together


class _StackDecoder:
    """Some of a stack's models with their caches, answering with next-token logits for a left-padded batch."""

    def __init__(self, stacked: StackedModel, places: Sequence[int], batch: int, longest: int):
        self.batch = batch
        all_of_them = list(places) == list(range(stacked.size))
        self.stacked = stacked if all_of_them else _Part(stacked, places)
        model: Any = self.stacked
        layers = range(model.config.num_hidden_layers)
        # Contiguous once: a transposed view would be packed again for each token.
        self.weights = [tuple(w.contiguous() for w in model.layer_weights(layer)) for layer in layers]
        shape = model.size * batch, model.heads, longest, model.head_width
        table = model.weight("model.embed_tokens.weight")
        self.caches = [(table.new_empty(shape), table.new_empty(shape)) for _ in layers]
        self.cos, self.sin = model.angles(longest)
        self.head = model.head.transpose(1, 2).contiguous()
        self.seen = 0

    def keep(self, flat: Tensor) -> None:
        """Forgets all rows but these (S * B',), of each model as many, numbered over all models."""
        self.batch = len(flat) // self.stacked.size
        self.caches = [
            (keys.index_select(0, flat), values.index_select(0, flat)) for keys, values in self.caches
        ]

    def __call__(self, ids: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """Logits (S, B, V) of the next token after ids (S, B, T) at positions (S * B, T) under a mask to add."""
        model: Any = self.stacked
        width, new = ids.shape[2], slice(self.seen, self.seen + ids.shape[2])
        angles = self.cos[positions], self.sin[positions]
        states = model.embed(ids.reshape(model.size, -1))
        for layer, (weights, (keys, values)) in enumerate(zip(self.weights, self.caches, strict=True)):
            query, key, value = model.heads_of(states, layer, weights[0], angles, self.batch)
            keys[:, :, new], values[:, :, new] = key, value
            mixed = functional.scaled_dot_product_attention(
                query, keys[:, :, : new.stop], values[:, :, : new.stop], attn_mask=bias
            )
            flat = mixed.transpose(1, 2).reshape(*states.shape[:2], -1)
            states = model.after_attention(states, flat, layer, weights)
        self.seen = new.stop
        last = states.view(model.size, self.batch, width, -1)[:, :, -1]
        return torch.bmm(model.norm(last, "model.norm.weight"), self.head)


class _Part:
    """Some models of a stack, as the decoder reads them."""

    def __init__(self, stacked: StackedModel, places: Sequence[int]):
        self._whole, self._places, self.size = stacked, torch.tensor(list(places)), len(places)
        self.config, self.heads = stacked.config, stacked.heads
        self.width, self.head_width, self.device = stacked.width, stacked.head_width, stacked.device
        self._weights: dict[str, Tensor] = {}

    def weight(self, name: str) -> Tensor:
        if name not in self._weights:
            self._weights[name] = self._whole.weight(name)[self._places.to(self.device)]
        return self._weights[name]

    @property
    def head(self) -> Tensor:
        return self._whole.head[self._places.to(self.device)]

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        return self._whole.angles(length)

    embed = StackedModel.embed
    norm = StackedModel.norm
    layer_weights = StackedModel.layer_weights
    heads_of = StackedModel.heads_of
    after_attention = StackedModel.after_attention


@torch.no_grad()
def stacked_rollouts(
    stacked: StackedModel,
    requests: Mapping[int, Request],
    *,
    max_new_tokens: int,
    eos_ids: list[int],
    pad_id: int,
    temperature: float = 1.0,
    greedy: bool = False,
    teacher: StackedModel | None = None,
    teacher_places: Mapping[int, int] | None = None,
    teacher_mix: float = 0.0,
    vocabulary: int | None = None,
    log_probs: bool = False,
) -> dict[int, Rollouts]:
    """What `methods.modeling.rollouts.rollout` gives each member (by place), all of them computed together.

    Every member draws from its own generator what it would have drawn alone. Rows that have ended are dropped from the
    batch; of a member with more of them than others some stay, for the models are one. `teacher_places` says which
    model of the teachers' stack is a member's. Raises MethodError as `rollout` does.
    """
    if not greedy:
        check_temperature(temperature)
    if any(not r.prompts or any(len(p) == 0 for p in r.prompts) for r in requests.values()):
        raise MethodError("cannot roll out from an empty prompt")
    places, device = list(requests), stacked.device
    sizes = [len(requests[place].prompts) for place in places]
    batch, count = max(sizes), len(places)
    # Members with fewer prompts get copies of their first one, which nobody reads.
    padded = [r.prompts + [r.prompts[0]] * (batch - len(r.prompts)) for r in requests.values()]
    ids, mask = left_pad([prompt for prompts in padded for prompt in prompts], pad_id, device)
    width = ids.shape[1]
    longest = width + max_new_tokens
    decoders = [_StackDecoder(stacked, places, batch, longest)]
    if teacher is not None and teacher_mix:
        theirs = [0 if teacher_places is None else teacher_places[place] for place in places]
        decoders.append(_StackDecoder(teacher, theirs, batch, longest))
        vocabulary = min(d.head.shape[-1] for d in decoders) if vocabulary is None else vocabulary
        vocabulary = min([vocabulary, *(d.head.shape[-1] for d in decoders)])
    hidden = torch.zeros(count * batch, 1, 1, longest, dtype=stacked.dtype, device=device)
    hidden[:, 0, 0, :width] = (mask == 0) * HIDDEN
    causal = torch.full((width, width), HIDDEN, dtype=stacked.dtype, device=device).triu(1)
    bias = hidden[..., :width] + causal
    positions, new, stop = (
        position_ids(mask),
        ids.view(count, batch, width),
        torch.tensor(eos_ids, device=device),
    )
    alive = torch.ones(count, batch, dtype=torch.bool, device=device)
    for row, size in enumerate(sizes):
        alive[row, size:] = False
    first_row = torch.arange(count, device=device).unsqueeze(1)
    rows = torch.arange(batch, device=device).repeat(count, 1)  # (S, R): those in the models' batch
    columns: list[Tensor] = []
    noise: Tensor | None = None
    left = sizes  # of each member's rows, those that go on
    alive_columns, said_columns = [], []
    for _ in range(max_new_tokens):
        bias = hidden[..., : width + len(columns)] if columns else bias
        logits = (decode(new, positions, bias)[..., :vocabulary].float() for decode in decoders)
        probs = [torch.softmax(z if temperature == 1 else z / temperature, -1) for z in logits]
        mixed = probs[0] if len(probs) == 1 else (1 - teacher_mix) * probs[0] + teacher_mix * probs[1]
        if greedy:
            drawn = mixed.argmax(-1)
        else:
            noise = mixed.new_ones(count, batch, mixed.shape[-1]) if noise is None else noise
            for row, (place, size) in enumerate(zip(places, sizes, strict=True)):
                if left[row]:  # alone it would draw no more
                    noise[row, :size].exponential_(1, generator=requests[place].generator)
            drawn = draw_with(mixed, noise if rows.shape[1] == batch else noise[first_row, rows])
        token = torch.full((count, batch), pad_id, device=device).scatter_(1, rows, drawn)
        if log_probs:
            chosen = drawn.clamp(max=mixed.shape[-1] - 1)  # padding may be an id that cannot be drawn
            said = mixed.gather(2, chosen.unsqueeze(2)).squeeze(2).log()
            said = torch.zeros(count, batch, dtype=said.dtype, device=device).scatter_(1, rows, said)
            said_columns.append(said.masked_fill(~alive, 0.0))
        token = token.masked_fill(~alive, pad_id)
        columns.append(token)
        alive_columns.append(alive)
        alive = alive & ~torch.isin(token, stop)
        left = alive.sum(1).tolist()
        most = max(left)
        if not most:
            break
        positions = positions[:, -1:] + 1
        if most <= DROP_AT * rows.shape[1]:
            here = alive.gather(1, rows)
            # In their order, those that nobody reads behind a member's own.
            stay = here.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most].sort(1).values
            flat = (stay + first_row * rows.shape[1]).reshape(-1)
            rows, hidden, positions = rows.gather(1, stay), hidden[flat], positions[flat]
            for decode in decoders:
                decode.keep(flat)
        new = token.gather(1, rows).unsqueeze(2)
    tokens, kept = torch.stack(columns, 2), torch.stack(alive_columns, 2)
    said_of = torch.stack(said_columns, 2) if log_probs else None
    made = {}
    for row, (place, size) in enumerate(zip(places, sizes, strict=True)):
        # As many columns as this member alone would have needed.
        used = max(1, int(kept[row, :size].any(0).sum()))
        prompts = left_pad(requests[place].prompts, pad_id, device)
        completion = tokens[row, :size, :used]
        made[place] = Rollouts(
            *prompts,
            completion,
            kept[row, :size, :used].long(),
            truncated=alive[row, :size],
            empty=torch.isin(completion[:, 0], stop),
            log_probs=None if said_of is None else said_of[row, :size, :used],
        )
    return made
