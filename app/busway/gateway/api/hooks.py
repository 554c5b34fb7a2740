"""POST /v1/hooks/{name}: webhooks of senders that sign their requests, and cannot send an API key.

A request is admitted by its signature alone. API keys, origins, and the rules for the open gateway on
loopback do not apply: webhooks come through a tunnel or a proxy.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from busway.contract.sources import HookAnswer
from busway.domain.event import NewEvent
from busway.domain.source import Source
from busway.gateway.api import answers
from busway.gateway.api.describing import EXAMPLE_TEXT
from busway.gateway.api.describing import answers as described
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import Unavailable
from busway.gateway.ingest.publisher import EventWaiter, receipt
from busway.gateway.ingest.webhooks import FORM, Challenge, Nothing, read_webhook
from busway.gateway.store.port.operations import StoredEvent

router = APIRouter(prefix="/v1/hooks", tags=["sources"])

PREFIX = "/v1/hooks/"
_ANY: dict[str, Any] = {"schema": {}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {**_ANY, "example": {"action": "opened", "number": 7}},
            FORM: _ANY,
            "*/*": _ANY,
        },
    }
}
_TEXT = {"schema": {"type": "string"}, EXAMPLE_TEXT: '"3eZbrw1aBm2rZgRNFdxV2595E9CY"'}
_SLACK = {
    200: {
        "description": "For Slack: the challenge of a `url_verification`, or nothing.",
        "content": {"text/plain": _TEXT},
    }
}
_REFUSED = (
    "There is no such source, or the signature is not right.",
    "there is no source with this name, or the request is not signed with its secret",
)


@router.post(
    "/{name}",
    status_code=202,
    summary="Receive a webhook",
    openapi_extra=_BODY,
    responses=described(
        HookAnswer,
        "The event is stored, or there is nothing to store.",
        status=202,
        problems={401: _REFUSED, 415: None},
    )
    | _SLACK,
)
async def receive_webhook(
    stages: StagesDep,
    name: Annotated[str, Path(description="The source's name.", examples=["repo"])],
    request: Request,
) -> Response:
    """The signature is checked over the raw body, before anything is decoded.

    The sender's id of the delivery becomes the event's id, so a redelivery is a duplicate.
    """
    headers: dict[str, list[str]] = {}
    for key, value in request.scope["headers"]:
        headers.setdefault(key.decode("latin-1"), []).append(value.decode("latin-1"))
    body = await request.body()
    hooks = stages.gate.hooks
    source = await hooks.admit(name, headers, body)
    outcome = "failed"
    try:
        found = await read_webhook(source, headers, body, stages.clock(), stages.settings.max_event_bytes)
        if isinstance(found, Challenge):
            outcome = "ignored"
            return Response(found.text, media_type="text/plain")
        if source.paused:
            raise Unavailable("this source is paused: send the webhook again later", retry_after=60)
        if isinstance(found, Nothing):
            outcome = "ignored"
            return _answer(source, HookAnswer(None))
        stored = await _store(stages, found)
        outcome = "duplicate" if stored.duplicate else "stored"
        return _answer(source, HookAnswer(receipt(found, stored)))
    finally:
        hooks.counts[name, outcome] += 1


async def _store(stages: Stages, event: NewEvent) -> StoredEvent:
    waiter = EventWaiter(asyncio.get_running_loop().create_future())
    stages.publisher.submit_event(event, waiter)
    return (await waiter.stored)[0]


def _answer(source: Source, answer: HookAnswer) -> Response:
    """Return what the sender expects. Slack would show a body to the user of a slash command."""
    return Response(media_type="text/plain") if source.kind == "slack" else answers.json(answer, 202)
