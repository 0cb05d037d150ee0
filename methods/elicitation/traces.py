"""Which of a teacher's right answers a student learns from, by what teacher and student find likely in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from methods.elicitation.ahead import log_probs_by
from methods.elicitation.labelling import label_with_teacher
from methods.elicitation.steps import judged_answers
from methods.errors import MethodError
from methods.registry import component, near

if TYPE_CHECKING:
    from methods.assembly import Asked, Surroundings

Said = Sequence[float]  # log-probabilities of an answer's tokens and its end, in nats
READ = ("gap", "most", "fewest")  # what both models must say something of
ORDERS = ("first", "longest", *READ)


@component("data", "teacher-traces")
def teacher_traces(
    rows: Dataset,
    teacher: Asked,
    surroundings: Surroundings,
    *,
    by: str = "gap",
    verifier: Mapping[str, Any] | str = "exact-answer",
    samples: int = 4,
    temperature: float = 1.0,
    threshold: float = 1.0,
    margin: float = 0.1,
    unit: int = 4,
    batch_size: int = 64,
    seed: int = 0,
) -> Dataset:
    """Of `samples` answers of the teacher to each prompt, those that a check finds right, one is kept.

    `by` "gap": that with the largest mean log-probability to the teacher less that to the student before its training;
    "most" or "fewest" pieces of `unit` tokens whose probability to the teacher, the geometric mean of its tokens',
    is greater than that to the student by `margin`; "longest", in tokens; or the "first". Of equals the first. Right
    is what reaches `threshold`; prompts without a right answer, cut and empty answers are left out. Both read the same
    tokens. Raises MethodError where nothing is right.
    Source: DASD, arXiv 2601.09088 (samples where the teacher's probability is far above the student's; a gap of logs is
    our reading); "Where Did This Sentence Come From?", arXiv 2512.20908 (the number of teacher sentences, margin 0.1; a
    sentence is there what we take as pieces of equal length).
    """
    if by not in ORDERS:
        raise MethodError(f'teacher-traces: no order "{by}"{near(by, ORDERS)}; known: {", ".join(ORDERS)}')
    for name, value in (("samples", samples), ("unit", unit)):
        if value < 1:
            raise MethodError(f'teacher-traces: "{name}" must be 1 or more, not {value}')
    if (
        teacher.prompt_column != "prompt"
        or teacher.tokenizer.get_vocab() != surroundings.tokenizer.get_vocab()
    ):
        raise MethodError("teacher-traces compares what both find likely: they must read the same tokens")
    said, report = label_with_teacher(
        teacher.model,
        teacher.tokenizer,
        list(dict.fromkeys(rows["prompt"])) * samples,
        max_new_tokens=teacher.completion_tokens,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
    )
    surroundings.spent(report)
    texts: dict[str, list[str]] = {}
    for prompt, text, figure in judged_answers(rows, said, verifier, surroundings):
        if figure is not None and figure >= threshold:
            texts.setdefault(prompt, []).append(text)
    if not texts:
        raise MethodError(f"teacher-traces: none of the teacher's {len(said)} answers is right")

    def spoken(model: Any) -> dict[str, list[Said]]:
        return log_probs_of(model, surroundings.tokenizer, texts, batch_size) if by in READ else {}

    theirs, ours = spoken(teacher.model), spoken(surroundings.student() if by in READ else None)
    worth = WORTH.get(by, WORTH["first"])
    made = []
    for prompt, found in texts.items():
        if by == "longest":
            ids = surroundings.tokenizer(found, add_special_tokens=False)["input_ids"]
            worths = [float(len(one)) for one in ids]
        else:
            pairs = zip(theirs.get(prompt, found), ours.get(prompt, found), strict=True)
            worths = [worth(mine, other, margin, unit) for mine, other in pairs]
        best = max(range(len(found)), key=worths.__getitem__)
        made.append({"prompt": prompt, "completion": found[best]})
    return Dataset.from_list(made)


def log_probs_of(
    model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]], batch_size: int
) -> dict[str, list[Said]]:
    """By prompt, what a model says of each of its answers: log-probabilities of the tokens and of the end, in nats."""
    found: dict[str, list[Said]] = {prompt: [] for prompt in texts}
    for place in range(max(map(len, texts.values()))):
        there = {prompt: said[place] for prompt, said in texts.items() if place < len(said)}
        for prompt, figures in log_probs_by(model, tokenizer, there, 1.0, batch_size).items():
            found[prompt].append(figures)
    return found


def gap(theirs: Said, ours: Said) -> float:
    """The teacher's mean log-probability of a token less the student's, in nats."""
    return sum(theirs) / len(theirs) - sum(ours) / len(ours)


def teacher_pieces(theirs: Said, ours: Said, margin: float, unit: int) -> int:
    """Pieces of `unit` tokens whose geometric mean probability to the teacher is `margin` above that to the student."""
    count = 0
    for start in range(0, len(theirs), unit):
        mine, other = theirs[start : start + unit], ours[start : start + unit]
        count += exp(sum(mine) / len(mine)) - exp(sum(other) / len(other)) >= margin
    return count


WORTH: Mapping[str, Callable[[Any, Any, float, int], float]] = {
    "first": lambda theirs, ours, margin, unit: 0.0,
    "gap": lambda theirs, ours, margin, unit: gap(theirs, ours),
    "most": lambda theirs, ours, margin, unit: float(teacher_pieces(theirs, ours, margin, unit)),
    "fewest": lambda theirs, ours, margin, unit: -float(teacher_pieces(theirs, ours, margin, unit)),
}
