"""A handler: a named, versioned rule that says which events run which target, with which limits."""

from __future__ import annotations

import re
from typing import Any, Protocol

import msgspec

from busway.domain.event import NewEvent
from busway.domain.filter import FilterError, compile_filter
from busway.domain.pattern import PatternError, check_pattern


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds between attempts: `initial * factor**(failures - 1)`, at most `max`, give or take `jitter`.

    `jitter` is the share of the delay by which it may differ, 0 to 1, so that runs that failed
    together do not come back together.
    """

    initial: float = 1
    factor: float = 2
    max: float = 3600
    jitter: float = 0.1

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after the given number of failures (from 1); `chance` is random in [0, 1)."""
        try:
            plain = min(self.initial * self.factor ** (failures - 1), self.max)
        except OverflowError:
            plain = self.max
        return max(0.0, plain * (1 + self.jitter * (2 * chance - 1)))


NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
TARGET = re.compile(r"[A-Za-z_][A-Za-z0-9_]*:[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
POOLS = ("process", "thread", "auto")
MAX_MEMORY = 1_048_576  # MiB
RATE = re.compile(r"([1-9][0-9]{0,8})/([smh])", re.ASCII)


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a handler that hold for an attempt; times in seconds, `memory` in MiB."""

    target: str
    events: tuple[str, ...]
    filter: dict[str, Any] | None = None
    pool: str | None = None
    timeout: float = 60
    max_attempts: int = 5
    backoff: Backoff = Backoff()
    concurrency: int | None = None
    rate: str | None = None
    ordered: bool = False
    memory: int | None = None
    paused: bool = False
    description: str = ""


class Handler(msgspec.Struct, kw_only=True):
    """A handler as the store keeps it.

    `declared` are the fields that its code gives (None: it is not declared in code), `overrides`
    those set over HTTP; an override wins until it is removed. `file_digest` tells when the
    target's source file changed. Times are microseconds since 1970.
    `missing`: it was declared in code, and the code no longer declares it; it matches nothing and
    its runs wait until it is declared again or deleted.
    """

    id: int
    name: str
    revision: int = 1
    declared: dict[str, Any] | None = None
    overrides: dict[str, Any] = {}
    file_digest: str = ""
    missing: bool = False
    deleted: bool = False
    created_at: int = 0
    updated_at: int = 0

    @property
    def spec(self) -> Spec:
        """The fields in force: the code's, with the overrides over them."""
        return spec_of({**(self.declared or {}), **self.overrides})


class Rules(Protocol):
    """The handlers in force, as the stages need them that start runs or judge attempts."""

    def match(self, event: NewEvent) -> tuple[int, ...]:
        """Return the numbers of the handlers that this event starts."""


class FieldError(ValueError):
    """A field is not what it must be; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def spec_of(fields: dict[str, Any]) -> Spec:
    """Build the fields in force from a mapping that `check_fields` has passed."""
    return msgspec.convert(fields, Spec)


def check_fields(fields: dict[str, Any]) -> None:
    """Check the handler fields that are present, whoever gave them: code or HTTP.

    Raises:
        FieldError: the first field that is unknown, of the wrong type or out of range.
    """
    for name, value in fields.items():
        check = _CHECKS.get(name)
        if check is None:
            raise FieldError(name, f"a handler has no field {name!r}")
        problem = check(value)
        if problem:
            raise FieldError(name, problem)
    if fields.get("memory") is not None and fields.get("pool") == "thread":
        raise FieldError("memory", _MEMORY_IN_THREADS)


def _check_name(value: Any) -> str | None:
    if isinstance(value, str) and NAME.fullmatch(value):
        return None
    return "a name is 1 to 63 of a-z, 0-9, '-' and '_' and begins with a letter or digit"


def _check_target(value: Any) -> str | None:
    if isinstance(value, str) and value.startswith(("https://", "http://")):
        return "URL targets are not built yet: name a function of the handlers folder, module:function"
    if isinstance(value, str) and TARGET.fullmatch(value) and ":_" not in value:
        return None
    return "a target is module:function, a function that a file of the handlers folder defines"


def _check_events(value: Any) -> str | None:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 100:
        return 'events is a list of 1 to 100 type patterns, such as ["order.*"]'
    try:
        for pattern in value:
            if not isinstance(pattern, str):
                return 'each of events is a type pattern, such as "order.*"'
            check_pattern(pattern)
    except PatternError as problem:
        return str(problem)
    return None


def _check_filter(value: Any) -> str | None:
    try:
        if value is not None:
            compile_filter(value)
    except FilterError as problem:
        return str(problem)
    return None


def _check_pool(value: Any) -> str | None:
    if value is None or value in POOLS:
        return None
    return "pool is 'process', 'thread', 'auto' or null for the gateway's"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_timeout(value: Any) -> str | None:
    return None if _number(value) and 0 < value <= 86_400 else "timeout is seconds, over 0 and at most 86400"


def _check_max_attempts(value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return None if whole and 1 <= value <= 1000 else "max_attempts is a whole number from 1 to 1000"


def _check_backoff(value: Any) -> str | None:
    form = 'backoff is like {"initial": 1, "factor": 2, "max": 3600, "jitter": 0.1}'
    if isinstance(value, Backoff):
        return None
    if not isinstance(value, dict) or not set(value) <= {"initial", "factor", "max", "jitter"}:
        return form
    if not all(_number(v) and 0 <= v <= 31_536_000 for v in value.values()) or value.get("jitter", 0) > 1:
        return form + ": seconds from 0, factor from 0, jitter from 0 to 1"
    return None


def _check_memory(value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None or (whole and 1 <= value <= MAX_MEMORY):
        return None
    return f"memory is whole MiB from 1 to {MAX_MEMORY} that one attempt may add to its worker, or null"


def _check_concurrency(value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None or (whole and 1 <= value <= 100_000):
        return None
    return "concurrency is a whole number from 1 to 100000, or null for no limit"


def _check_rate(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and RATE.fullmatch(value)):
        return None
    return (
        'rate is starts per second, minute or hour, such as "100/s", "60/m" or "1000/h", or null for no limit'
    )


def _check_ordered(value: Any) -> str | None:
    return None if isinstance(value, bool) else "ordered is true or false"


def _check_paused(value: Any) -> str | None:
    return None if isinstance(value, bool) else "paused is true or false"


def _check_description(value: Any) -> str | None:
    short = isinstance(value, str) and len(value) <= 10_000
    return None if short else "description is text of at most 10000 characters"


_MEMORY_IN_THREADS = (
    "what one of several threads takes cannot be told: a handler with a memory limit has worker processes of "
    "its own, so leave out pool 'thread' or memory"
)

_CHECKS = {
    "name": _check_name,
    "target": _check_target,
    "events": _check_events,
    "filter": _check_filter,
    "pool": _check_pool,
    "timeout": _check_timeout,
    "max_attempts": _check_max_attempts,
    "backoff": _check_backoff,
    "concurrency": _check_concurrency,
    "rate": _check_rate,
    "ordered": _check_ordered,
    "memory": _check_memory,
    "paused": _check_paused,
    "description": _check_description,
}

FIELDS = frozenset(_CHECKS)
"""Every field that a handler may be given."""
