"""JSON Schema as far as the API needs it: one description serves the check of a request and the OpenAPI
document.

Known here: type, properties, required, additionalProperties, pattern, minLength, maxLength, minimum, maximum,
anyOf. `problem` names the first violation in words; it never repeats a value, which may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Schema = Mapping[str, Any]

TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}

STRING: Schema = {"type": "string", "maxLength": 200, "pattern": "^[^\\u0000]*$"}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[^\\u0000]*$"}
BOOLEAN: Schema = {"type": "boolean"}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def record(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these fields; others are let pass, as Heroku does."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": sorted(required)}


def listing(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


REFERENCE: Schema = {
    "anyOf": [NAME, record({"name": NAME}), record({"id": NAME})],
    "description": "A name or id, bare or as {name} or {id}.",
}


def reference(value: Any) -> str:
    """The name or id in a value that satisfies REFERENCE."""
    if isinstance(value, dict):
        value = value.get("name", value.get("id"))
    assert isinstance(value, str)
    return value


def problem(schema: Schema, value: Any, where: str = "body") -> str | None:
    """What is wrong with `value`, or None."""
    if "anyOf" in schema:
        if any(problem(choice, value, where) is None for choice in schema["anyOf"]):
            return None
        return f"{where} is not of any allowed form"
    kind = schema.get("type")
    if kind is not None and not TYPES[kind](value):
        return f"{where} must be {'an' if kind[0] in 'aio' else 'a'} {kind}"
    if kind == "object":
        return _object_problem(schema, value, where)
    if kind == "string":
        return _string_problem(schema, value, where)
    if kind == "integer" and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{where} is out of range"
    return None


def _string_problem(schema: Schema, value: str, where: str) -> str | None:
    if len(value) < schema.get("minLength", 0):
        return f"{where} is empty"
    if len(value) > schema.get("maxLength", len(value)):
        return f"{where} is too long"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return f"{where} has characters that are not allowed"
    return None


def _object_problem(schema: Schema, value: dict[str, Any], where: str) -> str | None:
    for name in schema.get("required", ()):
        if name not in value:
            return f"{name} is required"
    known = schema.get("properties", {})
    rest = schema.get("additionalProperties")
    for name, item in value.items():
        inner = known.get(name, rest)
        if isinstance(inner, Mapping) and (found := problem(inner, item, name if name in known else "a value")):
            return found
    return None
