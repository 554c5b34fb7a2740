"""A hub that makes spans of what it sends to subscribers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec

from busway.domain.result import Kind
from busway.gateway.store.port.commits import Committed
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.ring import Piece
from busway.gateway.subscribers.session import Subscription
from busway.gateway.subscribers.sinks import Sink
from busway.gateway.traces.tracer import Delivered, EventTrace, Tracer

KEPT = 4096  # results whose traces are known
MOST = 16  # subscribers of one result that have spans


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


class TracedHub(Hub):
    """Pushes results, as `Hub` does. A partial has no span: an attempt may have very many."""

    def __init__(self, tracer: Tracer, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._tracer = tracer
        self._known: OrderedDict[tuple[int, int], _Known] = OrderedDict()
        self._noted: Piece | None = None
        self._items: list[tuple[_Known, Delivered]] = []

    def committed(self, commit: Committed) -> None:
        """Keep the traces of results for a while, and queue the commit."""
        now = self._tracer.now()
        for result, event in commit.results:
            if result.kind is not Kind.PARTIAL:
                self._known[result.run, result.attempt] = _Known(self._tracer.of(event), now)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        super().committed(commit)

    async def read(self, subscription: Subscription) -> Piece | None:
        """Return the next piece for a lagging subscription."""
        piece = await super().read(subscription)
        if piece is not None:
            self._note(subscription, piece)
        return piece

    def _sent(self, subscription: Subscription, sink: Sink, piece: Piece) -> bool:
        taken = super()._sent(subscription, sink, piece)
        if taken:
            self._note(subscription, piece)
        return taken

    def _note(self, subscription: Subscription, piece: Piece) -> None:
        if piece is not self._noted:  # very many subscriptions may get it
            self._noted, self._items = piece, [*self._traced(piece)]
        now, name = self._tracer.now(), subscription.durable or subscription.id
        for known, item in self._items:
            if known.deliveries < MOST:
                known.deliveries += 1
                self._tracer.delivered(known.place, item, name, (known.at, now))

    def _traced(self, piece: Piece) -> Iterator[tuple[_Known, Delivered]]:
        for text in piece.items:
            item, encoded = _item(text), text
            if not item.run and item.data:  # a CloudEvent with the result in it
                item, encoded = _item(item.data), bytes(item.data)
            known = None if item.kind == Kind.PARTIAL else self._known.get((item.run, item.attempt))
            if known is not None and known.deliveries < MOST:
                yield known, _delivered(encoded)
