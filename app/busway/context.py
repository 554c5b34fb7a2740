"""The context of an attempt: how a handler function talks to the gateway."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from busway.domain import jsonvalue
from busway.domain.event_fields import accept
from busway.domain.handler import FieldError
from busway.domain.secret_values import Secrets

_NOT_NAMED = {"specversion", "type", "data", "data_base64"}

Given = str | int | bool | datetime | None


def check(type_: Any, given: Mapping[str, Given]) -> dict[str, str | int | bool]:
    """Check the type and the attributes of an event to publish. The rules are those of POST /v1/events.

    Returns:
        The attributes that are not None, with times as RFC 3339 text.

    Raises:
        ValueError: an attribute is invalid. The message names it.
    """
    named = {str.__str__(name): value for name, value in given.items() if value is not None}
    attributes = {name: _plain(name, value) for name, value in named.items()}
    try:
        accept({"type": _plain("type", type_), **attributes}, None, 0)
    except FieldError as problem:
        raise ValueError(f"{problem.field}: {problem}") from None
    return attributes


def check_size(type_: str, data: bytes | None, most: int) -> int:
    """Return the size of an event's data in bytes.

    Raises:
        ValueError: the size exceeds `most`.
    """
    size = len(data or b"")
    if size > most:
        raise ValueError(f"the data published as {type_!r} has {size} bytes: the limit is {most}")
    return size


def _plain(name: str, value: Any) -> Any:
    if name in _NOT_NAMED and name != "type":
        raise ValueError(f"{name} cannot be an attribute")
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{name} is a datetime without a time zone: use datetime.now(UTC)")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str):
        return _unicode(name, str.__str__(value))
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _unicode(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid Unicode: it contains a lone surrogate") from None
    return value


class AttemptPort(Protocol):
    """What a context needs from the worker that runs the attempt."""

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled or its timeout expired."""

    @property
    def secrets(self) -> Secrets:
        """The secrets that handlers may read."""

    def publish(
        self, type_: str, data: bytes | None, binary: bool, attributes: dict[str, str | int | bool]
    ) -> None:
        """Keep an event until the attempt succeeds."""

    def progress(self, data: bytes) -> None:
        """Send a partial result."""

    def note(self, text: str) -> None:
        """Add text to the attempt's log."""


LOG_FORM = "%(levelname)s %(name)s: %(message)s"
"""How a log record looks in the log of an attempt: `WARNING shop.mail: no address`."""


class LogLines(logging.Formatter):
    """Formats a record. Its further lines, such as a traceback, are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return super().format(record).replace("\n", "\n    ")


class Context:
    """The attempt for which a handler function is called.

    Attributes:
        run: the run's number.
        attempt: the number of the attempt, from 1.
        handler: the handler's name.
        revision: the handler's revision.
    """

    __slots__ = ("_log", "_port", "attempt", "handler", "revision", "run")
    _log_form = LOG_FORM

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
        """Publish an event when this attempt succeeds, in the same transaction. Otherwise it is discarded.

        Args:
            type: the event's type.
            data: a value with a JSON form, or bytes; None: the event has no data.
            attributes: `id`, `source`, `subject`, `time`, `datacontenttype` or extension attributes.

        Raises:
            TypeError: the data has no JSON form. The run ends as dead if the handler does not catch it.
            ValueError: the type or an attribute is invalid. The message names it.
        """
        checked, plain = check(type, attributes), str.__str__(type)
        if data is None:
            self._port.publish(plain, None, False, checked)
        else:
            self._port.publish(plain, *jsonvalue.encode(data, f"the data published as {plain!r}"), checked)

    def progress(self, fraction: float, note: str | None = None) -> None:
        """Send the progress of the attempt as a partial result.

        If reports arrive faster than they can be stored, only the newest is sent.

        Raises:
            ValueError: `fraction` is not a finite number, or `note` is not text.
        """
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not math.isfinite(fraction):
            raise ValueError(f"progress must be a finite number such as 0.5, not {fraction!r}")
        if note is not None and not isinstance(note, str):
            raise ValueError(f"the note of a progress report must be a string, not {note!r}")
        data, _ = jsonvalue.encode({"progress": fraction, "note": note}, "the progress")
        self._port.progress(data)

    @property
    def log(self) -> logging.Logger:
        """A logger that writes to the attempt's log."""
        if self._log is None:
            self._log = logging.Logger(self.handler, logging.DEBUG)
            self._log.addHandler(_Notes(self._port, self._log_form))
        return self._log

    @property
    def secrets(self) -> Mapping[str, str]:
        """Secrets by name, from `--secrets-file` and the variables `BUSWAY_SECRET_…` of the gateway.

        Each look-up reads the present value. The values are masked in logs and errors of attempts, but not in
        what a handler returns or publishes. A missing one is a `KeyError` that says where to put it.
        """
        return self._port.secrets

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled or its timeout expired. Return soon, or the attempt is killed."""
        return self._port.cancelled


class _Notes(logging.Handler):
    """Writes log records to the attempt's log."""

    def __init__(self, port: AttemptPort, form: str) -> None:
        super().__init__()
        self._port = port
        self.setFormatter(LogLines(form))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._port.note(self.format(record) + "\n")
        except Exception:  # noqa: BLE001,RUF100 - as every logging handler does: a bad format never breaks the caller
            self.handleError(record)
