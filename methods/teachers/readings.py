"""What a teacher reads in the place of a row's prompt: columns of the row, and a place for what comes later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.errors import MethodError
from methods.recipe import SIBLING, columns_in, filled
from methods.registry import near

if TYPE_CHECKING:
    from datasets import Dataset

READS = "teacher_reads"  # the column of what a teacher reads
PLACE = "\0"  # in it, of {sibling}: the text of another completion, once it is written


def with_readings(rows: Dataset, reads: str | None, *, siblings: bool = False) -> Dataset:
    """The rows with what a teacher reads in the place of their prompts, column READS; as they are where they have it.

    `reads` is a text with names of columns in braces, None: no such teacher. With `siblings` {sibling} is none of them:
    its place is kept for what the student will write. MethodError for a column that is missing.
    """
    if reads is None or READS in rows.column_names:
        return rows
    kept = {SIBLING: PLACE} if siblings else {}
    names = [name for name in columns_in(reads) if name not in kept]
    for name in names:
        if name not in rows.column_names:
            raise MethodError(
                f'the teacher reads "{name}" of each row{near(name, rows.column_names)}; the rows have '
                + ", ".join(rows.column_names)
            )
    columns = [rows[name][:] for name in names]
    said = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    texts = [filled(reads, {**row, **kept}) for row in (said if names else [{}] * len(rows))]
    return rows.add_column(READS, texts)
