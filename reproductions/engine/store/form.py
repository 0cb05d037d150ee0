"""How recorded figures stand in files: a JSON with a line a run, a Parquet (zstd) with a row a run and example.

In the JSON environments, shared artifacts and metrics stand once and runs name them. The Parquet has `seed`, `example`,
then a column for each per-example figure, null where a run did not measure it: all of a column, or what comes after the
first examples. Whole numbers are small integers, others float32 where that is exact, else float64: what is read back
equals what was measured.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import digest, read_json
from reproductions.engine.metrics import Array, Metric
from reproductions.engine.store.arm import RunResults
from reproductions.engine.store.layout import table_of

SCHEMA = 2
Columns = Mapping[int, Mapping[str, Array]]  # by seed
_RUN_FIELDS = {
    "seed": int,
    "metrics": dict,
    "curve": list,
    "seconds": dict,
    "tokens": dict,
    "rollouts": dict,
    "shared": list,
    "made_with": str,
    "digest": str,
}
_RUN_MORE = {
    "started": str,
    "finished": str,
    "made_for": dict,
    "migrated": dict,
    "timed": dict,
    "student": str,
    "made": list,
}
_PLAIN = ("seed", "metrics", "curve", "seconds", "tokens", "rollouts", "digest")
_MADE = {"metrics": dict, "environment": str, "date": str}


def read_object(path: Path, fields: Mapping[str, type]) -> dict[str, Any]:
    """The JSON object in a file of results, of this schema and with exactly these fields.

    Raises KDError naming the file and the field.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise KDError(f"{path}: not the results of an arm")
    if data.get("schema") != SCHEMA:
        raise KDError(f"{path}: schema {data.get('schema')!r}; this version reads schema {SCHEMA}")
    check_fields(path, "", data, fields)
    return data


def check_fields(
    path: Path, where: str, data: Mapping[str, Any], expected: Mapping[str, type], known: Any = None
) -> None:
    """Raises KDError unless `data` has the expected fields, each of its kind, and none that is not known."""
    for name in data:
        if name not in (known or expected):
            raise KDError(f"{path}: unknown field {where}{name}{nearest(name, known or expected)}")
    for name, kind in expected.items():
        if name not in data:
            raise KDError(f"{path}: {where}{name} is missing")
        if not isinstance(data[name], kind) or isinstance(data[name], bool):
            raise KDError(f"{path}: {where}{name} must be {kind.__name__}, not {type(data[name]).__name__}")


def metrics_of(path: Path, data: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics that a file defines. Raises KDError naming the file and the metric."""
    found = {}
    for name, item in data["metrics"].items():
        try:
            found[name] = Metric(**{**item, "columns": tuple(item["columns"])})
        except (TypeError, KeyError, KDError) as error:
            raise KDError(f'{path}: metric "{name}": {error}') from error
    return found


def runs_of(
    path: Path, data: Mapping[str, Any], metrics: Mapping[str, Metric], columns: Columns
) -> dict[int, RunResults]:
    """The runs that a file lists under `runs`, by seed, unchecked. Raises KDError naming the file and the run."""
    runs: dict[int, RunResults] = {}
    for place, item in enumerate(data["runs"]):
        run = _run(path, f"runs[{place}]", item, data, metrics, columns)
        if run.seed in runs:
            raise KDError(f"{path}: runs[{place}]: seed {run.seed} stands twice")
        runs[run.seed] = run
    return runs


def _run(
    path: Path,
    where: str,
    item: Any,
    data: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    columns: Columns,
) -> RunResults:
    if not isinstance(item, dict):
        raise KDError(f"{path}: {where} is not an object")
    more = {name: kind for name, kind in _RUN_MORE.items() if name in item}
    check_fields(path, f"{where}.", item, _RUN_FIELDS | more, [*_RUN_FIELDS, *_RUN_MORE])
    seed = item["seed"]
    if seed not in columns:
        raise KDError(f"{table_of(path)}: no examples of seed {seed}, which {path.name} lists")
    for name in item["shared"]:
        if name not in data["shared"]:
            raise KDError(
                f'{path}: seed {seed}: shared "{name}" stands nowhere{nearest(str(name), data["shared"])}'
            )
    if item["made_with"] not in data["made_with"]:
        raise KDError(f'{path}: seed {seed}: made_with "{item["made_with"]}" stands nowhere')
    plain: dict[str, Any] = {name: item[name] for name in (*_PLAIN, *more)}
    if "made" in more:
        plain["made"] = entries_of(f"{path}: seed {seed}", item["made"], data)
    return RunResults(
        **plain,
        columns=columns[seed],
        definitions={name: metrics[name] for name in item["metrics"] if name in metrics},
        made_with=data["made_with"][item["made_with"]],
        shared={name: data["shared"][name] for name in item["shared"]},
    )


def entries_of(where: str, entries: Iterable[Any], data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who measured what, with the environments that the file names. Raises KDError that begins with `where`."""
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or any(not isinstance(entry.get(n), k) for n, k in _MADE.items()):
            raise KDError(f"{where}: an entry of made holds {', '.join(_MADE)}")
        if entry["environment"] not in data["made_with"]:
            raise KDError(f'{where}: made with "{entry["environment"]}", which stands nowhere')
        found.append({**entry, "environment": data["made_with"][entry["environment"]]})
    return found


class Lines:
    """Runs as lines of a JSON, and what they name: `made_with` by digest, `shared` by id."""

    def __init__(self) -> None:
        self.made_with: dict[str, Any] = {}
        self._shared: dict[str, Any] = {}

    @property
    def shared(self) -> dict[str, Any]:
        """What the runs so far share, by name."""
        return dict(sorted(self._shared.items()))

    def run(self, run: RunResults) -> dict[str, Any]:
        """The line of a run."""
        name = digest(run.made_with, 8)
        self.made_with[name] = run.made_with
        self._shared |= run.shared
        line = {
            "seed": run.seed,
            "metrics": run.metrics,
            "curve": list(run.curve),
            "seconds": run.seconds,
            "tokens": run.tokens,
            "rollouts": run.rollouts,
            "shared": sorted(run.shared),
            "made_with": name,
            "digest": run.digest,
        }
        more = {name: getattr(run, name) for name in _RUN_MORE if getattr(run, name) is not None}
        if "made" in more:
            more["made"] = self.entries(more["made"])
        return line | more

    def entries(self, made: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Who measured what, with the names of the environments."""
        found = []
        for part in made:
            name = digest(part["environment"], 8)
            self.made_with.setdefault(name, part["environment"])
            found.append({**part, "environment": name})
        return found


def as_text(head: Mapping[str, Any], lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """JSON text for git: a line for each entry of the head's mappings, and one for each entry of a list."""
    told = [f" {json.dumps(name)}: {_value(value)}" for name, value in head.items()]
    for name, lines in lists.items():
        inside = ",\n".join(f"  {_compact(line)}" for line in lines)
        told.append(f" {json.dumps(name)}: [\n{inside}\n ]" if lines else f" {json.dumps(name)}: []")
    return "{\n" + ",\n".join(told) + "\n}\n"


def _value(value: Any) -> str:
    """A mapping with one entry a line, anything else on one."""
    if not isinstance(value, Mapping) or not value:
        return _compact(value)
    return (
        "{\n" + ",\n".join(f"  {json.dumps(name)}: {_compact(item)}" for name, item in value.items()) + "\n }"
    )


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=dict, allow_nan=False)


def as_parquet(rows: Columns) -> bytes:
    """The file of the per-example figures of these runs; one that has none has no row."""
    import pyarrow
    import pyarrow.parquet

    sizes = [max(map(len, columns.values()), default=0) for columns in rows.values()]
    table = {
        "seed": _small(np.repeat(list(rows), sizes).astype(np.float64)),
        "example": _small(np.concatenate([np.arange(size) for size in sizes]).astype(np.float64)),
    }
    for name in sorted({name for columns in rows.values() for name in columns}):
        found = [columns.get(name, np.empty(0)) for columns in rows.values()]
        # A dear metric is measured on the first examples only: the rest of its column is as absent as a whole one.
        whole = [np.pad(part, (0, size - len(part))) for part, size in zip(found, sizes, strict=True)]
        absent = np.concatenate(
            [np.arange(size) >= len(part) for part, size in zip(found, sizes, strict=True)]
        )
        kept = _small(np.concatenate(whole))
        table[name] = pyarrow.array(kept, mask=absent) if absent.any() else kept
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.table(table),
        buffer,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table if name != "example"],
        column_encoding={"example": "DELTA_BINARY_PACKED"},
        write_statistics=False,
        store_schema=False,
    )
    return buffer.getvalue()


def _small(column: Array) -> np.ndarray[Any, Any]:
    """The numbers in the smallest type that holds them exactly."""
    if np.array_equal(column, np.round(column)):
        for kind in (np.int8, np.int16, np.int32):
            if np.abs(column).max(initial=0) <= np.iinfo(kind).max:
                return column.astype(kind)
    single = column.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), column) else column


def read_columns(path: Path) -> dict[int, dict[str, Array]]:
    """Per-example figures in a Parquet by seed; a run's columns are those that it measured.

    Raises KDError naming the file.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(path.read_bytes()))
    except OSError as error:
        raise KDError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pyarrow.ArrowException as error:
        raise KDError(f"{path}: not Parquet: {' '.join(str(error).split())}") from error
    for name in ("seed", "example"):
        if name not in table.column_names or table[name].null_count or not _is_integer(table[name]):
            raise KDError(f'{path}: needs a column "{name}" of whole numbers')
    seeds, examples = (table[name].to_numpy() for name in ("seed", "example"))
    found: dict[int, dict[str, Array]] = {}
    for seed in dict.fromkeys(seeds.tolist()):
        rows = np.flatnonzero(seeds == seed)
        if not np.array_equal(examples[rows], np.arange(len(rows))):
            raise KDError(f"{path}: the examples of seed {seed} are not 0, 1, 2, ... in order")
        found[seed] = {}
        for name in table.column_names:
            if name in ("seed", "example"):
                continue
            column = table[name].take(pyarrow.array(rows))
            size = len(rows) - column.null_count  # of the first examples only, or of none
            if not size:
                continue
            if column.slice(0, size).null_count:
                raise KDError(f'{path}: column "{name}" of seed {seed} has gaps')
            found[seed][name] = column.slice(0, size).to_numpy().astype(np.float64)
    return found


def _is_integer(column: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_integer(column.type))
