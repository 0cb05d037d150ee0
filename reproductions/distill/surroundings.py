"""A user's models and rows as the surroundings of a method (`methods.assembly.Surroundings`)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.assembly import Asked
from methods.elicitation.journal import Journal
from reproductions.distill.data.rows import TEACHER_PROMPT
from reproductions.engine.errors import KDError
from reproductions.engine.files import digest, read_json, write_atomic

if TYPE_CHECKING:
    from datasets import Dataset

    from reproductions.distill.data.rows import Rows


class GivenSurroundings:
    """One student, teachers by name, one set of rows; `state` keeps what is made once, over interrupts too."""

    def __init__(
        self,
        *,
        student: Any,
        teachers: Mapping[str, tuple[Any, Any]],
        tokenizer: Any,
        rows: Rows,
        budget: Mapping[str, Any],
        seed: int,
        arguments: Callable[..., Any],
        state: Path,
        device: Any = "cpu",
        report: Callable[[str, int, int], None] = lambda phase, step, total: None,
    ) -> None:
        self._student, self._teachers, self._rows = student, teachers, rows
        self._arguments, self._state, self._report = arguments, state, report
        self._device = device  # where teachers are asked, before a trainer moves anything
        self.seed, self.tokenizer = seed, tokenizer
        self.prompt_tokens, self.completion_tokens = budget["prompt_tokens"], budget["completion_tokens"]
        whole = self.prompt_tokens + self.completion_tokens
        self.pair_limits = (whole, whole)
        self.training: Mapping[str, Any] = {}
        self.start: Mapping[str, Any] = {}
        self.labels: Counter[str] = Counter()  # what became of teachers' answers
        self.tokens: Counter[str] = Counter()  # spent before the training, by model

    def student(self) -> Any:
        return self._student

    def teacher(self, name: str) -> Asked:
        from methods.teachers.store import TeacherStore
        from reproductions.distill.answers.kept import check_holds

        model, tokenizer = self._teachers[name]
        if isinstance(model, TeacherStore):
            return Asked(name, model, tokenizer, self.completion_tokens, states=partial(check_holds, model))
        held = getattr(model, "is_quantized", False)  # in 4 or 8 bit: it was loaded where it stays
        asked = (model if held else model.to(self._device)).eval().requires_grad_(False)
        if TEACHER_PROMPT not in self._rows.train.column_names:
            return Asked(name, asked, tokenizer, self.completion_tokens)
        return Asked(name, asked, tokenizer, self.completion_tokens, TEACHER_PROMPT, self._readable)

    def _readable(self, labels: Dataset) -> tuple[Dataset, int]:
        """A teacher's answers to its own prompts as the student's rows."""
        ours = dict(zip(self._rows.train[TEACHER_PROMPT], self._rows.train["prompt"], strict=True))
        theirs = list(labels["prompt"])
        rows = labels.remove_columns("prompt").add_column("prompt", [ours[prompt] for prompt in theirs])
        return rows.add_column(TEACHER_PROMPT, theirs), 0

    def rows(self, name: str) -> Dataset:
        if name == "validation":
            assert self._rows.validation is not None, "nobody said that this method looks at held-out rows"
            return self._rows.validation
        return self._rows.train

    def corpus(self) -> None:
        """None: a config names no plain text."""

    def arguments(self, config_class: type, **more: Any) -> Any:
        return self._arguments(config_class, **more)

    def keep(self, kind: str, key: Mapping[str, Any], make: Callable[[GivenSurroundings], Any]) -> Any:
        path = self._state / f"{kind}-{digest(dict(key), 12)}.json"
        if not path.is_file():
            before = Counter(self.labels), Counter(self.tokens)
            made = make(self)
            spent = {"labels": self.labels - before[0], "tokens": self.tokens - before[1]}
            self.labels, self.tokens = before
            write_atomic(path, json.dumps({"made": made, **spent}, ensure_ascii=False))
        kept = read_json(path)
        self.labels += Counter(kept["labels"])
        self.tokens += Counter(kept["tokens"])
        return kept["made"]

    def journal(self, kind: str, about: Mapping[str, Any]) -> Journal:
        """Where a teacher's answers are kept as they come."""
        path = self._state / f"{kind}-{digest(dict(about), 12)}.journal"
        return Journal(path, about, lambda done, of: self._report(kind, done, of))

    def answers(self) -> Path:
        """The journal of what teachers were asked for in words."""
        return self._state / "answers.jsonl"

    def keep_module(
        self,
        kind: str,
        key: Mapping[str, Any],
        make: Callable[[GivenSurroundings], Any],
        read: Callable[..., Any],
    ) -> Any:
        folder = self._state / f"{kind}-{digest(dict(key), 12)}"
        if not folder.is_dir():
            module, partial = make(self), folder.with_suffix(".partial")
            partial.mkdir(parents=True, exist_ok=True)
            module.save_pretrained(partial)
            partial.rename(folder)
        return read(folder)

    def train(self, trainer: Any, phase: str) -> Any:
        trainer.train()
        return trainer.accelerator.unwrap_model(trainer.model)

    def spent(self, report: Any) -> None:
        self.labels += Counter(
            {name: getattr(report, name) for name in ("completions", "truncated", "empty")}
        )
        self.tokens += Counter(teacher=report.teacher_tokens, generated=report.generated_tokens)


# Targets of as many teachers as there are.
SEVERAL = ("average-logits", "teacher-by-row", "combined-logits")


def named_teachers(
    method: Mapping[str, Any], names: list[str], given: list[Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The method and its teachers by name, for as many teachers as a config gives.

    Several teachers of a method that names one are averaged, where it takes a divergence from its teacher as it is
    (their logits, as BabyLlama does); a target that says itself what becomes of several (SEVERAL) has them all. Raises
    KDError where the method has no use for that many.
    """
    if len(given) == len(names):
        return dict(method), dict(zip(names, given, strict=True))
    if not names:
        raise KDError("this method learns from the data alone; take the teacher out, or another method")
    terms = method.get("terms", [])
    plain = [term for term in terms if "divergence" in term and "term" not in term and "target" not in term]
    several = [term for term in terms if term.get("target", {}).get("name") in SEVERAL]
    if len(given) < 2 or len(method["teachers"]) != len(names) or not (several or plain and len(names) == 1):
        takes = f"{len(names)} teachers ({', '.join(names)})" if len(names) > 1 else "one teacher"
        raise KDError(f"this method takes {takes}, the config gives {len(given)}")
    every = [f"teacher-{place}" for place in range(1, len(given) + 1)]
    changed = [{**term, "target": {"name": "average-logits"}} if term in plain else term for term in terms]
    return {**method, "teachers": every, "terms": changed}, dict(zip(every, given, strict=True))
