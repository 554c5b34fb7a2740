"""The route for connected subscribers."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Response

from busway.contract import service as shapes
from busway.gateway.access.scopes import Access
from busway.gateway.api import answers
from busway.gateway.api.access import needs
from busway.gateway.api.answers import After, Limit
from busway.gateway.api.describing import answers as described
from busway.gateway.api.stages import StagesDep
from busway.gateway.subscribers.session import Subscription

router = APIRouter(prefix="/v1/subscribers", tags=["results"])


@router.get(
    "",
    summary="List connected subscribers",
    dependencies=needs("subscribe", "handlers:read", unlimited=True),
    responses=described(shapes.FollowerList, "A page of open subscriptions."),
)
async def list_subscribers(stages: StagesDep, limit: Limit = 100, after: After = None) -> Response:
    """Returns the subscriptions that are open on the node that answers, the slowest first.

    They change while a client reads one page after the other.
    """
    hub = stages.hub
    found = [
        (0 if each.live else hub.latest.number - each.position, number, sink.access, each)
        for number, sink, each in hub.followers()
    ]
    found.sort(key=lambda one: (-one[0], one[1]))
    start = answers.number(after) or 0
    shown = [_follower(*one) for one in found[start : start + limit + 1]]
    return answers.part(stages, shown, limit, lambda _, count: str(start + count))


def _follower(behind: int, connection: int, access: Access, subscription: Subscription) -> shapes.Follower:
    selection = subscription.selection
    return shapes.Follower(
        connection=connection,
        id=subscription.id,
        durable=subscription.durable,
        key=access.key,
        name=access.name or None,
        types=[*selection.types],
        handlers=sorted(selection.handlers),
        kinds=sorted(selection.kinds),
        correlationid=selection.correlationid,
        filter=None if selection.filter is None else msgspec.json.decode(selection.filter),
        shadow=selection.shadow,
        live=subscription.live,
        behind=behind,
    )
