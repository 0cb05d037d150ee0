"""Kept answers in a teacher's place: opened, and held to the method and the rows that are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from methods.errors import MethodError
from methods.teachers.files import HEADER, read_header
from methods.teachers.identity import example_keys
from methods.teachers.remembered import collated
from methods.teachers.store import TeacherStore
from reproductions.distill.answers.spec import Answers, temperatures

if TYPE_CHECKING:
    from datasets import Dataset

    from reproductions.distill.config import Config

ROWS = 16  # asked about together


class Encoded:
    """Tokenised rows as collated batches on the CPU, which may be read again and again."""

    def __init__(self, rows: Dataset) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for begin in range(0, len(self._rows), ROWS):
            part = self._rows[begin : begin + ROWS]
            yield collated(list(zip(part["input_ids"], part["labels"], strict=True)), "cpu")


def name_of(config: Config, place: int) -> str:
    """What a store calls the teacher: a hash of its folder, the hub's id and revision, or a server's name for it."""
    name, kept = config.teachers[place], config.answers[place]
    if kept is not None and kept.server:
        return f"{name} at {kept.server.rstrip('/')}"
    found, revision = str(config.inputs[f"teacher {place + 1}"]), config.teachers_loaded[place].revision
    return f"{found}@{revision}" if revision else found


def open_answers(config: Config, place: int) -> TeacherStore:
    """What a teacher of the config said. Raises CatalogError, at its line, where that is not there or another's."""
    kept = config.answers[place]
    assert kept is not None
    where: list[str | int] = ["teacher", *([place] if len(config.teachers) > 1 else []), "answers"]
    teaches = f"`kd teach {config.path}` asks the teacher"
    if not (kept.folder / HEADER).is_file():
        raise config.lines.error(f"no answers in {kept.folder}: {teaches}", *where)
    try:
        if not read_header(kept.folder)["complete"]:
            raise config.lines.error(f"the answers in {kept.folder} are not all there: {teaches}", *where)
        store = TeacherStore(kept.folder, teacher=name_of(config, place))
    except MethodError as error:
        raise config.lines.error(f"{error}; name another folder for this one's", *where) from None
    if store.kind != "hidden":
        _check_temperature(config, store, kept, *where)
    return store


def _check_temperature(config: Config, store: TeacherStore, kept: Answers, *where: str | int) -> None:
    wanted, has = set(temperatures(config.tree)), float(store.content["temperature"])
    if wanted - {has}:
        other = next(iter(wanted - {has}))
        raise config.lines.error(
            f"{kept.folder} keeps the teacher's {kept.keep} at temperature {has:g}, and {config.method} asks at "
            f"{other:g}: teach it in another folder, or `keep: hidden-states`",
            *where,
        )


def check_holds(store: TeacherStore, rows: Dataset) -> None:
    """Raises MethodError where a tokenised row has no answer."""
    keys = [key for batch in Encoded(rows) for key, count in example_keys(batch) if count]
    missing = sum(key not in store for key in keys)
    if missing:
        raise MethodError(
            f"{store.folder} has no answer to {missing:,} of {len(keys):,} rows: they, their template or their limits "
            "have changed since the teacher was asked; `kd teach` asks anew, in another folder"
        )
