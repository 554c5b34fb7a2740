"""Handlers: named, versioned rules that say which events run which target, with which limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from busway.domain.breaker import Breaker, Pause, check_breaker
from busway.domain.event import NewEvent
from busway.domain.filter import FilterError, compile_filter
from busway.domain.pattern import PatternError, check_pattern
from busway.domain.signing import Secret
from busway.domain.weburl import is_url, read_url

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
TARGET = re.compile(r"([A-Za-z_][A-Za-z0-9_]*\.)*[A-Za-z_][A-Za-z0-9_]*:[A-Za-z][A-Za-z0-9_]*", re.ASCII)
POOLS = ("process", "thread", "auto")
MAX_PATTERNS = 100
MAX_TIMEOUT = 86_400  # seconds
MAX_ATTEMPTS = 1000
MAX_BACKOFF = 31_536_000  # seconds, a year
MAX_CONCURRENCY = 100_000
MAX_MEMORY = 1_048_576  # MiB
MAX_DESCRIPTION = 10_000  # characters
RATE = re.compile(r"([1-9][0-9]{0,8})/([smh])", re.ASCII)


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds between attempts: `initial * factor**(failures - 1)`, at most `max`, plus or minus `jitter`.

    `jitter` is a share of the delay, from 0 to 1. It spreads the retries of runs that failed together.
    """

    initial: Annotated[float, Meta(ge=0, le=MAX_BACKOFF, description="The first delay.")] = 1
    factor: Annotated[
        float, Meta(ge=0, le=MAX_BACKOFF, description="Each delay is so many times the one before.")
    ] = 2
    max: Annotated[float, Meta(ge=0, le=MAX_BACKOFF, description="The longest delay.")] = 3600
    jitter: Annotated[
        float, Meta(ge=0, le=1, description="The share by which a delay may differ at random.")
    ] = 0.1

    def delay(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after `failures` failures (from 1). `chance` is random in [0, 1)."""
        try:
            plain = min(self.initial * self.factor ** (failures - 1), self.max)
        except OverflowError:
            plain = self.max
        return max(0.0, plain * (1 + self.jitter * (2 * chance - 1)))


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """The effective fields of a handler. Times are seconds, `memory` is MiB."""

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
    breaker: Breaker | None = None
    paused: bool = False
    description: str = ""


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """A handler as stored. Times are microseconds since 1970.

    Attributes:
        declared: the fields that the code declares, None if the handler is not declared in code.
        overrides: the fields set over HTTP. An override applies until it is removed.
        file_digest: digest of the target's source file, to detect changes.
        missing: the code no longer declares the handler. It matches no events, and its runs wait until
            it is declared again or deleted.
        secrets: sign what is sent to its URL, newest first.
        pause: why the gateway paused it, None if a client paused it, or it is not paused.
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
    secrets: tuple[Secret, ...] = ()
    pause: Pause | None = None

    @property
    def spec(self) -> Spec:
        """The effective fields: the declared ones, replaced by the overrides."""
        return spec_of({**(self.declared or {}), **self.overrides})

    @property
    def overridden(self) -> dict[str, Any]:
        """The fields set over HTTP that differ from the code's, as JSON values. None without code."""
        if self.declared is None:
            return {}
        code, in_force = (msgspec.to_builtins(spec) for spec in (spec_of(self.declared), self.spec))
        return {name: in_force[name] for name in self.overrides if in_force[name] != code[name]}


class Rules(Protocol):
    """The current handlers, for code that starts runs or evaluates attempts."""

    edition: object
    """It is replaced when handlers change."""

    version: int
    """Of the handlers in the store, 0 if only this node changes them."""

    def match(self, event: NewEvent) -> tuple[int, ...]:
        """Return the numbers of the handlers that match this event."""

    def match_all(self, events: list[NewEvent]) -> Iterator[None]:
        """Set the numbers of the handlers that match each event, in steps."""


class FieldError(ValueError):
    """A field is invalid. `field` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    def detached(self) -> FieldError:
        """Return it without what led to it. Kept in a list, it would be in a reference cycle with a frame."""
        self.__context__ = self.__cause__ = None
        return self.with_traceback(None)


def spec_of(fields: dict[str, Any]) -> Spec:
    """Build the effective fields from a mapping that `check_fields` accepted."""
    return msgspec.convert(fields, Spec)


def check_fields(fields: dict[str, Any]) -> None:
    """Validate the given handler fields, from code or from HTTP.

    Raises:
        FieldError: names the first field that is unknown, of the wrong type or out of range.
    """
    for name, value in fields.items():
        check = RULES.get(name)
        if check is None:
            raise FieldError(name, f"unknown handler field {name!r}")
        problem = check(value)
        if problem:
            raise FieldError(name, problem)
    if fields.get("memory") is not None and fields.get("pool") == "thread":
        raise FieldError("memory", _MEMORY_IN_THREADS)
    if is_url(fields.get("target") or ""):
        for name in ("pool", "memory"):
            if fields.get(name) is not None:
                raise FieldError(name, f"{name} is for functions, and the target is a URL: remove {name}")


def _check_name(value: Any) -> str | None:
    if isinstance(value, str) and NAME.fullmatch(value):
        return None
    return "name must be 1 to 63 characters of a-z, 0-9, '-' and '_', and start with a letter or digit"


def _check_target(value: Any) -> str | None:
    if isinstance(value, str) and TARGET.fullmatch(value):
        return None
    if not isinstance(value, str) or not is_url(value):
        return (
            "target must be module:function or package.module:function, a function of the handlers folder, "
            "or https://…"
        )
    try:
        read_url(value)
    except ValueError as problem:
        return str(problem)
    return None


def _check_events(value: Any) -> str | None:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_PATTERNS:
        return f'events must be a list of 1 to {MAX_PATTERNS} type patterns, such as ["order.*"]'
    try:
        for pattern in value:
            if not isinstance(pattern, str):
                return 'each item of events must be a type pattern, such as "order.*"'
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
    return "pool must be 'process', 'thread', 'auto', or null for the gateway's default"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_timeout(value: Any) -> str | None:
    if _number(value) and 0 < value <= MAX_TIMEOUT:
        return None
    return f"timeout must be more than 0 and at most {MAX_TIMEOUT} seconds"


def _check_max_attempts(value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and 1 <= value <= MAX_ATTEMPTS:
        return None
    return f"max_attempts must be an integer from 1 to {MAX_ATTEMPTS}"


def _check_backoff(value: Any) -> str | None:
    form = 'backoff must be like {"initial": 1, "factor": 2, "max": 3600, "jitter": 0.1}'
    if isinstance(value, Backoff):
        return None
    if not isinstance(value, dict) or not set(value) <= {"initial", "factor", "max", "jitter"}:
        return form
    if not all(_number(v) and 0 <= v <= MAX_BACKOFF for v in value.values()) or value.get("jitter", 0) > 1:
        return form + ": no negative numbers, jitter at most 1"
    return None


def _check_memory(value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None or (whole and 1 <= value <= MAX_MEMORY):
        return None
    return f"memory must be an integer from 1 to {MAX_MEMORY} (MiB that one attempt may add), or null"


def _check_concurrency(value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None or (whole and 1 <= value <= MAX_CONCURRENCY):
        return None
    return f"concurrency must be an integer from 1 to {MAX_CONCURRENCY}, or null for no limit"


def _check_rate(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and RATE.fullmatch(value)):
        return None
    return 'rate must be starts per second, minute or hour ("100/s", "60/m", "1000/h"), or null for no limit'


def _check_ordered(value: Any) -> str | None:
    return None if isinstance(value, bool) else "ordered must be true or false"


def _check_paused(value: Any) -> str | None:
    return None if isinstance(value, bool) else "paused must be true or false"


def _check_description(value: Any) -> str | None:
    short = isinstance(value, str) and len(value) <= MAX_DESCRIPTION
    return None if short else f"description must be a string of at most {MAX_DESCRIPTION} characters"


_MEMORY_IN_THREADS = (
    "memory cannot be limited in pool 'thread', because the memory of one thread cannot be measured: "
    "remove memory or use another pool"
)

RULES: dict[str, Callable[[Any], str | None]] = {
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
    "breaker": check_breaker,
    "paused": _check_paused,
    "description": _check_description,
}
"""All fields that a handler can have, each with the check of its value."""
