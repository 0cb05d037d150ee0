"""From a recipe to a trainer: whoever has models and rows (`Surroundings`) gets the trainer of a canonical method.

Reproductions and `kd distill` both come here, so that a method is one thing, whoever runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from methods.errors import MethodError
from methods.registry import build, load

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

PIECE = 20_000  # rows encoded together: while they are Python lists they take several times the memory


@dataclass(frozen=True)
class Asked:
    """A teacher of the surroundings: frozen, on its device, and how it is asked.

    `other_tokens`: it reads another tokenizer than the student. `readable` makes of its answers (rows of `prompt` as it
    was asked and `completion`) the student's rows, and says how many it could not read.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    other_tokens: bool
    completion_tokens: int
    prompt_column: str = "prompt"
    readable: Callable[[Dataset], tuple[Dataset, int]] = lambda rows: (rows, 0)


class Surroundings(Protocol):
    """What a method finds where it is run."""

    seed: int
    tokenizer: PreTrainedTokenizerBase
    prompt_tokens: int  # limits of a row's two sides, in the student's tokens
    completion_tokens: int
    pair_limits: tuple[int | None, int | None]  # of a row in the student's and in the teacher's tokens

    def student(self) -> PreTrainedModel:
        """The student to train, under an adapter where one is wanted."""

    def teacher(self, name: str) -> Asked:
        """The teacher of that name. Raises an error with the nearest one."""

    def rows(self, name: str) -> Dataset:
        """Rows by name, "train" and "validation" among them: columns `prompt`, `completion` and more."""

    def corpus(self) -> Dataset | None:
        """Plain text (column `text`) for a language-modelling term, where there is any."""

    def domains(self) -> Mapping[str, tuple[Dataset, Dataset]]:
        """Training and validation rows by domain; empty where rows have none."""

    def arguments(self, config_class: type, **more: Any) -> Any:
        """Training arguments of a class, with `more` among them."""

    def keep(self, kind: str, key: Mapping[str, Any], make: Callable[[Surroundings], Any]) -> Any:
        """Plain data made once, by surroundings of their own."""

    def keep_module(
        self, kind: str, key: Mapping[str, Any], make: Callable[[Surroundings], Any], read: Callable[..., Any]
    ) -> Any:
        """A module made once, likewise; `read` makes it from its folder."""

    def train(self, trainer: Trainer, phase: str) -> Any:
        """Train something that the method needs first; returns the bare model."""

    def spent(self, report: Any) -> None:
        """Count what a teacher's answers cost (`LabellingReport`)."""


def trainer_for(method: Mapping[str, Any], surroundings: Surroundings) -> Any:
    """The trainer of a canonical method (`methods.recipe.canonical_method`)."""
    tree = method["trainer"]
    settings = {name: value for name, value in tree.items() if name != "name"}
    return load("trainer", tree["name"])(surroundings, method, **settings)


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

    def make(apart: Surroundings) -> list[dict[str, Any]]:
        rows = rows_of(tree.get("of", "train"), apart)
        step = load("data", tree["use"])
        return step(rows, apart.teacher(tree.get("teacher", "main")), apart, **settings).to_list()

    key = {"step": dict(tree), **({"seed": settings["seed"]} if "seed" in settings else {})}
    return surroundings.keep(f"rows-{tree['use']}", key, make)


def _column(part: Any, surroundings: Surroundings) -> tuple[list[str], list[str]]:
    rows = surroundings.rows("train") if isinstance(part, str) else rows_of(part["rows"], surroundings)
    name = part if isinstance(part, str) else part["column"]
    if name not in rows.column_names:
        raise MethodError(f'the rows have no column "{name}"; they have {", ".join(rows.column_names)}')
    return list(rows["prompt"]), list(rows[name])


def term_of(tree: Mapping[str, Any], surroundings: Surroundings) -> Any:
    """A term of the loss from its canonical tree."""
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

    keys = ("divergence", "weight", "temperature", "temperature_squared", "target", "sources")
    own = {
        name: value for name, value in tree.items() if name not in (*keys, "token_weights", "row_settings")
    }
    more: dict[str, Any] = {
        name: tree[name] for name in ("temperature", "temperature_squared", "sources") if name in tree
    }
    if "weight" in tree:
        more["weight"] = _schedule(tree["weight"]) if isinstance(tree["weight"], Mapping) else tree["weight"]
    for name, slot in (
        ("target", "target"),
        ("token_weights", "token-weights"),
        ("row_settings", "row-settings"),
    ):
        if name in tree:
            more[name] = build(slot, tree[name], seed=surroundings.seed)
    return Divergence(load("divergence", tree["divergence"]), settings=own, **more)


def _schedule(tree: Mapping[str, Any]) -> Any:
    settings = {name: value for name, value in tree.items() if name != "schedule"}
    return build("schedule", {"name": tree["schedule"], **settings})
