"""Completions that the data give, in the place of some that the student sampled: a teacher's text in its group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.modeling.rollouts import Rollouts, prompt_tokens
from methods.tokenizers.encoding import tokenized


def with_given(
    written: Rollouts, columns: Mapping[str, list[Any]], given: Tensor, tokenizer: Any, *, longest: int | None
) -> Rollouts:
    """The completions, where `given` (B,) holds those of the rows' columns, cut at `longest` tokens.

    Their log-probabilities under what was sampled from are 0: whoever wrote them is taken to have been certain. Raises
    MethodError for a row without a text.
    """
    places = given.nonzero().flatten().tolist()
    if not places:  # all of them are on other ranks
        return written
    texts = {name: [columns[name][place] for place in places] for name in ("prompt", "completion")}
    for place, text in zip(places, texts["completion"], strict=True):
        if not isinstance(text, str) or not text:
            raise MethodError(f"the row of prompt {columns['prompt'][place]!r} gives no completion")
    whole = _behind(texts, tokenizer)
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


def _behind(texts: Mapping[str, list[str]], tokenizer: Any) -> list[list[int]]:
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
