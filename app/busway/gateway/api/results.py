"""The result log over HTTP, oldest first."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from busway.contract.results import ItemList
from busway.gateway.api import answers
from busway.gateway.api.access import needs
from busway.gateway.api.answers import Limit
from busway.gateway.api.describing import answers as described
from busway.gateway.api.stages import StagesDep
from busway.gateway.subscribers.page import results_page

router = APIRouter(prefix="/v1/results", tags=["results"])


@router.get(
    "",
    summary="Read the result log, oldest first",
    dependencies=needs("subscribe"),
    responses=described(ItemList, "A page of results.", problems={410: None}),
)
async def list_results(
    stages: StagesDep,
    after: Annotated[str | None, Query(description="a cursor; without one, from the oldest kept")] = None,
    types: Annotated[list[str] | None, Query(description="type patterns of the results' events")] = None,
    handlers: Annotated[list[str] | None, Query(description="only of these handlers")] = None,
    kinds: Annotated[list[str] | None, Query(description="only of these kinds, or `completed`")] = None,
    limit: Limit = 100,
) -> Response:
    """`cursor` is where to go on from, also when `next` is null: ask again with it later.

    A cursor whose place is no longer in the log (`--retention`, another log, a restored backup) gets
    410: begin again without `after`, or with `latest`.
    """
    return answers.json(
        await results_page(stages.hub, after=after, types=types, handlers=handlers, kinds=kinds, limit=limit)
    )
