"""Conversion between internal times (integers, microseconds since 1970 in UTC) and RFC 3339 text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FORM = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
SECOND = 1_000_000


def to_text(us: int) -> str:
    """Return microseconds since 1970 as RFC 3339 text in UTC, such as `2026-01-31T12:00:00.000001Z`."""
    return (_EPOCH + us * _MICROSECOND).isoformat(timespec="microseconds")[:-6] + "Z"


def from_text(text: str) -> int:
    """Return an RFC 3339 time, with any offset, as microseconds since 1970.

    Raises:
        ValueError: the text is not an RFC 3339 time or has no offset.
    """
    if not _FORM.fullmatch(text):
        raise ValueError(f"{text!r} is not an RFC 3339 time: write it like 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(text)
        offset = moment.utcoffset()
    except ValueError:
        raise ValueError(f"{text!r} is not an RFC 3339 time: write it like 2026-01-31T12:00:00Z") from None
    if offset is None:
        raise ValueError(f"{text!r} has no offset: add Z or an offset such as +02:00")
    try:
        moment = moment.replace(tzinfo=UTC) - offset
    except OverflowError:
        raise ValueError(f"{text!r} is outside the years 1 to 9999 in UTC") from None
    return (moment - _EPOCH) // _MICROSECOND
