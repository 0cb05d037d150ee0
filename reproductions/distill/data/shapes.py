"""From the columns of a table to texts that are asked and answered; each row that is none with its reason."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catalog.errors import nearest
from reproductions.distill.data.chat import Message, Template, messages_of
from reproductions.distill.data.files import BadRow, Table
from reproductions.distill.data.spec import DataSpec
from reproductions.engine.errors import KDError

TEXT, CONVERSATION, INSTRUCTION = "prompts and completions", "conversations", "instructions"
# Which columns make which kind of row, the first that is there.
SHAPES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (CONVERSATION, ("messages",), ("system",)),
    (CONVERSATION, ("conversations",), ("system",)),
    (TEXT, ("prompt", "completion"), ("system",)),
    (INSTRUCTION, ("instruction", "output"), ("input", "system")),
)
WHOLE = ("messages", "conversations")  # columns that hold a conversation with its answers
NAMES = tuple(dict.fromkeys(name for _, needed, more in SHAPES for name in (*needed, *more)))
# Columns that say something to a model: a row that has one and is read without it is not the row that was meant.
SPOKEN = (
    "system",
    "messages",
    "conversations",
    "instruction",
    "input",
    "context",
    "tools",
    "images",
    "history",
)
Tell = Callable[..., Exception]  # (message, *path in `data` of the config) -> what to raise


@dataclass
class Texts:
    """Rows of `prompt`, `completion` and further columns; `origins` says which of them belong together.

    `asked` are the messages behind a prompt, None for plain text; `bad` counts rows that are left out by their reason,
    `told` what else there was; `chat` says whether they are in the student's template.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    asked: list[list[Message] | None] = field(default_factory=list)
    read: int = 0
    shape: str = TEXT
    chat: bool = False
    bad: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    unused: list[str] = field(default_factory=list)


def texts_of(
    table: Table,
    spec: DataSpec,
    tokenizer: Any,
    *,
    columns: Sequence[str] = (),
    values: Sequence[str] = (),
    needs: str = "",
    tell: Tell = lambda message, *path: KDError(message),
) -> Texts:
    """The rows of a table as text. `columns` are read too, text all but `values`, which may be numbers.

    Raises KDError (`tell` for what the config says) where the columns fit no shape, and, unless `bad_rows` is "skip",
    for the first row that cannot be read, with its place and how many more there are.
    """
    _map(table, spec, (*NAMES, *columns), tell)
    shape, needed, optional = _shape(table, spec)
    if shape == TEXT and any(
        isinstance(row, dict) and isinstance(row["prompt"], list) for row in table.rows[:1]
    ):
        shape = CONVERSATION  # as TRL has them: messages in both columns
    chat = _chat(shape, spec, tokenizer, tell)
    numbers = {name for name in values if _first_is_number(table, name)}
    reader = _Reader(
        shape, needed, optional, chat, spec, tokenizer if chat else None, columns, numbers, needs
    )
    made = Texts(shape=shape, chat=chat, read=len(table.rows), told=Counter(table.told))
    first: tuple[str, str] | None = None
    for row, place in zip(table.rows, table.places, strict=True):
        found = row if isinstance(row, BadRow) else reader(row)
        if isinstance(found, BadRow):
            made.bad[found.kind] += 1
            first = first or (place, found.why)
            continue
        for text, asked in found:
            made.rows.append(text)
            made.asked.append(asked)
            made.origins.append(_origin(row, asked, text))
    if first is not None and spec.bad_rows == "refuse":
        raise KDError(f"{first[0]}: {first[1]}{_more(made.bad)}")
    if not made.rows:
        where, why = first or (str(spec), "no rows")
        raise KDError(f"{where}: {why}{_more(made.bad)}; no row is left")
    made.told |= Counter(reader.template.found if reader.template else {})
    repeated = len(made.rows) - len({(row["prompt"], row["completion"]) for row in made.rows})
    made.told["rows that are equal to one before"] += repeated
    made.told = +made.told
    known = {*needed, *optional, *columns}
    made.unused = sorted(set(table.columns) - known)
    return made


def _more(bad: Counter[str]) -> str:
    """', and 3 rows more cannot be read: ...' with what to do about it."""
    rest = sum(bad.values()) - 1
    if not rest:
        return ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in bad.most_common())
    return f"; {sum(bad.values())} rows cannot be read ({kinds}); `bad_rows: skip` leaves them out, counted"


def _map(table: Table, spec: DataSpec, known: Sequence[str], tell: Tell) -> None:
    """Columns by our names for them."""
    there = table.columns
    for ours, theirs in spec.columns.items():
        if ours not in known:
            names = ", ".join(dict.fromkeys(known))
            raise tell(
                f'columns: nothing reads "{ours}"{nearest(ours, known)}; known: {names}', "columns", ours
            )
        if theirs not in there:
            raise tell(
                f'columns: {spec} has no column "{theirs}"{nearest(theirs, there)}; it has {", ".join(there)}',
                *("columns", ours),
            )
    if spec.columns:
        given = set(spec.columns.values())
        table.rows = [
            row
            if isinstance(row, BadRow)
            else {name: value for name, value in row.items() if name not in (*spec.columns, *given)}
            | {ours: row[theirs] for ours, theirs in spec.columns.items() if theirs in row}
            for row in table.rows
        ]


def _shape(table: Table, spec: DataSpec) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    there = table.columns
    for shape, needed, optional in SHAPES:
        if set(needed) <= set(there):
            return shape, needed, optional
    first = next(
        (place for row, place in zip(table.rows, table.places, strict=True) if isinstance(row, dict)), ""
    )
    if not there:
        bad = next(row for row in table.rows if isinstance(row, BadRow))
        raise KDError(f"{table.places[0]}: {bad.why}")
    for _, needed, _ in SHAPES:
        missing = [name for name in needed if name not in there]
        if len(missing) < len(needed):
            near = nearest(missing[0], [name for name in there if name not in needed])
            hint = f"{near}; it has {', '.join(there)}. `columns: {{{missing[0]}: ...}}` names another"
            raise KDError(f"{first}: no field {', '.join(missing)}{hint}")
    raise KDError(
        f"{first}: no field prompt, completion, nor messages, nor instruction, output; it has {', '.join(there)}. "
        f"`columns: {{prompt: {there[0]}, completion: {there[-1]}}}` in the config would name two of them"
    )


def _chat(shape: str, spec: DataSpec, tokenizer: Any, tell: Tell) -> bool:
    """Whether rows are put into the student's chat template."""
    has = bool(getattr(tokenizer, "chat_template", None))
    wanted = spec.chat if spec.chat is not None else shape == CONVERSATION or (shape == INSTRUCTION and has)
    if shape == CONVERSATION and not wanted:
        raise tell("conversations need a chat template; take `chat: false` out", "chat")
    if spec.system and not wanted:
        raise tell(
            f"a system message needs a chat template: say `chat: true` to put {shape} into it", "system"
        )
    if wanted and not has:
        where = getattr(tokenizer, "name_or_path", "") or "the student"
        raise tell(
            f"{spec}: {shape} are put into a chat template, and {where} has none; name a file as `chat_template`, "
            "or give prompts and completions as text",
            *(("chat",) if spec.chat else ()),
        )
    return wanted


Found = list[tuple[dict[str, Any], list[Message] | None]]


class _Reader:
    """From one row to its texts, or to the reason why it has none."""

    def __init__(
        self,
        shape: str,
        needed: Sequence[str],
        optional: Sequence[str],
        chat: bool,
        spec: DataSpec,
        tokenizer: Any,
        columns: Sequence[str],
        numbers: Collection[str],
        needs: str,
    ) -> None:
        self.shape, self.needed, self.optional, self.chat, self.spec = shape, needed, optional, chat, spec
        self.columns, self.numbers, self.needs = columns, numbers, needs
        self.template = None if tokenizer is None else Template(tokenizer)
        self.whole = needed[0] in WHOLE

    def __call__(self, row: Mapping[str, Any]) -> Found | BadRow:
        missing = [name for name in self.needed if name not in row]
        if missing:
            return BadRow("missing fields", f"no field {', '.join(missing)}{nearest(missing[0], row)}")
        more: dict[str, Any] = {}
        for name in self.columns:
            value = self._column(name, row.get(name))
            if isinstance(value, BadRow):
                return value
            more[name] = value
        system = row.get("system") or self.spec.system
        if system is not None and not isinstance(system, str):
            return BadRow("not text", '"system" must be text')
        read = (*self.needed, *(self.optional if self.chat else self.optional[:-1]), *self.columns)
        spoken = [name for name in SPOKEN if row.get(name) and name not in read]
        if spoken:
            how = (
                "or say `chat: true` for a system message"
                if spoken == ["system"]
                else "or map it by `columns`"
            )
            return BadRow(
                f'a field "{spoken[0]}"',
                f'the field "{spoken[0]}" would be left out: write it into the prompt, as the student is to read it, '
                f"and take the field out, {how}",
            )
        if not self.chat:
            return self._plain(row, more)
        said = self._messages(row, system)
        if isinstance(said, BadRow):
            return said
        half = next(
            (n for n, one in enumerate(said, 1) if has_half_a_character(str(one.get("content") or ""))), None
        )
        if half is not None:
            return BadRow(
                "half of a surrogate pair", f"message {half} holds half of a surrogate pair, which is no text"
            )
        assert self.template is not None
        turns = self.template.turns(said, self.spec.turns if self.whole else "last")
        if isinstance(turns, BadRow):
            return turns
        return [
            ({"prompt": prompt, "completion": answer, **more}, before) for before, prompt, answer in turns
        ]

    def _plain(self, row: Mapping[str, Any], more: dict[str, Any]) -> Found | BadRow:
        if self.shape == INSTRUCTION:
            asked, answer = _instruction(row), _text_of(row, "output")
            asked = asked if isinstance(asked, BadRow) else f"{asked}\n"
        else:
            asked, answer = (_text_of(row, name) for name in ("prompt", "completion"))
        for found in (asked, answer):
            if isinstance(found, BadRow):
                return found
        return [({"prompt": asked, "completion": answer, **more}, None)]

    def _messages(self, row: Mapping[str, Any], system: str | None) -> list[Message] | BadRow:
        if self.whole:
            return messages_of(row[self.needed[0]], system)
        if isinstance(row.get("prompt"), list | tuple) or isinstance(row.get("completion"), list | tuple):
            parts = [row["prompt"], row["completion"]]
            roles = ("user", "assistant")
            lists = [
                list(part) if isinstance(part, list | tuple) else [{"role": role, "content": part}]
                for part, role in zip(parts, roles, strict=True)
            ]
            return messages_of([*lists[0], *lists[1]], system)
        instruction = self.shape == INSTRUCTION
        asked = _instruction(row) if instruction else _text_of(row, "prompt")
        answer = _text_of(row, "output" if instruction else "completion")
        for found in (asked, answer):
            if isinstance(found, BadRow):
                return found
        return messages_of(
            [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}], system
        )

    def _column(self, name: str, said: Any) -> Any:
        why = f"; {self.needs}" if self.needs else ""
        if name in self.numbers:
            number = _number(said)
            return (
                BadRow(f'"{name}" no number', f'"{name}" must be a number{why}') if number is None else number
            )
        if not isinstance(said, str) or not said:
            kind = "null" if said is None else "empty" if said == "" else "not text"
            return BadRow(f'"{name}" {kind}', f'"{name}" must be text{why}')
        if has_half_a_character(said):
            return BadRow(
                "half of a surrogate pair", f'"{name}" holds half of a surrogate pair, which is no text'
            )
        return said


def _instruction(row: Mapping[str, Any]) -> str | BadRow:
    """Instruction and input, a blank line between them."""
    asked = _text_of(row, "instruction")
    given = row.get("input")
    if isinstance(asked, BadRow) or not given:
        return asked
    given = _text_of(row, "input")
    return given if isinstance(given, BadRow) else f"{asked}\n\n{given}"


def _text_of(row: Mapping[str, Any], name: str) -> str | BadRow:
    said = row[name]
    if not isinstance(said, str):
        kind = "null" if said is None else "not text"
        return BadRow(kind, f'"{name}" must be text, not {"null" if said is None else type(said).__name__}')
    if not said.strip() and not (name == "prompt" and said):
        return BadRow(
            "empty answer" if name in ("completion", "output") else f"empty {name}",
            f'"{name}" must be text, and is empty',
        )
    if has_half_a_character(said):
        return BadRow(
            "half of a surrogate pair", f'"{name}" holds half of a surrogate pair, which is no text'
        )
    return said


def _origin(row: Any, asked: list[Message] | None, text: Mapping[str, Any]) -> str:
    """What rows that must stay on one side of a split have in common: their conversation, or their text."""
    if asked is None:
        return json.dumps([text["prompt"], text["completion"]])
    if isinstance(row, Mapping):
        said = next((row[name] for name in WHOLE if name in row), None)
        if said is not None:
            return json.dumps(said, sort_keys=True, default=str)
    return json.dumps([text["prompt"], text["completion"]])


def _first_is_number(table: Table, name: str) -> bool:
    """Whether a column that may hold text or numbers holds numbers: its first value says so."""
    first = next(
        (row[name] for row in table.rows if isinstance(row, dict) and row.get(name) is not None), None
    )
    return _number(first) is not None


def _number(value: Any) -> float | None:
    """A number, or text that is one, as a table's cells are; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (ValueError, OverflowError):
        return None


def has_half_a_character(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which no encoding can write."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
