"""What the policy trainer refuses before anything is loaded: rows, terms and teachers that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from torch import nn

from methods.errors import MethodError
from methods.registry import near
from methods.slots.advantages.signals import DIVERGENCE
from methods.slots.term import IDS, NOTHING, Term
from methods.teachers.store import TeacherStore
from methods.trainers.optimisation.config import OptimisationConfig
from methods.trainers.optimisation.given import log_probs_of
from methods.trainers.teachers import Teacher


def check_rows(args: OptimisationConfig, rows: Dataset) -> None:
    """Raises MethodError for fewer prompts than one generation batch has: TRL's sampler would make no step."""
    assert args.generation_batch_size is not None and args.num_generations is not None
    wanted = args.generation_batch_size // args.num_generations
    if len(rows) < wanted:
        raise MethodError(
            f"{len(rows)} prompts do not fill one generation batch of {wanted} prompts (batch size "
            f"{args.per_device_train_batch_size} x {args.steps_per_generation} steps_per_generation x "
            f"{args.world_size} processes / {args.num_generations} completions each): give more prompts, or take "
            "a smaller batch"
        )


def check_parts(terms: Sequence[Term], given: Sequence[Any], asked: set[str | int]) -> None:
    """Raises MethodError for terms that need another trainer, and teachers that cannot say what is asked."""
    for term in terms:
        if isinstance(term, nn.Module):
            raise MethodError(f"{type(term).__name__} learns along: take the trainer distillation")
        if term.reads not in (IDS, NOTHING):
            raise MethodError(
                f"{type(term).__name__} reads more than the teachers' answer to the student's tokens: take the "
                "trainer distillation"
            )
    if any(isinstance(one.model, TeacherStore) for one in given):
        raise MethodError("a teacher store cannot score what a student writes: give the teacher itself")
    if not given and (DIVERGENCE in asked or any(isinstance(who, int) for who in asked)):
        raise MethodError("no teacher is given, and the advantage asks one")


def check_prompts(args: OptimisationConfig, given: Sequence[Teacher]) -> None:
    """Raises MethodError for a teacher that reads another prompt than the student and is to write with it."""
    if args.teacher_mix and any(one.reads is not None for one in given):
        raise MethodError(
            "teacher_mix: a teacher that reads another prompt than the student cannot write with it"
        )


def check_sources(args: OptimisationConfig, rows: Dataset, writer: Any) -> None:
    """Raises MethodError where completions are to be the data's and an environment writes, or rows lack a column."""
    if not args.given_completions:
        return
    if writer is not None:
        raise MethodError("given_completions, and an environment writes: take one of the two")
    needed = [args.given_column]
    if args.given_ratio == "written":
        needed.append(log_probs_of(args.given_column))
    for name in needed:
        if name not in rows.column_names:
            raise MethodError(
                f'given_completions needs rows with a "{name}", not only {", ".join(rows.column_names)}'
                f"{near(name, rows.column_names)}"
            )
