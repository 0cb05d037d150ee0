"""Records as a data set: a folder that `datasets` loads, with a card, in which every row says where it is from.

train.jsonl     the rows that are data: prompt, completion, id and the rows' own fields; what `kd distill` reads
rows.parquet    every row with its provenance, dropped ones with their reason
README.md       the card, which names both as configurations of the data set
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.elicitation.records.record import Record, plain

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, ROWS, CARD = "train.jsonl", "rows.parquet", "README.md"
# What a row says of its last answer, as columns of its own beside the whole list.
ASKED = ("request", "sample", "teacher", "terms", "prompt", "read", "written")


def dataset(rows: Sequence[Record]) -> Dataset:
    """Every row with its provenance; fields of the rows' own, and the answers before the last, as JSON texts."""
    from datasets import Dataset, Features, Sequence, Value

    text, number = Value("string"), Value("int64")
    features = dict.fromkeys(("id", "prompt", "completion", "component", "dropped", "why", "label"), text)
    features |= {"parents": Sequence(text), "seed": number, "round": number}
    features |= {"score": Value("float64"), "verified": Value("bool"), "fields": text, "asked": text}
    features |= {"request": text, "sample": number, "teacher": text, "terms": text, "prompt_hash": text}
    features |= {"read": number, "written": number}
    made = [_row(row) for row in rows]
    return Dataset.from_dict({name: [row[name] for row in made] for name in features}, Features(features))


def from_dataset(table: Iterable[Mapping[str, Any]]) -> list[Record]:
    """What `dataset` was made of."""
    from methods.elicitation.records.record import from_plain

    kept = ("id", "prompt", "completion", "component", "dropped", "why", "label", "parents", "seed", "round")
    return [
        from_plain(
            {
                **{name: row[name] for name in (*kept, "score", "verified")},
                "fields": json.loads(row["fields"]),
                "asked": json.loads(row["asked"]),
            }
        )
        for row in table
    ]


def training_lines(rows: Iterable[Record]) -> str:
    """The rows that are data as JSON lines: prompt, completion, id, label and score where they have one, own fields.

    A field of one of these names gives way; rows.parquet has it.
    """
    lines = []
    for row in rows:
        if row.alive and row.completion:
            marks = {"label": row.label, "score": row.score, "verified": row.verified}
            said = {name: value for name, value in marks.items() if value is not None}
            line = {"prompt": row.prompt, "completion": row.completion, "id": row.id, **said}
            own = {name: value for name, value in row.fields.items() if name not in line}
            lines.append(json.dumps({**line, **own}, ensure_ascii=False) + "\n")
    return "".join(lines)


def report(rows: Sequence[Record]) -> dict[str, Any]:
    """Yield and cost, from the rows alone: rows kept, dropped by reason; answers and tokens, each counted once."""
    answered = (row for row in rows if row.dropped != "failed")
    asked = {one.request: one for row in answered for one in row.asked if one.request}
    kept = sum(1 for row in rows if row.alive and row.completion)
    return {
        "rows": len(rows),
        "kept": kept,
        "dropped": dict(Counter(row.dropped for row in rows if row.dropped is not None).most_common()),
        "without_completion": sum(1 for row in rows if row.alive and not row.completion),
        "answers": len(asked),
        "read": sum(one.read for one in asked.values()),
        "written": sum(one.written for one in asked.values()),
        "teachers": dict(Counter(one.teacher for one in asked.values()).most_common()),
    }


def _row(row: Record) -> dict[str, Any]:
    made = plain(row)
    last = made["asked"][-1] if made["asked"] else dict.fromkeys(ASKED)
    made |= {name: last[name] for name in ASKED if name != "prompt"} | {"prompt_hash": last["prompt"]}
    made |= {"asked": json.dumps(made["asked"]), "fields": json.dumps(made["fields"], ensure_ascii=False)}
    return made | {"parents": list(row.parents)}


def write(folder: Path, rows: Sequence[Record], card: str, keep: Mapping[str, str] | None = None) -> None:
    """Write the data set; each file is there whole or not at all, and the rows come last."""
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    parquet = folder / f".{ROWS}.partial"
    pq.write_table(dataset(rows).with_format("arrow")[:], parquet, compression="zstd")
    parquet.replace(folder / ROWS)
    for name, text in {CARD: card, **(keep or {}), TRAIN: training_lines(rows)}.items():
        fresh = folder / f".{name}.partial"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(folder / name)
