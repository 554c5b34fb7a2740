"""The route for the result log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from busway.contract.problems import BadField
from busway.contract.results import ItemList
from busway.domain.text import JSONError, decode_json
from busway.gateway.api import answers
from busway.gateway.api.access import needs
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
    stages: StagesDep,
    after: Annotated[str | None, Query(description="A cursor. The default is the oldest available.")] = None,
    types: Annotated[list[str] | None, Query(description="Type patterns of the results' events.")] = None,
    handlers: Annotated[list[str] | None, Query(description="Names of handlers.")] = None,
    kinds: Annotated[list[str] | None, Query(description="Kinds of result, or `completed`.")] = None,
    correlationid: Annotated[str | None, Query(description="The exact correlation id.")] = None,
    filter: Annotated[  # noqa: A002 - as in subscriptions
        str | None, Query(description="A filter as JSON: only results of events that match.")
    ] = None,
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
    limit: Limit = 100,
) -> Response:
    """Returns results, oldest first. To get later results, send the `cursor` of the answer as `after`.

    The status is 410 if results after the cursor are no longer available (`--retention`, another log, a
    restored backup). Then start again without `after`, or with `latest`.
    """
    if last is not None and after is not None:
        raise Invalid.of([BadField(["query", "last"], "last and after exclude one another: send one")])
    if last is None and before is not None:
        raise Invalid.of([BadField(["query", "before"], "before needs last: the number of results")])
    wanted = {
        "types": types,
        "handlers": handlers,
        "kinds": kinds,
        "correlationid": correlationid,
        "filter": _filter(filter),
    }
    with stages.answers.hold(answers.PAGE_BYTES):
        if last is None:
            return answers.json(await results_page(stages.hub, wanted, after=after, limit=limit))
        return answers.json(await last_page(stages.hub, wanted, before=before, last=last))


def _filter(text: str | None) -> Any:
    try:
        return None if text is None else decode_json(text.encode())
    except (JSONError, UnicodeEncodeError):
        raise BadFilter.of(
            [BadField(["query", "filter"], 'filter must be JSON, such as {"exact": {"subject": "x"}}')]
        ) from None
