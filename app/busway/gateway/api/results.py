"""The route for the result log."""

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
    summary="List results",
    dependencies=needs("subscribe"),
    responses=described(ItemList, "A page of results.", problems={410: None}),
)
async def list_results(
    stages: StagesDep,
    after: Annotated[str | None, Query(description="A cursor. The default is the oldest available.")] = None,
    types: Annotated[list[str] | None, Query(description="Type patterns of the results' events.")] = None,
    handlers: Annotated[list[str] | None, Query(description="Names of handlers.")] = None,
    kinds: Annotated[list[str] | None, Query(description="Kinds of result, or `completed`.")] = None,
    limit: Limit = 100,
) -> Response:
    """Returns results, oldest first. To get later results, send the `cursor` of the answer as `after`.

    The status is 410 if results after the cursor are no longer available (`--retention`, another log, a
    restored backup). Then start again without `after`, or with `latest`.
    """
    with stages.answers.hold(answers.PAGE_BYTES):
        found = await results_page(
            stages.hub, after=after, types=types, handlers=handlers, kinds=kinds, limit=limit
        )
        return answers.json(found)
