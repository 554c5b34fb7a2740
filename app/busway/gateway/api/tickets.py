"""Tickets, with which a page opens its WebSocket or event stream: these cannot send a key as a header."""

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
    summary="Get a ticket for a browser's WebSocket",
    responses=described(
        Ticket,
        "A ticket, good once and for 30 seconds.",
        status=201,
        example={"ticket": "bwt_Zk9…", "expires_at": "2026-01-31T12:00:30.000000Z"},
        problems={400: None, 408: None, 413: None},
    ),
)
async def create_ticket(stages: StagesDep, request: Request) -> Response:
    """The socket that is opened with it may do what the key of this request may, and ends with that key.

    Ask for one before each connection: `new WebSocket("…/v1/subscribe?ticket=" + ticket)`. Used, expired
    and unknown tickets get the close code 4401 and the reason. A restart forgets them. On a gateway that
    is open no ticket is needed, and one works all the same.
    """
    try:
        body = decode_json(await request.body() or b"{}")
    except JSONError as problem:
        raise BadRequest(str(problem)) from None
    if body != {}:
        raise Invalid.of([BadField(["body"], "a ticket takes no fields: leave the body out")])
    ticket = stages.gate.ticket(holder(request))
    expires_at = when(stages.clock() + round(LIFETIME * SECOND))
    answer = answers.json(Ticket(ticket, expires_at), 201)
    answer.headers["Cache-Control"] = "no-store"
    return answer
