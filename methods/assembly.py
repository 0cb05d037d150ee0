"""From a recipe to a trainer: whoever has models and rows (`Surroundings`) gets the trainer of a canonical method.

Reproductions and `kd distill` both come here, so that a method is one thing, whoever runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from methods.errors import MethodError
from methods.recipe import (
    BOTH_STEPS,
    ITSELF,
    OPTIMISES,
    OWN_STEPS,
    PRIVILEGED,
    PRIVILEGED_POLICY,
    SAMPLES_ITSELF,
    TRAINING_STEPS,
    WRITES,
    readings_of,
)
from methods.registry import build, component, load
from methods.teachers.readings import READS, with_readings
from methods.tokenizers.encoding import SKIP_PREPARATION, encode

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer

THOUGHT_TOKENS = ("<think>", "</think>")
PIECE = 20_000  # rows encoded together: while they are Python lists they take several times the memory


@dataclass(frozen=True)
class Asked:
    """A teacher of the surroundings: frozen, on its device, and how it is asked.

    `readable` makes of its answers (rows of `prompt` as it was asked and `completion`) the student's rows, and says how
    many the student could not read. `states` gives what it was made to remember of tokenised rows, or None; kept
    answers (`TeacherStore`) refuse rows there that they do not hold.
    """

    name: str
    model: Any  # PreTrainedModel, or TeacherStore: what it says of some rows
    tokenizer: PreTrainedTokenizerBase
    completion_tokens: int
    prompt_column: str = "prompt"
    readable: Callable[[Dataset], tuple[Dataset, int]] = lambda rows: (rows, 0)
    states: Callable[[Dataset], Any] = lambda rows: None


class Surroundings(Protocol):
    """What a method finds where it is run. What is made once is made by surroundings of the same kind."""

    @property
    def seed(self) -> int:
        """Of the training."""

    @property
    def training(self) -> Mapping[str, Any]:
        """Arguments of the training that is wanted, by name."""

    @property
    def start(self) -> Mapping[str, Any]:
        """What the student is made from, as plain data."""

    @property
    def tokenizer(self) -> Any:
        """The student's."""

    @property
    def prompt_tokens(self) -> int:
        """The limit of a row's prompt, in the student's tokens."""

    @property
    def completion_tokens(self) -> int:
        """The limit of a row's completion and of a rollout, with EOS."""

    @property
    def pair_limits(self) -> tuple[int, ...]:
        """Limits of a row in the student's and in the teacher's tokens, () for none."""

    def student(self) -> Any:
        """The student to train, under an adapter where one is wanted."""

    def teacher(self, name: str) -> Asked:
        """The teacher of that name. Raises an error with the nearest one."""

    def rows(self, name: str) -> Dataset:
        """Rows by name, "train" and "validation" among them: columns `prompt`, `completion` and more."""

    def corpus(self) -> Dataset | None:
        """Plain text (column `text`) for a language-modelling term, where there is any."""

    def arguments(self, config_class: type, **more: Any) -> Any:
        """Training arguments of a class, with `more` among them."""

    def keep(self, kind: str, key: Mapping[str, Any], make: Callable[[Any], Any]) -> Any:
        """Plain data made once, by surroundings of their own."""

    def keep_module(
        self, kind: str, key: Mapping[str, Any], make: Callable[[Any], Any], read: Callable[..., Any]
    ) -> Any:
        """A module made once, likewise; `read` makes it from its folder."""

    def train(self, trainer: Trainer, phase: str) -> Any:
        """Train something that the method needs first; returns the bare model."""

    # Where rows come from a task with an exact scorer, `scorer(name)` gives (prompts, completion ids) -> percent; the
    # reward "task" asks for it, and says so where there is none.

    def spent(self, report: Any) -> None:
        """Count what a teacher's answers cost (`LabellingReport`)."""


@component("trainer", "teacher-alone")
def teacher_alone(surroundings: Surroundings, method: Mapping[str, Any]) -> Any:
    """No training: the arm is its teacher as it is, to be measured beside the students.

    The teacher "student" is the student as all arms start.
    """
    raise MethodError("teacher-alone trains nothing: it is for measuring a teacher, not for making a student")


def looks_at_validation(method: Mapping[str, Any]) -> bool:
    """Whether a method measures itself on held-out rows while it trains."""
    sampler: Any = method.get("sampler")
    while isinstance(sampler, Mapping):
        if sampler["name"] in ("adaptive-replay", "domains"):
            return True
        sampler = sampler.get("sampler")
    return False


def trainer_for(method: Mapping[str, Any], surroundings: Surroundings) -> Any:
    """The trainer of a canonical method (`methods.recipe.canonical_method`)."""
    tree = method["trainer"]
    settings = {name: value for name, value in tree.items() if name != "name"}
    made = load("trainer", tree["name"])
    if "surroundings" in inspect.signature(made).parameters:  # a paper's own
        return made(surroundings, method, **settings)
    parts = {
        WRITES: _distillation,
        PRIVILEGED: _distillation,
        "minillm": _policy,
        SAMPLES_ITSELF: _optimisation,
        PRIVILEGED_POLICY: _optimisation,
        "latent-reasoning": _latent,
    }[tree["name"]]
    return made(surroundings.student(), **settings, **parts(method, surroundings))


def _distillation(method: Mapping[str, Any], surroundings: Surroundings) -> dict[str, Any]:
    """What the trainer of terms takes: teachers, terms, sampler, tokenised rows."""
    from methods.trainers import Teacher

    asked = [_asked(name, surroundings) for name in method["teachers"]]
    terms = [term_of(tree, surroundings, method["teachers"]) for tree in method["terms"]]
    sampler = build("sampler", method["sampler"]) if "sampler" in method else None
    rows, kept = rows_of(method["data"], surroundings), [getattr(sampler, "column", None)]
    kept += dict.fromkeys(name for term in terms for name in term.columns if name not in kept)
    reads = readings_of(method)
    kept += [READS] if reads is not None else []
    rows = _read_by_teacher(method, rows)
    parts: dict[str, Any] = {
        "terms": terms,
        "sampler": sampler,
        "teacher": [
            Teacher(one.model, one.tokenizer, reads=None if reads is None else READS) for one in asked
        ],
        "gradient_balance": method.get("gradient_balance", False),
        "max_completion_length": surroundings.completion_tokens,
        "processing_class": surroundings.tokenizer,
        "arguments": lambda kind, **more: surroundings.arguments(kind, **more, **SKIP_PREPARATION),
    }
    if asked and any(term.reads == "pair" for term in terms):
        tokenizers = surroundings.tokenizer, asked[0].tokenizer
        return parts | {"train_dataset": encoded_pairs(rows, *tokenizers, *surroundings.pair_limits)}
    limit = surroundings.prompt_tokens + surroundings.completion_tokens
    parts["train_dataset"] = encode(rows, surroundings.tokenizer, limit, *filter(None, kept))
    fixed = sampler is None and stays(method["data"]) and reads is None
    if fixed and any(term.reads == "ids" for term in terms):
        parts["teacher"] = [
            Teacher(one.model, one.tokenizer, one.states(parts["train_dataset"])) for one in asked
        ]
    if looks_at_validation(method):
        held_out = with_readings(surroundings.rows("validation"), reads)
        parts["eval_dataset"] = encode(held_out, surroundings.tokenizer, limit, *filter(None, kept))
    return parts


def _asked(name: str, surroundings: Surroundings) -> Asked:
    """A teacher by name; the student as it is before the training, frozen, by the name that is taken for it."""
    if name != ITSELF:
        return surroundings.teacher(name)
    from methods.modeling.core import core_model, snapshot

    itself = snapshot(core_model(surroundings.student())).eval().requires_grad_(False)
    return Asked(name, itself, surroundings.tokenizer, surroundings.completion_tokens)


def _read_by_teacher(method: Mapping[str, Any], rows: Dataset) -> Dataset:
    """The rows with what the method's teacher reads. MethodError for a student that is shown nothing more by itself."""
    reads, siblings = readings_of(method), method["trainer"]["name"] in OPTIMISES
    rows = with_readings(rows, reads, siblings=siblings)
    if reads is not None and ITSELF in method["teachers"] and rows[READS][:] == rows["prompt"][:]:
        raise MethodError(
            f"the student is its own teacher, and reads {reads!r}: the prompts alone, from which it learns nothing"
        )
    return rows


def stays(tree: Any) -> bool:
    """Whether rows are the same in every run: none that somebody wrote for this one."""
    return isinstance(tree, str) or ("from" in tree and stays(tree["from"]))


def _policy(method: Mapping[str, Any], surroundings: Surroundings) -> dict[str, Any]:
    """What MiniLLM's trainer takes: prompts as text, one teacher, a corpus where there is one."""
    if len(method["teachers"]) != 1:
        raise MethodError(f"minillm takes one teacher, not {len(method['teachers'])}")
    from methods.trainers import Teacher

    asked = surroundings.teacher(method["teachers"][0])
    return {
        "teacher": Teacher(asked.model, asked.tokenizer),
        "arguments": surroundings.arguments,
        "max_completion_length": surroundings.completion_tokens,
        "train_dataset": rows_of(method["data"], surroundings),
        "pretraining_dataset": surroundings.corpus(),
        "processing_class": surroundings.tokenizer,
    }


def _optimisation(method: Mapping[str, Any], surroundings: Surroundings) -> dict[str, Any]:
    """What the trainer of advantages takes: prompts as text with all columns, teachers, advantage, rewards, terms."""
    from methods.trainers import Teacher

    asked = [_asked(name, surroundings) for name in method["teachers"]]
    reads = None if readings_of(method) is None else READS
    return {
        "teacher": [Teacher(one.model, one.tokenizer, reads=reads) for one in asked],
        "advantage": build("advantage", method["advantage"]) if "advantage" in method else None,
        "rewards": [build("reward", tree, surroundings=surroundings) for tree in method.get("rewards", ())],
        "terms": [term_of(tree, surroundings, method["teachers"]) for tree in method.get("terms", ())],
        "arguments": surroundings.arguments,
        "max_completion_length": surroundings.completion_tokens,
        "train_dataset": _read_by_teacher(method, rows_of(method["data"], surroundings)),
        "processing_class": surroundings.tokenizer,
    }


def _latent(method: Mapping[str, Any], surroundings: Surroundings) -> dict[str, Any]:
    """What CODI's trainer takes: both branches of each row as ids, and the tokens around latent thoughts."""
    tokenizer, rows = surroundings.tokenizer, rows_of(method["data"], surroundings)
    if "thoughts" not in rows.column_names:
        raise MethodError(
            'rows of latent reasoning need a column "thoughts": what is thought before the answer'
        )
    vocabulary = tokenizer.get_vocab()
    for token in THOUGHT_TOKENS:
        if token not in vocabulary:
            raise MethodError(f"the tokenizer has no token {token}, which latent thoughts stand between")
    ids = {name: tokenizer(list(rows[name]))["input_ids"] for name in ("prompt", "thoughts", "completion")}
    from datasets import Dataset

    branches = Dataset.from_dict(
        {
            "prompt_ids": ids["prompt"],
            "thought_ids": ids["thoughts"],
            "marker_ids": [row[:1] for row in ids["completion"]],
            "answer_ids": [[*row[1:], tokenizer.eos_token_id] for row in ids["completion"]],
        }
    )
    begin, end = (vocabulary[token] for token in THOUGHT_TOKENS)
    return {
        "thought_ids": {"begin_id": begin, "end_id": end},
        "arguments": lambda kind, **more: surroundings.arguments(kind, **more, **SKIP_PREPARATION),
        "train_dataset": branches,
        "processing_class": tokenizer,
    }


@lru_cache(maxsize=4)  # a worker makes many runs on the same rows
def encoded_pairs(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    teacher_max_length: int | None = None,
) -> Dataset:
    """Both tokenisations of the rows, each within its limit, and their chunks."""
    from datasets import concatenate_datasets

    from methods.tokenizers.text_pairs import encode_pairs

    parts = [rows.select(range(i, min(i + PIECE, len(rows)))) for i in range(0, len(rows), PIECE)]
    both = tokenizer, teacher_tokenizer
    return concatenate_datasets(
        [
            encode_pairs(part, *both, max_length=max_length, teacher_max_length=teacher_max_length)
            for part in parts
        ]
    )


def rows_of(tree: Any, surroundings: Surroundings) -> Dataset:
    """The rows of a canonical data tree: columns `prompt` and `completion`, others where the source has them."""
    from datasets import Dataset, concatenate_datasets

    if isinstance(tree, str):
        return surroundings.rows(tree)
    if "from" in tree:
        rows = rows_of(tree["from"], surroundings)
        count = min(len(rows), tree.get("first", len(rows)))
        return rows.select(range(int(count * tree.get("share", 1.0))))
    if "use" in tree:
        return Dataset.from_list(_kept_step(tree, surroundings))
    if "elicit" in tree:
        return Dataset.from_list(_kept_elicited(tree, surroundings))
    if "join" in tree:
        parts = [_column(part, surroundings) for part in tree["join"]]
        prompts = next(prompts for prompts, _ in parts)
        said = ["".join(texts) for texts in zip(*(texts for _, texts in parts), strict=True)]
        return Dataset.from_dict({"prompt": prompts, "completion": said})
    made = []
    for part in tree["mix"]:
        rows, prefix = rows_of(part["data"], surroundings), part.get("prefix", "")
        prompts = [prefix + prompt for prompt in rows["prompt"]]
        made.append(Dataset.from_dict({"prompt": prompts, "completion": list(rows["completion"])}))
        if "weight" in part:
            raise MethodError(
                "weights of the parts of a mixture are not read by a trainer yet; leave them out"
            )
    return concatenate_datasets(made)


def _kept_step(tree: Mapping[str, Any], surroundings: Surroundings) -> list[dict[str, Any]]:
    """What a data step makes, made once for all seeds."""
    settings = {name: value for name, value in tree.items() if name not in ("use", "of", "teacher")}
    more = {"training": surroundings.training} if tree["use"] in TRAINING_STEPS else {}

    def make(apart: Surroundings) -> list[dict[str, Any]]:
        rows = rows_of(tree.get("of", "train"), apart)
        step, own = load("data", tree["use"]), tree["use"] in OWN_STEPS
        teacher = None if own else apart.teacher(tree.get("teacher", "main"))
        return step(rows, teacher, apart, **settings, **more).to_list()

    key = {"step": dict(tree), **({"seed": settings["seed"]} if "seed" in settings else {})}
    if tree["use"] in OWN_STEPS:  # each seed's student says something else: `make` runs with the key's seed
        key |= {"student": surroundings.start, "seed": surroundings.seed, **more}
    elif tree["use"] in BOTH_STEPS:
        key |= {"student": surroundings.start}
    return surroundings.keep(f"rows-{tree['use']}", key, make)


def _kept_elicited(tree: Mapping[str, Any], surroundings: Surroundings) -> list[dict[str, Any]]:
    """What components of elicitation make, drawn anew for each seed of the runs unless one draw serves all.

    Surroundings whose teachers write a few times only say which of these draws is theirs (`drawn`). Where the rows were
    elicited themselves, that is made first and kept: pipelines that begin alike share their beginning.
    """
    from methods.elicitation.pipeline import elicited, writer_of

    name = tree.get("teacher", "main")
    drawn = getattr(surroundings, "drawn", lambda teacher: surroundings.seed)
    seed = 0 if tree.get("once") else drawn(name)
    before = tree.get("of", "train")
    first = rows_of(before, surroundings) if _elicited_before(before) else None

    def make(apart: Surroundings) -> list[dict[str, Any]]:
        rows = rows_of(before, apart) if first is None else first
        seen = first is not None or tree.get("seen", False)
        return elicited(rows, apart.teacher(name), apart, tree["elicit"], seed, seen)

    # A program's skill is told by its identity alone.
    writer = writer_of(surroundings, name)
    about = {} if writer is None else {"writer": writer.identity}
    return surroundings.keep("rows-elicited", {"step": dict(tree), "seed": seed, **about}, make)


def _elicited_before(tree: Any) -> bool:
    return isinstance(tree, Mapping) and (
        "elicit" in tree or ("from" in tree and _elicited_before(tree["from"]))
    )


def _column(part: Any, surroundings: Surroundings) -> tuple[list[str], list[str]]:
    rows = surroundings.rows("train") if isinstance(part, str) else rows_of(part["rows"], surroundings)
    name = part if isinstance(part, str) else part["column"]
    if name not in rows.column_names:
        raise MethodError(f'the rows have no column "{name}"; they have {", ".join(rows.column_names)}')
    return list(rows["prompt"]), list(rows[name])


def term_of(tree: Mapping[str, Any], surroundings: Surroundings, teachers: Sequence[str] = ()) -> Any:
    """A term of the loss from its canonical tree; `teachers` are the names of the method's."""
    if "term" in tree:
        settings = {name: value for name, value in tree.items() if name != "term"}
        if isinstance(settings.get("weight"), Mapping):
            settings["weight"] = _schedule(settings["weight"])
        context = {
            "corpus": surroundings.corpus(),
            "tokenizer": surroundings.tokenizer,
            "seed": surroundings.seed,
        }
        return build("term", {"name": tree["term"], **settings}, **context)
    from methods.slots.terms.divergence import Divergence

    slots = {
        "target": "target",
        "support": "support",
        "token_weights": "token-weights",
        "row_settings": "row-settings",
    }
    plain = ("temperature", "temperature_squared", "sources", "over")
    own = {n: value for n, value in tree.items() if n not in ("divergence", "weight", *plain, *slots)}
    more: dict[str, Any] = {name: tree[name] for name in plain if name in tree}
    if "weight" in tree:
        more["weight"] = _schedule(tree["weight"]) if isinstance(tree["weight"], Mapping) else tree["weight"]
    for name, slot in slots.items():
        if name in tree:
            more[name] = build(slot, tree[name], seed=surroundings.seed, tokenizer=surroundings.tokenizer)
    return Divergence(load("divergence", tree["divergence"]), settings=own, **more)


def _task_filters(settings: dict[str, Any], surroundings: Surroundings, teacher: str) -> Any:
    """Filters of student and teacher that learnt the task on the frozen models (TED, stage I); made once for each."""
    from methods.slots.features import LayerFilters, uniform_layers

    student, asked = surroundings.student(), surroundings.teacher(teacher)
    widths = student.config.hidden_size, asked.model.config.hidden_size
    layers = settings.get("layers", "uniform")
    if layers == "uniform":
        layers = uniform_layers(student.config.num_hidden_layers, asked.model.config.num_hidden_layers)
    size, rate = settings.get("size") or widths[1], settings.pop("filter_learning_rate", None)
    training = {**surroundings.training, **({} if rate is None else {"learning_rate": rate})}

    def learnt(side: int, model_of: Callable[[Surroundings], Any], whose: Mapping[str, Any]) -> LayerFilters:
        blocks = sorted({pair[side] for pair in layers})

        def make(apart: Surroundings) -> LayerFilters:
            return _learn_filters(
                apart, model_of(apart), LayerFilters(blocks, widths[side], size, seed=apart.seed), training
            )

        key = {**whose, "training": training, "blocks": blocks, "size": size}
        return surroundings.keep_module("task-filters", key, make, LayerFilters.from_pretrained)

    ours = learnt(
        0, lambda apart: apart.student(), {"student": surroundings.start, "seed": surroundings.seed}
    )
    return ours, learnt(1, lambda apart: apart.teacher(teacher).model, {"teacher": teacher, "seed": 0})


def _learn_filters(apart: Surroundings, model: Any, filters: Any, training: Mapping[str, Any]) -> Any:
    from methods.slots.terms.hidden import TaskFilters
    from methods.trainers import Distiller, SFTConfig

    limit = apart.prompt_tokens + apart.completion_tokens
    trainer = Distiller(
        model,
        terms=[TaskFilters(filters)],
        args=apart.arguments(SFTConfig, **training, **SKIP_PREPARATION),
        train_dataset=encode(apart.rows("train"), apart.tokenizer, limit),
        processing_class=apart.tokenizer,
    )
    apart.train(trainer, "filters")
    return filters


def _schedule(tree: Mapping[str, Any]) -> Any:
    settings = {name: value for name, value in tree.items() if name != "schedule"}
    return build("schedule", {"name": tree["schedule"], **settings})
