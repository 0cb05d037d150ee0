"""The evaluation of one training: start and teachers before it, the student after it; kept over interrupts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reproductions.distill.data.rows import TEACHER_PROMPT, Rows
from reproductions.distill.evaluate.harness import asked, run_tasks
from reproductions.distill.evaluate.measure import Figures, answer_tokens, measure
from reproductions.distill.evaluate.spec import Evaluation
from reproductions.distill.evaluate.table import TASKS
from reproductions.distill.state import first_process
from reproductions.engine.files import digest, read_json, write_atomic

FILE = "evaluation.json"  # beside the student: the figures of every row
START, STUDENT = "start", "student"
SAID = 3  # answers that a card shows
KEY = "measured_as"  # of a model's figures: all that they follow from, as a digest


class Evaluated:
    """The figures so far of the models of a training; `state` is where they are kept until the student is saved.

    `measured` are figures by their KEY that need not be made again: another training began with the same models.
    """

    def __init__(
        self,
        wanted: Evaluation,
        rows: Rows,
        tokenizer: Any,
        completion_tokens: int,
        state: Path,
        report: Callable[..., None],
        measured: Mapping[str, Any] | None = None,
    ) -> None:
        assert rows.evaluation is not None
        self._measured = measured or {}
        self._wanted, self._rows, self._tokenizer = wanted, rows, tokenizer
        self._limit, self._file, self._report = completion_tokens, state / FILE, report
        self._asked = None if wanted.lm_eval is None else asked(wanted.lm_eval)
        kept = read_json(self._file) if self._file.is_file() else {}
        self._found: dict[str, Any] = kept.get("models", {})
        if kept.get(TASKS) != self._asked:  # lm-eval is another one since: only its part is made again
            for figures in self._found.values():
                figures.pop(TASKS, None)

    def before(self, who: str, made_of: Mapping[str, Any], model: Callable[[], tuple[Any, Any]]) -> None:
        """Measure a model (and its tokenizer) that the training leaves as it is, unless that was done before.

        `made_of` is plain data that says which model it is, by the content of its weights and how they are loaded.
        """
        key = self._key(made_of)
        if who not in self._found and key in self._measured:
            self._found[who] = dict(self._measured[key])
            self._keep()
        measured = who in self._found
        if measured and (self._asked is None or TASKS in self._found[who]):
            return
        given = model()
        if not measured:
            self._measure(who, *given, teacher=who != START)
            self._found[who][KEY] = key
            self._keep()
        if self._asked is not None:
            self._run_tasks(who, *given)
            self._keep()

    def _key(self, made_of: Mapping[str, Any]) -> str:
        """All that a model's figures follow from: itself, the rows as it reads them, what is measured on them."""
        rows: Any = self._rows.evaluation
        read = [name for name in ("prompt", "completion", TEACHER_PROMPT) if name in rows.column_names]
        wanted = self._wanted
        measured = [wanted.answers, list(wanted.scores), wanted.batch_size, self._limit, self._asked]
        given = [dict(made_of), {name: rows[name][:] for name in read}, measured]
        return digest(json.loads(json.dumps(given)), 16)

    def after(self, model: Any) -> dict[str, Any]:
        """Measure the student; everything, as plain data."""
        self._measure(STUDENT, model, self._tokenizer)
        self._run_tasks(STUDENT, model, self._tokenizer)
        return self.as_dict()

    def _keep(self) -> None:
        if first_process():
            write_atomic(self._file, json.dumps(self.as_dict()))

    def _measure(self, who: str, model: Any, tokenizer: Any, *, teacher: bool = False) -> None:
        self._report(f"evaluating the {who}", 0, 0)
        figures: Figures = measure(
            model, tokenizer, self._rows.evaluation, self._wanted, self._limit, teacher=teacher
        )
        self._found[who] = figures.as_dict()

    def _run_tasks(self, who: str, model: Any, tokenizer: Any) -> None:
        if self._wanted.lm_eval is not None:
            self._report(f"lm-eval: the {who}", 0, 0)
            found = run_tasks(model, tokenizer, self._wanted.lm_eval, who)
            if found is not None:
                self._found[who][TASKS] = found

    def as_dict(self) -> dict[str, Any]:
        """What the table is made from: figures by model, tokens and conversation of each row, the rows themselves."""
        rows: Any = self._rows.evaluation
        return {
            "rows": len(rows),
            "answers": min(len(rows), self._wanted.answers if self._wanted.scores else 0),
            "tokens": answer_tokens(rows, self._tokenizer),
            "clusters": self._rows.clusters,
            "prompts": rows["prompt"][:SAID],
            "references": rows["completion"][:SAID],
            "models": self._found,
            **({} if self._asked is None else {TASKS: self._asked}),
        }


def measured_in(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of an evaluation's start and teachers by their KEY, which no other training has to make again."""
    return {one[KEY]: one for one in evaluation["models"].values() if KEY in one}
