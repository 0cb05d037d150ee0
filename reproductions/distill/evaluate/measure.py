"""What a model makes of held-out rows: the loss of each answer, and its own greedy ones, scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from methods.losses.fused.linear import head_of, linear_log_probs
from methods.modeling.core import core_model, eos_ids, hidden_states
from methods.modeling.rollouts import prompt_tokens, rollout
from methods.tokenizers.encoding import tokenized
from reproductions.distill.data.rows import TEACHER_PROMPT
from reproductions.distill.evaluate.spec import Evaluation
from reproductions.tasks.scores import rouge_l

if TYPE_CHECKING:
    from datasets import Dataset

# A letter of a script that puts no blanks between words counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


@dataclass
class Figures:
    """Of one model, row by row: `nats` of each answer with its end, `scores` in percent of the first rows' answers.

    `cut` counts answers that came to the limit. `said` are the first few of them, as text.
    """

    nats: list[float] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    cut: int = 0
    said: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"nats": self.nats, "scores": self.scores, "cut": self.cut, "said": self.said}


def answer_tokens(rows: Dataset, tokenizer: Any) -> list[int]:
    """Tokens of each row's answer, its end among them."""
    ids, starts = tokenized(rows, tokenizer)
    return [len(row) - start for start, row in zip(starts, ids, strict=True)]


@torch.no_grad()
def measure(
    model: Any,
    tokenizer: Any,
    rows: Dataset,
    wanted: Evaluation,
    completion_tokens: int,
    *,
    teacher: bool = False,
) -> Figures:
    """The figures of a model on rows; `teacher`: it reads prompts of its own where there are any."""
    core: Any = core_model(model)
    own = teacher and TEACHER_PROMPT in rows.column_names
    asked = {"prompt": rows[TEACHER_PROMPT if own else "prompt"][:], "completion": rows["completion"][:]}
    training = core.training
    core.eval()
    try:
        found = Figures(_nats(core, tokenizer, asked, wanted.batch_size))
        if wanted.answers and wanted.scores:
            _answer(core, tokenizer, asked, wanted, completion_tokens, found)
    finally:
        core.train(training)
    return found


def _nats(core: Any, tokenizer: Any, asked: Any, size: int) -> list[float]:
    """-log q of each answer given its prompt, in nats."""
    ids, starts = tokenized(asked, tokenizer)
    limit = _positions(core)
    head, made = head_of(core), [0.0] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for begin in range(0, len(order), size):
        places = order[begin : begin + size]
        width = min(max(len(ids[i]) for i in places), limit)
        batch = torch.tensor([(ids[i] + [0] * width)[:width] for i in places], device=core.device)
        mask = torch.tensor([([1] * len(ids[i]) + [0] * width)[:width] for i in places], device=core.device)
        begins = torch.tensor([max(1, starts[i]) for i in places], device=core.device)
        said = mask[:, 1:].bool() & (torch.arange(1, width, device=core.device) >= begins[:, None])
        states = hidden_states(core, batch, mask)[:, :-1]
        nats = -linear_log_probs(states, head, batch[:, 1:], said)
        rows = said.nonzero()[:, 0]
        sums = torch.zeros(len(places), dtype=torch.float64, device=core.device).index_add_(
            0, rows, nats.double()
        )
        for place, value in zip(places, sums.tolist(), strict=True):
            made[place] = value
    return made


def _positions(core: Any) -> int:
    from methods.modeling.checks import learned_positions

    return learned_positions(core) or 2**31


def _answer(
    core: Any, tokenizer: Any, asked: Mapping[str, list[str]], wanted: Evaluation, limit: int, found: Figures
) -> None:
    """Greedy answers to the first prompts, scored against the rows' own."""
    prompts, references = (asked[name][: wanted.answers] for name in ("prompt", "completion"))
    ids, stops = prompt_tokens(tokenizer, prompts), eos_ids(core, tokenizer)
    pad = stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    said = [""] * len(ids)
    for begin in range(0, len(order), wanted.batch_size):
        places = order[begin : begin + wanted.batch_size]
        made = rollout(
            core, [ids[i] for i in places], max_new_tokens=limit, eos_ids=stops, pad_id=pad, greedy=True
        )
        lengths = made.completion_mask.sum(1).tolist()
        for row, place in enumerate(places):
            answer = made.completion_ids[row, : lengths[row]].tolist()
            found.cut += bool(made.truncated[row])
            said[place] = _plain(tokenizer, answer)
    right = [_plain(tokenizer, row) for row in tokenizer(references, add_special_tokens=False)["input_ids"]]
    for name in wanted.scores:
        score = {"exact-match": exact_match, "rouge-l": rouge_of_words}[name]
        found.scores[name] = [round(float(value), 4) for value in score(said, right)]
    found.said = said


def _plain(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text without special tokens, blanks as one."""
    return " ".join(tokenizer.decode(ids, skip_special_tokens=True).split())


def exact_match(said: Sequence[str], right: Sequence[str]) -> np.ndarray:
    """100 where an answer is the reference, blanks aside, else 0."""
    return np.array([100.0 * (one == other) for one, other in zip(said, right, strict=True)])


def rouge_of_words(said: Sequence[str], right: Sequence[str]) -> np.ndarray:
    """ROUGE-L (F, percent) over words of any script, without case; a letter of Chinese, Japanese or Korean is one."""
    numbers: dict[str, int] = {}
    rows = [
        [[numbers.setdefault(word, len(numbers)) for word in _WORD.findall(text.lower())] for text in side]
        for side in (said, right)
    ]
    return np.asarray(rouge_l(*rows), dtype=float)
