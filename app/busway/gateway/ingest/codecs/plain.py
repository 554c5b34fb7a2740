"""Plain JSON: one event or an array of events, of which only the type is required."""

from __future__ import annotations

from busway.contract.events import EventIn
from busway.contract.schemas import ref
from busway.gateway.ingest.codecs.port import Codec, Headers
from busway.gateway.ingest.reading import MAX_EVENTS, Read, Take, is_array, read_array, read_one
from busway.gateway.turns import Steps


def _read(_: Headers, body: bytes, now: int, max_event_bytes: int, take: Take | None) -> Steps[Read]:
    read = read_one if body[:1] == b"{" or not is_array(body) else read_array
    return read(body, now, max_event_bytes, take)


_MANY = {"type": "array", "items": ref(EventIn), "minItems": 1, "maxItems": MAX_EVENTS}
PLAIN = Codec(
    "application/json",
    _read,
    {"anyOf": [ref(EventIn), _MANY]},
    {"type": "order.created", "data": {"item": "book", "quantity": 2}},
)
