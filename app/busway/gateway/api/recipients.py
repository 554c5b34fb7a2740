"""The route for who has the results of an event. Nothing is recorded for it: it follows from positions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from busway.contract import service as shapes
from busway.domain.event import Event
from busway.domain.pattern import matcher
from busway.domain.result import Result
from busway.gateway.access.scopes import Access
from busway.gateway.api import answers
from busway.gateway.api.access import needs
from busway.gateway.api.answers import PAGE_BYTES, READ_BYTES, when
from busway.gateway.api.describing import answers as described
from busway.gateway.api.paths import NUMBER
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import NotFound
from busway.gateway.store.port.reader import DurableRecord
from busway.gateway.subscribers.encoding import Entry
from busway.gateway.subscribers.selection import Selection, compiled, predicate
from busway.gateway.subscribers.session import Subscription

router = APIRouter(prefix="/v1/events", tags=["results"])

MOST_RESULTS = 100
MOST_NAMES = 500
MOST_ITEMS = 500
COMPARISONS = 20_000  # in one turn of the loop, which is all
_GONE = (
    "The event does not exist, or it was finished and deleted after `--retention`.",
    "event 99 does not exist, or was deleted after --retention: GET /v1/events lists events",
)
Seq = Annotated[int, Path(description="The event's number.", ge=1, lt=1 << 63, examples=[1])]


@router.get(
    f"/{{seq:{NUMBER}}}/subscribers",
    summary="List subscribers that have the results of an event",
    dependencies=needs("subscribe", "handlers:read", unlimited=True),
    responses=described(shapes.Recipients, "The subscribers.", problems={404: _GONE}),
)
async def list_recipients(stages: StagesDep, seq: Seq) -> Response:
    """Returns durable names, and the open subscriptions of one node that select a result of the event.

    It looks at the last result of each run. What a durable name selects is known only while a subscription
    of the node uses it; what it has acknowledged is always known.
    """
    event = await stages.reader.event(seq)
    if event is None:
        raise NotFound(
            f"event {seq} does not exist, or was deleted after --retention: GET /v1/events lists events"
        )
    with stages.answers.hold(PAGE_BYTES):
        found = await stages.reader.outcomes(seq, MOST_RESULTS, READ_BYTES)
        names = await stages.reader.durables("", MOST_NAMES + 1) if found.results else []
        look = _Look(stages, event, found.results, {each.name: each for each in names[:MOST_NAMES]})
        items = [*look.connected(), *look.away()] if found.results else []
        items.sort(key=_lacks, reverse=True)
        more = look.truncated or found.truncated or len(names) > MOST_NAMES or len(items) > MOST_ITEMS
        return answers.json(shapes.Recipients(len(found.results), found.unfinished, items[:MOST_ITEMS], more))


def _lacks(one: shapes.Recipient) -> bool:
    return (one.selected or 0) > (one.received or 0)


class _Look:
    """Finds who has these results. Durable names that it finds connected are taken out of `names`."""

    def __init__(
        self, stages: Stages, event: Event, results: list[Result], names: dict[str, DurableRecord]
    ) -> None:
        self._hub, self._event, self._names = stages.hub, event, names
        self._entries = [Entry(result, event) for result in results]
        self._chosen: dict[Selection, list[Result]] = {}
        self._left = COMPARISONS
        self.truncated = False

    def connected(self) -> list[shapes.Recipient]:
        """Return the open subscriptions that select a result."""
        found = []
        for number, sink, subscription in self._hub.followers():
            self._left -= 1
            if self._left < 0:
                self.truncated = True
                break
            name = None if subscription.durable is None else self._names.pop(subscription.durable, None)
            if chosen := self._choose(subscription.selection):
                found.append(self._recipient(number, sink.access, subscription, chosen, name))
        return found

    def away(self) -> list[shapes.Recipient]:
        """Return the durable names that no subscription of this node uses, if their key may see the event."""
        return [
            shapes.Recipient(
                connection=None,
                id=None,
                durable=record.name,
                name=None,
                selected=None,
                received=None,
                pushed_at=None,
                since=None,
                acknowledged=self._acknowledged(record),
                acknowledged_at=when(record.acknowledged_at),
            )
            for record in self._names.values()
            if not record.types or matcher(record.types)(self._event.type)
        ]

    def _choose(self, selection: Selection) -> list[Result]:
        chosen = self._chosen.get(selection)
        if chosen is None:
            self._left -= compiled(selection).cost * len(self._entries)
            matches = predicate(selection)
            chosen = self._chosen[selection] = [each.result for each in self._entries if matches(each)]
        return chosen

    def _recipient(
        self,
        connection: int,
        access: Access,
        subscription: Subscription,
        chosen: list[Result],
        record: DurableRecord | None,
    ) -> shapes.Recipient:
        live = subscription.live
        position = self._hub.latest.number if live else subscription.position
        received = [each for each in chosen if subscription.first < each.number <= position]
        pushed = [each.time for each in received if live and each.time >= subscription.live_since]
        return shapes.Recipient(
            connection=connection,
            id=subscription.id,
            durable=subscription.durable,
            name=access.name or None,
            selected=len(chosen),
            received=len(received),
            pushed_at=when(max(pushed, default=None)),
            since=when(subscription.since),
            acknowledged=None if record is None else self._acknowledged(record),
            acknowledged_at=None if record is None else when(record.acknowledged_at),
        )

    def _acknowledged(self, record: DurableRecord) -> int:
        return sum(
            entry.result.number <= record.position.number and entry.result.time >= record.created_at
            for entry in self._entries
        )
