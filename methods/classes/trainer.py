"""The sum of terms on texts with labels: for encoders that classify texts or tag tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from methods.classes.encoding import ROW
from methods.classes.model import (
    IGNORED,
    classes_of,
    classifier_states,
    head_of_classifier,
    labelled,
    of_a_text,
)
from methods.classes.remembered import STATES, RememberedClasses, remember_classes
from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.modeling.core import core_model, freeze
from methods.modeling.normalise import window_mean
from methods.slots.inside import Inside, recorded_inside
from methods.slots.rows import Rows
from methods.slots.term import PAIR, Term, Window, weight_at
from methods.teachers.store import TeacherStore
from methods.trainers.base import TrainsTerms
from methods.trainers.teachers import Teacher, as_teachers, as_they_are
from methods.trainers.trl_compat import through_wrapper

THEIRS = "teacher_{}_"  # before the columns that a teacher's own tokenizer made


class ClassesCollator:
    """Pads what each tokenizer made of a text, under its own names, and the labels of tokens with -100."""

    def __init__(self, tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
        self._tokenizers = tokenizers  # by the beginning of their columns' names, "" for the student's

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        for prefix, tokenizer in self._tokenizers.items():
            names = [n for n in tokenizer.model_input_names if prefix + n in rows[0]]
            padded = tokenizer.pad(
                [{name: row[prefix + name] for name in names} for row in rows], return_tensors="pt"
            )
            made |= {prefix + name: padded[name] for name in names}
        if ROW in rows[0]:
            made[ROW] = torch.tensor([row[ROW] for row in rows])
        labels = [row["labels"] for row in rows]
        if isinstance(labels[0], int):
            return made | {"labels": torch.tensor(labels)}
        width = made["input_ids"].shape[1]
        left = self._tokenizers[""].padding_side == "left"
        filled = [([IGNORED] * (width - len(own)), own) for own in labels]
        return made | {"labels": torch.tensor([pad + own if left else own + pad for pad, own in filled])}


class ClassDistiller(TrainsTerms, Trainer):
    """Sum of terms at the labels of texts (one a text) or of tokens (one a token, -100 for none).

    loss = sum_terms weight * (sum over the accumulation window and all ranks) / (labels there)

    Terms are those of `Distiller` that read nothing, the labels, a teacher's classes or its blocks: `hidden` is what
    goes into the classifier, `head` its last layer, `inside` every token for terms that want them. Rows have what the
    student's tokenizer made and `labels`; for a teacher with a tokenizer of its own, number n, also what that made,
    under names that begin with `teacher_n_`. Teachers are frozen and have the student's classes in its order. Blocks of
    texts are read at the first token, or as the mean by a model that takes means. What each teacher said of the rows
    before is looked up in `remembered`, where it is, by their column `row`.
    Source: the loss of PKD (arXiv 1908.09355, section 3), whose parts are terms here.
    Raises MethodError for terms and teachers that do not fit.
    """

    sees_inside = True  # rows have every token for terms that want them

    def __init__(
        self,
        model: Any,
        *,
        terms: Sequence[Term],
        args: TrainingArguments,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        teacher: Any = None,
        remembered: Sequence[RememberedClasses | None] | None = None,
        **kwargs: Any,
    ):
        terms = [term for term in terms if callable(term.weight) or term.weight != 0]
        if not terms:
            raise MethodError("a distillation needs at least one term")
        given = as_teachers(teacher)
        as_they_are(given)
        models = _checked(model, given, terms)
        tokenizers = {"": processing_class}
        for number, one in enumerate(given):
            prefix = THEIRS.format(number)
            if prefix + "input_ids" in train_dataset.column_names:
                tokenizers[prefix] = one.tokenizer or processing_class
        args.remove_unused_columns = False
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            data_collator=ClassesCollator(tokenizers),
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True  # compute_loss is told of the window's labels
        self._loss_shifts_labels = False
        self.terms = tuple(terms)
        prepared: list[Any] = [
            self.accelerator.prepare_model(freeze(one), evaluation_mode=True) for one in models
        ]
        self._teachers, self._remembered = prepared, list(remembered or [None] * len(given))
        self.models = SimpleNamespace(  # what terms may ask, as of `methods.trainers.models.Models`
            student=lambda: core_model(self.accelerator.unwrap_model(self.model)),
            first_teacher=lambda: core_model(self.accelerator.unwrap_model(prepared[0])),
            who=SimpleNamespace(first_is_paired=False),
        )
        self.first_reads_the_same = THEIRS.format(0) not in tokenizers
        for term in self.terms:
            term.prepare(self)
        self._inside = [
            sorted({wanted for term in terms for wanted in getattr(term, f"{who}_inside")})
            for who in ("student", "teacher")
        ]
        self._student_blocks = sorted({block for term in terms for block in term.student_blocks})
        self._teacher_blocks = sorted({block for term in terms for block in term.teacher_blocks})
        learning = [term for term in self.terms if isinstance(term, nn.Module)]
        self._learning = nn.ModuleList(learning).to(self.accelerator.device)

    def task_filters(self, *args: Any, **kwargs: Any) -> Any:
        """Raises MethodError: filters that learn a task first are made for texts that are written, not for classes."""
        raise MethodError(
            "filters that learn the task first (TED) are there for language models, not for classes yet"
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        window = Window(self.progress, batches, trainer=self)
        for term in self.terms:
            term.begin_step(window)
            for part in term.parts().values():
                if hasattr(part, "begin_step"):
                    part.begin_step(window)
        return batches, labels

    def teacher_states(self) -> tuple[Tensor, Head]:
        """What goes into the first teacher's head (R, H) for all training texts in order, on the CPU, and the head.

        Raises MethodError where tokens have labels.
        """
        texts: Any = self.train_dataset
        if not isinstance(texts[0]["labels"], int):
            raise MethodError("a term wants one state a text, and here tokens have labels")
        teacher, known = self.models.first_teacher(), self._remembered[0]
        if known is None:
            prefix = "" if self.first_reads_the_same else THEIRS.format(0)
            states = remember_classes(teacher, texts, self.data_collator, prefix)[STATES]
        else:
            states, _ = known.of(torch.tensor(texts[ROW][:]))
        head = head_of_classifier(teacher)
        bias = None if head.bias is None else head.bias.detach().cpu()
        return states, Head(head.weight.detach().cpu(), bias)

    # The loss.

    def rows(self, batch: Mapping[str, Tensor]) -> Rows:
        """The labelled places of a batch, as terms see them; counts what is read."""
        where = labelled(batch["labels"])
        student = self.models.student()
        mask, inside = batch["attention_mask"], list[Inside]()
        with recorded_inside(student, self._inside[0]) as made:
            hidden, blocks = classifier_states(student, self._inputs(batch, ""), where, self._student_blocks)
            inside.append(made(mask))
        self.count_tokens("student", mask.sum())
        said, teacher_blocks = [], dict[int, Tensor]()
        for number, prepared in enumerate(self._teachers):
            teacher, prefix = core_model(self.accelerator.unwrap_model(prepared)), THEIRS.format(number)
            inputs = self._inputs(batch, prefix if prefix + "input_ids" in batch else "")
            asked, known = self._teacher_blocks if number == 0 else [], self._remembered[number]
            wanted = self._inside[1] if number == 0 else []
            with torch.no_grad():
                if known is None or wanted:
                    with recorded_inside(teacher, wanted) as made:
                        states, found = classifier_states(teacher, inputs, where, asked)
                        inside += [made(mask)] if number == 0 else []
                else:
                    states, found = known.of(batch[ROW][where], asked)
            teacher_blocks |= found
            said.append((states, head_of_classifier(teacher)))
            self.count_tokens("teacher", inputs["attention_mask"].sum())
        sequence = torch.arange(len(where), device=where.device)
        if not of_a_text(where):
            sequence = sequence.unsqueeze(1).expand_as(where)[where]
        return Rows(
            hidden=hidden,
            head=head_of_classifier(student),
            teachers=tuple(said),
            labels=batch["labels"][where],
            source=torch.zeros_like(sequence),
            sequence=sequence,
            position=torch.zeros_like(sequence) if of_a_text(where) else (where.cumsum(-1) - 1)[where],
            core=student,
            batch=batch,
            blocks=blocks,
            teacher_blocks=teacher_blocks,
            inside=(inside[0], inside[1]) if self._inside[0] else None,
        )

    @staticmethod
    def _inputs(batch: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {name: batch[prefix + name] for name in names if prefix + name in batch}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:
            raise MethodError("the fused loss makes no logits to return")
        inner = self.accelerator.unwrap_model(model)

        def total() -> Tensor:
            rows = self.rows(inputs)
            made = rows.hidden.sum() * 0  # a graph even where no term has items
            for term in self.terms:
                made = made + weight_at(term.weight, self.progress) * term.total(rows)
            return made

        found = through_wrapper(model, inner, total)
        if num_items_in_batch is None:
            return found / labelled(inputs["labels"]).sum().clamp(min=1)
        return window_mean(found, num_items_in_batch, self.accelerator)


def _checked(student: Any, teachers: Sequence[Teacher], terms: Sequence[Term]) -> list[Any]:
    """The teachers' models. Raises MethodError for what does not fit."""
    head_of_classifier(student)
    ours = classes_of(student)
    for teacher in teachers:
        if isinstance(teacher.model, TeacherStore):
            raise MethodError("a teacher store holds what is said of next tokens, not of classes")
        head_of_classifier(teacher.model)
        theirs = classes_of(teacher.model)
        if theirs != ours:
            raise MethodError(
                f"the teacher's classes are {', '.join(theirs)}, the student's {', '.join(ours)}"
            )
    pairs = [type(term).__name__ for term in terms if term.reads == PAIR]
    if pairs:
        raise MethodError(
            f"{pairs[0]} compares two tokenisations of what is written, and classes are not written"
        )
    if not teachers and any(term.reads not in ("nothing",) for term in terms):
        raise MethodError("no teacher is given, and a term needs one")
    return [teacher.model for teacher in teachers]
