"""From a method to the trainer of classes: reproductions and `kd distill` both come here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from transformers import TrainingArguments

from methods.assembly import Surroundings, rows_of, term_of
from methods.classes.encoding import encoded_texts
from methods.classes.suits import why_not
from methods.classes.trainer import THEIRS, ClassDistiller, ClassesCollator
from methods.errors import MethodError
from methods.recipe import WRITES
from methods.registry import component
from methods.trainers.teachers import Teacher

if TYPE_CHECKING:
    from datasets import Dataset

    from methods.classes.remembered import RememberedClasses


@dataclass(frozen=True)
class Texts:
    """Texts with the number of each one's class; `limit`: tokens of a text, of which longer ones are cut."""

    texts: Sequence[str]
    labels: Sequence[int]
    limit: int


class LabelledSurroundings(Surroundings, Protocol):
    """Surroundings whose models say classes of texts."""

    @property
    def classes(self) -> Sequence[str]:
        """Their names, in the order of a classifier's logits."""


@component("trainer", "classes")
def trainer_of_classes(surroundings: LabelledSurroundings, method: Mapping[str, Any]) -> Any:
    """The trainer of a canonical method on rows `prompt` (a text) and `completion` (the name of its class).

    Source: PKD, arXiv 1908.09355, section 3, as of `ClassDistiller`.
    Raises MethodError for a method that is about what is written, and for a row of no class.
    """
    tree, classes = method["data"], surroundings.classes
    plain = {
        **method,
        "trainer": {"name": WRITES},
        "data": "train",
    }  # whoever made the rows: they are looked at below
    if (why := why_not(plain)) is not None:
        raise MethodError(f"no trainer of classes: {why}")
    rows, number = rows_of(tree, surroundings), {name: place for place, name in enumerate(classes)}
    strange = next((name for name in rows["completion"] if name not in number), None)
    if strange is not None:
        raise MethodError(f'no class "{strange}"; the classes are {", ".join(classes)}')
    asked = [surroundings.teacher(name) for name in method["teachers"]]
    labels = [number[name] for name in rows["completion"]]
    texts = Texts(list(rows["prompt"]), labels, surroundings.prompt_tokens)
    trainer, _ = class_distiller(
        method,
        surroundings,
        surroundings.student(),
        surroundings.tokenizer,
        [(one.model, one.tokenizer) for one in asked],
        texts,
        surroundings.arguments(TrainingArguments),
        remembered=[one.states for one in asked],
    )
    return trainer


def class_distiller(
    method: Mapping[str, Any],
    surroundings: Any,
    student: Any,
    tokenizer: Any,
    teachers: Sequence[tuple[Any, Any]],
    texts: Texts,
    args: TrainingArguments,
    *,
    remembered: Sequence[Callable[[Dataset], RememberedClasses | None]] | None = None,
) -> tuple[ClassDistiller, dict[str, int]]:
    """The trainer, and how many texts are cut for whom ("the student", "teacher 1", ...).

    `teachers`: each with its tokenizer; `remembered`: for each what gives its states of tokenised rows, or None.
    """
    tokenizers = {"": tokenizer} | {
        THEIRS.format(number): its
        for number, (_, its) in enumerate(teachers)
        if its is not tokenizer and its.get_vocab() != tokenizer.get_vocab()
    }
    rows, cut = encoded_texts(texts.texts, texts.labels, tokenizers, texts.limit)
    known = [None] * len(teachers) if remembered is None else [look(rows) for look in remembered]
    trainer = ClassDistiller(
        student,
        terms=[term_of(tree, surroundings, method["teachers"]) for tree in method["terms"]],
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        teacher=[Teacher(model, its) for model, its in teachers],
        remembered=known,
    )
    names = {"": "the student"} | {
        THEIRS.format(number): f"teacher {number + 1}" for number in range(len(teachers))
    }
    return trainer, {names[prefix]: count for prefix, count in cut.items()}


def collator(tokenizer: Any) -> ClassesCollator:
    """What pads rows of one tokenizer."""
    return ClassesCollator({"": tokenizer})
