"""Tickets, with which a page opens its WebSocket or event stream: these cannot send a key as a header."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from busway.domain.times import SECOND
from busway.gateway.access.ticket import LIFETIME
from busway.gateway.api import answers
from busway.gateway.api.access import holder
from busway.gateway.api.answers import when
from busway.gateway.api.bodies import read_object
from busway.gateway.api.schema import TIME
from busway.gateway.api.schema import answers as described
from busway.gateway.api.stages import Here
from busway.gateway.errors import Invalid

router = APIRouter(prefix="/v1/tickets", tags=["keys"])


class Ticket(BaseModel):
    """A ticket for one connection."""

    ticket: str = Field(description="for `/v1/subscribe?ticket=…`, once")
    expires_at: str = Field(description=TIME)


@router.post(
    "",
    status_code=201,
    summary="Get a ticket for a browser's WebSocket",
    responses=described(
        Ticket,
        "a ticket, good once and for 30 seconds",
        status=201,
        example={"ticket": "bwt_Zk9…", "expires_at": "2026-01-31T12:00:30.000000Z"},
    ),
)
async def create_ticket(here: Here, request: Request) -> Response:
    """The socket that is opened with it may do what the key of this request may, and ends with that key.

    Ask for one before each connection: `new WebSocket("…/v1/subscribe?ticket=" + ticket)`. Used, expired
    and unknown tickets get the close code 4401 and the reason. A restart forgets them. On a gateway that
    is open no ticket is needed, and one works all the same.
    """
    if await request.body() and await read_object(request):
        problem = "a ticket takes no fields: leave the body out"
        raise Invalid(problem, errors=[{"loc": ["body"], "msg": problem}])
    ticket = here.gate.ticket(holder(request))
    expires_at = when(here.clock() + round(LIFETIME * SECOND))
    answer = answers.json({"ticket": ticket, "expires_at": expires_at}, 201)
    answer.headers["Cache-Control"] = "no-store"
    return answer
