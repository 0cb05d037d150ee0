"""All that can be known of a training before a weight is loaded: its rows, its models' shapes, whether they fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from methods.assembly import THOUGHT_TOKENS, looks_at_validation, term_of
from methods.errors import MethodError
from methods.modeling.core import shared_vocabulary
from methods.recipe import ITSELF, OF_ANSWERS, OPTIMISES, POLICIES, readings_of, teachers_of
from methods.recipe import columns_of as columns_of_terms
from methods.registry import build, find
from methods.tokenizers.encoding import eos_token
from methods.tokenizers.templates import EndlessTemplate
from reproductions.distill.config import Config
from reproductions.distill.data import lacking
from reproductions.distill.data.rows import (
    TEACHER_PROMPT,
    Held,
    Limits,
    Rows,
    columns_of,
    group_column,
    read_rows,
)
from reproductions.distill.evaluate.harness import check_tasks
from reproductions.distill.method import Nowhere
from reproductions.distill.models import check_tokens, look_at, named_in, with_template
from reproductions.distill.surroundings import named_teachers
from reproductions.models.sources import load_pretrained


@dataclass(frozen=True)
class Ready:
    """What is known: rows, models without weights (device "meta") with their tokenizers, the method as it will run."""

    rows: Rows
    student: Any
    tokenizer: Any
    teachers: Mapping[str, tuple[Any, Any]]  # by the method's names for them
    method: Mapping[str, Any]


def prepare(config: Config, say: Callable[[str], None]) -> Ready:
    """Reads rows and tokenizers and holds them to the models. Raises what a training would end with, and says notes."""
    if config.evaluate is not None and config.evaluate.lm_eval is not None:
        check_tasks(config.evaluate.lm_eval, config.lines)
    tokenizer = student_tokenizer(config)
    student, outlines = look_at(config, say)
    theirs = []
    for place, (name, loading, kept) in enumerate(
        zip(config.teachers, config.teachers_loaded, config.answers, strict=True)
    ):
        with named_in(config, "teacher", place):
            its = tokenizer if kept else load_pretrained(name, weights=False, loading=loading)[1]
        theirs.append(its)
    rows = rows_for(config, tokenizer, _own_prompts(config, tokenizer, theirs))
    if not rows.chat and getattr(tokenizer, "chat_template", None):
        say(
            "note: the student has a chat template, and these rows are plain text to it; `chat: true` puts them in"
        )
    for sentence in [*rows.warnings, *_lacking(rows, theirs, tokenizer)]:
        say(sentence)
    given = list(zip(outlines, theirs, strict=True))
    method, teachers = named_teachers(config.tree, teachers_of(config.tree), given)
    try:
        _check_readers(method, student, tokenizer, teachers)
    except MethodError as error:  # with the line of who does not fit
        raise MethodError(str(config.lines.error(str(error), "teacher"))) from None
    _check_generation(config, len(rows.train))
    return Ready(rows, student, tokenizer, teachers, method)


def student_tokenizer(config: Config) -> Any:
    """The student's tokenizer with its chat template. Raises MethodError where it lacks what the method needs."""
    with named_in(config, "student"):
        _, tokenizer = load_pretrained(config.student, weights=False, loading=config.student_loaded)
        eos_token(tokenizer)
    tokenizer = with_template(tokenizer, config)
    if config.tree["trainer"]["name"] == "latent-reasoning":
        check_tokens(
            tokenizer, THOUGHT_TOKENS, _needs(config) or "latent thoughts stand between these tokens"
        )
    return tokenizer


def _needs(config: Config) -> str:
    return f"{config.method} needs {config.needs}" if config.needs else ""


def _learns_given_answers(data: Any) -> bool:
    """Whether a method's `data` are the rows as they are, or some of them, or more about them; not others' answers."""
    if isinstance(data, str):
        return data == "train"
    return data.get("from") == "train" or data.get("use") in ("pass-rates", "guide-answers")


def rows_for(config: Config, tokenizer: Any, teacher: Any = None) -> Rows:
    """The config's rows as the student reads them; `teacher`: the tokenizer of one with a template of its own."""
    wanted, budget = config.evaluate, config.budget
    try:
        return read_rows(
            config.data,
            tokenizer,
            Limits(budget["prompt_tokens"], budget["completion_tokens"]),
            validate=looks_at_validation(config.tree),
            held=None if wanted is None else Held(wanted.rows, wanted.data),
            seed=config.seed,
            columns=columns_of(config.tree),
            values=columns_of_terms(config.tree),
            group=group_column(config.tree),
            needs=_needs(config),
            teacher=teacher,
            reads=readings_of(config.tree),
            answers=_learns_given_answers(config.tree.get("data", "train")),
            tell=lambda message, *path: config.lines.error(message, "data", *path),
        )
    except EndlessTemplate as error:
        theirs = teacher is not None and str(error).startswith(f"{teacher.name_or_path}: ")
        own = ("data", "chat_template") if config.data.chat_template is not None else ("student",)
        raise config.lines.error(str(error), *(("teacher",) if theirs else own)) from None


def _lacking(rows: Rows, theirs: list[Any], tokenizer: Any) -> list[str]:
    """What teachers with tokenizers of their own lack of the rows, which `rows.told` counts then too."""
    asked = rows.train[TEACHER_PROMPT if TEACHER_PROMPT in rows.train.column_names else "prompt"][:]
    texts = [prompt + answer for prompt, answer in zip(asked, rows.train["completion"][:], strict=True)]
    told, said = lacking.of_each(texts, lacking.of_teachers(theirs, tokenizer))
    rows.told |= told
    return said


def _own_prompts(config: Config, tokenizer: Any, theirs: list[Any]) -> Any:
    """The tokenizer of a teacher that is asked by its own chat template; None where all read the student's prompts.

    That is one teacher whose template is another one. Where a sampler writes anew what both read, they read one text.
    """
    if len(theirs) != 1 or "sampler" in config.tree:
        return None
    own = getattr(theirs[0], "chat_template", None)
    return theirs[0] if own and own != getattr(tokenizer, "chat_template", None) else None


def _check_generation(config: Config, rows: int) -> None:
    """Raises MethodError where a trainer that samples prompts itself would not fill a generation batch."""
    trainer, budget = config.tree["trainer"], config.budget
    if trainer["name"] not in POLICIES or not isinstance(config.tree["data"], str):
        return
    known = find("trainer", trainer["name"]).parameters
    each = trainer.get(
        "num_generations", known["num_generations"].default if "num_generations" in known else 1
    )
    steps, processes = (
        trainer.get("steps_per_generation") or budget["accumulate"],
        int(os.environ.get("WORLD_SIZE", "1")),
    )
    wanted = budget["batch_size"] * steps * processes // each
    if rows < wanted:
        raise MethodError(
            f"{rows} prompts do not fill one generation batch of {wanted} (batch size {budget['batch_size']} x {steps} "
            f"batches a generation x {processes} processes, {each} completions a prompt): give more prompts, or take a "
            "smaller batch"
        )


def _check_readers(
    method: Mapping[str, Any], student: Any, tokenizer: Any, teachers: Mapping[str, tuple[Any, Any]]
) -> None:
    """Raises MethodError where a teacher's tokens are not the student's and the method needs that they are."""
    from methods.trainers import Teacher
    from methods.trainers.teachers import readers

    trainer = method["trainer"]["name"]
    named = [(student, tokenizer) if name == ITSELF else teachers[name] for name in method["teachers"]]
    if trainer == "minillm":
        for model, its in named:
            shared_vocabulary(student, model, tokenizer, its)
    elif trainer in (*OF_ANSWERS, *OPTIMISES):
        nowhere: Any = Nowhere(tokenizer)
        terms = [term_of(tree, nowhere, method["teachers"]) for tree in method.get("terms", ())]
        sampler = build("sampler", method["sampler"]) if "sampler" in method else None
        along = trainer in OPTIMISES or getattr(sampler, "teacher_reads_along", False)
        given = [Teacher(model, its) for model, its in named]
        found = readers(given, terms, student, tokenizer, along=along) if given or terms else None
        if trainer in OPTIMISES and found is not None and not found.read_pair:
            for model, its in named:  # an advantage asks them for the student's ids
                shared_vocabulary(student, model, tokenizer, its)
