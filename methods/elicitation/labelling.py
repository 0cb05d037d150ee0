"""Labelling: the teacher writes the outputs for given inputs (the survey, arXiv 2402.13116, section 3.1.1)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from methods.errors import MethodError
from methods.modeling.core import eos_ids
from methods.modeling.rollouts import left_pad, prompt_tokens, rollout


@dataclass
class LabellingReport:
    """What the teacher gave; truncated and empty completions are counted here and left out of the data."""

    completions: int = 0
    truncated: int = 0
    empty: int = 0
    generated_tokens: int = 0
    teacher_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@torch.no_grad()
def beam_search(
    teacher: PreTrainedModel,
    tokenizer: Any,
    prompts: list[str],
    *,
    beams: int,
    max_new_tokens: int,
    batch_size: int = 64,
) -> tuple[list[list[str]], LabellingReport]:
    """The teacher's `beams` most probable completions of each prompt, best first: `(prompts, beams)` texts.

    Hypotheses that the length limit cut, and empty ones, are left out and counted. The search is that of
    transformers' `generate`, without length penalty. Source: Kim and Rush, arXiv 1606.07947, section 3.2.
    """
    report = LabellingReport()
    stops = torch.tensor(eos_ids(teacher, tokenizer), device=teacher.device)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: list[list[str]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = prompt_tokens(tokenizer, [prompts[i] for i in batch])
        prompt_ids, mask = left_pad(ids, tokenizer.pad_token_id, teacher.device)
        made = teacher.generate(  # type: ignore[operator]
            input_ids=prompt_ids, attention_mask=mask, max_new_tokens=max_new_tokens, num_beams=beams,
            num_return_sequences=beams, do_sample=False, length_penalty=0.0, early_stopping=True,
            eos_token_id=stops.tolist(), pad_token_id=tokenizer.pad_token_id,
        )[:, prompt_ids.shape[1] :]  # fmt: skip
        for row, answer in enumerate(made):
            i = batch[row // beams]
            ends = torch.isin(answer, stops).nonzero()
            report.completions += 1
            report.generated_tokens += int(ends[0]) + 1 if len(ends) else len(answer)
            if not len(ends):
                report.truncated += 1
            elif int(ends[0]) == 0:
                report.empty += 1
            else:
                found[i].append(_text(tokenizer, ids[row // beams], answer[: int(ends[0])].tolist()))
        report.teacher_tokens += beams * int(mask.sum())
    report.teacher_tokens += report.generated_tokens
    return found, report


def closest(candidates: Sequence[str], reference: str) -> str:
    """The candidate with the highest smoothed sentence-level BLEU to the reference; the first of equals.

    Sequence-level interpolation of Kim and Rush, arXiv 1606.07947, section 3.3. Texts are split at blanks.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth, words = SmoothingFunction().method2, [reference.split()]
    return max(candidates, key=lambda text: sentence_bleu(words, text.split(), smoothing_function=smooth))


def _text(tokenizer: Any, prompt: list[int], answer: list[int]) -> str:
    """The answer's text, decoded behind its prompt: a completion alone may lose the blank that it starts with."""
    whole = tokenizer.decode(prompt + answer, skip_special_tokens=True)
    return whole.removeprefix(tokenizer.decode(prompt, skip_special_tokens=True))


def label_with_teacher(
    teacher: PreTrainedModel,
    tokenizer: Any,
    prompts: list[str],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    temperature: float = 1.0,
    greedy: bool = False,
    seed: int = 0,
) -> tuple[Dataset, LabellingReport]:
    """Teacher completions for `prompts`: the data of sequence-level KD, to be fed to a trainer.

    Reads: prompts. Writes: columns `prompt`, `completion` (text, without the end-of-sequence token that SFT adds).
    Kim and Rush (arXiv 1606.07947, section 3.2) take the beam's mode, later work on language models greedy decoding or
    a sample at temperature 1 (MiniLLM's scripts): `greedy` and `temperature` say which. `seed` fixes the samples.
    A truncated completion would teach the student to stop in mid-sentence, an empty one to say nothing: both are left
    out and counted in the report. Raises MethodError where nothing is left.
    """
    report = LabellingReport()
    stops = eos_ids(teacher, tokenizer)
    generator = torch.Generator(teacher.device).manual_seed(seed)
    rows: list[dict[str, str]] = []
    # Prompts of one length together: no padding to compute, and the batch ends when its longest answer does.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = prompt_tokens(tokenizer, [prompts[i] for i in batch])
        result = rollout(
            teacher,
            ids,
            max_new_tokens=max_new_tokens,
            eos_ids=stops,
            pad_id=tokenizer.pad_token_id,
            temperature=temperature,
            greedy=greedy,
            generator=generator,
        )
        for name, number in result.counts().items():
            setattr(report, name, getattr(report, name) + number)
        report.generated_tokens += result.tokens
        report.teacher_tokens += result.tokens + int(result.prompt_mask.sum())
        lengths = result.completion_mask.sum(1) - 1  # the last token is the end of sequence
        for row, i in enumerate(batch):
            if not (result.truncated[row] or result.empty[row]):
                answer = result.completion_ids[row, : lengths[row]].tolist()
                answers[i] = _text(tokenizer, ids[row], answer)
    rows = [{"prompt": prompts[i], "completion": answers[i]} for i in range(len(prompts)) if i in answers]
    if not rows:
        raise MethodError(
            f"the teacher gave no usable completion to {len(prompts)} prompts: {report.truncated} truncated at "
            f"{max_new_tokens} tokens, {report.empty} empty"
        )
    return Dataset.from_list(rows), report
