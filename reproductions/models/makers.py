"""Students and teachers of a testbed, made as its YAML says: what each is, what it was trained on, and its key.

    students:
      main: {shape: {layers: 2, hidden: 48, heads: 2, intermediate: 96}}         # random weights of the run's seed
      based: {shape: {...}, base: {rows: walks, training: {...}}}                # trained on other rows before
    teachers:
      main: {shape: {...}, training: {...}}                 # trained on the task's rows for teachers
      large: {like: main, shape: {...}, training: {learning_rate: 1.5e-3}}
      untuned: {like: main, rows: strangers}                # on other rows of the task
      six: {like: main, rows: train, first: 3400, seed: 1}  # on the first so many
      second-hand: {shape: {...}, training: {...}, answers: {of: main, last: 6000, temperature: 1.0, seed: 1}}
      other: {like: main, tokenizer: {merges: 40, tokens: 48, completion: 26}}
      published: {model: openai-community/gpt2-xl, training: {...}}
      exact: {oracle: {temperature: 0.02}}                  # the task's own program

A teacher with `draws: 5` is made five times, with the seeds 0 to 4; the run of seed s learns from draw s mod 5.
A published model without `training` is as it was published. A base is made once, whatever the run's seed: it stands
where a published model stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.models.scratch import scratch_llama
from reproductions.models.sources import load_pretrained
from reproductions.models.tokenizers import Vocabulary, merged, published_tokenizer, trimmed
from reproductions.models.training import fine_tune, fine_tune_cohort, on_device
from reproductions.models.trimming import keep_layers, trim_vocabulary

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from methods.elicitation.writers.protocol import Writer
    from reproductions.engine.work.run import Run

MAIN = "main"
START = "sft-start"  # the kind of artifact


class Data(Protocol):
    """What models are made for: a task."""

    teacher_rows: str
    student_rows: str
    limits: Any
    tokenizer: PreTrainedTokenizerBase | None

    @property
    def classes(self) -> tuple[str, ...]: ...
    def rows(self, name: str) -> Dataset: ...
    def texts(self) -> Iterable[str]: ...
    def oracle(self, **settings: Any) -> Any: ...
    def writer(self, **settings: Any) -> Writer | None: ...


class Published:
    """The tokenizers of a testbed before its task is there, read when they are first asked for: data come first.

    The students', and that of a teacher with its own.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = spec

    @cached_property
    def student(self) -> PreTrainedTokenizerBase | None:
        """None where the task has one."""
        return published_tokenizer(self._spec["tokenizer"]) if "tokenizer" in self._spec else None

    @cached_property
    def teacher(self) -> PreTrainedTokenizerBase | None:
        """None where every teacher reads the students'."""
        trees = self._spec.get("teachers", {}).values()
        own = [tree["tokenizer"] for tree in trees if "of" in tree.get("tokenizer", {})]
        return published_tokenizer(own[0]) if own else None


class Models:
    """Makes them; `run` says on which device, with which seed and precision, and keeps what is made in a cache."""

    half = True  # whether a published teacher's weights are bf16 under bf16-autocast
    read: Callable[[Path], Any] | None = None  # reads a model that was made; None: as a language model
    tuned: Callable[..., PreTrainedModel] = staticmethod(
        fine_tune
    )  # trains on rows of prompts and completions

    def __init__(self, spec: Mapping[str, Any], data: Data, published: Published) -> None:
        self.name = spec["name"]
        self.students: Mapping[str, Any] = spec["students"]
        self.teachers: Mapping[str, Any] = spec.get("teachers", {})
        self.data = data
        self._common = _vocabulary(spec.get("tokenizer"), lambda: published.student, data)
        self._own = {
            name: _vocabulary(tree["tokenizer"], lambda: published.teacher, data)
            for name, tree in self.teachers.items()
            if "tokenizer" in tree
        }

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The students'."""
        return self._common.tokenizer

    def teacher_tokenizer(self, name: str = MAIN) -> PreTrainedTokenizerBase:
        """That of a teacher: the students', or its own. Raises KDError where there is no such teacher."""
        return self._vocabulary_of(self._teacher(name), name).tokenizer

    def reads_other_tokens(self, name: str) -> bool:
        """Whether a teacher has a tokenizer of its own."""
        return name in self._own

    def completion_tokens(self, name: str = MAIN) -> int:
        """Tokens of a teacher's answer, with EOS, in its own tokens."""
        own = self._teacher(name).get("tokenizer", {})
        return int(own.get("completion", self.data.limits.completion))

    def teacher(
        self, run: Run, name: str = MAIN, training: Mapping[str, Any] | None = None
    ) -> PreTrainedModel:
        """A teacher, frozen, on `run.device`; made once and cached. `training` changes some of its settings.

        bf16 weights under `precision: bf16-autocast`, where it was published.
        """
        import torch

        tree = self._teacher(name)
        vocabulary = self._vocabulary_of(tree, name)
        if "training" in tree:
            kind = "teacher-other-tokens" if "merges" in vocabulary.key else "teacher"
            key = self._teacher_key(tree, name, run, training)

            def build(run: Run) -> PreTrainedModel:
                model = self._untrained(tree, vocabulary, run, seed=key["seed"])
                rows, limit = self._rows(tree, self.data.teacher_rows, run), self._limit(tree)
                tokenizer = vocabulary.tokenizer
                return self.tuned(
                    model, rows, tokenizer, run, key["training"], max_tokens=limit, phase="teacher"
                )

            model = run.shared.model(kind, key, build, self.read)
        else:
            model = self._untrained(tree, vocabulary, run, seed=tree.get("seed", 0))
        if self.half and "model" in tree and run.settings.get("precision") == "bf16-autocast":
            model = model.to(torch.bfloat16)
        return on_device(model, run).eval().requires_grad_(False)

    def writer(self, name: str) -> Writer | None:
        """What writes in the place of a teacher that is the task's own program; None where its model does."""
        tree = self._teacher(name)
        return self.data.writer(**(tree["oracle"] or {})) if "oracle" in tree else None

    def prompted(self, name: str) -> Mapping[str, Any] | None:
        """The tree of a teacher that is asked in words which class a text has, None for any other."""
        return None

    def drawn(self, name: str, run: Run) -> int | None:
        """Which draw of what a teacher writes is a run's; None for that of the run's own seed."""
        return None

    def draw(self, name: str, run: Run) -> int:
        """Which of a teacher's draws a run learns from; 0 where there is only one."""
        return run.drawn_for % int(self._teacher(name).get("draws", 1))

    def draws(self, run: Run) -> dict[str, int]:
        """The draws that a run learns from, by teacher; {} where every teacher is made once."""
        return {name: self.draw(name, run) for name, tree in self.teachers.items() if "draws" in tree}

    def teacher_key(self, run: Run, name: str = MAIN) -> dict[str, Any]:
        """What makes a teacher, as plain data: for the key of what it writes."""
        tree = self._teacher(name)
        if "training" in tree:
            return self._teacher_key(tree, name, run, None)
        return self._model_key(tree, self._vocabulary_of(tree, name))

    def student(self, run: Run, size: str = MAIN) -> PreTrainedModel:
        """A student of a size before any training here, on `run.device`: random by the run's seed, or published.

        Raises KDError where a published one lacks some of its tokenizer's tokens.
        """
        return on_device(self._untrained(self._student(size), self._common, run, seed=run.seed), run)

    def student_key(self, size: str = MAIN) -> dict[str, Any]:
        """What makes a student before any training, its seed aside."""
        return self._model_key(self._student(size), self._common)

    def sft_start(self, run: Run, size: str = MAIN) -> PreTrainedModel:
        """The student after the SFT of `settings["sft_start"]` (SFTConfig fields), the common start; cached per seed.

        Without that setting a published student starts as it was published.
        """
        tree = self._student(size)
        chosen = run.settings.get("sft_start")
        if chosen is None:
            if "model" not in tree:
                raise KDError(
                    f"{self.name}: students with random weights need sft_start, a training before any other"
                )
            return self.student(run, size)
        training = dict(chosen)

        def build(run: Run) -> PreTrainedModel:
            rows, limit = self._rows(tree, self.data.student_rows, run), self._limit(tree)
            student = self.student(run, size)
            return self.tuned(
                student, rows, self.tokenizer, run, training, max_tokens=limit, phase="sft_start"
            )

        key = self._start_key(tree, training, run, size)
        return on_device(run.shared.model(START, {**key, "seed": run.seed}, build, self.read), run)

    def _start_key(
        self, tree: Mapping[str, Any], training: Mapping[str, Any], run: Run, size: str
    ) -> dict[str, Any]:
        """What makes a start, its seed aside."""
        return {**self.student_key(size), **self._training_key(tree, training, run, self.data.student_rows)}

    def prepare_bases(self, runs: Sequence[Run], size: str = MAIN) -> None:
        """Makes the bases of students that runs on several draws of the task lack, likewise."""
        tree = self._student(size)
        if "base" not in tree:
            return
        chosen, key = tree["base"], self._model_key(tree, self._common)
        seed, scratch = int(chosen.get("seed", 0)), {k: value for k, value in tree.items() if k != "base"}
        wanted = {run.testbed.shelf: (seed, run) for run in runs}
        learnt = {**scratch, "rows": chosen["rows"]}
        self._prepare("base", learnt, key, wanted.values(), dict(chosen["training"]), "", phase="base")

    def prepare_starts(self, runs: Sequence[Run], size: str = MAIN) -> None:
        """Makes the starts that runs of several seeds lack, as one training where that can be."""
        tree, chosen = self._student(size), runs[0].settings.get("sft_start")
        if chosen is None or "shape" not in tree:
            return
        training = dict(chosen)
        key = self._start_key(tree, training, runs[0], size)
        wanted = [(run.seed, run) for run in runs]
        self._prepare(START, tree, key, wanted, training, self.data.student_rows, phase="sft_start")

    def prepare_teacher(self, runs: Sequence[Run], name: str) -> None:
        """Makes the draws of a teacher that runs of several seeds lack, as one training where that can be."""
        tree = self._teacher(name)
        if "shape" not in tree or "answers" in tree or name in self._own:
            return  # of published weights, or each of other rows
        key = self._teacher_key(tree, name, runs[0], None)
        training = key["training"]
        del key["seed"]
        seeds = {id(run): int(self._teacher_key(tree, name, run, None)["seed"]) for run in runs}
        wanted = {(seeds[id(run)], run.testbed.shelf): run for run in runs}
        draws = [(seed, run) for (seed, _), run in wanted.items()]
        self._prepare("teacher", tree, key, draws, training, self.data.teacher_rows, phase="teacher")

    def _prepare(
        self,
        kind: str,
        tree: Mapping[str, Any],
        key: Mapping[str, Any],
        wanted: Iterable[tuple[int, Run]],
        training: Mapping[str, Any],
        usual_rows: str,
        *,
        phase: str,
    ) -> None:
        """Makes what is missing of models that differ in their seed or in their run's draw of the task.

        `wanted`: seeds, each with a run that asks for the model; it is made by that run's testbed.
        """
        wanted = list(wanted)
        if len(wanted) < 2:
            return
        with wanted[0][1].shared.one_at_a_time(kind, key):
            missing = [(s, run) for s, run in wanted if not run.shared.has(kind, {**key, "seed": s})]
            if len(missing) < 2:
                return
            began = time.perf_counter()
            makers = [run.apart(seed) for seed, run in missing]
            by = [maker.testbed.models for maker in makers]
            models = fine_tune_cohort(
                [
                    own._untrained(tree, own._common, maker, seed=maker.seed)
                    for own, maker in zip(by, makers, strict=True)
                ],
                [own._rows(tree, usual_rows, maker) for own, maker in zip(by, makers, strict=True)],
                [own.tokenizer for own in by],
                makers,
                training,
                max_tokens=self._limit(tree),
                phase=phase,
            )
            seconds = (time.perf_counter() - began) / len(missing)
            for (_, run), maker, model in zip(missing, makers, models, strict=True):
                run.shared.made_ahead(kind, {**key, "seed": maker.seed}, model, maker, seconds)

    def size_of(self, model: PreTrainedModel) -> str:
        """The size of student that a model from scratch has; "main" for anything else, such as a teacher."""
        sizes = {tree["shape"]["hidden"]: name for name, tree in self.students.items() if "shape" in tree}
        return sizes.get(model.config.hidden_size, MAIN)

    def _untrained(
        self, tree: Mapping[str, Any], vocabulary: Vocabulary, run: Run, *, seed: int
    ) -> PreTrainedModel:
        if "oracle" in tree:
            from reproductions.models.oracle import Oracle

            return Oracle(self.data.oracle(**tree["oracle"]), vocabulary.tokenizer)
        if "base" in tree:
            return self._base(tree, vocabulary, run)
        if "shape" in tree:
            return self._scratch(tree, vocabulary, seed)
        model = self._published(tree["model"], vocabulary, run)
        rows = model.config.vocab_size
        if len(vocabulary.tokenizer) > rows:
            raise KDError(
                f"{tree['model']} has {rows} tokens, its tokenizer here {len(vocabulary.tokenizer)}"
            )
        return on_device(keep_layers(model, tree["layers"]) if "layers" in tree else model, run)

    def _scratch(self, tree: Mapping[str, Any], vocabulary: Vocabulary, seed: int) -> PreTrainedModel:
        return scratch_llama(vocabulary.tokenizer, tree["shape"], max_tokens=self._limit(tree), seed=seed)

    def _base(self, tree: Mapping[str, Any], vocabulary: Vocabulary, run: Run) -> PreTrainedModel:
        """What a model from scratch was trained on before all else; made once, with a seed of its own."""
        chosen = tree["base"]

        def build(run: Run) -> PreTrainedModel:
            model, rows = self._scratch(tree, vocabulary, key["seed"]), self.data.rows(chosen["rows"])
            limit, training = self._limit(tree), dict(chosen["training"])
            return self.tuned(
                model, rows, vocabulary.tokenizer, run, training, max_tokens=limit, phase="base"
            )

        key = {**self._model_key(tree, vocabulary), "seed": chosen.get("seed", 0)}
        return on_device(run.shared.model("base", key, build), run)

    @staticmethod
    def _published(hub_id: str, vocabulary: Vocabulary, run: Run) -> PreTrainedModel:
        """In fp32 on the CPU, with the rows of its trimmed vocabulary where that is one."""

        def build(run: Run) -> PreTrainedModel:
            whole, _ = load_pretrained(hub_id)
            assert whole is not None
            if vocabulary.kept is None:
                return whole
            pad, eos = vocabulary.tokenizer.pad_token_id, vocabulary.tokenizer.eos_token_id
            return trim_vocabulary(whole, vocabulary.kept, pad_id=pad, eos_id=eos)

        if vocabulary.kept is None:
            return build(run)
        return run.shared.model("pretrained", {"model": hub_id, **vocabulary.key}, build)

    def _teacher_key(
        self, tree: Mapping[str, Any], name: str, run: Run, changes: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        training = {**tree["training"], **(changes or {})}
        key = self._model_key(tree, self._vocabulary_of(tree, name))
        key |= self._training_key(tree, training, run, self.data.teacher_rows)
        if "answers" in tree:
            key["answers"] = {**tree["answers"], "of": self.teacher_key(run, tree["answers"]["of"])}
        return {**key, "seed": self.draw(name, run) if "draws" in tree else tree.get("seed", 0)}

    @staticmethod
    def _model_key(tree: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
        parts = ("shape", "model", "layers", "frozen", "drawn", "pooled", "oracle", "base", "prompted")
        named = {name: tree[name] for name in parts if name in tree}
        return {**named, **vocabulary.key}

    def _training_key(
        self, tree: Mapping[str, Any], training: Mapping[str, Any], run: Run, usual_rows: str
    ) -> dict[str, Any]:
        """What else decides a training; the rows where they are not the task's usual ones."""
        key: dict[str, Any] = {"training": dict(training)}
        if tree.get("rows", usual_rows) != usual_rows:
            key["rows"] = tree["rows"]
        if "first" in tree:
            key["words"] = tree["first"]
        if "model" in tree:
            key |= {"precision": run.settings.get("precision", "fp32"), "tokens": self._limit(tree)}
        return key

    def _rows(self, tree: Mapping[str, Any], usual: str, run: Run) -> Dataset:
        """What a model is trained on."""
        if "answers" in tree:
            return self._answers(tree["answers"], run)
        rows = self.data.rows(tree.get("rows", usual))
        return rows.select(range(min(len(rows), tree["first"]))) if "first" in tree else rows

    def _answers(self, tree: Mapping[str, Any], run: Run) -> Dataset:
        """Answers of another teacher to the last training prompts."""
        from methods.elicitation.labelling import label_with_teacher

        settings = {name: value for name, value in tree.items() if name not in ("of", "last")}
        prompts = list(self.data.rows("train")["prompt"])[-tree["last"] :]
        rows, report = label_with_teacher(
            self.teacher(run, tree["of"]),
            self.tokenizer,
            prompts,
            max_new_tokens=self.data.limits.completion,
            **settings,
        )
        run.budget.add_report(report)
        return rows

    def _limit(self, tree: Mapping[str, Any]) -> int:
        """Tokens of a row in the training of a model, and places of one from scratch."""
        own = tree.get("tokenizer", {}).get("tokens", self.data.limits.whole)
        return int(tree.get("tokens", own))

    def _vocabulary_of(self, tree: Mapping[str, Any], name: str) -> Vocabulary:
        return self._own.get(name, self._common)

    def _teacher(self, name: str) -> Mapping[str, Any]:
        return self._named(self.teachers, name, "teacher")

    def _student(self, size: str) -> Mapping[str, Any]:
        return self._named(self.students, size, "student")

    def _named(self, trees: Mapping[str, Any], name: str, what: str) -> Mapping[str, Any]:
        if name not in trees:
            has = f"it has {', '.join(trees)}" if trees else "it has none"
            raise KDError(f'the testbed {self.name} has no {what} "{name}"{nearest(name, trees)}; {has}')
        return trees[name]


def _vocabulary(
    tree: Mapping[str, Any] | None, read: Callable[[], PreTrainedTokenizerBase | None], data: Data
) -> Vocabulary:
    if tree is None:
        if data.tokenizer is None:
            raise KDError(
                "the task has no tokenizer of its own: the testbed needs `tokenizer: {of: <hub id>}`"
            )
        return Vocabulary(data.tokenizer)
    if "merges" in tree:
        return merged(data.texts(), tree["merges"], tree["tokens"])
    tokenizer = read()
    assert tokenizer is not None
    return trimmed(tokenizer, tree, data.texts()) if tree.get("trimmed") else Vocabulary(tokenizer)
