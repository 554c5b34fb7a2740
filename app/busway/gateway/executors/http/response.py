"""What an answer means for its attempt."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec

from busway.domain.cloudevents import declares_json
from busway.domain.run import Error, Outcome
from busway.domain.text import is_json

MOST_WAIT = 86_400.0  # seconds of `Retry-After` that count
GONE_WAIT = 5.0  # seconds until a run may start again whose target is gone: the handler is paused by then
EXCERPT = 200  # characters of a body in an error
EXCERPT_BYTES = 4_096  # bytes that are read of the body of an answer that failed
_LOCATION = 500  # characters
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)
_WAITS = frozenset({429, 503})
GONE = 410


class Answer(msgspec.Struct, kw_only=True):
    """What an attempt reports: fields as in `Ended`. `gone`: the receiver wants no more events."""

    outcome: Outcome
    data: bytes | None = None
    binary: bool = False
    error: Error | None = None
    retry_after: float | None = None
    gone: bool = False


def read_answer(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Answer:
    """Return what an answer means.

    Args:
        status: of the answer.
        headers: of the answer, in any case.
        body: all of it if the status is 2xx, or its beginning.
    """
    found = {name.lower(): value for name, value in headers}
    if 200 <= status < 300:
        data, binary = _value(_text(found, b"content-type"), b"content-encoding" in found, body)
        return Answer(outcome=Outcome.SUCCEEDED, data=data, binary=binary)
    answered = f"the target answered {_named(status)}"
    if 300 <= status < 400:
        place = _text(found, b"location")[:_LOCATION]
        why = f"{answered}, which is not followed: set the handler's target to {place or 'the right URL'}"
        return failed("HTTPStatus", why)
    if status == GONE:
        why = f"{answered}, so its handler was paused: change the target, or resume it"
        return msgspec.structs.replace(failed("HTTPStatus", why), retry_after=GONE_WAIT, gone=True)
    wait = _retry_after(_text(found, b"retry-after")) if status in _WAITS else None
    excerpt = _excerpt(body)
    why = f"{answered}: {excerpt}" if excerpt else answered
    return msgspec.structs.replace(failed("HTTPStatus", why), retry_after=wait)


def failed(kind: str, why: str) -> Answer:
    """Return the report of an attempt that failed."""
    return Answer(outcome=Outcome.FAILED, error=Error(kind, why))


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    value = headers.get(name, b"").decode("utf-8", "replace").strip()
    return "".join(each if each.isprintable() else "\ufffd" for each in value)


def _value(content_type: str, encoded: bool, body: bytes) -> tuple[bytes, bool]:
    """Return the result that a body is, and whether it is binary instead of JSON text."""
    if not body:
        return b"null", False
    media_type = content_type.partition(";")[0].strip().lower()
    if encoded or not (declares_json(media_type) or media_type.startswith("text/") or not media_type):
        return body, True
    if (declares_json(media_type) or not media_type) and is_json(body):
        return body, False
    try:
        return msgspec.json.encode(body.decode()), False
    except UnicodeDecodeError:
        return body, True


def _retry_after(value: str) -> float | None:
    """Return the seconds that `Retry-After` asks for, None if it does not."""
    if _SECONDS.fullmatch(value):
        return min(float(value), MOST_WAIT)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, until - time.time()), MOST_WAIT)


def _excerpt(body: bytes) -> str:
    text = body[: EXCERPT * 4].decode("utf-8", "replace")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:EXCERPT]
