"""JSON that a teacher was asked for: read, and held against a JSON schema of the plain kind.

Known are the words of `WORDS`; a schema with another one is refused beforehand, because a rule that is not checked is
no rule. Servers that can constrain their decoding get the same schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from methods.elicitation.writers.protocol import Request
from methods.errors import MethodError
from methods.registry import near

KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
ABOUT = ("title", "description", "default", "examples")  # say something to the reader alone
WORDS = (
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"),
    *("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", *ABOUT),
)
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.S)
DEEPEST = 64


def check_schema(schema: Any, where: str = "schema") -> None:
    """Raises MethodError for a schema with a word or a value that would not be checked."""
    if not isinstance(schema, Mapping):
        raise MethodError(f"{where}: a mapping such as {{type: string}}, not {schema!r}")
    for word in schema:
        if word not in WORDS:
            raise MethodError(f'{where}: "{word}" is not checked here{near(str(word), WORDS)}')
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in KINDS:
            raise MethodError(f'{where}: no type "{kind}"{near(str(kind), KINDS)}')
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise MethodError(f"{where}: properties are a mapping")
    for name, part in properties.items():
        check_schema(part, f"{where}.{name}")
    for name in schema.get("required", []):
        if name not in properties:
            raise MethodError(f'{where}: "{name}" is required and not among the properties')
    for word in ("items", "additionalProperties"):
        if word in schema and not isinstance(schema[word], bool):
            check_schema(schema[word], f"{where}.{word}")
    for number, part in enumerate(schema.get("anyOf", [])):
        check_schema(part, f"{where}.anyOf[{number}]")


def parse(text: str, schema: Mapping[str, Any]) -> Any:
    """The value of a text that is JSON (within one pair of ``` fences or not) and as the schema says.

    Raises MethodError that says where it is not.
    """
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MethodError(f"not JSON: {error}") from None
    wrong = problem(value, schema)
    if wrong is not None:
        raise MethodError(wrong)
    return value


def allowed(text: str, request: Request) -> bool:
    """Whether a text is what its request wants: JSON of its schema, or anything where it has none."""
    if request.schema is None:
        return True
    try:
        parse(text, request.schema)
    except MethodError:
        return False
    return True


def problem(value: Any, schema: Mapping[str, Any], where: str = "answer", depth: int = 0) -> str | None:
    """What of a value is not as the schema says, in a sentence; None where all of it is."""
    if depth > DEEPEST:
        return f"{where}: nested more than {DEEPEST} deep"
    kinds = schema.get("type", list(KINDS))
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not any(_is(value, kind) for kind in kinds):
        return f"{where}: {_short(value)} is not of type {' or '.join(kinds)}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return f"{where}: {_short(value)} is none of {_short(schema['enum'])}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where}: {_short(value)} is not {_short(schema['const'])}"
    parts = schema.get("anyOf")
    if parts is not None and all(problem(value, part, where, depth + 1) for part in parts):
        return f"{where}: {_short(value)} is none of what is allowed"
    if isinstance(value, str):
        return _size(len(value), schema, "Length", where, "characters")
    if isinstance(value, list):
        items = schema.get("items", {})
        found = (
            problem(item, items, f"{where}[{number}]", depth + 1)
            for number, item in enumerate(value)
            if isinstance(items, Mapping)
        )
        return _size(len(value), schema, "Items", where, "items") or next(filter(None, found), None)
    if isinstance(value, dict):
        return _in_object(value, schema, where, depth)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            return f"{where}: {value} is less than {schema['minimum']}"
        if value > schema.get("maximum", value):
            return f"{where}: {value} is more than {schema['maximum']}"
    return None


def _in_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str, depth: int) -> str | None:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", []):
        if name not in value:
            return f'{where}: "{name}" is missing'
    for name, item in value.items():
        part = properties.get(name, more)
        if part is False:
            return f'{where}: "{_short(name)}" does not belong here'
        if isinstance(part, Mapping):
            wrong = problem(item, part, f"{where}.{name}", depth + 1)
            if wrong is not None:
                return wrong
    return None


def _is(value: Any, kind: str) -> bool:
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, KINDS[kind]) and (not isinstance(value, bool) or kind == "boolean")


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _size(size: int, schema: Mapping[str, Any], word: str, where: str, what: str) -> str | None:
    if size < schema.get(f"min{word}", 0):
        return f"{where}: {size} {what}, fewer than {schema[f'min{word}']}"
    if size > schema.get(f"max{word}", size):
        return f"{where}: {size} {what}, more than {schema[f'max{word}']}"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
