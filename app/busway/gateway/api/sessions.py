"""Routes for sessions: a web page signs in with a key or a token, and keeps a cookie instead."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from busway.contract import sessions as shapes
from busway.domain.times import SECOND
from busway.gateway.access.pending import settled
from busway.gateway.access.proxies import client_address
from busway.gateway.access.scopes import Access
from busway.gateway.access.sessions import Use, set_cookie
from busway.gateway.api import answers
from busway.gateway.api.answers import when
from busway.gateway.api.auditing import record
from busway.gateway.api.decoding import read
from busway.gateway.api.describing import answers as described
from busway.gateway.api.describing import body
from busway.gateway.api.stages import StagesDep

PATH = "/v1/session"
router = APIRouter(prefix=PATH, tags=["keys"])


@router.post(
    "",
    status_code=201,
    summary="Sign in",
    openapi_extra=body(shapes.SessionIn, {"key": "bw_1_…"}),
    responses=described(
        shapes.Session,
        "What the session may do. The header `Set-Cookie` has its cookie.",
        status=201,
        problems={
            409: ("The gateway has no API keys.", "this gateway has no API keys, so nobody needs to sign in"),
            429: None,
        },
    ),
)
async def sign_in(stages: StagesDep, request: Request) -> Response:
    """Takes an API key or a token, and sets a cookie that stands for it. Scripts cannot read the cookie.

    It ends after 12 hours, or earlier with the key or the token.

    The cookie is for pages of the gateway itself: it counts only in requests whose `Origin` and
    `Sec-Fetch-Site` are the gateway's own. Requests other than GET and HEAD need the header
    `X-Busway-CSRF: 1`, too. `Authorization` comes before the cookie. Wrong keys of one address are limited.
    """
    wanted = await read(request, shapes.SessionIn)
    address = client_address(request.scope)
    access, token = await settled(lambda: stages.gate.sign_in(wanted.key, address))
    await record(request, access, "session.created")
    left = ((access.until or 0) - stages.clock()) // SECOND
    answer = _shown(access, 201)
    answer.headers["Set-Cookie"] = set_cookie(token, max(1, left), secure=_is_secure(request))
    return answer


@router.get(
    "",
    summary="Who am I",
    responses=described(shapes.Session, "What the sender of this request may do."),
)
async def read_session(stages: StagesDep, request: Request) -> Response:
    """Answers 200 also on a gateway without API keys, and 401 if a key is needed and missing or wrong."""
    return _shown(stages.gate.admit(request.scope["headers"], Use.READ), 200)


@router.delete(
    "",
    status_code=204,
    summary="Sign out",
    responses=described(None, "The browser removes the cookie.", status=204),
)
async def sign_out(request: Request) -> Response:
    """Removes the cookie, also one that has ended. To end all sessions of a key, revoke the key."""
    cookie = set_cookie("", 0, secure=_is_secure(request))
    return Response(status_code=204, headers={"Set-Cookie": cookie, "Cache-Control": "no-store"})


def _shown(access: Access, status: int) -> Response:
    session = shapes.Session(
        by=access.source,
        key=access.key,
        name=access.name or None,
        scopes=sorted(access.scopes),
        types=[*access.types] or None,
        expires_at=when(access.until),
    )
    answer = answers.json(session, status)
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _is_secure(request: Request) -> bool:
    return bool(request.scope["scheme"] == "https")
