"""How right each step is, on the data's prefixes and on the model's own, and whether errors can be repaired."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.metrics import Metric
from reproductions.metrics.answers import RIGHT, score_of
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.metrics.decoding.sampling import Samples
    from reproductions.tasks.base import Task

# A token is right where the oracle gives it this share of what its best one has: of equals all are right.
NEARLY = 0.5
METRICS = {
    "token_accuracy": "right tokens, teacher-forced",
    "answer_accuracy": "answers all of whose tokens are right, teacher-forced",
    "own_token_accuracy": "right tokens of the model's own greedy answers",
    "repaired": "wrong answers that the oracle would set right",
}


@measurement("exposure")
class Exposure:
    """The most probable token beside what an oracle, one of the testbed's teachers, holds right at that prefix.

    A token is right where the oracle gives it at least half of the probability of its best one; EOS is a token.
    `token_accuracy`: the share of right tokens in an answer, mean over answers, on the prefixes of the held-out rows'
    own completions (teacher-forced). `answer_accuracy`: the share of answers whose tokens are all right there.
    `own_token_accuracy`: the same share as the first, on the prefixes of the model's own greedy answers.
    `repaired`: of greedy answers with a wrong token, the share that would be right if the oracle went on greedily
    behind the first wrong one; a wrong EOS cannot be repaired. It is 0 where no token is wrong.
    """

    def __init__(self, oracle: str = "main") -> None:
        self.oracle = oracle

    @property
    def teachers(self) -> tuple[str, ...]:
        """The oracle."""
        return (self.oracle,)

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`token_accuracy`, `answer_accuracy`, `own_token_accuracy`, `repaired`."""
        found = {name: Metric("mean", (name,), True, title, "%") for name, title in METRICS.items()}
        columns = ("set_right", "with_wrong_token")
        return {**found, "repaired": Metric("ratio", columns, True, METRICS["repaired"], "%")}

    def columns(self, evaluation: Evaluation) -> Columns:
        """Of every prompt."""
        oracle, columns = evaluation.teacher(self.oracle).model, Columns()
        if evaluation.wants("token_accuracy", "answer_accuracy"):
            given = _given(evaluation)
            right = _in_parts(evaluation, given, partial(_right, evaluation.model, oracle))
            columns["token_accuracy"] = (_share(right, given.mask), 1)
            columns["answer_accuracy"] = (100 * (right | ~given.mask).all(1).numpy(), 0)
        if evaluation.wants("own_token_accuracy", "repaired"):
            own = evaluation.greedy
            right = _in_parts(evaluation, own, partial(_right, None, oracle))
            columns["own_token_accuracy"] = (_share(right, own.mask.cpu()), 1)
            wrong = ~right & own.mask.cpu()
            columns["with_wrong_token"] = (wrong.any(1).numpy(), 0)
            columns["set_right"] = (_set_right(evaluation, oracle, wrong), 0)
        return columns


def _right(model: Any, oracle: Any, ids: Tensor, attention: Tensor, samples: Samples) -> Tensor:
    """(B, T) whether a model's most probable tokens, or those of the samples themselves, are right by the oracle."""
    from reproductions.metrics.decoding import sampling

    said = sampling.completion_logprobs(oracle, ids, attention, samples)
    chosen = samples.ids
    if model is not None:
        chosen = sampling.completion_logprobs(model, ids, attention, samples).argmax(-1)
    own = said.gather(-1, chosen.to(said.device)[..., None])[..., 0]
    return (own >= said.amax(-1) + float(np.log(NEARLY))).cpu()


def _in_parts(evaluation: Evaluation, samples: Samples, of: Callable[..., Tensor]) -> Tensor:
    import torch

    from reproductions.metrics.decoding import sampling
    from reproductions.metrics.decoding.decoder import autocast

    ids, attention = evaluation.decoder.encode(evaluation.prompts)
    spans = [slice(n, n + sampling.FORWARD_ROWS) for n in range(0, len(ids), sampling.FORWARD_ROWS)]
    with torch.no_grad(), autocast(evaluation.run):
        return torch.cat([of(ids[span], attention[span], samples.rows(span)) for span in spans])


def _given(evaluation: Evaluation) -> Samples:
    """The completions of the rows, with EOS, as if they had been sampled."""
    import torch

    from reproductions.metrics.decoding import sampling

    decoder = evaluation.decoder
    texts = list(evaluation.task.rows(evaluation.split)["completion"])[: len(evaluation.prompts)]
    rows = decoder.tokenizer(texts, add_special_tokens=False)["input_ids"]
    said = [[*row, decoder.eos_ids[0]][: decoder.new_tokens] for row in rows]
    width = max(map(len, said))
    ids = torch.tensor([row + [decoder.tokenizer.pad_token_id] * (width - len(row)) for row in said])
    lengths = torch.tensor([len(row) for row in said])
    return sampling.Samples(ids, torch.arange(width) < lengths[:, None], torch.zeros(ids.shape))


def _share(right: Tensor, mask: Tensor) -> np.ndarray:
    """(B,) percent of the marked places."""
    return (100 * (right & mask).sum(1) / mask.sum(1)).numpy()


def _set_right(evaluation: Evaluation, oracle: Any, wrong: Tensor) -> np.ndarray:
    """(B,) 100 where the oracle, behind the first wrong token, makes a right answer of it; 0 where none is wrong."""
    from methods.modeling.rollouts import rollout

    decoder, found = evaluation.decoder, np.zeros(len(wrong))
    prompts, attention = decoder.encode(evaluation.prompts)
    answers = evaluation.greedy.ids.cpu().tolist()
    begun = {
        row: answers[row][: int(places.long().argmax()) + 1]
        for row, places in enumerate(wrong)
        if places.any()
    }
    begun = {row: ids for row, ids in begun.items() if ids[-1] not in decoder.eos_ids}
    if not begun:
        return found
    asked = [prompts[row][attention[row].bool()].tolist() + ids for row, ids in begun.items()]
    made = rollout(
        oracle,
        asked,
        max_new_tokens=decoder.new_tokens,
        eos_ids=decoder.eos_ids,
        pad_id=decoder.tokenizer.pad_token_id,
        greedy=True,
    )
    whole = []
    for ids, more, mask in zip(begun.values(), made.completion_ids, made.completion_mask.bool(), strict=True):
        answer = [*ids, *more[mask].tolist()][: decoder.new_tokens]
        whole.append(answer[:-1] if answer[-1] in decoder.eos_ids else answer)
    references = [evaluation.references[row] for row in begun]
    score = score_of(type(evaluation.task), RIGHT)
    found[list(begun)] = score.function(evaluation.task.said(whole, decoder.tokenizer), references)
    return found
