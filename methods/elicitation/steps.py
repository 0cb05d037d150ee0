"""Data steps: rows made from rows by a teacher, as a recipe's `data` names them.

A step gets the rows it is about (columns `prompt`, `completion`), the teacher and its own settings, and gives rows
again. What it cost is told to `surroundings.spent(report)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from methods.elicitation.components.self_knowledge import majority
from methods.elicitation.journal import Journal
from methods.elicitation.labelling import beam_search, closest, label_with_teacher
from methods.elicitation.records.record import Record
from methods.errors import MethodError
from methods.registry import build, canonical, component

if TYPE_CHECKING:
    from methods.assembly import Asked, Surroundings


@component("data", "label")
def label(
    rows: Dataset,
    teacher: Asked,
    surroundings: Surroundings,
    *,
    temperature: float = 1.0,
    greedy: bool = False,
    batch_size: int = 64,
    seed: int = 0,
    prompts: int | None = None,
    samples: int = 1,
) -> Dataset:
    """The teacher's answers to the prompts of the rows: `samples` to each of the first `prompts` ones.

    Sampled at a temperature, or greedy; an answer that was cut or is empty is left out and counted. A teacher with a
    prompt of its own is asked by that, and the student's rows hold what it can read.
    Source: Kim and Rush, arXiv 1606.07947, section 3.2.
    """
    if prompts is not None and prompts < 1:
        raise MethodError(f'label: "prompts" must be a whole number of 1 or more, not {prompts}')
    asked = list(rows[teacher.prompt_column])[:prompts] * samples
    labels, report = label_with_teacher(
        teacher.model,
        teacher.tokenizer,
        asked,
        max_new_tokens=teacher.completion_tokens,
        temperature=temperature,
        greedy=greedy,
        batch_size=batch_size,
        seed=seed,
        journal=_journal(
            surroundings,
            "labels",
            teacher,
            asked,
            {"temperature": temperature, "greedy": greedy, "batch_size": batch_size, "seed": seed},
        ),
    )
    readable, unread = teacher.readable(labels)
    # What the student cannot read says nothing to it: it is counted with the empty answers.
    report.empty += unread
    surroundings.spent(report)
    return readable


@component("data", "right-answers")
def right_answers(
    rows: Dataset,
    teacher: None,
    surroundings: Surroundings,
    *,
    verifier: Mapping[str, Any] | str = "exact-answer",
    samples: int = 4,
    temperature: float = 1.0,
    greedy: bool = False,
    threshold: float = 1.0,
    most: int | None = None,
    distinct: bool = True,
    prefix: str = "",
    batch_size: int = 64,
    seed: int = 0,
) -> Dataset:
    """The student's own answers before its training, of which a check keeps those that are right.

    `samples` to each prompt, or one greedy one; kept are those whose reward reaches `threshold`, each text once where
    `distinct`, at most `most` for a prompt (all where null). Cut and empty answers are left out and counted. Raises
    MethodError where none is right. With a `prefix` the student is asked behind it; what is kept stands behind the
    row's own prompt.
    Source: RFT, Yuan et al., arXiv 2308.01825; STaR, arXiv 2203.14465 (greedy, few-shot examples as the prefix; that
    they are not trained on is our reading); ReST-EM, arXiv 2312.06585 (`most` 10).
    """
    sampling = {"temperature": temperature, "greedy": greedy, "batch_size": batch_size, "seed": seed}
    judged = checked_answers(rows, surroundings, verifier, 1 if greedy else samples, prefix, **sampling)
    kept: dict[str, list[str]] = {}
    for prompt, text, figure in judged:
        own = kept.setdefault(prompt, [])
        repeated = distinct and text in own
        full = most is not None and len(own) >= most
        if figure is not None and figure >= threshold and not repeated and not full:
            own.append(text)
    pairs = [{"prompt": prompt, "completion": text} for prompt, own in kept.items() for text in own]
    if not pairs:
        raise MethodError(f"right-answers: none of the student's {len(judged)} answers is right")
    return Dataset.from_list(pairs)


@component("data", "own-answers")
def own_answers(
    rows: Dataset,
    teacher: None,
    surroundings: Surroundings,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    prefix: str = "",
    batch_size: int = 64,
    seed: int = 0,
) -> Dataset:
    """What the student says to each prompt before its training, right or wrong: samples of the start, drawn once.

    `samples` to each prompt, each different prompt once. Cut and empty answers are left out and counted. With a
    `prefix` the student is asked behind it; what is kept stands behind the row's own prompt.
    Source: Lightning OPD, arXiv 2604.13010 (one rollout of the start for each prompt).
    """
    if samples < 1:
        raise MethodError(f'own-answers: "samples" must be 1 or more, not {samples}')
    settings: dict[str, Any] = {"temperature": temperature, "batch_size": batch_size, "seed": seed}
    return _behind_prefix(rows, surroundings, samples, prefix, **settings)


def _behind_prefix(
    rows: Dataset, surroundings: Surroundings, samples: int, prefix: str, **sampling: Any
) -> Dataset:
    """The student's whole answers to each different prompt behind `prefix`, beside the prompts without it."""
    asked = [prefix + prompt for prompt in dict.fromkeys(rows["prompt"])] * samples
    said = _said(asked, surroundings, greedy=False, **sampling)
    pairs = zip(said["prompt"], said["completion"], strict=True)
    return Dataset.from_list(
        [{"prompt": prompt.removeprefix(prefix), "completion": text} for prompt, text in pairs]
    )


@component("data", "agreed-answers")
def agreed_answers(
    rows: Dataset,
    teacher: None,
    surroundings: Surroundings,
    *,
    after: str | None = "Answer:",
    samples: int = 32,
    share: float = 0.0,
    reasons: bool = True,
    temperature: float = 1.0,
    prefix: str = "",
    batch_size: int = 64,
    seed: int = 0,
) -> Dataset:
    """What the student says to each prompt before its training, where most of its samples give the same answer.

    The answer of a text is what stands behind its last `after`, all of it where null; a text without one has no vote.
    Kept are all of the `samples` to a prompt that give the answer which most give, nobody's right answer is read; a
    prompt with a tie, or whose winner has less than `share` of the votes, is left out. Without `reasons` of a text
    that is kept there stays `after` and the answer. With a `prefix` the student is asked behind it; what is kept stands
    behind the row's own prompt. `seed` is added to the training's: each draws anew. Cut and empty answers are counted.
    Raises MethodError where nothing is agreed on.
    Source: LMSI, arXiv 2210.11610 (32 samples at 0.7, the paths that give the most frequent answer).
    """
    if samples < 1:
        raise MethodError(f'agreed-answers: "samples" must be 1 or more, not {samples}')
    drawn = seed + surroundings.seed
    sampling: dict[str, Any] = {"temperature": temperature, "batch_size": batch_size, "seed": drawn}
    said = _behind_prefix(rows, surroundings, samples, prefix, **sampling)
    texts = [
        Record(row["prompt"], row["completion"], label=_behind(row["completion"], after)) for row in said
    ]
    kept = [row for row in majority(texts, None, share=share) if row.alive]
    if not kept:
        raise MethodError(f"agreed-answers: on none of {len(rows)} prompts most of {samples} samples agree")
    pairs = [
        {
            "prompt": row.prompt,
            "completion": row.completion if reasons else f"{after or ''} {row.label}".lstrip(),
        }
        for row in kept
    ]
    return Dataset.from_list(pairs)


def _behind(text: str, mark: str | None) -> str | None:
    """What stands behind the last mark, the whole text where there is none to look for; None for nothing."""
    _, found, answer = text.rpartition(mark) if mark else ("", "all of it", text)
    return (answer.strip() or None) if found else None


@component("data", "pass-rates")
def pass_rates(
    rows: Dataset,
    teacher: None,
    surroundings: Surroundings,
    *,
    verifier: Mapping[str, Any] | str = "exact-answer",
    samples: int = 8,
    temperature: float = 1.0,
    threshold: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
) -> Dataset:
    """The rows as they are with a column `pass_rate`: how often the student, before its training, solves each prompt.

    The share of `samples` answers whose reward reaches `threshold`; a cut or empty answer is a wrong one.
    Source: PACED, arXiv 2603.11178 (an empirical rate of the student's own rollouts; 8 is our choice).
    """
    if samples < 1:
        raise MethodError(f'pass-rates: "samples" must be 1 or more, not {samples}')
    sampling: dict[str, Any] = {
        "temperature": temperature,
        "greedy": False,
        "batch_size": batch_size,
        "seed": seed,
    }
    right: dict[str, int] = {}
    for prompt, _, figure in checked_answers(rows, surroundings, verifier, samples, **sampling):
        right[prompt] = right.get(prompt, 0) + (figure is not None and figure >= threshold)
    rates = [right.get(prompt, 0) / samples for prompt in rows["prompt"]]
    kept = rows.remove_columns("pass_rate") if "pass_rate" in rows.column_names else rows
    return kept.add_column("pass_rate", rates)


def _said(prompts: list[str], surroundings: Surroundings, **sampling: Any) -> Dataset:
    """The student's whole answers, columns `prompt` and `completion`."""
    answers, report = label_with_teacher(
        surroundings.student(),
        surroundings.tokenizer,
        prompts,
        max_new_tokens=surroundings.completion_tokens,
        **sampling,
    )
    surroundings.spent(report)
    return answers


def checked_answers(
    rows: Dataset,
    surroundings: Surroundings,
    verifier: Mapping[str, Any] | str,
    samples: int,
    prefix: str = "",
    **sampling: Any,
) -> list[tuple[str, str, float | None]]:
    """(prompt, answer, reward) of what the student says to each prompt, `samples` times; whole answers alone.

    It reads the prompts behind `prefix`; what is told of is without it.
    """
    prompts = dict.fromkeys(rows["prompt"])
    answers = _said([prefix + prompt for prompt in prompts] * samples, surroundings, **sampling)
    return judged_answers(rows, answers, verifier, surroundings, prefix)


def judged_answers(
    rows: Dataset,
    answers: Dataset,
    verifier: Mapping[str, Any] | str,
    surroundings: Surroundings,
    prefix: str = "",
) -> list[tuple[str, str, float | None]]:
    """(prompt, answer, reward) of answers to the prompts of the rows, which stand there behind `prefix`."""
    by_prompt = {row["prompt"]: row for row in rows}
    check = build("reward", canonical("reward", verifier), surroundings=surroundings)
    about = [by_prompt[prompt.removeprefix(prefix)] for prompt in answers["prompt"]]
    columns = {name: [row[name] for row in about] for name in rows.column_names}
    said = list(answers["completion"])
    encode, end = surroundings.tokenizer, getattr(surroundings.tokenizer, "eos_token_id", None)
    ids = [[*row, end] for row in encode(said, add_special_tokens=False)["input_ids"]] if said else []
    given = {**columns, "reference": columns.pop("completion"), "completions": said, "completion_ids": ids}
    figures = check(prompts=given.pop("prompt"), **given)
    return [(row["prompt"], text, figure) for row, text, figure in zip(about, said, figures, strict=True)]


@component("data", "beam-search")
def beam(
    rows: Dataset,
    teacher: Asked,
    surroundings: Surroundings,
    *,
    beams: int = 5,
    batch_size: int = 64,
    pick: str = "mode",
) -> Dataset:
    """One answer of the teacher's beam for each row: its "mode", or the "closest" to the row's own completion.

    Rows whose beam holds no finished answer are left out.
    Source: Kim and Rush, arXiv 1606.07947, sections 3.2 (SeqKD) and 3.3 (sequence-level interpolation).
    """
    if pick not in ("mode", "closest"):
        raise MethodError(f'beam-search: "pick" is mode or closest, not {pick!r}')

    def search(apart: Surroundings, asked: Asked) -> list[list[str]]:
        prompts = list(rows[asked.prompt_column])
        found, report = beam_search(
            asked.model,
            asked.tokenizer,
            prompts,
            max_new_tokens=asked.completion_tokens,
            beams=beams,
            batch_size=batch_size,
            journal=_journal(apart, "beams", asked, prompts, {"beams": beams, "batch_size": batch_size}),
        )
        apart.spent(report)
        return found

    # Both picks are of one search.
    key = {"beams": beams, "batch_size": batch_size, "rows": len(rows), "teacher": teacher.name}
    beams_found = surroundings.keep("beams", key, lambda apart: search(apart, apart.teacher(teacher.name)))
    return _picked(rows, beams_found, pick)


def _journal(
    surroundings: Any, kind: str, teacher: Asked, prompts: Sequence[str], settings: dict[str, Any]
) -> Journal | None:
    """The journal of these answers, where the surroundings keep one."""
    keep = getattr(surroundings, "journal", None)
    if keep is None:
        return None
    limit = {
        "teacher": teacher.name,
        "tokens": teacher.completion_tokens,
        "device": teacher.model.device.type,
    }
    return keep(kind, {**settings, **limit, "prompts": list(prompts)})


def _picked(rows: Dataset, found: Sequence[Sequence[str]], pick: str) -> Dataset:
    made: list[dict[str, Any]] = []
    for row, answers in zip(rows, found, strict=True):
        if answers:
            answer = answers[0] if pick == "mode" else closest(answers, row["completion"])
            made.append({"prompt": row["prompt"], "completion": answer})
    return Dataset.from_list(made)
