"""What a subscription wants of the result log: a value that compares, and the predicate it stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from app.domain.handler import NAME
from app.domain.pattern import PatternError, check_pattern, matcher
from app.domain.result import KINDS, Result
from app.domain.text import check_name
from app.errors import BadPattern, BadSubscription

MAX_VALUES = 100
Predicate = Callable[[Result], bool]


class Selection(msgspec.Struct, frozen=True):
    """Equal selections share their encoded frames; an empty field wants all."""

    types: tuple[str, ...] = ()
    handlers: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    correlationid: str | None = None


def select(fields: Mapping[str, Any]) -> Selection:
    """Check `types`, `handlers`, `kinds` and `correlationid`, whoever gave them: frame or query string.

    Raises:
        BadPattern: one of `types` is no pattern.
        BadSubscription: another value is not what it must be.
    """
    types = _texts(fields, "types", 'a list of type patterns, such as ["order.*"]')
    handlers = _texts(fields, "handlers", 'a list of names of handlers, such as ["invoice"]')
    kinds = _texts(fields, "kinds", f"a list of {', '.join(sorted(KINDS))}")
    correlationid = fields.get("correlationid")
    try:
        patterns = {check_pattern(pattern) for pattern in types}
        if correlationid is not None:
            _correlationid(correlationid)
    except PatternError as problem:
        raise BadPattern(str(problem)) from None
    for name in handlers:
        if not NAME.fullmatch(name):
            raise BadSubscription(f"{name!r} is no name of a handler: 1 to 63 of a-z, 0-9, '-' and '_'")
    for kind in kinds:
        if kind not in KINDS:
            raise BadSubscription(f"{kind!r} is no kind of result: use {', '.join(sorted(KINDS))}")
    everything = "**" in patterns
    return Selection(
        () if everything else tuple(sorted(patterns)), frozenset(handlers), frozenset(kinds), correlationid
    )


@functools.lru_cache(maxsize=4096)
def predicate(selection: Selection) -> Predicate:
    """Compile a selection."""
    handlers, kinds, correlationid = selection.handlers, selection.kinds, selection.correlationid
    completed = "completed" in kinds
    type_matches = matcher(selection.types)

    def matches(result: Result) -> bool:
        event = result.event
        return (
            (correlationid is None or event.correlationid == correlationid)
            and (not handlers or result.handler in handlers)
            and (not kinds or result.kind in kinds or (completed and result.completes is not None))
            and type_matches(event.type)
        )

    return matches


def _texts(fields: Mapping[str, Any], name: str, form: str) -> list[str]:
    values = fields.get(name)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadSubscription(f"{name!r} is {form}")
    if len(values) > MAX_VALUES:
        raise BadSubscription(f"{name!r} has at most {MAX_VALUES} values: open several subscriptions")
    return values


def _correlationid(value: Any) -> None:
    if not isinstance(value, str):
        raise BadSubscription("'correlationid' is text or null")
    try:
        check_name(value, "a correlationid")
    except ValueError as problem:
        raise BadSubscription(str(problem)) from None
