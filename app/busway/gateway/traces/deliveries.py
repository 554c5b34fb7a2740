"""Makes spans of what is sent to clients."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from busway.domain.result import Kind
from busway.gateway.store.port.commits import Committed
from busway.gateway.traces.tracer import Delivered, EventTrace, Tracer

KEPT = 4096  # results whose traces are known
MOST = 16  # clients of one result that have spans


class _Item(msgspec.Struct):
    """A result, or a CloudEvent with the result in `data`."""

    kind: str = ""
    run: int = 0
    attempt: int = 0
    data: msgspec.Raw = msgspec.Raw()


_item, _delivered = msgspec.json.Decoder(_Item).decode, msgspec.json.Decoder(Delivered).decode


class _Known(msgspec.Struct):
    place: EventTrace
    at: int
    deliveries: int = 0


class DeliverySpans:
    """Makes the spans of results that were sent. A partial has none: an attempt may have very many."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._known: OrderedDict[tuple[int, int], _Known] = OrderedDict()
        self._noted: list[bytes] | None = None
        self._items: list[tuple[_Known, Delivered]] = []

    def committed(self, commit: Committed) -> None:
        """Keep the traces of results for a while. A listener of commits."""
        now = self._tracer.now()
        for result, event in commit.results:
            if result.kind is not Kind.PARTIAL and not self._tracer.is_unsampled(event.attributes):
                self._known[result.run, result.attempt] = _Known(self._tracer.of(event), now)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    def sent(self, items: list[bytes], name: str | None) -> None:
        """Make the spans of results that a client got. An `Observer` of the hub."""
        if not self._known:
            return
        if items is not self._noted:  # very many subscriptions may get it
            self._noted, self._items = items, [*self._traced(items)]
        now = self._tracer.now()
        for known, item in self._items:
            if known.deliveries < MOST:
                known.deliveries += 1
                self._tracer.delivered(known.place, item, name, (known.at, now))

    def _traced(self, items: list[bytes]) -> Iterator[tuple[_Known, Delivered]]:
        for text in items:
            item, encoded = _item(text), text
            if not item.run and item.data:  # a CloudEvent with the result in it
                item, encoded = _item(item.data), bytes(item.data)
            known = None if item.kind == Kind.PARTIAL else self._known.get((item.run, item.attempt))
            if known is not None and known.deliveries < MOST:
                yield known, _delivered(encoded)
