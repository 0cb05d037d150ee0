"""A run as the surroundings of a method (`methods.assembly.Surroundings`): testbed, spec and cache behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from methods.assembly import Asked, trainer_for
from reproductions.engine.work.run import Run

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer


def train(run: Run) -> Any:
    """The student of the run's method, trained; what an adapter learnt is in its own weights.

    Where the run was trained with others of its arm (`engine.work.cohort`), its student is there already.
    """
    if run.trained is not None:
        return run.trained
    method, surroundings = run.spec["method"], RunSurroundings(run)
    if method["trainer"]["name"] == "teacher-alone":
        return surroundings.teacher(method["teachers"][0]).model
    student = run.train(trainer_for(method, surroundings))
    return student.merge_and_unload() if hasattr(student, "merge_and_unload") else student


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
            **({"readable": bed.readable} if other else {}),
        )

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

    def spent(self, report: Any) -> None:
        self._run.budget.add_report(report)
