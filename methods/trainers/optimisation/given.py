"""Completions that the data give, in the place of some that the student sampled: a teacher's text in its group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.modeling.rollouts import Rollouts, prompt_tokens
from methods.tokenizers.encoding import tokenized
from methods.trainers.optimisation.config import OptimisationConfig


def log_probs_of(column: str) -> str:
    """The column with the log-probabilities, in nats, that whoever wrote a column's texts gave to their tokens."""
    return f"{column}_log_probs"


def unsolved(
    rewards: Tensor, group: Tensor, gate: float, gather: Callable[[Tensor], Tensor] = lambda local: local
) -> Tensor:
    """Which completions (B,) are of a group whose rewards (B, R), added, have a mean of at most `gate`.

    The mean is over the group's completions on all ranks, those without any reward left out; of a group without rewards
    nothing is known, and it is not among them. With rewards of 0 and 1 the mean is the pass rate.
    Source: NPO, arXiv 2604.20733, the gate on a prompt's pass rate, known through reading notes.
    """
    own = rewards.nansum(1).masked_fill(rewards.isnan().all(1), torch.nan)
    everyones, values = gather(group), gather(own)
    numbers, place = everyones.unique(return_inverse=True)
    scored = (~values.isnan()).to(values.dtype)
    none = values.new_zeros(len(numbers))
    count = none.index_add(0, place, scored)
    mean = (
        none.index_add(0, place, values.nan_to_num(nan=0.0)) / count
    )  # NaN, which is below nothing, where none is
    return (mean <= gate)[torch.searchsorted(numbers, group)]


def mixed_in(
    written: Rollouts,
    columns: Mapping[str, list[Any]],
    places: Tensor,
    args: OptimisationConfig,
    tokenizer: Any,
    *,
    rewarded: Callable[[Rollouts], Tensor],
    gather: Callable[[Tensor], Tensor],
) -> tuple[Rollouts, Tensor, Tensor | None]:
    """Sampled completions with those of the data among them, the rewards (B, R) of all, and which (B,) are the data's.

    The last is None where none are to be. `places` (B,) are those of the completions among all ranks'. They are
    rewarded once; where there is a gate the sampled ones first, and then what was put in their place.
    """
    if not args.given_completions:
        return written, rewarded(written), None
    size, column = args.num_generations or 1, args.given_column
    given, rewards = places % size >= size - args.given_completions, None
    if args.given_gate is not None:
        rewards = rewarded(written)
        told = torch.tensor([bool(text) for text in columns[column]], device=given.device)
        given = given & told & unsolved(rewards, places // size, args.given_gate, gather)
    mixture = with_given(
        written,
        columns,
        given,
        tokenizer,
        longest=args.max_completion_length,
        column=column,
        known=args.given_ratio == "written",
    )
    if rewards is None:
        return mixture, rewarded(mixture), given
    if gather(given).any():  # on all ranks, or on none: rewards are gathered
        rewards = torch.where(given.unsqueeze(1), rewarded(mixture), rewards)
    return mixture, rewards, given


def with_given(
    written: Rollouts,
    columns: Mapping[str, list[Any]],
    given: Tensor,
    tokenizer: Any,
    *,
    longest: int | None,
    column: str = "completion",
    known: bool = False,
) -> Rollouts:
    """The completions, where `given` (B,) holds those of a column of the rows, cut at `longest` tokens.

    Their log-probabilities under what was sampled from are 0: whoever wrote them is taken to have been certain. With
    `known` they are those of the column `log_probs_of(column)`, a list for each row, its end among them. Raises
    MethodError for a row without a text, or with another number of log-probabilities than its text has tokens.
    """
    places = given.nonzero().flatten().tolist()
    if not places:  # all of them are on other ranks
        return written
    texts = {
        "prompt": [columns["prompt"][place] for place in places],
        "completion": [columns[column][place] for place in places],
    }
    for place, text in zip(places, texts["completion"], strict=True):
        if not isinstance(text, str) or not text:
            raise MethodError(f"the row of prompt {columns['prompt'][place]!r} gives no {column}")
    whole = behind_prompts(texts, tokenizer)
    told = [row[:longest] for row in whole]
    width = max(written.completion_ids.shape[1], *map(len, told))
    made = {
        name: _widened(tensor, width, fill)
        for name, tensor, fill in (
            ("completion_ids", written.completion_ids, tokenizer.pad_token_id),
            ("completion_mask", written.completion_mask, 0),
            ("log_probs", written.log_probs, 0.0),
        )
        if tensor is not None
    }
    truncated, empty = written.truncated.clone(), written.empty.clone()
    for place, row, all_of_it in zip(places, told, whole, strict=True):
        made["completion_ids"][place] = tokenizer.pad_token_id
        made["completion_ids"][place, : len(row)] = torch.tensor(row, device=given.device)
        made["completion_mask"][place] = 0
        made["completion_mask"][place, : len(row)] = 1
        if "log_probs" in made:
            made["log_probs"][place] = 0.0
            if known:
                theirs = _theirs(columns, place, column, len(all_of_it))
                made["log_probs"][place, : len(row)] = theirs[: len(row)].to(made["log_probs"])
        truncated[place], empty[place] = len(row) < len(all_of_it), len(row) < 2
    return Rollouts(
        written.prompt_ids,
        written.prompt_mask,
        made["completion_ids"],
        made["completion_mask"],
        truncated,
        empty,
        made.get("log_probs"),
    )


def _theirs(columns: Mapping[str, list[Any]], place: int, column: str, tokens: int) -> Tensor:
    """The log-probabilities (T,) that stand beside a row's text."""
    said = columns[log_probs_of(column)][place]
    if said is None or len(said) != tokens:
        raise MethodError(
            f"the row of prompt {columns['prompt'][place]!r} has {0 if said is None else len(said)} "
            f"{log_probs_of(column)}, and its {column} has {tokens} tokens"
        )
    return torch.tensor(said, dtype=torch.float64)


def behind_prompts(texts: Mapping[str, list[str]], tokenizer: Any) -> list[list[int]]:
    """Ids of each completion up to its first EOS, as they stand behind all of the prompt's tokens.

    Where the two texts would share a token the completion is read by itself: the prompt ends where a rollout's does.
    """
    ids, begins = tokenized(texts, tokenizer)
    eos, found = tokenizer.eos_token_id, []
    asked = prompt_tokens(tokenizer, texts["prompt"])
    for row, begin, prompt, text in zip(ids, begins, asked, texts["completion"], strict=True):
        told = row[begin:]
        if begin < len(prompt):
            alone = text.removesuffix(tokenizer.eos_token)
            told = [*tokenizer(alone, add_special_tokens=False)["input_ids"], eos]
        found.append(told[: told.index(eos) + 1])
    return found


def _widened(tensor: Tensor, width: int, fill: float) -> Tensor:
    """A copy (B, width) of a tensor (B, C), C at most `width`."""
    added = tensor.new_full((len(tensor), width - tensor.shape[1]), fill)
    return torch.cat([tensor, added], 1)
