"""Breakers: a handler that only fails pauses itself."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from busway.domain.event import NewEvent

MAX_FAILURES = 1_000
MAX_WITHIN = 86_400  # seconds
MAX_FOR = 31_536_000  # seconds, a year


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pauses a handler after `failures` failed attempts within `within` seconds, and no success between them.

    `for`: resume it after so many seconds. Until an attempt succeeds, one failure pauses it again.
    """

    failures: Annotated[int, Meta(ge=1, le=MAX_FAILURES, description="Failed attempts without a success.")]
    within: Annotated[float, Meta(gt=0, le=MAX_WITHIN, description="Seconds.")]
    seconds: Annotated[
        Annotated[float, Meta(ge=1, le=MAX_FOR)] | None,
        Meta(description="Resume it after so many seconds. Null: somebody resumes it."),
    ] = msgspec.field(default=None, name="for")


class BreakerCheck(msgspec.Struct, array_like=True):
    """Count an outcome for the breaker of its handler. If it pauses the handler, store `notices`."""

    rule: Breaker
    notices: list[NewEvent] = []


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a handler paused itself. Times are microseconds since 1970.

    `until`: when it resumes by itself, None if somebody must resume it.
    """

    by: str
    reason: str
    since: int
    until: int | None = None


def check_breaker(value: Any) -> str | None:
    """Return what is wrong with the field `breaker` of a handler, None if nothing is."""
    if value is None or isinstance(value, Breaker):
        return None
    form = 'breaker must be like {"failures": 20, "within": 60, "for": 300}, or null'
    if not isinstance(value, dict) or not {"failures", "within"} <= value.keys() <= {
        "failures",
        "within",
        "for",
    }:
        return form
    failures, within, seconds = value["failures"], value["within"], value.get("for")
    if not (isinstance(failures, int) and not isinstance(failures, bool) and 1 <= failures <= MAX_FAILURES):
        return f"{form}: failures must be an integer from 1 to {MAX_FAILURES}"
    if not (_number(within) and 0 < within <= MAX_WITHIN):
        return f"{form}: within must be more than 0 and at most {MAX_WITHIN} seconds"
    if seconds is not None and not (_number(seconds) and 1 <= seconds <= MAX_FOR):
        return f"{form}: for must be 1 to {MAX_FOR} seconds, or null"
    return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
