"""The models of `kd distill`: looked at by their configs first, then loaded and held to what the losses read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from catalog.reader import nearest
from methods.errors import MethodError
from methods.modeling.checks import check_head, learned_positions
from methods.recipe import ITSELF, teachers_of
from methods.teachers.store import TeacherStore
from reproductions.distill.answers.kept import open_answers
from reproductions.distill.config import Config
from reproductions.distill.surroundings import named_teachers
from reproductions.engine.errors import KDError
from reproductions.models.sources import Loading, load_outline, load_pretrained


def look_at(config: Config, say: Callable[[str], None]) -> tuple[Any, list[Any]]:
    """Student and teachers without weights, or kept answers. Raises what they already tell, with the config's line.

    That is: rows longer than a model has positions for, and targets of an adapter that match no layer.
    """
    try:
        student = load_outline(config.student, config.student_loaded)
    except MethodError as error:
        raise config.lines.error(f"{config.student}: {error}", "student", "layers") from None
    except KDError as error:
        raise KDError(str(config.lines.error(str(error), "student"))) from error
    _check_positions(config, config.student, student, say)
    teachers = []
    for place, (name, kept) in enumerate(zip(config.teachers, config.answers, strict=True)):
        with named_in(config, "teacher", place):
            teachers.append(open_answers(config, place) if kept else load_outline(name))
    for name, teacher in zip(config.teachers, teachers, strict=True):
        if not isinstance(teacher, TeacherStore):
            _check_positions(config, name, teacher, say)
    if config.lora is not None:
        _check_targets(config, student)
    return student, teachers


@contextlib.contextmanager
def named_in(config: Any, who: str, place: int = 0) -> Iterator[None]:
    """What is wrong with the student, or the teacher at a place from 0, is told with the line that names it."""
    several = who == "teacher" and len(config.teachers) > 1
    try:
        yield
    except (KDError, MethodError) as error:
        where = (who, place) if several else (who,)
        raise type(error)(str(config.lines.error(str(error), *where))) from error


def with_template(tokenizer: Any, config: Config) -> Any:
    """The student's tokenizer with the chat template that the config gives it, if any. Raises KDError if not UTF-8."""
    if config.data.chat_template is not None:
        try:
            tokenizer.chat_template = config.data.chat_template.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise KDError(f"{config.data.chat_template}: not UTF-8 ({error})") from None
    return tokenizer


def _check_positions(config: Config, name: str, model: Any, say: Callable[[str], None]) -> None:
    budget = config.budget
    longest, limit = budget["prompt_tokens"] + budget["completion_tokens"], learned_positions(model)
    if limit is not None and longest > limit:
        raise config.lines.error(
            f"budget: {budget['prompt_tokens']} prompt_tokens + {budget['completion_tokens']} completion_tokens are "
            f"{longest}, and {name} has positions for {limit} tokens: take smaller limits",
            "budget",
        )
    made_for = getattr(model.config, "max_position_embeddings", None)
    if limit is None and isinstance(made_for, int) and longest > made_for:
        say(f"note: rows may have {longest} tokens, and {name} was made for {made_for}")


def _check_targets(config: Config, model: Any) -> None:
    """Each name in lora's targets is a layer that an adapter can be put on, and not the head; the rank fits."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head, lora = model.get_output_embeddings(), config.lora
    assert lora is not None
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D | nn.Embedding) and module is not head
    }
    widest = max((max(module.weight.shape) for module in layers.values()), default=lora["rank"])
    if lora["rank"] > widest:
        raise config.lines.error(
            f"lora: a rank of {lora['rank']} is more than the {widest} of the widest layer of {config.student}",
            *("lora", "rank"),
        )
    names = sorted({name.rpartition(".")[2] for name in layers})
    for place, target in enumerate(lora["targets"]):
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            raise config.lines.error(
                f'lora: no layer of {config.student} is called "{target}"{nearest(target, names)}; an adapter can be '
                f"put on {', '.join(names)}",
                *("lora", "targets", place),
            )


def load_models(
    config: Config,
) -> tuple[tuple[Any, Any], dict[str, Any], dict[str, tuple[Any, Any]]]:
    """Student and tokenizer; the method as that many teachers make it; the teachers by its names for them.

    Heads that are not what the losses read are refused; a teacher that only writes is asked for its own logits.
    """
    with named_in(config, "student"):
        student = load_student(config)
        check_head(student[0])
    with_template(student[1], config)
    loaded = []
    for place, (name, loading, kept) in enumerate(
        zip(config.teachers, config.teachers_loaded, config.answers, strict=True)
    ):
        with named_in(config, "teacher", place):
            loaded.append((open_answers(config, place), student[1]) if kept else load_numbers(name, loading))
    method, teachers = named_teachers(config.tree, teachers_of(config.tree), loaded)
    order = {name: place for place, name in enumerate(teachers)}
    for name in method["teachers"]:
        if name != ITSELF and not isinstance(teachers[name][0], TeacherStore):
            with named_in(config, "teacher", order[name]):
                check_head(teachers[name][0])
    return student, method, teachers


def load_student(config: Config) -> tuple[Any, Any]:
    """The student with its weights, and its tokenizer."""
    return load_numbers(config.student, config.student_loaded)


def load_numbers(name: str, loading: Loading) -> tuple[Any, Any]:
    """A model with its weights, and its tokenizer. Raises KDError for a weight that is no number."""
    model, tokenizer = load_pretrained(name, loading=loading)
    assert model is not None, "it is asked for with its weights"
    for part, weight in model.named_parameters():
        if weight.is_floating_point() and bool(weight.isnan().any()):
            raise KDError(f"{name}: the weight {part} holds what is no number (NaN)")
    return model, tokenizer


def adapted(student: Any, config: Config) -> Any:
    """The student under the adapters that the config asks for."""
    if config.lora is None:
        return student
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    made = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["targets"] or "all-linear",
    )
    try:
        return get_peft_model(student, made)
    except ValueError as error:
        raise MethodError(f"lora: {error}") from error


def training_device() -> Any:
    """Where the student will be trained: the process's GPU, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def check_tokens(tokenizer: Any, tokens: tuple[str, ...], why: str) -> None:
    """Raises KDError for a token that the student's tokenizer lacks."""
    for token in tokens:
        if token not in tokenizer.get_vocab():
            raise KDError(f"{tokenizer.name_or_path}: the tokenizer has no token {token}; {why}")
