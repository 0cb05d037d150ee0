"""Just enough of JSON Schema to hold our files against our schemas; a keyword that is not understood is refused."""

from __future__ import annotations

import re

KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
KNOWN = {
    *(
        "$schema",
        "$ref",
        "$defs",
        "title",
        "description",
        "default",
        "type",
        "enum",
        "const",
        "pattern",
        "anyOf",
    ),
    *("properties", "additionalProperties", "required", "items", "uniqueItems", "minLength", "maxLength"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


def errors(value, schema, root=None, where="$"):
    """What is wrong, a line each."""
    root = schema if root is None else root
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        return errors(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    found = []
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(is_a(value, kind) for kind in kinds):
        return [f"{where}: not {kinds}"]
    if "enum" in schema and value not in schema["enum"] or "const" in schema and value != schema["const"]:
        found.append(f"{where}: {value!r} is none of them")
    if "anyOf" in schema and all(errors(value, one, root, where) for one in schema["anyOf"]):
        found.append(f"{where}: fits nothing that may stand here")
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append(f"{where}: {value!r} has another pattern")
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9):
            found.append(f"{where}: length")
    if is_a(value, "number"):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        above, below = schema.get("exclusiveMinimum", value - 1), schema.get("exclusiveMaximum", value + 1)
        if not (low <= value <= high and above < value < below):
            found.append(f"{where}: {value} is out of range")
    if isinstance(value, list):
        for place, item in enumerate(value):
            found += errors(item, schema.get("items", {}), root, f"{where}[{place}]")
        if schema.get("uniqueItems") and any(item in value[:place] for place, item in enumerate(value)):
            found.append(f"{where}: twice")
    if isinstance(value, dict):
        found += [f"{where}: {name} is missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            inside = schema.get("properties", {}).get(name, schema.get("additionalProperties", True))
            if inside is False:
                found.append(f"{where}: no field {name!r}")
            elif inside is not True:
                found += errors(item, inside, root, f"{where}.{name}")
    return found


def is_a(value, kind):
    if kind in ("number", "integer"):
        return isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(value, KINDS[kind])
