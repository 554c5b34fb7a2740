"""Routes for durable subscriptions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from busway.contract.results import DurableSubscription, DurableSubscriptionList
from busway.domain import cursor
from busway.gateway.access.scopes import Access
from busway.gateway.api import answers
from busway.gateway.api.access import HolderDep, needs
from busway.gateway.api.answers import READ_ROWS, After, Limit, when
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
async def list_subscriptions(
    stages: StagesDep, access: HolderDep, limit: Limit = 100, after: After = None
) -> Response:
    """Returns durable subscriptions by name.

    Subscribing with `durable` over a WebSocket creates one. It exists until it is deleted. A key that is
    limited to type patterns gets those of keys with the same patterns.
    """
    found = await _read(stages, access, after or "", limit + 1)
    shown = [_shown(stages, record) for record in found]
    return answers.part(stages, shown, limit, lambda durable, _: durable.name)


@router.delete(
    "/{name:path}",
    status_code=204,
    summary="Delete a durable subscription",
    dependencies=needs("subscribe", audit="subscription.deleted"),
    responses=described(
        None,
        "The durable subscription is deleted.",
        status=204,
        problems={404: _NONE, 409: _IN_USE},
    ),
)
async def delete_subscription(
    stages: StagesDep,
    access: HolderDep,
    name: Annotated[str, Path(description="The durable name.", examples=["billing"])],
) -> Response:
    """Deletes its acknowledged cursor. The status is 409 while a subscription uses the name."""
    record = await stages.reader.durable(name) if access.types else None
    hidden = record is not None and record.types != access.types
    if hidden or not await stages.hub.durables.delete(name):
        raise NotFound(f"durable subscription {name!r} does not exist: GET /v1/subscriptions lists them")
    return Response(status_code=204)


async def _read(stages: Stages, access: Access, after: str, limit: int) -> list[DurableRecord]:
    """Return the durable subscriptions behind a name that a key may use. All of them are few."""
    if not access.types:
        return await stages.reader.durables(after, limit)
    kept: list[DurableRecord] = []
    while len(kept) < limit and (found := await stages.reader.durables(after, READ_ROWS)):
        kept += [record for record in found if record.types == access.types]
        after = found[-1].name
    return kept[:limit]


def _shown(stages: Stages, record: DurableRecord) -> DurableSubscription:
    return DurableSubscription(
        name=record.name,
        cursor=cursor.encode(stages.hub.epoch, record.position),
        behind=max(0, stages.hub.latest.number - record.position.number),
        connected=stages.hub.durables.in_use(record),
        created_at=when(record.created_at),
        acknowledged_at=when(record.acknowledged_at),
    )
