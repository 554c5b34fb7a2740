"""Fields of an object as arguments, `NAME=VALUE` and `NAME:=JSON`, and from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from busway.gateway.cli.event import payload
from busway.gateway.cli.options import parsed
from busway.gateway.errors import BadSettings

Reading = Literal["text", "list", "json"]


@cache
def readings(shape: str) -> Mapping[str, Reading]:
    """Return how the value of each field of a type of the contract is read from an argument.

    `shape`: its module and name, such as `schedules.ScheduleIn`.
    """
    import msgspec  # noqa: PLC0415 - the help starts faster

    module, _, name = shape.partition(".")
    found = msgspec.inspect.type_info(getattr(import_module(f"busway.contract.{module}"), name))
    assert isinstance(found, msgspec.inspect.StructType)  # noqa: S101 - a type of the contract
    return {field.encode_name: _reading(field.type) for field in found.fields}


def _reading(kind: Any) -> Reading:
    types = {type(each).__name__: each for each in _alternatives(kind)}
    if "StrType" in types or all(
        isinstance(value, str) for value in getattr(types.get("LiteralType"), "values", [0])
    ):
        return "text"
    return "list" if "ListType" in types else "json"


def _alternatives(kind: Any) -> Iterable[Any]:
    """Yield the types that a field may have, without their annotations."""
    name = type(kind).__name__
    if name == "UnionType":
        for each in kind.types:
            yield from _alternatives(each)
    elif name == "Metadata":
        yield from _alternatives(kind.type)
    else:
        yield kind


def given(shape: str, file: Path | None, pairs: Iterable[str]) -> dict[str, Any]:
    """Return the fields that a file and arguments give. Arguments replace those of the file.

    `NAME=VALUE` is a text if the field takes one, and JSON otherwise. A list field takes one text from each
    argument. `NAME:=JSON` is any JSON. `NAME.MEMBER` is a member of an object.

    Raises:
        BadSettings: an argument is malformed, a field is unknown, or the file is no JSON object.
    """
    found: dict[str, Any] = {}
    if file is not None:
        found = payload(None, file)
        if not isinstance(found, dict):
            raise BadSettings("--file must be a JSON object with the fields")
    lists: dict[str, list[str]] = {}
    for text in pairs:
        _set(found, lists, text, readings(shape))
    return found


def _set(found: dict[str, Any], lists: dict[str, list[str]], text: str, known: Mapping[str, Reading]) -> None:
    path, equals, value = text.partition("=")
    is_json = path.endswith(":")
    names = path.removesuffix(":").split(".")
    if not equals or not all(names):
        raise BadSettings(f"expected FIELD=VALUE or FIELD:=JSON, not {text!r}")
    if names[0] not in known:
        raise BadSettings(f"there is no field {names[0]!r}: use {', '.join(known)}")
    reading: Reading = known[names[0]] if len(names) == 1 else "text"
    if reading == "list" and not is_json:
        found[names[0]] = lists.setdefault(names[0], [])
        lists[names[0]].append(value)
        return
    where = found
    for name in names[:-1]:
        where = where.setdefault(name, {})
        if not isinstance(where, dict):
            raise BadSettings(f"{path.removesuffix(':')}: {name} is no object")
    where[names[-1]] = parsed(f"the value of {path}=", value) if is_json or reading == "json" else value
