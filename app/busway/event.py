"""The event that a handler function receives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic

import msgspec

from busway.domain import event as domain

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Data_co = TypeVar("Data_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    Data_co = TypeVar("Data_co", covariant=True)

_UNREAD: Any = object()
_decode = msgspec.json.decode  # handler code may replace that of the module
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Event(Generic[Data_co]):
    """An immutable event. The payload is decoded when `data` is first read.

    A handler whose parameter has the annotation `Event[Order]` gets `data` as an `Order`: a pydantic model, a
    msgspec struct, a dataclass, or another type that can be converted from JSON.
    """

    __slots__ = ("_data", "_stored")

    def __init__(self, stored: domain.Event, data: Any = _UNREAD) -> None:
        self._stored = stored
        self._data = data

    @property
    def data(self) -> Data_co:
        """The payload: decoded JSON, `bytes` if it is binary, or None. An `Order` in an `Event[Order]`."""
        if self._data is _UNREAD:
            raw = self._stored.data
            self._data = raw if raw is None or self._stored.binary else _decode(raw)
        data: Data_co = self._data
        return data

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


def converted(event: Event[Any], convert: Callable[[domain.Event], Any]) -> Event[Any]:
    """Return an event whose `data` is what `convert` returns."""
    stored = event._stored  # noqa: SLF001 - the class is of this module
    return Event(stored, convert(stored))
