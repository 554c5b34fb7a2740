"""The `handler` decorator, and the exceptions `Retry` and `Fail`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

import msgspec

from busway.domain.handler import Backoff, FieldError, check_fields

Function = TypeVar("Function", bound=Callable[..., Any])
DECLARED = "__busway_handlers__"
observers: list[Callable[[Callable[..., Any]], None]] = []
"""Called with each function that is declared. The program that loads handler code adds one."""
_ABSENT: Any = object()
_LONGEST = 31_536_000  # seconds, a year: the limit of a handler's backoff


class BackoffFields(TypedDict, total=False):
    """Seconds between attempts, as in the HTTP API. The defaults are those of `Backoff`."""

    initial: float
    factor: float
    max: float
    jitter: float


BreakerFields = TypedDict(
    "BreakerFields", {"failures": int, "within": float, "for": NotRequired[float | None]}
)
"""When a handler that only fails pauses itself, as in the HTTP API."""


class Retry(Exception):
    """Raise it to request another attempt.

    Args:
        after: delay in seconds. None uses the handler's backoff.
        reason: the error message of this attempt.

    Raises:
        ValueError: `after` is negative, over a year or NaN.
        TypeError: `after` is not a number.
    """

    after: float | None = None  # also of a subclass that does not call this constructor

    def __init__(self, after: float | None = None, reason: str | None = None) -> None:
        delay = None if after is None else _delay(after)
        super().__init__(reason or ("retry requested" + ("" if delay is None else f" in {delay:g} s")))
        self.after = delay


def _delay(after: float) -> float:
    try:
        valid = 0 <= after <= _LONGEST
    except TypeError:
        raise TypeError(f"Retry(after=...) must be a number of seconds, not {after!r}") from None
    if not valid:
        raise ValueError(f"Retry(after=...) must be 0 to {_LONGEST} seconds, not {after!r}")
    return float(after)


class Fail(Exception):
    """Raise it to end the run as dead, without another attempt."""

    def __init__(self, reason: str = "the handler gave up") -> None:
        super().__init__(reason)


def handler(  # noqa: PLR0913 - one keyword for each field of the contract
    *events: str,
    name: str = _ABSENT,
    pool: Literal["process", "thread", "auto"] | None = _ABSENT,
    timeout: float = _ABSENT,
    max_attempts: int = _ABSENT,
    backoff: BackoffFields | Backoff = _ABSENT,
    filter: Mapping[str, Any] | None = _ABSENT,  # noqa: A002 - the field's name
    concurrency: int | None = _ABSENT,
    rate: str | None = _ABSENT,
    ordered: bool = _ABSENT,
    memory: int | None = _ABSENT,
    breaker: BreakerFields | None = _ABSENT,
    paused: bool = _ABSENT,
    description: str = _ABSENT,
) -> Callable[[Function], Function]:
    """Declare a handler that runs the decorated function for events whose type matches one of `events`.

    A function can have several declarations with different names. The default for `name` is the name of the
    function, for `description` the first line of its docstring. The other defaults are those of the HTTP API.

    Raises:
        TypeError: there is no type pattern.
        ValueError: a field is invalid. The message names the function and the field.
    """
    given = {key: value for key, value in locals().items() if value is not _ABSENT and key != "events"}

    def declare(function: Function) -> Function:
        if isinstance(function, type) or not hasattr(function, "__name__"):
            name = function.__name__ if isinstance(function, type) else type(function).__name__
            raise TypeError(f"@handler decorates functions, not a class or an object: {name} is none")
        fields = _fields(function, events, given)
        vars(function)[DECLARED] = [fields, *vars(function).get(DECLARED, [])]
        for observer in observers:
            observer(function)
        return function

    if not events or callable(events[0]):
        raise TypeError('@handler needs one or more event types, such as @handler("order.created")')
    return declare


def declared(function: Callable[..., Any]) -> list[dict[str, Any]]:
    """Return the fields of each handler declaration of a function, without `target`."""
    return list(vars(function).get(DECLARED, []))


def _fields(function: Callable[..., Any], events: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    title = first_line(function)
    fields = (
        # a name that begins with `_` keeps the function from being loaded, which the loader reports
        {"name": function.__name__.lstrip("_") or "_", "events": list(events)}
        | ({"description": title} if title else {})
        | given
    )
    if isinstance(fields.get("backoff"), Backoff | Mapping):
        fields["backoff"] = msgspec.to_builtins(fields["backoff"])
    try:
        check_fields(fields)
    except FieldError as problem:
        advice = ": set name=" if problem.field == "name" and "name" not in given else ""
        raise ValueError(f"@handler of {function.__name__}(): {problem.field}: {problem}{advice}") from None
    return fields


def first_line(function: Callable[..., Any]) -> str:
    """Return the first line of a function's docstring, or an empty string."""
    return (inspect.getdoc(function) or "").strip().partition("\n")[0][:1000]
