"""Components of elicitation one after another, as a recipe or a config names them.

{elicit: [{name: explain, chains: 4}, {name: verify, check: number}], of: train, teacher: main}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from methods.elicitation.records.record import Record, seeds
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from methods.registry import load

if TYPE_CHECKING:
    from datasets import Dataset

    from methods.assembly import Asked, Surroundings


def run_steps(rows: Sequence[Record], session: Any, steps: Sequence[Mapping[str, Any]]) -> list[Record]:
    """What canonical steps make of records, dropped ones included."""
    made = list(rows)
    for step in steps:
        settings = {name: value for name, value in step.items() if name != "name"}
        made = load("elicitation", step["name"])(made, session, **settings)
    return made


def yields(rows: Sequence[Record]) -> dict[str, int]:
    """How many rows are data ("kept"), and how many were dropped for each reason."""
    counts = Counter(row.dropped or "kept" for row in rows)
    return {"kept": counts.pop("kept", 0), **dict(sorted(counts.items()))}


def elicited(
    rows: Dataset,
    asked: Asked,
    surroundings: Surroundings,
    steps: Sequence[Mapping[str, Any]],
    seed: int,
    seen: bool = False,
) -> list[dict[str, Any]]:
    """The training rows of a recipe's `elicit`: prompt, completion, and what is a text in every row.

    The rows' completions are the right answers, column `answer` where they have none of that name; the components see
    rows without a completion, unless it is to be `seen`: where other steps elicited the rows, and where labels go on
    with their texts. The teacher is the surroundings' `writer` where they have one (a server, an oracle),
    else its model. Raises MethodError where nothing is left, with the reasons counted.
    """
    if asked.prompt_column != "prompt":
        raise MethodError("elicit needs a teacher that reads the student's prompts; label takes the others")
    if seen:
        begun = [row.marked(label=row.fields.get("label")) for row in seeds(rows)]
    else:
        given = [{**row, "answer": row.get("answer", row["completion"])} for row in rows]
        begun = seeds([{name: value for name, value in row.items() if name != "completion"} for row in given])
    journal = getattr(surroundings, "answers", None)
    session = Session(_writer(asked, surroundings), None if journal is None else journal(), seed=seed)
    try:
        before = session.report()["spent"]
        made = run_steps(begun, session, steps)
        spent = {name: value - before[name] for name, value in session.report()["spent"].items()}
    finally:
        session.close()
    surroundings.spent(_report(made, spent))
    alive = [row for row in made if row.alive and row.completion]
    if not alive:
        raise MethodError(f"elicit: no row is left of {len(begun)}: {yields(made)}")
    return _columns(alive)


def writer_of(surroundings: Surroundings, name: str) -> Any:
    """What the surroundings say writes for a teacher; None where its model does."""
    own = getattr(surroundings, "writer", None)
    return None if own is None else own(name)


def _writer(asked: Asked, surroundings: Surroundings) -> Any:
    own = writer_of(surroundings, asked.name)
    if own is not None:
        return own
    from methods.elicitation.writers.local import LocalWriter

    return LocalWriter(asked.model, asked.tokenizer, asked.name)


def _report(rows: Sequence[Record], spent: Mapping[str, Any]) -> Any:
    from methods.elicitation.labelling import LabellingReport

    reasons = Counter(row.dropped for row in rows)
    written, read = int(spent["written"]), int(spent["read"])
    return LabellingReport(len(rows), reasons["truncated"], reasons["empty"], written, read + written)


def _columns(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """Prompt, completion, label and fields, those that are a text in every row."""
    whole = [
        {**row.fields, "label": row.label, "prompt": row.prompt, "completion": row.completion} for row in rows
    ]
    names = [name for name in whole[0] if all(isinstance(row.get(name), str) for row in whole)]
    return [{name: row[name] for name in names} for row in whole]
