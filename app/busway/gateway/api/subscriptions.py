"""Routes for durable subscriptions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from busway.contract.results import DurableSubscription, DurableSubscriptionList
from busway.domain import cursor
from busway.gateway.api import answers
from busway.gateway.api.access import needs
from busway.gateway.api.answers import After, Limit, when
from busway.gateway.api.describing import answers as described
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import NotFound
from busway.gateway.store.port.reader import DurableRecord

router = APIRouter(prefix="/v1/subscriptions", tags=["results"])

_NONE = (
    "The durable subscription does not exist.",
    "durable subscription 'biling' does not exist: GET /v1/subscriptions lists them",
)
_IN_USE = (
    "A subscription uses the name.",
    "a subscription uses the durable name 'billing': unsubscribe it first",
)


@router.get(
    "",
    summary="List durable subscriptions",
    dependencies=needs("subscribe"),
    responses=described(DurableSubscriptionList, "A page of durable subscriptions."),
)
async def list_subscriptions(stages: StagesDep, limit: Limit = 100, after: After = None) -> Response:
    """Returns durable subscriptions by name.

    Subscribing with `durable` over a WebSocket creates one. It exists until it is deleted.
    """
    found = await stages.reader.durables(after or "", limit + 1)
    shown = [_shown(stages, record) for record in found]
    return answers.part(stages, shown, limit, lambda durable, _: durable.name)


@router.delete(
    "/{name:path}",
    status_code=204,
    summary="Delete a durable subscription",
    dependencies=needs("subscribe"),
    responses=described(
        None,
        "The durable subscription is deleted.",
        status=204,
        problems={404: _NONE, 409: _IN_USE},
    ),
)
async def delete_subscription(
    stages: StagesDep, name: Annotated[str, Path(description="The durable name.", examples=["billing"])]
) -> Response:
    """Deletes its acknowledged cursor. The status is 409 while a subscription uses the name."""
    if not await stages.hub.durables.delete(name):
        raise NotFound(f"durable subscription {name!r} does not exist: GET /v1/subscriptions lists them")
    return Response(status_code=204)


def _shown(stages: Stages, record: DurableRecord) -> DurableSubscription:
    return DurableSubscription(
        name=record.name,
        cursor=cursor.encode(stages.hub.epoch, record.position),
        behind=max(0, stages.hub.latest.number - record.position.number),
        connected=stages.hub.durables.in_use(record.name),
        created_at=when(record.created_at),
        acknowledged_at=when(record.acknowledged_at),
    )
