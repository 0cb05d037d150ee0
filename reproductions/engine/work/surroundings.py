"""A run as the surroundings of a method (`methods.assembly.Surroundings`): testbed, spec and cache behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from catalog.reader import nearest
from methods.assembly import Asked, trainer_for
from methods.recipe import ITSELF
from reproductions.engine.errors import KDError
from reproductions.engine.work.run import Run
from reproductions.tasks.base import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

    from methods.elicitation.writers.protocol import Writer


def train(run: Run) -> Any:
    """The student of the run's method, trained; what an adapter learnt is in its own weights.

    Where the run was trained with others of its arm (`engine.work.cohort`), its student is there already.
    """
    if run.trained is not None:
        return run.trained
    method, surroundings = run.spec["method"], RunSurroundings(run)
    if method["trainer"]["name"] == "teacher-alone":
        teacher = method["teachers"][0]
        return surroundings.student() if teacher == ITSELF else surroundings.teacher(teacher).model
    student = run.train(trainer_for(method, surroundings))
    return student.merge_and_unload() if hasattr(student, "merge_and_unload") else student


FURTHER_ROWS = ("more",)  # that an arm may train on in the place of a task's training rows, where it has them
LARGEST_TABLE, ALL_TABLES = 2**26, 2**30  # bytes of one teacher's states on disk, and of all together


def rows_digest(rows: Dataset) -> str:
    """A hash of tokenised rows."""
    return fingerprint([rows["input_ids"][:], rows["labels"][:]])


class RunSurroundings:
    """See `methods.assembly.Surroundings`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._bed = run.testbed
        self.seed = run.seed
        self.training = run.spec.get("training", {})
        self.start = {name: run.spec[name] for name in ("start", "sft_start", "student") if name in run.spec}
        self.tokenizer = self._bed.tokenizer
        self.prompt_tokens = self._bed.max_prompt_tokens
        self.completion_tokens = self._bed.max_completion_tokens
        self.pair_limits = self._bed.pair_limits

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the texts that are classified, by name; () where answers are written."""
        return tuple(self._bed.task.classes)

    def student(self) -> Any:
        size, spec = self._run.spec.get("student"), self._run.spec
        begin = self._bed.student if spec.get("start") == "pretrained" else self._bed.sft_start
        student = begin(self._run, size)
        if "lora" not in spec:
            return student
        from peft import LoraConfig, get_peft_model

        return get_peft_model(student, LoraConfig(task_type="CAUSAL_LM", **spec["lora"]))

    def teacher(self, name: str) -> Asked:
        bed, other = self._bed, self._bed.models.reads_other_tokens(name)
        own_prompt = other and "teacher_prompt" in bed.train.column_names
        return Asked(
            name=name,
            model=bed.teacher(self._run, name),
            tokenizer=bed.teacher_tokenizer(name),
            completion_tokens=bed.teacher_completion_tokens(name),
            prompt_column="teacher_prompt" if own_prompt else "prompt",
            **({"readable": bed.readable} if other else {"states": partial(self._states, name)}),
        )

    def writer(self, name: str) -> Writer | None:
        """What components of elicitation ask in the place of a teacher's model, None for that."""
        return self._bed.models.writer(name)

    def drawn(self, teacher: str) -> int:
        """Which draw of what a teacher writes is this run's: its own, where the teacher writes anew for each seed."""
        found = self._bed.models.drawn(teacher, self._run)
        return self.seed if found is None else found

    def _states(self, name: str, rows: Dataset) -> Any:
        """What a teacher says of fixed rows, computed once for all runs; None where that would take too much disk.

        Also where arithmetic is not fp32: then the student's batch decides how a row rounds.
        """
        from methods.teachers.remembered import RememberedStates, remember_states, size_of_states

        bed, run = self._bed, self._run
        if bed.task.classifies:
            return self._class_states(name, rows)
        shape = bed.teacher(run, name).config
        if (
            run.spec.get("precision", "fp32") != "fp32"
            or size_of_states(rows, shape.hidden_size) > LARGEST_TABLE
        ):
            return None
        key = {"teacher": bed.teacher_key(run, name), "rows": rows_digest(rows)}
        tables = run.shared.tensors(
            "teacher-states", key, lambda apart: remember_states(bed.teacher(apart, name), rows), ALL_TABLES
        )
        return RememberedStates(tables)

    def _class_states(self, name: str, rows: Dataset) -> Any:
        """What a teacher says of texts that are classified."""
        from methods.classes.assembly import collator
        from methods.classes.remembered import RememberedClasses, remember_classes

        bed, run = self._bed, self._run
        config = bed.teacher(run, name).config
        if 4 * len(rows) * config.hidden_size * (config.num_hidden_layers + 1) > LARGEST_TABLE:
            return None
        key = {"teacher": bed.teacher_key(run, name), "rows": rows_digest(rows)}
        collate = collator(bed.tokenizer)
        tables = run.shared.tensors(
            "teacher-classes",
            key,
            lambda apart: remember_classes(bed.teacher(apart, name), rows, collate),
            ALL_TABLES,
        )
        return RememberedClasses(tables)

    def rows(self, name: str) -> Dataset:
        return self._bed.rows(name)

    def corpus(self) -> Dataset | None:
        return self._bed.pretraining

    def arguments(self, config_class: type, **more: Any) -> Any:
        return self._run.arguments(config_class, **more)

    def keep(self, kind: str, key: Mapping[str, Any], make: Callable[[RunSurroundings], Any]) -> Any:
        return self._run.shared.data(kind, self._drawn(key), lambda apart: make(RunSurroundings(apart)))

    def keep_module(
        self,
        kind: str,
        key: Mapping[str, Any],
        make: Callable[[RunSurroundings], Any],
        read: Callable[..., Any],
    ) -> Any:
        return self._run.shared.model(
            kind, self._drawn(key), lambda apart: make(RunSurroundings(apart)), read
        )

    def _drawn(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """A key that tells the draws of teachers apart, where there are several."""
        draws = self._bed.models.draws(self._run)
        return {**key, **({"draws": draws} if draws else {})}

    def train(self, trainer: Trainer, phase: str) -> Any:
        return self._run.train(trainer, phase=phase)

    def scorer(self, name: str | None) -> Callable[[Sequence[str], Sequence[Sequence[int]]], list[float]]:
        """A score of the task by name, its first for None: (prompts to train on, completion ids) -> percent.

        An answer that was cut, without the end-of-sequence token, is worth 0. Raises KDError for an unknown score, or
        one of which less is better.
        """
        task, tokenizer = self._bed.task, self.tokenizer
        name = next(iter(task.scores)) if name is None else name
        if name not in task.scores:
            raise KDError(f'the task has no score "{name}"{nearest(name, task.scores)}')
        score = task.scores[name]
        if not score.higher_is_better or score.unit != "%":
            raise KDError(f'the score "{name}" is no percentage of which more is better, so it is no reward')
        known = dict(zip(task.rows("train")["prompt"], task.references("train"), strict=True))
        further = [rows for rows in FURTHER_ROWS if task.has_rows(rows)]

        def percent(prompts: Sequence[str], answers: Sequence[Sequence[int]]) -> list[float]:
            while further and not known.keys() >= set(prompts):
                rows = further.pop()
                known.update(zip(task.rows(rows)["prompt"], task.references(rows), strict=True))
            missing = next((prompt for prompt in prompts if prompt not in known), None)
            if missing is not None:
                raise KDError(f"the reward of a task knows its training rows alone, not {missing!r}")
            ended = [bool(ids) and ids[-1] == tokenizer.eos_token_id for ids in answers]
            bare = [list(ids[:-1]) if end else list(ids) for ids, end in zip(answers, ended, strict=True)]
            figures = score.function(task.said(bare, tokenizer), [known[prompt] for prompt in prompts])
            return [float(figure) if end else 0.0 for figure, end in zip(figures, ended, strict=True)]

        return percent

    def spent(self, report: Any) -> None:
        self._run.budget.add_report(report)
