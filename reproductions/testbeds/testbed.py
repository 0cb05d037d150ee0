"""A testbed as code: what a run trains on, learns from and is measured by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from methods.recipe import ITSELF
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.metrics.base import make_measurements, metrics_of, rounded
from reproductions.metrics.decoding.decoder import Decoder, TeacherSide
from reproductions.metrics.decoding.evaluation import Evaluation
from reproductions.models.classifiers import Classifiers
from reproductions.models.makers import MAIN, Models, Published
from reproductions.tasks.base import Limits, fingerprint, make_task
from reproductions.testbeds.spec import at_seed

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reproductions.engine.work.run import Run


class Testbed:
    """One task, its models and its measurements; every paper that uses it gets the same.

    `name` is the file's; `shelf` names the data in the keys of models trained on them (testbeds with one shelf share
    teachers and starts). Where the task is drawn several times, a run works on the testbed `at` its seed, and the task
    here is the first draw.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec, self.name = spec, str(spec["name"])
        published = Published(spec)
        self.task = make_task(
            spec["task"],
            tokenizer=lambda: published.student,
            teacher_tokenizer=lambda: published.teacher,
            limits=lambda: Limits(**spec["limits"]),
        )
        self._draws: dict[int, Testbed] = {}
        if spec.get("revision") not in (None, self.revision):
            raise KDError(
                f"{self.name}: its data have the revision {self.revision}, the testbed is about {spec['revision']}"
            )
        self.models = (Classifiers if self.task.classifies else Models)(spec, self.task, published)
        decoding = spec["decoding"]
        self.samples = int(decoding.get("samples", 1))
        self.temperatures: tuple[float, ...] = tuple(map(float, decoding.get("temperatures", ())))
        self.measurements = make_measurements(spec["metrics"])
        self.metrics: Mapping[str, Metric] = metrics_of(self.measurements, type(self.task))
        self._known: dict[str, Any] = {}  # of teachers on their own answers, over runs

    def at(self, seed: int) -> Testbed:
        """The testbed of the run of a seed: itself, where all have one draw of the task."""
        if "draws" not in self.spec:
            return self
        draw = seed % self.spec["draws"]
        if draw not in self._draws:
            self._draws[draw] = Testbed(at_seed(self.spec, draw))
        return self._draws[draw]

    @cached_property
    def revision(self) -> str:
        """A hash of the rows, of all draws, so that a result says which data it was measured on."""
        if "draws" not in self.spec:
            return self.task.revision
        return fingerprint([self.at(draw).revision for draw in range(self.spec["draws"])])

    @property
    def shelf(self) -> str:
        """The name of the data in the keys of what is trained on them."""
        return self.task.shelf

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The students'."""
        return self.models.tokenizer

    @property
    def train(self) -> Dataset:
        """Training rows, string columns `prompt` and `completion`; some have a `teacher_prompt` too."""
        return self.task.rows("train")

    @property
    def validation(self) -> Dataset:
        """Rows for choices, which are never judged."""
        return self.task.rows("validation")

    @property
    def test(self) -> Dataset:
        """Rows that verdicts are about."""
        return self.task.rows("test")

    @property
    def pretraining(self) -> Dataset | None:
        """Plain text (column `text`) for a language-modelling term, where the task has one."""
        return self.task.rows("pretraining") if self.task.has_rows("pretraining") else None

    def rows(self, name: str) -> Dataset:
        """Rows by name: the splits, and what else the task has. Raises KDError with the nearest one."""
        return self.task.rows(name)

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of a prompt in training."""
        return self.task.limits.prompt

    @property
    def max_completion_tokens(self) -> int:
        """Tokens of a completion in training, with EOS."""
        return self.task.limits.completion

    @property
    def pair_limits(self) -> tuple[int, ...]:
        """Tokens of a row for the student and for a teacher with other tokens; () where neither is cut."""
        return self.task.limits.pairs

    def readable(self, rows: Dataset) -> tuple[Dataset, int]:
        """Rows for the student of what a teacher wrote with other tokens, and how many it could not read."""
        return self.task.readable(rows)

    def teacher(
        self, run: Run, name: str = MAIN, training: Mapping[str, Any] | None = None
    ) -> PreTrainedModel:
        """A teacher by name, frozen, on `run.device`; made once and cached. `training` changes some of its settings."""
        return self.models.teacher(run, name, training)

    def teacher_tokenizer(self, name: str = MAIN) -> PreTrainedTokenizerBase:
        """The tokenizer that a teacher reads: the students' where it has none of its own."""
        return self.models.teacher_tokenizer(name)

    def teacher_key(self, run: Run, name: str = MAIN) -> dict[str, Any]:
        """What makes a teacher, as plain data: for the key of what it writes."""
        return self.models.teacher_key(run, name)

    def teacher_completion_tokens(self, name: str = MAIN) -> int:
        """Tokens of a teacher's answer, with EOS, in its own tokens."""
        return self.models.completion_tokens(name)

    def student(self, run: Run, size: str | None = None) -> PreTrainedModel:
        """A fresh student of `run.seed` before any training on the task."""
        return self.models.student(run, size or MAIN)

    def sft_start(self, run: Run, size: str | None = None) -> PreTrainedModel:
        """The student after `settings["sft_start"]`, the common start of all arms; cached per seed."""
        return self.models.sft_start(run, size or MAIN)

    def prepare(self, runs: Sequence[Run]) -> None:
        """Makes what is missing of runs which differ in their seed, together: bases, starts, teachers' draws."""
        spec = runs[0].spec
        size = spec.get("student") or MAIN
        self.models.prepare_bases(runs, size)
        if spec.get("start", "sft") == "sft":
            self.models.prepare_starts(runs, size)
        measured = (one.teachers for one in self.measurements if self._asked(one, runs[0].wanted))
        for name in dict.fromkeys(
            [*spec["method"].get("teachers", ()), *(n for own in measured for n in own)]
        ):
            if name != ITSELF:  # each student's own start, which is there by now
                self.models.prepare_teacher(runs, name)

    def callbacks(self, run: Run) -> list[Any]:
        """What the measurements do in the middle of a student's training: every arm's trainer takes them."""
        return [
            item
            for one in self.measurements
            if hasattr(one, "callbacks") and self._asked(one, run.wanted)
            for item in one.callbacks(run)
        ]

    @cached_property
    def cheap(self) -> set[str]:
        """Metrics that a learning curve may have: they ask no teacher, watch no training and are soon measured."""
        return {
            name
            for one in self.measurements
            if not one.teachers and not hasattr(one, "callbacks")
            for name in getattr(one, "on_curves", one.metrics)(type(self.task))
        }

    def watches_training(self, wanted: Collection[str] | None) -> bool:
        """Whether one of these metrics watches training: it cannot be measured on a student kept from then."""
        return any(hasattr(one, "callbacks") and self._asked(one, wanted) for one in self.measurements)

    def _asked(self, one: Any, wanted: Collection[str] | None) -> bool:
        return wanted is None or not set(wanted).isdisjoint(one.metrics(type(self.task)))

    def evaluate(
        self,
        model: PreTrainedModel,
        run: Run,
        *,
        split: str = "test",
        limit: int | None = None,
        reader: str | None = None,
        wanted: Collection[str] | None = None,
    ) -> dict[str, list[float]]:
        """Per-example columns of the first `limit` rows; the same for the same `run.seed`.

        `reader`: a teacher's name, for a model that reads its tokens and prompts: that teacher itself. `wanted`: the
        metrics whose columns are made, None for all.
        """
        evaluation = Evaluation(self, model, run, split=split, limit=limit, reader=reader, wanted=wanted)
        columns: dict[str, list[float]] = {}
        for one in self.measurements:
            own = one.metrics(type(self.task))
            if evaluation.wants(*own):
                read = {c for name, metric in own.items() if evaluation.wants(name) for c in metric.columns}
                found = rounded(one.columns(evaluation))
                columns |= {name: column for name, column in found.items() if name in read}
        return columns

    @cached_property
    def decoder(self) -> Decoder:
        """Asks models that read the students' tokens."""
        return self._decoder(self.tokenizer)

    def decoder_of(self, teacher: str) -> Decoder:
        """Asks models that read a teacher's tokens."""
        if not self.models.reads_other_tokens(teacher):
            return self.decoder
        return self._decoder(self.teacher_tokenizer(teacher), self.teacher_completion_tokens(teacher))

    def teacher_side(self, run: Run, name: str) -> TeacherSide:
        """A teacher with what it answers in a run; kept as long as the run."""
        if name not in run.sides:
            key, model = self.teacher_key(run, name), self.teacher(run, name)
            run.sides[name] = TeacherSide(self.decoder_of(name), run, model, key, self._known)
        return run.sides[name]

    def _decoder(self, tokenizer: PreTrainedTokenizerBase, completion: int | None = None) -> Decoder:
        chosen = self.spec["decoding"]
        return Decoder(
            tokenizer,
            prompt_tokens=chosen.get("prompt", self.max_prompt_tokens),
            new_tokens=completion or chosen.get("completion", self.max_completion_tokens),
            batch=chosen["batch"],
            keep=chosen.get("keep", "end"),
        )
