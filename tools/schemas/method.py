"""Schema of a method: components by slot, with the settings of their signatures."""

from __future__ import annotations

from typing import Any

from methods.data_tree import KINDS
from methods.recipe import METHOD_KEYS, OVER, SOURCES, TERM_DEFAULTS
from methods.registry import NESTED, NESTED_LISTS, SLOTS, Component, components

Schema = dict[str, Any]
VARIABLE: Schema = {"type": "string", "pattern": "^\\$"}  # $name, looked up
TYPES = {"float": "number", "int": "integer", "str": "string", "bool": "boolean", "None": "null"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def closed(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> Schema:
    """A mapping with these fields and no other: a misspelt one is an error."""
    made: Schema = {"type": "object", "properties": properties, "additionalProperties": False, **more}
    return {**made, "required": required} if required else made


def definitions() -> dict[str, Schema]:
    """`$defs`: a component of each slot, and a term of a loss."""
    entries = list(components().values())
    found = {slot: _component([one for one in entries if one.slot == slot]) for slot in SLOTS}
    term_parts = {name: _term_part(name) for name in TERM_DEFAULTS}
    terms = [
        closed({"divergence": _named(one), **_settings(one), **term_parts}, ["divergence"])
        for one in entries
        if one.slot == "divergence"
    ]
    terms += [
        closed({"term": _named(one), **_settings(one)}, ["term"]) for one in entries if one.slot == "term"
    ]
    any_of_them: dict[str, Schema] = {
        name: {} for one in entries if one.slot == "divergence" for name in one.parameters
    }
    swept = closed({"divergence": VARIABLE, **any_of_them, **term_parts}, ["divergence"])
    found["loss-term"] = {"anyOf": [*terms, swept]}
    return found


def method_properties() -> dict[str, Schema]:
    """The keys of a method."""
    rows = {
        "anyOf": [{"type": "string"}, {"type": "object", "anyOf": [{"required": [kind]} for kind in KINDS]}]
    }
    made = {
        "trainer": ref("trainer"),
        "teacher": {"type": ["string", "array", "null"], "items": {"type": "string"}},
        "data": rows,
        "terms": {"type": "array", "items": ref("loss-term")},
        "sampler": {"anyOf": [ref("sampler"), {"type": "null"}]},
        "gradient_balance": {"anyOf": [{"type": "boolean"}, VARIABLE]},
        "advantage": ref("advantage"),
        "rewards": {"type": "array", "items": ref("reward")},
    }
    assert set(made) == set(METHOD_KEYS)
    return made


def _component(entries: list[Component]) -> Schema:
    names: Schema = {"enum": sorted({way for one in entries for way in _named(one)["enum"]})}
    choices: list[Schema] = [
        closed({"name": _named(one), **_settings(one)}, ["name", *_needed(one)]) for one in entries
    ]
    chosen: Schema = {"type": "object", "properties": {"name": VARIABLE}, "required": ["name"]}
    return {"anyOf": [names, VARIABLE, chosen, *choices]}


def _named(one: Component) -> Schema:
    return {"enum": list(dict.fromkeys((one.name, one.name.replace("-", "_"))))}


def _needed(one: Component) -> list[str]:
    return [name for name, parameter in one.parameters.items() if parameter.required]


def _settings(one: Component) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for name, parameter in one.parameters.items():
        if name in NESTED_LISTS:
            found[name] = {"type": "array", "items": ref(NESTED_LISTS[name])}
        elif name == "weight" and one.slot == "term":
            found[name] = _term_part(name)
        elif name in NESTED:
            plain: list[Schema] = [{"type": "number"}] if name == "weight" else []
            found[name] = {"anyOf": [ref(NESTED[name]), {"type": "null"}, *plain]}
        else:
            found[name] = _kind(parameter.kind.replace("Weight", "float"))
            if not parameter.required:
                found[name] = {**found[name], "default": parameter.default}
    return found


def _kind(written: str) -> Schema:
    """What an annotation says, where it is of plain kinds; a variable may stand for any."""
    parts = [part.strip() for part in written.split("|")]
    if not written or any(part not in TYPES for part in parts):
        return {}
    return {"anyOf": [{"type": [TYPES[part] for part in parts]}, VARIABLE]}


def _term_part(name: str) -> Schema:
    slots = {
        "target": "target",
        "token_weights": "token-weights",
        "row_settings": "row-settings",
        "support": "support",
    }
    if name in slots:
        return {"anyOf": [ref(slots[name]), {"type": "null"}]}
    if name == "over":
        return {"anyOf": [{"enum": list(OVER)}, VARIABLE]}
    if name == "sources":
        source = {"enum": list(SOURCES)}
        return {"anyOf": [source, {"type": "array", "items": source}]}
    if name == "weight":
        schedule = {"type": "object", "required": ["schedule"]}
        return {"anyOf": [{"type": "number"}, VARIABLE, schedule]}
    return {"anyOf": [{"type": "boolean" if name == "temperature_squared" else "number"}, VARIABLE]}
