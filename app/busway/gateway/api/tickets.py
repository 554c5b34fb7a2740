"""The route for tickets. With a ticket, a page opens a WebSocket or event stream, which cannot send a key."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from busway.contract.keys import Ticket
from busway.contract.problems import BadField
from busway.domain.text import JSONError, decode_json
from busway.domain.times import SECOND
from busway.gateway.access.ticket import LIFETIME
from busway.gateway.api import answers
from busway.gateway.api.access import holder
from busway.gateway.api.answers import when
from busway.gateway.api.describing import answers as described
from busway.gateway.api.stages import StagesDep
from busway.gateway.errors import BadRequest, Invalid

router = APIRouter(prefix="/v1/tickets", tags=["keys"])


@router.post(
    "",
    status_code=201,
    summary="Create a ticket",
    responses=described(
        Ticket,
        "A ticket. It is valid once, for 30 seconds.",
        status=201,
        problems={400: None, 408: None, 413: None},
    ),
)
async def create_ticket(stages: StagesDep, request: Request) -> Response:
    """Creates a ticket with the rights and the expiry of the request's key, for a WebSocket or event stream.

    Create one for each connection: `new WebSocket("…/v1/subscribe?ticket=" + ticket)`. A used, expired or
    unknown ticket gets the close code 4401. On SQLite, tickets do not survive a restart. A gateway without
    API keys accepts tickets but does not need them.
    """
    try:
        body = decode_json(await request.body() or b"{}")
    except JSONError as problem:
        raise BadRequest(str(problem)) from None
    if body != {}:
        raise Invalid.of([BadField(["body"], "a ticket has no fields: send no body")])
    ticket = stages.gate.ticket(holder(request))
    expires_at = when(stages.clock() + round(LIFETIME * SECOND))
    answer = answers.json(Ticket(ticket, expires_at), 201)
    answer.headers["Cache-Control"] = "no-store"
    return answer
