"""The event that a handler function receives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from busway.domain import event as domain

_UNREAD = object()
_decode = msgspec.json.decode  # handler code may replace that of the module
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Event:
    """An immutable event. The payload is decoded when `data` is first read."""

    __slots__ = ("_data", "_stored")

    def __init__(self, stored: domain.Event) -> None:
        self._stored = stored
        self._data: Any = _UNREAD

    @property
    def data(self) -> Any:
        """The decoded JSON, or `bytes` if the payload is binary, or None."""
        if self._data is _UNREAD:
            raw = self._stored.data
            self._data = raw if raw is None or self._stored.binary else _decode(raw)
        return self._data

    @property
    def id(self) -> str:
        """The id. `source` and `id` together are unique."""
        return self._stored.id

    @property
    def type(self) -> str:
        """The type, such as `order.created`."""
        return self._stored.type

    @property
    def source(self) -> str:
        """The source of the event."""
        return self._stored.source

    @property
    def subject(self) -> str | None:
        """The subject of the event, or None."""
        return self._stored.subject

    @property
    def time(self) -> datetime:
        """The time of the event, in UTC."""
        return _EPOCH + timedelta(microseconds=self._stored.time)

    @property
    def datacontenttype(self) -> str | None:
        """The media type of the payload."""
        return self._stored.datacontenttype

    @property
    def attributes(self) -> dict[str, str | int | bool]:
        """The extension attributes, including `correlationid`."""
        return {**self._stored.attributes, "correlationid": self._stored.correlationid}

    def __repr__(self) -> str:
        return f"<Event {self.type} {self.id} from {self.source}>"
