"""Where a method's rows come from, as data: `train`, or steps over other rows, brought into one form.

train                                        the rows of the surroundings
{from: X, first: 100} | {from: X, share: .5}  some of them
{use: label, of: X, teacher: T, ...}          what a registered step makes of them
{elicit: [explain, verify], of: X, teacher: T}  what components of elicitation make of them, one after another; X may
                                             be elicited itself, and is then made once for all that begin with it
{join: [thoughts, completion]}                completions made of several columns
{mix: [{data: X, prefix: "..."}, ...]}        rows of several sources
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from methods.registry import RegistryError, canonical, near
from methods.trees import below, known_keys, text

DATA_ROOTS = ("train", "teacher_train")
KINDS = ("from", "use", "elicit", "join", "mix")


def canonical_data(tree: Any, steps: Mapping[str, Any], around: tuple[str, ...] = ()) -> Any:
    """Where rows come from: a root such as "train", or a step over other rows; named steps are written out."""
    if tree is None:
        return "train"
    if isinstance(tree, str):
        name = tree.removeprefix("testbed.")
        if name in steps and name not in around:
            return below((), canonical_data, steps[name], steps, (*around, name))
        if name in around:
            raise RegistryError(f'the data step "{name}" is made of itself')
        if name.isidentifier() and (name in DATA_ROOTS or tree.startswith("testbed.")):
            return name
        known = [*DATA_ROOTS, *steps]
        raise RegistryError(f'no rows are called "{tree}"{near(tree, known)}; known: {", ".join(known)}')
    if not isinstance(tree, Mapping):
        raise RegistryError(f"data are a name, or a mapping with one of {', '.join(KINDS)}")
    kinds = [kind for kind in KINDS if kind in tree]
    if len(kinds) != 1:
        raise RegistryError(f"data are a name, or a mapping with one of {', '.join(KINDS)}")
    read = {"from": _cut, "use": _use, "elicit": _elicit, "join": _join, "mix": _mix}
    return read[kinds[0]](tree, steps, around)


def _cut(tree: Mapping[str, Any], steps: Mapping[str, Any], around: tuple[str, ...]) -> Any:
    """The first so many rows, or a share of them."""
    known_keys(tree, ("from", "first", "share"), "data from other rows")
    rows = below("from", canonical_data, tree["from"], steps, around)
    made: dict[str, Any] = {"from": rows}
    if tree.get("first") is not None:
        if type(tree["first"]) is not int or tree["first"] < 1:
            raise RegistryError('"first" must be a whole number of 1 or more', "first")
        made["first"] = tree["first"]
    if tree.get("share") is not None:
        if not isinstance(tree["share"], int | float) or not 0 < tree["share"] <= 1:
            raise RegistryError('"share" must be a number above 0 and at most 1', "share")
        if tree["share"] != 1:
            made["share"] = float(tree["share"])
    return rows if len(made) == 1 else made


def _use(tree: Mapping[str, Any], steps: Mapping[str, Any], around: tuple[str, ...]) -> dict[str, Any]:
    """A registered step over rows, with its teacher."""
    settings = {name: value for name, value in tree.items() if name not in ("use", "of", "teacher")}
    made = below("use", canonical, "data", {"name": tree["use"], **settings}, strip=True)
    made = {"use": made.pop("name"), **made}
    rows = below("of", canonical_data, tree.get("of"), steps, around)
    if rows != "train":
        made["of"] = rows
    teacher = tree.get("teacher", "main")
    if teacher != "main":
        made["teacher"] = below("teacher", text, teacher, "a teacher")
    return made


def _elicit(tree: Mapping[str, Any], steps: Mapping[str, Any], around: tuple[str, ...]) -> dict[str, Any]:
    """Components of elicitation over rows, with their teacher; drawn anew for each seed of the runs, or `once`.

    They see rows without what is right of them, unless it is to be `seen`: labels that go on with their texts.
    """
    known_keys(tree, ("elicit", "of", "teacher", "once", "seen"), "elicited data")
    made: dict[str, Any] = {"elicit": below("elicit", canonical_steps, tree["elicit"])}
    rows = below("of", canonical_data, tree.get("of"), steps, around)
    if rows != "train":
        made["of"] = rows
    teacher = tree.get("teacher", "main")
    if teacher != "main":
        made["teacher"] = below("teacher", text, teacher, "a teacher")
    for flag in ("once", "seen"):
        if not isinstance(tree.get(flag, False), bool):
            raise RegistryError(f'"{flag}" must be true or false', flag)
        made |= {flag: True} if tree.get(flag) else {}
    return made


def canonical_steps(tree: Any) -> list[dict[str, Any]]:
    """The one form of a list of components. Raises RegistryError whose path leads to what is wrong."""
    if not isinstance(tree, list) or not tree:
        raise RegistryError('"elicit" must be a list of components: [label, {name: verify, check: number}]')
    made = []
    for place, step in enumerate(tree):
        try:
            made.append(canonical("elicitation", step))
        except RegistryError as error:
            raise error.below(place) from None
    return made


def _join(tree: Mapping[str, Any], steps: Mapping[str, Any], around: tuple[str, ...]) -> dict[str, Any]:
    """Completions made of several columns one after the other: `rows.column`, or `column` of the training rows."""
    known_keys(tree, ("join", "of"), "joined data")
    columns = tree["join"]
    if not isinstance(columns, list) or not columns or not all(isinstance(name, str) for name in columns):
        raise RegistryError('"join" must be a list of columns', "join")
    made = []
    for place, name in enumerate(columns):
        rows, _, column = name.rpartition(".")
        source = below(("join", place), canonical_data, rows or tree.get("of"), steps, around)
        made.append(column if source == "train" else {"rows": source, "column": column})
    return {"join": made}


def _mix(tree: Mapping[str, Any], steps: Mapping[str, Any], around: tuple[str, ...]) -> dict[str, Any]:
    """Rows of several sources together, each with a prefix before its prompts and a weight in the loss."""
    known_keys(tree, ("mix",), "mixed data")
    if not isinstance(tree["mix"], list) or not tree["mix"]:
        raise RegistryError('"mix" must be a list of mappings', "mix")
    parts = []
    for place, part in enumerate(tree["mix"]):
        where = ("mix", place)
        if not isinstance(part, Mapping):
            raise RegistryError('a part of "mix" is a mapping: {data: ..., prefix: ..., weight: ...}', *where)
        below(where, known_keys, part, ("data", "prefix", "weight"), "a part of a mixture")
        made = {"data": below((*where, "data"), canonical_data, part.get("data"), steps, around)}
        if part.get("prefix"):
            made["prefix"] = below((*where, "prefix"), text, part["prefix"], "a prefix")
        if part.get("weight", 1) != 1:
            made["weight"] = float(part["weight"])
        parts.append(made)
    return {"mix": parts}
