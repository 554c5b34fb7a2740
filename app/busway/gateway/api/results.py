"""The route for the result log."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from busway.contract.problems import BadField
from busway.contract.results import ItemList
from busway.domain.text import JSONError, decode_json
from busway.gateway.api import answers
from busway.gateway.api.access import HolderDep, needs
from busway.gateway.api.answers import Limit
from busway.gateway.api.describing import answers as described
from busway.gateway.api.stages import StagesDep
from busway.gateway.errors import BadFilter, Invalid
from busway.gateway.subscribers.page import last_page, results_page

router = APIRouter(prefix="/v1/results", tags=["results"])


@router.get(
    "",
    summary="List results",
    dependencies=needs("subscribe"),
    responses=described(ItemList, "A page of results.", problems={410: None}),
)
async def list_results(
    request: Request,
    stages: StagesDep,
    access: HolderDep,
    after: Annotated[str | None, Query(description="A cursor. The default is the oldest available.")] = None,
    types: Annotated[list[str] | None, Query(description="Type patterns of the results' events.")] = None,
    handlers: Annotated[list[str] | None, Query(description="Names of handlers.")] = None,
    kinds: Annotated[list[str] | None, Query(description="Kinds of result, or `completed`.")] = None,
    correlationid: Annotated[str | None, Query(description="The exact correlation id.")] = None,
    filter: Annotated[  # noqa: A002 - as in subscriptions
        str | None, Query(description="A filter as JSON: only results of events that match.")
    ] = None,
    shadow: Annotated[bool, Query(description="Whether to add the results of shadow replays.")] = False,
    last: Annotated[
        int | None,
        Query(
            description="Return this many of the newest results. `next` is the `before` of the page "
            "with older ones.",
            ge=1,
            le=1000,
        ),
    ] = None,
    before: Annotated[str | None, Query(description="With `last`: a cursor. Only results up to it.")] = None,
    wait: Annotated[
        int,
        Query(description="Seconds to wait for the first result that matches. Not with `last`.", ge=0, le=60),
    ] = 0,
    limit: Limit = 100,
) -> Response:
    """Returns results, oldest first. To get later results, send the `cursor` of the answer as `after`.

    With `wait` this is a long poll: it answers as soon as there is a result that matches, and with an empty
    page when the time is up or the gateway stops. Every answer has a `cursor` to continue from.

    The status is 410 if results after the cursor are no longer available (`--retention`, another log, a
    restored backup). Then start again without `after`, or with `latest`.
    """
    if last is not None and after is not None:
        raise Invalid.of([BadField(["query", "last"], "last and after exclude one another: send one")])
    if last is None and before is not None:
        raise Invalid.of([BadField(["query", "before"], "before needs last: the number of results")])
    if last is not None and wait:
        raise Invalid.of([BadField(["query", "wait"], "last and wait exclude one another: send one")])
    wanted = {
        "types": types,
        "handlers": handlers,
        "kinds": kinds,
        "correlationid": correlationid,
        "filter": _filter(filter),
        "shadow": shadow,
    }
    within = access.types
    if wait:
        with stages.waits.polls.begin(access) as poll:
            gone = asyncio.ensure_future(_gone(request))
            gone.add_done_callback(lambda _: poll.close())
            try:
                return answers.json(await poll.page(wanted, after=after, limit=limit, seconds=wait))
            finally:
                gone.cancel()
    with stages.answers.hold(answers.PAGE_BYTES):
        if last is None:
            page = await results_page(stages.hub, wanted, after=after, limit=limit, within=within)
        else:
            page = await last_page(stages.hub, wanted, before=before, last=last, within=within)
        return answers.json(page)


async def _gone(request: Request) -> None:
    """Wait until the client sends no more or is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _filter(text: str | None) -> Any:
    try:
        return None if text is None else decode_json(text.encode())
    except (JSONError, UnicodeEncodeError):
        raise BadFilter.of(
            [BadField(["query", "filter"], 'filter must be JSON, such as {"exact": {"subject": "x"}}')]
        ) from None
