"""Checks decoded JSON against a type of the contract and reports all invalid fields.

msgspec stops at the first error. After an error, a second pass walks the type and the value. A field can have
a rule, `Meta(extra={"rule": ...})`: a function that takes the decoded value and returns an error message or
None. The message of a rule replaces the message of the type, because it is more specific.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, UnsetType

from busway.contract.problems import BadField

T = TypeVar("T", bound=msgspec.Struct)
Loc = tuple[str | int, ...]
Rule = Callable[[Any], str | None]

MOST = 100
"""Maximum number of reported fields."""

LOOKED_AT = 1_000
"""Maximum number of checked items of a list or an object after an error."""


class Mismatch(ValueError):
    """The value does not match the type. `fields` lists one or more invalid fields."""

    def __init__(self, fields: list[BadField]) -> None:
        super().__init__(fields[0].msg)
        self.fields = fields


def read(value: Any, shape: type[T], where: Sequence[str | int] = ("body",)) -> T:
    """Convert decoded JSON into a type of the contract.

    Args:
        value: the decoded JSON.
        shape: the type.
        where: prefix for the location of each invalid field.

    Raises:
        Mismatch: it does not match. At most `MOST` fields are reported.
    """
    try:
        converted = msgspec.convert(value, shape)
    except msgspec.ValidationError:
        pass
    else:
        if all(value.get(name) is None or rule(value[name]) is None for name, rule in _rules(shape)):
            return converted
    raise Mismatch(list(itertools.islice(_bad(value, shape, tuple(where)), MOST)))


_fields = functools.cache(msgspec.structs.fields)  # which evaluates the annotations each time


@functools.cache
def _rules(shape: type[msgspec.Struct]) -> list[tuple[str, Rule]]:
    """Return the fields of a type that have a rule, and their rules."""
    return [
        (field.encode_name, rule)
        for field in _fields(shape)
        for alternative in _alternatives(field.type)
        if (rule := _rule(alternative)) is not None
    ]


def _bad(value: Any, type_: Any, loc: Loc) -> Iterator[BadField]:
    """Yield all invalid parts of a value."""
    alternatives = _alternatives(type_)
    if value is None and NoneType in map(_bare, alternatives):
        return
    wanted = [each for each in alternatives if _bare(each) is not NoneType] or alternatives
    if len(wanted) > 1:  # at most one alternative has parts
        wanted = [each for each in wanted if _has_parts(value, each)] or [Union[tuple(alternatives)]]  # noqa: UP007
    yield from _bad_one(value, wanted[0], loc)


def _bad_one(value: Any, type_: Any, loc: Loc) -> Iterator[BadField]:
    rule, bare = _rule(type_), _bare(type_)
    problem = None if rule is None else rule(value)
    if problem is not None:
        yield BadField([*loc], problem)
        return
    if _is_struct(bare) and isinstance(value, dict):
        yield from _bad_members(value, bare, loc)
        return
    parts: Iterable[tuple[str | int, Any]] = ()
    if get_origin(bare) is list and isinstance(value, list):
        parts = enumerate(value)
    elif get_origin(bare) is dict and isinstance(value, dict):
        parts = value.items()
    found = False
    for name, part in itertools.islice(parts, LOOKED_AT):
        for each in _bad(part, get_args(bare)[-1], (*loc, name)):
            found = True
            yield each
    if not found:
        yield from _bad_whole(value, type_, loc)


def _bad_members(value: dict[str, Any], shape: type[msgspec.Struct], loc: Loc) -> Iterator[BadField]:
    fields = _fields(shape)
    for field in fields:
        if field.encode_name in value:
            yield from _bad(value[field.encode_name], field.type, (*loc, field.encode_name))
        elif field.required:
            yield BadField([*loc, field.encode_name], "missing required field")
    if shape.__struct_config__.forbid_unknown_fields:
        names = [field.encode_name for field in fields]
        unknown = value.keys() - {*names, shape.__struct_config__.tag_field}
        for name in heapq.nsmallest(MOST, unknown):
            known = f"use {', '.join(names)}" if names else "this object has no fields"
            yield BadField([*loc, name], f"unknown field {name!r}: {known}")


def _bad_whole(value: Any, type_: Any, loc: Loc) -> Iterator[BadField]:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as problem:
        yield BadField([*loc], _plain(str(problem), _bare(type_)))


def _alternatives(type_: Any) -> list[Any]:
    """Return the members of a union. A rule of the union applies to each member except null."""
    bare = _bare(type_)
    if get_origin(bare) not in {Union, UnionType}:
        return [type_]
    found = [each for member in get_args(bare) if member is not UnsetType for each in _alternatives(member)]
    rule = _rule(type_)
    if rule is None:
        return found
    meta = Meta(extra={"rule": rule})
    return [each if _bare(each) is NoneType else Annotated[each, meta] for each in found]


def _bare(type_: Any) -> Any:
    return get_args(type_)[0] if get_origin(type_) is Annotated else type_


def _rule(type_: Any) -> Rule | None:
    for meta in get_args(type_)[1:] if get_origin(type_) is Annotated else ():
        if isinstance(meta, Meta) and meta.extra is not None and "rule" in meta.extra:
            rule: Rule = meta.extra["rule"]
            return rule
    return None


def _is_struct(bare: Any) -> bool:
    return isinstance(bare, type) and issubclass(bare, msgspec.Struct)


def _has_parts(value: Any, type_: Any) -> bool:
    bare = _bare(type_)
    if isinstance(value, dict):
        return _is_struct(bare) or get_origin(bare) is dict
    return isinstance(value, list) and get_origin(bare) is list


_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


def _plain(message: str, bare: Any) -> str:
    """Rewrite a message of msgspec with the type names of JSON."""
    if get_origin(bare) is Literal:
        return f"expected one of {', '.join(map(repr, get_args(bare)))}"
    message = message.partition(" - at ")[0]
    message = re.sub(r"`([^`]*)`", lambda quoted: _words(quoted[1]), message)
    return message[:1].lower() + message[1:]


def _words(types: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | "))
