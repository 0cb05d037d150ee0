"""Labelling: the teacher writes the outputs for given inputs (the survey, arXiv 2402.13116, section 3.1.1)."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from methods.errors import MethodError
from methods.models import eos_ids
from methods.rollouts import rollout


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
    """Teacher completions for `prompts`: the data of sequence-level KD, to be fed to `SFTTrainer`.

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
        ids = tokenizer([prompts[i] for i in batch], add_special_tokens=False)["input_ids"]
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
                # Decoded behind its prompt: a completion alone may lose the blank that it starts with.
                answer = result.completion_ids[row, : lengths[row]].tolist()
                whole = tokenizer.decode(ids[row] + answer, skip_special_tokens=True)
                answers[i] = whole.removeprefix(tokenizer.decode(ids[row], skip_special_tokens=True))
    rows = [{"prompt": prompts[i], "completion": answers[i]} for i in range(len(prompts)) if i in answers]
    if not rows:
        raise MethodError(
            f"the teacher gave no usable completion to {len(prompts)} prompts: {report.truncated} truncated at "
            f"{max_new_tokens} tokens, {report.empty} empty"
        )
    return Dataset.from_list(rows), report
