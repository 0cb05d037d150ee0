"""The rows of `kd distill`: what is read, what is left out, what is held out for validation and evaluation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catalog.errors import cut
from methods.recipe import SIBLING, columns_in, filled
from methods.recipe import columns_of as columns_of_terms
from methods.teachers.readings import PLACE, READS
from methods.tokenizers.encoding import tokenized
from methods.tokenizers.templates import EndlessTemplate
from reproductions.distill.data.files import read_table
from reproductions.distill.data.lacking import STUDENT, lacking, unknown_id
from reproductions.distill.data.lengths import lengths_of
from reproductions.distill.data.shapes import Tell, Texts, texts_of
from reproductions.distill.data.spec import DataSpec
from reproductions.engine.errors import KDError

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = ("prompt", "completion")
REFERENCE = "reference"  # the row's completion, as rewards call it
TEACHER_PROMPT = "teacher_prompt"  # the prompt as a teacher with a chat template of its own reads it
VALIDATION_ROWS, VALIDATION_SHARE = 64, 0.1


@dataclass
class Rows:
    """Rows to train on, to validate with and to evaluate on (None where nobody asks), and where the others went.

    `lengths` is the report of `lengths_of`, `told` what else there is to say of the data, by count, `warnings` what of
    that is said before a training; `first` the first row as the student reads it, (prompt, completion). `clusters` of
    the evaluation's rows: one number a conversation.
    """

    train: Dataset
    validation: Dataset | None
    counts: dict[str, int] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)  # fields of the file that nothing reads
    evaluation: Dataset | None = None
    clusters: list[int] = field(default_factory=list)
    shape: str = ""
    chat: bool = False
    bad: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    lengths: dict[str, Any] = field(default_factory=dict)
    first: tuple[str, str] = ("", "")


def columns_of(method: Mapping[str, Any]) -> list[str]:
    """What a canonical method reads of a row beside prompt and completion."""
    found: list[str] = ["thoughts"] if method["trainer"]["name"] == "latent-reasoning" else []
    sampler: Any = method.get("sampler")
    while isinstance(sampler, Mapping):
        found += [sampler.get("column", "domain")] if sampler["name"] == "domains" else []
        sampler = sampler.get("sampler")

    def walk(tree: Any) -> None:
        if isinstance(tree, Mapping):
            found.extend(part for part in tree.get("join", ()) if isinstance(part, str))
            # Of a reward, or of an advantage; what other rows are made with is no column of the file.
            if isinstance(tree.get("column"), str) and "rows" not in tree:
                found.append(tree["column"])
            if tree.get("name") == "by-column" and "column" not in tree:
                found.append("domain")
            for item in tree.values():
                walk(item)
        elif isinstance(tree, list):
            for item in tree:
                walk(item)

    for part in ("data", "advantage", "rewards", "terms"):
        walk(method.get(part))
    found += columns_of_terms(method)
    return [name for name in dict.fromkeys(found) if name not in (*FIELDS, REFERENCE)]


def group_column(method: Mapping[str, Any]) -> str | None:
    """The column each of whose values must be held out too: the domains that a sampler weighs."""
    sampler: Any = method.get("sampler")
    while isinstance(sampler, Mapping):
        if sampler["name"] == "domains":
            return str(sampler.get("column", "domain"))
        sampler = sampler.get("sampler")
    return None


@dataclass(frozen=True)
class Limits:
    """How long a row may be, in the student's tokens, its end among the completion's."""

    prompt: int
    completion: int

    def fitting(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Places of the rows whose prompt and completion are short enough."""
        return [
            i for i, (asked, said) in enumerate(sizes) if asked <= self.prompt and 0 < said <= self.completion
        ]

    def __str__(self) -> str:
        return f"{self.prompt} + {self.completion} tokens"


@dataclass(frozen=True)
class Held:
    """What is not trained on: `rows` for the evaluation, from `data` of their own where there are any."""

    rows: int = 0
    data: DataSpec | None = None


def read_rows(
    spec: DataSpec,
    tokenizer: Any,
    limits: Limits,
    *,
    validate: bool = False,
    held: Held | None = None,
    seed: int = 0,
    columns: Sequence[str] = (),
    values: Sequence[str] = (),
    group: str | None = None,
    needs: str = "",
    teacher: Any = None,
    reads: str | None = None,
    answers: bool = True,
    tell: Tell = lambda message, *path: KDError(message),
) -> Rows:
    """The rows of a user's data that fit into the limits, their end-of-sequence token included.

    `columns` are read beside prompt and completion, text all but those among `values`, which may be numbers; `needs`
    says of the method that reads them what it needs. Rows `held` for the evaluation are drawn first, by the seed alone.
    With `validate` a tenth of the others, 64 at most, is drawn by the seed; of each value of the column `group` at
    least one. Neither is trained on, nor any row equal to one, nor another turn of one's conversation. `teacher`: a
    tokenizer whose chat template makes the column "teacher_prompt" of conversations. `reads`: what a teacher reads in
    the place of a prompt, columns in braces; of a conversation, in the place of its last message. `answers`: whether
    the rows' own are learnt from; those that the student cannot write are left out then.
    Raises KDError (`tell` for what the config says) for a row that is not as expected, and where too few are left.
    """
    from datasets import Dataset

    read: dict[str, Any] = {"columns": columns, "values": values, "needs": needs, "tell": tell}
    texts = texts_of(read_table(spec), spec, tokenizer, **read)
    ids, sizes = _sizes(texts, tokenizer)
    short = limits.fitting(sizes)
    fits = _written(short, ids, sizes, tokenizer) if answers else short
    if short and not fits:
        raise KDError(
            f"{spec}: the student's tokenizer lacks every character of every answer that fits into {limits}"
        )
    if not fits:
        longest = " + ".join(str(max(size[side] for size in sizes)) for side in (0, 1))
        raise KDError(f"{spec}: no row fits into {limits}; the longest prompt and answer have {longest}")
    own: Texts | None = None
    kept, spare, taken, lost = fits, [], 0, 0
    if held is not None and held.data is not None:
        own = texts_of(read_table(held.data), held.data, tokenizer, tell=tell)
        spare = limits.fitting(_sizes(own, tokenizer)[1])
        lost = len(own.rows) - len(spare) + sum(own.bad.values())
        if not spare:
            raise KDError(f"{held.data}: no row fits into {limits}")
        if held.rows and held.rows < len(spare):
            spare = sorted(random.Random(f"evaluation:{seed}").sample(spare, held.rows))
        theirs = {own.origins[i] for i in spare}
        kept = [i for i in fits if texts.origins[i] not in theirs]
        taken = len(fits) - len(kept)
    elif held is not None:
        spare = _drawn(texts, fits, held.rows, seed)
        away = set(spare)
        kept = [i for i in fits if i not in away]
    validation = _held_out(texts, kept, group, seed) if validate and kept else set()
    train = [i for place, i in enumerate(kept) if place not in validation]
    if not train or (validate and not validation) or (held is not None and not spare):
        what = "validate" if validate else "evaluate"
        raise KDError(
            f"{spec}: {len(fits)} different rows fit into {limits}; two are needed, one to {what} with"
        )
    for part in (texts, own):
        if part is not None and part.chat and teacher is not None:
            _add_teacher_prompts(part, teacher)
        if part is not None and part.chat and reads is not None:
            _add_readings(part, tokenizer, reads)
    data = Dataset.from_list(texts.rows)
    apart = Dataset.from_list(own.rows) if own is not None else data
    origins = own.origins if own is not None else texts.origins
    numbers = {origin: n for n, origin in enumerate(dict.fromkeys(origins[i] for i in spare))}
    counts = {"read": texts.read, "too_long": len(sizes) - len(short), "held_out": len(validation)}
    counts |= {"unwritten": len(short) - len(fits)} if len(fits) < len(short) else {}
    made = texts.read - sum(texts.bad.values())
    counts |= {"unreadable": sum(texts.bad.values())} if texts.bad else {}
    counts |= {"answers": len(texts.rows)} if len(texts.rows) != made else {}
    counts |= {"evaluated": len(spare)} if held is not None else {}
    counts |= {"equal_to_evaluated": taken} if taken else {}
    counts |= {"evaluation_left_out": lost} if lost else {}
    if held is not None:
        asked = set(apart.select(spare)["prompt"])
        again = sum(texts.rows[i]["prompt"] in asked for i in train)
        texts.told |= Counter({"rows to train on that ask what a row of the evaluation asks": again})
    first, lacks = texts.rows[train[0]], lacking(*_texts_of(texts, short, ids), tokenizer)
    texts.told |= Counter(lacks.told(STUDENT))
    return Rows(
        train=data.select(train),
        validation=data.select([kept[place] for place in sorted(validation)]) if validate else None,
        counts=counts,
        unused=texts.unused,
        evaluation=apart.select(spare) if held is not None else None,
        clusters=[numbers[origins[i]] for i in spare],
        shape=texts.shape,
        chat=texts.chat,
        bad=dict(texts.bad),
        told=dict(+texts.told),
        warnings=list(filter(None, [lacks.sentence(STUDENT, len(short))])),
        lengths=lengths_of(sizes, limits.prompt, limits.completion),
        first=(first["prompt"], first["completion"]),
    )


def _sizes(texts: Texts, tokenizer: Any) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Ids of each row, and how many are its prompt's and its completion's, its end with it."""
    columns: Any = {name: [row[name] for row in texts.rows] for name in FIELDS}
    ids, starts = tokenized(columns, tokenizer)
    return ids, [(start, len(row) - start) for start, row in zip(starts, ids, strict=True)]


def _written(
    short: Sequence[int], ids: Sequence[list[int]], sizes: Sequence[tuple[int, int]], tokenizer: Any
) -> list[int]:
    """Those of the rows whose answer the student could write: it is not unknown tokens, or nothing, and an end."""
    unknown = unknown_id(tokenizer)
    return [i for i in short if any(one != unknown for one in ids[i][sizes[i][0] : -1])]


def _texts_of(
    texts: Texts, rows: Sequence[int], ids: Sequence[list[int]]
) -> tuple[list[str], list[list[int]]]:
    """Some of the rows as one text each, and their ids without the end."""
    whole = [texts.rows[i]["prompt"] + texts.rows[i]["completion"] for i in rows]
    return whole, [ids[i][:-1] for i in rows]


def _drawn(texts: Texts, fits: Sequence[int], rows: int, seed: int) -> list[int]:
    """Whole conversations, equal rows together, until there are so many rows; half of them at most."""
    members: dict[str, list[int]] = {}
    for i in fits:
        members.setdefault(texts.origins[i], []).append(i)
    order = list(members)
    random.Random(f"evaluation:{seed}").shuffle(order)
    drawn: list[int] = []
    for origin in order[: len(order) // 2]:
        if len(drawn) >= rows:
            break
        drawn += members[origin]
    return sorted(drawn)


def _add_teacher_prompts(texts: Texts, tokenizer: Any) -> None:
    """Each prompt as a teacher's own chat template writes it."""
    from reproductions.distill.data.chat import Template

    template = Template(tokenizer)
    for row, asked in zip(texts.rows, texts.asked, strict=True):
        row[TEACHER_PROMPT] = _prompt(template, asked or [])


def _add_readings(texts: Texts, tokenizer: Any, reads: str) -> None:
    """What a teacher that is shown more reads: the conversation with its last message filled into `reads`."""
    from reproductions.distill.data.chat import Template

    template = Template(tokenizer)
    kept = {SIBLING: PLACE} if SIBLING in columns_in(reads) and SIBLING not in (texts.rows or [{}])[0] else {}
    for row, asked in zip(texts.rows, texts.asked, strict=True):
        *before, last = asked or [{"role": "user", "content": ""}]
        text = filled(reads, row | kept | {"prompt": last.get("content") or ""})
        row[READS] = _prompt(template, [*before, {**last, "content": text}])


def _prompt(template: Any, asked: Sequence[Mapping[str, Any]]) -> str:
    """A conversation in a teacher's template. Raises KDError where that refuses it."""
    try:
        return str(template.prompt(asked))
    except EndlessTemplate:
        raise
    except Exception as error:  # a template raises what it likes
        said = cut(" ".join(str(error).split()) or type(error).__name__, 200)
        roles = cut(", ".join(str(one["role"]) for one in asked))
        raise KDError(f"the teacher's chat template refuses a conversation ({roles}): {said}") from error


def _held_out(texts: Texts, kept: Sequence[int], group: str | None, seed: int) -> set[int]:
    """Places in `kept` of rows that are not trained on; what belongs together stays so. KDError for a group of one."""
    said = [texts.origins[i] for i in kept]
    groups: dict[Any, dict[str, None]] = {}
    for i, origin in zip(kept, said, strict=True):
        groups.setdefault(texts.rows[i][group] if group else None, {})[origin] = None
    most = max(1, VALIDATION_ROWS // len(groups))
    draws, drawn = random.Random(f"validation:{seed}"), set()
    for name, different in groups.items():
        if group and len(different) < 2:
            raise KDError(f'only one row of {group} "{name}" fits; two are needed, one to validate with')
        number = min(most, max(1, int(VALIDATION_SHARE * len(different))), len(different) - 1)
        drawn |= set(draws.sample(list(different), number))
    return {place for place, text in enumerate(said) if text in drawn}
