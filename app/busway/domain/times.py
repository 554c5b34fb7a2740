"""Conversion between internal times (integers, microseconds since 1970 in UTC) and RFC 3339 text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND, _SECOND = timedelta(microseconds=1), timedelta(seconds=1)
_SHOWN = 60  # characters of a wrong time in messages
_FORM = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]((?:[01][0-9]|2[0-3]):[0-9]{2}:)([0-9]{2})(?:\.([0-9]+))?"
    r"(?:([Zz])|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))?"
)
SECOND = 1_000_000
_FIRST, _LAST = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND - 1  # the years 1 to 9999


def to_text(us: int) -> str:
    """Return microseconds since 1970 as RFC 3339 text in UTC, such as `2026-01-31T12:00:00.000001Z`.

    A time outside the years 1 to 9999 becomes the first or the last one that can be written.
    """
    if not _FIRST <= us <= _LAST:
        us = _FIRST if us < _FIRST else _LAST
    return (_EPOCH + us * _MICROSECOND).isoformat(timespec="microseconds")[:-6] + "Z"


def can_show(us: int) -> bool:
    """Return whether a time is in the years 1 to 9999."""
    return _FIRST <= us <= _LAST


def from_text(text: str) -> int:
    """Return an RFC 3339 time, with any offset, as microseconds since 1970.

    Digits after the sixth of the fraction are cut. Second 60, a leap second, is the next second.

    Raises:
        ValueError: the text is not an RFC 3339 time or has no offset.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise _wrong(text)
    date, clock, second, fraction, utc, sign, hours, minutes = form.groups()
    if utc is None and sign is None:
        raise ValueError(f"{_cut(text)} has no offset: add Z or an offset such as +02:00")
    leap = second == "60"
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{'59' if leap else second}+00:00")
    except ValueError:
        raise _wrong(text) from None
    seconds = (moment - _EPOCH) // _SECOND + leap
    if sign is not None:
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds += offset if sign == "-" else -offset
    found = seconds * SECOND + int((fraction or "")[:6].ljust(6, "0"))
    if not can_show(found):
        raise ValueError(f"{_cut(text)} is outside the years 1 to 9999 in UTC")
    return found


def _wrong(text: str) -> ValueError:
    return ValueError(f"{_cut(text)} is not an RFC 3339 time: write it like 2026-01-31T12:00:00Z")


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
