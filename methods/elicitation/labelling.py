"""Labelling: the teacher writes the outputs for given inputs (the survey, arXiv 2402.13116, section 3.1.1)."""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from methods.elicitation.journal import Journal
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
    journal: Journal | None = None,
) -> tuple[list[list[str]], LabellingReport]:
    """The teacher's `beams` most probable completions of each prompt, best first: `(prompts, beams)` texts.

    Hypotheses that the length limit cut, and empty ones, are left out and counted. The search is that of
    transformers' `generate`, without length penalty. Source: Kim and Rush, arXiv 1606.07947, section 3.2.
    """
    stops = torch.tensor(eos_ids(teacher, tokenizer), device=teacher.device)
    pad = _pad_of(tokenizer, stops.tolist())
    found: list[list[str]] = [[] for _ in prompts]
    report = LabellingReport()
    batches = _batches(prompts, batch_size)
    for entry in journal.entries if journal else ():
        report = _read(entry, report)
        found = [entry["answers"].get(str(i), answers) for i, answers in enumerate(found)]
    for number in range(len(journal.entries) if journal else 0, len(batches)):
        batch, before = batches[number], replace(report)
        ids = prompt_tokens(tokenizer, [prompts[i] for i in batch])
        prompt_ids, mask = left_pad(ids, pad, teacher.device)
        made = teacher.generate(  # type: ignore[operator]
            input_ids=prompt_ids, attention_mask=mask, max_new_tokens=max_new_tokens, num_beams=beams,
            num_return_sequences=beams, do_sample=False, length_penalty=0.0, early_stopping=True,
            eos_token_id=stops.tolist(), pad_token_id=pad,
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
        report.teacher_tokens += beams * int(mask.sum()) + report.generated_tokens - before.generated_tokens
        if journal is not None:
            journal.add(_entry({i: found[i] for i in batch}, report, before), len(batches))
    return found, report


def closest(candidates: Sequence[str], reference: str) -> str:
    """The candidate with the highest smoothed sentence-level BLEU to the reference; the first of equals.

    Sequence-level interpolation of Kim and Rush, arXiv 1606.07947, section 3.3. Texts are split at blanks.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth, words = SmoothingFunction().method2, [reference.split()]
    return max(candidates, key=lambda text: sentence_bleu(words, text.split(), smoothing_function=smooth))


def _batches(prompts: Sequence[str], size: int) -> list[list[int]]:
    """Places of the prompts: of one length together, no padding to compute, done when the longest answer of few is."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _pad_of(tokenizer: Any, stops: Sequence[int]) -> int:
    """What fills up a batch and is masked: any id does, and many a teacher has no pad token."""
    return stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _entry(answers: Mapping[int, Any], now: LabellingReport, before: LabellingReport) -> dict[str, Any]:
    """A batch as a journal keeps it: its answers, and what it added to the report."""
    old = before.as_dict()
    return {"answers": dict(answers), "report": {name: n - old[name] for name, n in now.as_dict().items()}}


def _read(entry: Mapping[str, Any], report: LabellingReport) -> LabellingReport:
    return LabellingReport(**{name: n + entry["report"][name] for name, n in report.as_dict().items()})


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
    journal: Journal | None = None,
) -> tuple[Dataset, LabellingReport]:
    """Teacher completions for `prompts`: the data of sequence-level KD, to be fed to a trainer.

    Reads: prompts. Writes: columns `prompt`, `completion` (text, without the end-of-sequence token that SFT adds).
    Kim and Rush (arXiv 1606.07947, section 3.2) take the beam's mode, later work on language models greedy decoding or
    a sample at temperature 1 (MiniLLM's scripts): `greedy` and `temperature` say which. `seed` fixes the samples.
    A truncated completion would teach the student to stop in mid-sentence, an empty one to say nothing: both are left
    out and counted in the report. A `journal` keeps each batch as it comes; with what one holds the rest is made as it
    would have been. Raises MethodError where nothing is left.
    """
    stops = eos_ids(teacher, tokenizer)
    generator = torch.Generator(teacher.device).manual_seed(seed)
    report, answers = LabellingReport(), dict[int, str]()
    batches = _batches(prompts, batch_size)
    for entry in journal.entries if journal else ():
        report = _read(entry, report)
        answers |= {int(i): text for i, text in entry["answers"].items()}
        generator.set_state(torch.frombuffer(bytearray(b64decode(entry["random"])), dtype=torch.uint8))
    for number in range(len(journal.entries) if journal else 0, len(batches)):
        batch, before = batches[number], replace(report)
        ids = prompt_tokens(tokenizer, [prompts[i] for i in batch])
        result = rollout(
            teacher,
            ids,
            max_new_tokens=max_new_tokens,
            eos_ids=stops,
            pad_id=_pad_of(tokenizer, stops),
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
        if journal is not None:
            entry = _entry({i: answers[i] for i in batch if i in answers}, report, before)
            random = b64encode(generator.get_state().numpy().tobytes()).decode()
            journal.add({**entry, "random": random}, len(batches))
    rows = [{"prompt": prompts[i], "completion": answers[i]} for i in range(len(prompts)) if i in answers]
    if not rows:
        raise MethodError(
            f"the teacher gave no usable completion to {len(prompts)} prompts: {report.truncated} truncated at "
            f"{max_new_tokens} tokens, {report.empty} empty"
        )
    return Dataset.from_list(rows), report
