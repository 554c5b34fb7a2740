"""Documents the route for Server-Sent Events. `subscribers.sse` serves it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from busway.contract import schemas
from busway.gateway.api.access import needs
from busway.gateway.api.describing import answers as described

router = APIRouter(prefix="/v1/subscribe", tags=["results"])

_EXAMPLE = """\
retry: 1203

event: subscribed
id: 3f8a1c0de5b79264-40-77aa01b2
data: {"cursor":"3f8a1c0de5b79264-40-77aa01b2","recovered":true,"oldest":"3f8a1c0de5b79264-0-00000000"}

id: 3f8a1c0de5b79264-41-9b2f00c7
data: {"cursor":"3f8a1c0de5b79264-41-9b2f00c7","kind":"succeeded","event":{"seq":41,"type":"order.created"}}

event: moved
id: 3f8a1c0de5b79264-57-01c2d3e4
data: {"cursor":"3f8a1c0de5b79264-57-01c2d3e4"}

:

event: close
data: {"code":1012,"reason":"the gateway is restarting: connect again with your cursor"}

"""


class _Events(Response):
    media_type = "text/event-stream"


def _answers() -> Any:
    found = described(None, "The stream. Either side can close it.", problems={400: None, 410: None})
    found[200]["content"] = {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}
    return found


def _parameters() -> list[dict[str, Any]]:
    fields = schemas.components(["Query"])["Query"]["properties"]
    del fields["durable"]  # a stream cannot acknowledge
    parameters = [_parameter(name, "query", field) for name, field in fields.items()]
    return [*parameters, _parameter("Last-Event-ID", "header", {**fields["after"], "description": _LAST})]


def _parameter(name: str, where: str, field: dict[str, Any]) -> dict[str, Any]:
    schema = {key: value for key, value in field.items() if key != "description"}
    found = {"name": name, "in": where, "description": field["description"], "schema": schema}
    return {**found, "example": "earliest"} if (name, where) == ("after", "query") else found


_LAST = "A cursor. It overrides `after`."


@router.get(
    "/sse",
    summary="Subscribe with Server-Sent Events",
    dependencies=needs("subscribe"),
    response_class=_Events,
    responses=_answers(),
    openapi_extra={"parameters": _parameters()},
)
async def follow_results(request: Request) -> Response:
    """The same subscriptions and cursors as the WebSocket, for `EventSource`, `curl -N` and proxies.

    Follow it in a terminal, without buffering (`-N`):

        curl -N 'http://127.0.0.1:8000/v1/subscribe/sse?types=order.*&after=earliest'

    **Execute** on the page /docs shows the first three seconds of the stream, then closes it.

    An event without a name is an item. Its `id` is its cursor. The other events are:

    - `subscribed`: where the stream begins. It comes before any item.
    - `gap`: results after the requested cursor are no longer available. It comes before `subscribed`, and the
      stream is live from now.
    - `moved`: the cursor passed results that do not match, at most once a second while there are no items.
    - `close`: why the stream ends, with a close code of the WebSocket: 1012 restart, 1013 try again,
      4401 the API key is no longer valid, 1011 internal error.

    The gateway sends a comment after 10 s of silence. It closes a stream whose client reads nothing for 60 s.
    While it starts or drains, a client that accepts `text/event-stream` gets 200 and a `close` event, because
    an `EventSource` does not reconnect after a 503. Other clients get 503.
    """
    raise AssertionError(f"the front serves {request.url.path}; this route is only for the document")
