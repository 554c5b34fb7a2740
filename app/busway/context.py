"""What a running attempt can tell the gateway, and ask it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from busway.domain import jsonvalue
from busway.domain.event_fields import accept
from busway.domain.handler import FieldError

_NOT_NAMED = {"specversion", "type", "data", "data_base64"}

Given = str | int | bool | datetime | None


def check(type_: Any, given: Mapping[str, Given]) -> dict[str, str | int | bool]:
    """Check the type and the attributes of an event to publish, by the rule for events from outside.

    Returns:
        The attributes, times as RFC 3339 text, without those that are None.

    Raises:
        ValueError: names the attribute that is not what it must be.
    """
    named = {str.__str__(name): value for name, value in given.items() if value is not None}
    attributes = {name: _plain(name, value) for name, value in named.items()}
    try:
        accept({"type": _plain("type", type_), **attributes}, None, 0)
    except FieldError as problem:
        raise ValueError(f"{problem.field}: {problem}") from None
    return attributes


def check_size(type_: str, data: bytes | None, most: int) -> int:
    """Return how many bytes the data of an event to publish has.

    Raises:
        ValueError: more than `most`.
    """
    size = len(data or b"")
    if size > most:
        raise ValueError(f"the data published as {type_!r} has {size} bytes, and an event at most {most}")
    return size


def _plain(name: str, value: Any) -> Any:
    if name in _NOT_NAMED and name != "type":
        raise ValueError(f"{name} cannot be given as an attribute")
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{name} is a datetime without a zone: use datetime.now(UTC)")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str):
        return _unicode(name, str.__str__(value))
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _unicode(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is text that is not Unicode (a lone surrogate)") from None
    return value


class AttemptPort(Protocol):
    """The worker's side of one attempt."""

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled or its time is up."""

    def publish(
        self, type_: str, data: bytes | None, binary: bool, attributes: dict[str, str | int | bool]
    ) -> None:
        """Keep an event until the attempt succeeds."""

    def progress(self, data: bytes) -> None:
        """Send a partial result."""

    def note(self, text: str) -> None:
        """Keep text with the attempt's log."""


class Context:
    """The attempt that a target is called for.

    Attributes:
        run: the run's number.
        attempt: which try of the run this is, from 1.
        handler: the handler's name.
        revision: the handler's revision.
    """

    __slots__ = ("_log", "_port", "attempt", "handler", "revision", "run")

    def __init__(self, *, run: int, attempt: int, handler: str, revision: int, port: AttemptPort) -> None:
        self.run = run
        self.attempt = attempt
        self.handler = handler
        self.revision = revision
        self._port = port
        self._log: logging.Logger | None = None

    def publish(
        self,
        type: str,  # noqa: A002 - the attribute's name
        data: Any = None,
        **attributes: str | int | bool | datetime | None,
    ) -> None:
        """Publish an event if and when this attempt succeeds, in the same transaction.

        Args:
            type: the event's type.
            data: JSON or bytes; None: the event has no data.
            attributes: `id`, `source`, `subject`, `time`, `datacontenttype` or extension attributes.

        Raises:
            TypeError: a value is not JSON.
            ValueError: the type or an attribute is not what it must be; names it.
        """
        checked, plain = check(type, attributes), str.__str__(type)
        if data is None:
            self._port.publish(plain, None, False, checked)
        else:
            self._port.publish(plain, *jsonvalue.encode(data, f"the data published as {plain!r}"), checked)

    def progress(self, fraction: float, note: str | None = None) -> None:
        """Send how far the attempt is as a partial result.

        Of reports that come faster than they can be stored only the newest is sent.

        Raises:
            ValueError: `fraction` is not a finite number, or `note` is not text.
        """
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not math.isfinite(fraction):
            raise ValueError(f"progress is a number such as 0.5, not {fraction!r}")
        if note is not None and not isinstance(note, str):
            raise ValueError(f"the note of a progress report is text, not {note!r}")
        data, _ = jsonvalue.encode({"progress": fraction, "note": note}, "the progress")
        self._port.progress(data)

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines are kept with the attempt."""
        if self._log is None:
            self._log = logging.Logger(f"busway.handler.{self.handler}", logging.DEBUG)
            self._log.addHandler(_Notes(self._port))
        return self._log

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled or its time is up: end soon, it is killed otherwise."""
        return self._port.cancelled


class _Notes(logging.Handler):
    """Writes log lines into the attempt's log."""

    def __init__(self, port: AttemptPort) -> None:
        super().__init__()
        self._port = port
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        try:
            self._port.note(self.format(record) + "\n")
        except Exception:  # noqa: BLE001,RUF100 - as every logging handler does: a bad format never breaks the caller
            self.handleError(record)
