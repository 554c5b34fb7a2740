"""Typed payloads: `event: Event[Order]` makes `event.data` an `Order`, or ends the run if it does not fit."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from busway.domain import event as domain
from busway.domain.callables import positional, signature_of
from busway.domain.classes import holds_member
from busway.event import Event, converted
from busway.handlers import declared

_MOST = 20  # fields that an error names
_AT = " - at `$"
_MARKS = {typing.Required, typing.NotRequired}
_Decode = Callable[[bytes], Any]


class InvalidData(ValueError):
    """The payload of an event does not fit the type that the handler's annotation names."""


class BadAnnotation(TypeError):
    """The annotation of a target's event cannot be resolved, or names a type that payloads cannot have."""


class Payload:
    """The type of a target's payloads.

    Raises:
        BadAnnotation: payloads cannot have this type.
    """

    def __init__(self, of: Any) -> None:
        self._name = of.__name__ if isinstance(of, type) and not get_args(of) else str(of)
        members = _members(of)
        self._takes_bytes = bytes in members
        rest = [member for member in members if member is not bytes]
        try:
            self._decode = _decoder(_union(rest)) if rest else None
        except Exception as problem:
            raise BadAnnotation(f"a payload cannot be converted to {self._name}: {_said(problem)}") from None

    def convert(self, event: Event[Any]) -> Event[Any]:
        """Return the event with its payload in this type.

        Raises:
            InvalidData: it does not fit. The message names the fields.
        """
        return converted(event, self._data)

    def _data(self, stored: domain.Event) -> Any:
        if stored.binary and stored.data is not None:
            if self._takes_bytes:
                return stored.data
            raise InvalidData(f"the event's data is binary, which does not fit {self._name}")
        if self._decode is None:
            what = "has no data" if stored.data is None else "has JSON as its data"
            raise InvalidData(f"the event {what}, which does not fit {self._name}")
        try:
            return self._decode(b"null" if stored.data is None else stored.data)
        except _Misfit as problem:
            what = "the event has no data, which" if stored.data is None else "the event's data"
            raise InvalidData(f"{what} does not fit {self._name}: {problem}") from problem.__cause__


def payload_of(function: Callable[..., Any]) -> Payload | None:
    """Return the type of the payloads that a target takes. None: any, which are not converted.

    It is `Order` if the first parameter has the annotation `Event[Order]`, also as text, in `Annotated`, in a
    union with None, or under another name.

    Raises:
        BadAnnotation: payloads cannot have this type, or the annotation cannot be resolved. The latter is no
            error of a function that declares no handler and names no Event.
    """
    first = next(iter(positional(signature_of(function))), None)
    annotation = inspect.Parameter.empty if first is None else first.annotation
    if annotation is inspect.Parameter.empty or _is_plain(annotation):
        return None
    try:
        of = _parameter_of(_resolved(annotation, function))
    except BadAnnotation:
        raise
    except Exception as problem:
        text = getattr(annotation, "__forward_arg__", annotation)
        if "Event" not in str(text) and not declared(function):
            return None  # a helper, whose annotations may exist for type checkers only
        shown = f" {text!r}" if isinstance(text, str) else ""
        raise BadAnnotation(
            f"the annotation{shown} of its event cannot be resolved: {_said(problem)}"
        ) from None
    is_any = any(of is each for each in (None, Any, object)) or isinstance(of, typing.TypeVar)
    return None if is_any else Payload(of)


def typed(function: Callable[..., Any], event: Event[Any]) -> Event[Any]:
    """Return the event as a target takes it.

    Raises:
        BadAnnotation: as `payload_of`.
        InvalidData: the payload does not fit.
    """
    payload = payload_of(function)
    return event if payload is None else payload.convert(event)


def _is_plain(annotation: Any) -> bool:
    """Return whether it is `Event` without a parameter, even if that is imported for type checkers only."""
    text = getattr(annotation, "__forward_arg__", annotation)
    return annotation is Event or (isinstance(text, str) and text.strip() in {"Event", "busway.Event"})


def _resolved(annotation: Any, function: Callable[..., Any]) -> Any:
    def probe() -> None: ...

    probe.__annotations__ = {"event": annotation}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    return typing.get_type_hints(probe, globalns=names, include_extras=True)["event"]


def _parameter_of(annotation: Any) -> Any:
    """Return `Order` of `Event[Order]`, a union of several, or None if it is no such type."""
    members = _members(annotation)
    if any(isinstance(each, type) and issubclass(each, Event) and each is not Event for each in members):
        raise BadAnnotation("its event has a subclass of Event as annotation: use Event[...] itself")
    found = [get_args(each)[0] for each in members if get_origin(each) is Event]
    return _union(found) if found and Event not in members else None


def _members(of: Any) -> list[Any]:
    """Return the members of a union, without `Annotated` around them and names for them."""
    while hasattr(of, "__value__"):  # the `type` statement
        of = of.__value__
    if get_origin(of) is Annotated:
        members = _members(get_args(of)[0])
        return members if any(each is bytes or get_origin(each) is Event for each in members) else [of]
    if get_origin(of) in {Union, UnionType}:
        return [member for each in get_args(of) for member in _members(each)]
    return [of]


def _union(members: list[Any]) -> Any:
    return members[0] if len(members) == 1 else Union[tuple(members)]  # noqa: UP007 - of a list


class _Misfit(Exception):
    """The data does not fit. The message names the fields."""


def _decoder(of: Any) -> _Decode:
    return _pydantic_decoder(of) if _holds_pydantic(of) else _msgspec_decoder(of)


def _holds_pydantic(of: Any) -> bool:
    return _is_pydantic(of) or any(map(_holds_pydantic, get_args(of)))


def _is_pydantic(of: Any) -> bool:
    return isinstance(of, type) and holds_member(of, "__pydantic_validator__")


def _pydantic_decoder(of: Any) -> _Decode:
    pydantic = sys.modules["pydantic"]  # the class is made with it, so it is imported
    validate = pydantic.TypeAdapter(of).validate_json
    refused = pydantic.ValidationError

    def decode(data: bytes) -> Any:
        try:
            return validate(data)
        except refused as problem:
            raise _Misfit(_listed(_pydantic_errors(problem))) from None

    return decode


def _pydantic_errors(problem: Any) -> Iterator[tuple[str, str]]:
    for error in problem.errors(include_url=False, include_context=False, include_input=False):
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])
        yield "".join(steps).removeprefix("."), error["msg"]


def _msgspec_decoder(of: Any) -> _Decode:
    info = msgspec.inspect.type_info(of)
    if isinstance(info, msgspec.inspect.CustomType) and not issubclass(info.cls, PurePath):
        raise TypeError("use a pydantic model, a msgspec struct or a dataclass")
    plain = msgspec.json.decode  # handler code may replace it later
    decoder = msgspec.json.Decoder(of, dec_hook=_from_plain)

    def decode(data: bytes) -> Any:
        try:
            return decoder.decode(data)
        except msgspec.ValidationError as problem:
            found = [*_bad_members(plain(data), of, info)] or [_msgspec_error(problem)]
            raise _Misfit(_listed(found)) from None

    return decode


def _from_plain(of: type, value: Any) -> Any:
    """Convert what msgspec cannot: paths, and pydantic models inside of its own types."""
    if issubclass(of, PurePath) and isinstance(value, str):
        return of(value)
    if not _is_pydantic(of):
        raise TypeError(f"expected {of.__name__}")
    try:
        return _pydantic_decoder(of)(msgspec.json.encode(value))
    except _Misfit as problem:
        raise ValueError(str(problem)) from None


def _bad_members(value: Any, of: Any, info: Any) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with each member of an object. msgspec stops at the first one."""
    kinds = (msgspec.inspect.StructType, msgspec.inspect.DataclassType, msgspec.inspect.TypedDictType)
    if not isinstance(info, kinds) or not isinstance(value, dict):
        return
    hints = typing.get_type_hints(get_origin(of) or of, include_extras=True)
    hints = {name: get_args(hint)[0] if get_origin(hint) in _MARKS else hint for name, hint in hints.items()}
    for field in sorted(info.fields, key=lambda field: [*hints].index(field.name)):  # as they are declared
        if field.encode_name not in value:
            if field.required:
                yield field.encode_name, "missing required field"
            continue
        try:
            msgspec.convert(value[field.encode_name], hints[field.name], dec_hook=_from_plain)
        except msgspec.ValidationError as problem:
            path, said = _msgspec_error(problem)
            yield f"{field.encode_name}{'' if path[:1] in {'', '['} else '.'}{path}", said
        except TypeError:  # a type that depends on its class
            continue


def _msgspec_error(problem: msgspec.ValidationError) -> tuple[str, str]:
    said, _, path = str(problem).rpartition(_AT)
    return (path.rstrip("`").removeprefix("."), said) if said else ("", str(problem))


def _listed(errors: Iterable[tuple[str, str]]) -> str:
    said = [f"{path}: {text}" if path else text for path, text in errors]
    return "; ".join(said[:_MOST]) + (f"; and {len(said) - _MOST} more" if len(said) > _MOST else "")


def _said(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"
