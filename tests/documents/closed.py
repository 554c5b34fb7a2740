"""Schemas of answers as the tests check them: without the room that they leave for newer gateways."""

from __future__ import annotations

from typing import Any

import jsonschema

SAMPLE = 2  # members of a list that are looked at: they are made alike, and the validator is slow


def closed(components: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas with no field but those that they name, unless they say what others there are."""
    return {
        name: {"additionalProperties": False, **schema} if "properties" in schema else schema
        for name, schema in components.items()
    }


def validator(schema: dict[str, Any], components: dict[str, Any]) -> Any:
    """Return a validator for a schema that may refer to components, which are closed."""
    return jsonschema.Draft202012Validator({**schema, "components": {"schemas": closed(components)}})


def sampled(value: Any) -> Any:
    """Return a value with fewer members in its long lists."""
    if isinstance(value, dict):
        return {name: sampled(member) for name, member in value.items()}
    if isinstance(value, list):
        return [sampled(member) for member in value[:SAMPLE]]
    return value
