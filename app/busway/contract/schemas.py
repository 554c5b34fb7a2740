"""Builds JSON Schema of the contract's types for the OpenAPI and AsyncAPI documents."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from busway.contract import (
    audit,
    events,
    filters,
    frames,
    handlers,
    keys,
    problems,
    replays,
    results,
    runs,
    schedules,
    service,
    sessions,
    sources,
    uploads,
)
from busway.contract.scalars import PREFIX

MODULES = (
    audit, events, filters, frames, handlers, keys, problems, replays, results, runs, schedules, service,
    sessions, sources, uploads,
)  # fmt: skip

Schema = dict[str, Any]


def named() -> dict[str, type[msgspec.Struct]]:
    """Return the types of the contract by name."""
    return {
        name: value
        for module in MODULES
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }


def ref(shape: type[msgspec.Struct]) -> Schema:
    """Return a reference to the schema of a type."""
    return {"$ref": PREFIX + shape.__name__}


def refs(document: Any, prefix: str = PREFIX) -> Iterator[str]:
    """Yield the names of the components that a document refers to."""
    if isinstance(document, dict):
        target = document.get("$ref")
        if isinstance(target, str) and target.startswith(prefix):
            yield target.removeprefix(prefix)
        for value in document.values():
            yield from refs(value, prefix)
    elif isinstance(document, list):
        for value in document:
            yield from refs(value, prefix)


def components(names: Iterable[str]) -> dict[str, Schema]:
    """Return the schemas of these types and of all types that they refer to, by name."""
    found: dict[str, Schema] = {}
    known, wanted = named(), set(names)
    while wanted:
        _, new = msgspec.json.schema_components(
            [known[name] for name in wanted], ref_template=PREFIX + "{name}"
        )
        for name, schema in new.items():
            found[name] = {**_tidy(schema), **getattr(known.get(name), "SCHEMA", {})}
        wanted = known.keys() & set(refs(found)) - found.keys()
    return dict(sorted(found.items()))


def _tidy(schema: Schema) -> Schema:
    """Simplify a schema of msgspec without changing its meaning."""
    schema = {key: _tidy_part(key, value) for key, value in schema.items() if key != "title"}
    if "description" in schema:
        schema["description"] = inspect.cleandoc(schema["description"])
    if schema.get("default", ...) is None:
        del schema["default"]  # an optional field whose absence equals null
    if not schema.get("required", True):
        del schema["required"]
    return _joined(schema) if "anyOf" in schema else schema


def _tidy_part(key: str, value: Any) -> Any:
    if key == "properties":
        return {name: _tidy(field) for name, field in value.items()}
    if key == "anyOf":
        return [_tidy(alternative) for alternative in value]
    return _tidy(value) if key in {"items", "additionalProperties"} and isinstance(value, dict) else value


def _joined(schema: Schema) -> Schema:
    """Join alternatives with different JSON types: {"type": ["integer", "null"], "minimum": 1}."""
    alternatives: list[Schema] = schema["anyOf"]
    texts = {key: value for key, value in schema.items() if key != "anyOf"}
    for alternative in alternatives:
        texts = {k: alternative.pop(k) for k in ("description", "examples") if k in alternative} | texts
    constraints = [key for alternative in alternatives for key in alternative.keys() - {"type"}]
    types = [alternative.get("type") for alternative in alternatives]
    if len(alternatives) == 2 and "enum" in alternatives[0] and types[1] == "null":
        return {**texts, "enum": [*alternatives[0]["enum"], None]}
    if not all(isinstance(type_, str) for type_ in types) or len(constraints) != len(set(constraints)):
        return {**texts, "anyOf": alternatives}
    if "number" in types and "integer" in types:
        types.remove("integer")
    merged = {key: value for alternative in alternatives for key, value in alternative.items()}
    return {**texts, **merged, "type": types}
