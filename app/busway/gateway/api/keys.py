"""Keys: made, listed, revoked. A key is shown once and stored as a digest."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request, Response

from busway.domain import times
from busway.gateway.access.gate import key_text, new_secret
from busway.gateway.access.scopes import SCOPES
from busway.gateway.api import answers, schema
from busway.gateway.api.access import needs
from busway.gateway.api.answers import After, Limit, when
from busway.gateway.api.bodies import read_object
from busway.gateway.api.schema import KeyIn, KeyList, NewKey
from busway.gateway.api.schema import answers as described
from busway.gateway.api.stages import Here, Stages
from busway.gateway.errors import Invalid, NotFound
from busway.gateway.store.port.operations import CreateKey, RevokeKey
from busway.gateway.store.port.reader import KeyRecord

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post(
    "",
    status_code=201,
    summary="Make a key",
    dependencies=needs("admin"),
    openapi_extra=schema.body(KeyIn, {"name": "shop", "scopes": ["publish", "subscribe"]}),
    responses=described(NewKey, "the key, shown this once", status=201),
)
async def create_key(here: Here, request: Request) -> Response:
    """From the first key on, every request needs one: make yourself one with `admin` first."""
    operation, secret = new_key(await read_object(request), here.clock())
    if here.gate.open and "admin" not in operation.scopes:
        raise _invalid("scopes", "the first key needs the scope admin: from it on every request needs a key")
    id_ = await here.commits.change(operation)
    await load_keys(here)
    record = next(key for key in await here.reader.keys() if key.id == id_)
    return answers.json({**_shown(record), "key": key_text(id_, secret)}, 201)


@router.get(
    "",
    summary="List keys",
    dependencies=needs("admin"),
    responses=described(KeyList, "the keys, without their secrets"),
)
async def list_keys(here: Here, limit: Limit = 100, after: After = None) -> Response:
    """Revoked ones too."""
    start = answers.number(after) or 0
    found = [key for key in await here.reader.keys() if key.id > start]
    more = str(found[limit - 1].id) if len(found) > limit else None
    return answers.page([_shown(key) for key in found[:limit]], more)


@router.delete(
    "/{id}",
    status_code=204,
    summary="Revoke a key",
    dependencies=needs("admin"),
    responses=described(None, "revoked", status=204),
)
async def revoke_key(
    here: Here,
    id: Annotated[int, Path(description="the key's number", ge=1, lt=1 << 63, examples=[1])],  # noqa: A002 - the contract's name
) -> Response:
    """Its requests get 401 from now on and its WebSockets close with 4401."""
    if not await here.commits.change(RevokeKey(id=id, now=here.clock())):
        raise NotFound(f"there is no key {id}: GET /v1/keys lists them")
    await load_keys(here)
    return Response(status_code=204)


async def load_keys(here: Stages) -> None:
    """Have the gate know the keys as the store has them, and close the sessions of those that lost theirs."""
    for id_ in here.gate.load(await here.reader.keys()):
        here.hub.revoke(id_)


def new_key(fields: dict[str, Any], now: int) -> tuple[CreateKey, str]:
    """Check the fields of a key and make its secret.

    Raises:
        Invalid: a field is missing, unknown or not what it must be.
    """
    for field in fields.keys() - {"name", "scopes", "expires_at"}:
        built = field != "types"
        raise _invalid(
            field, f"there is no field {field!r}" if built else "types is not built yet: leave it out"
        )
    name, scopes = fields.get("name"), fields.get("scopes")
    if not isinstance(name, str) or not 1 <= len(name) <= 255 or not name.isprintable():
        raise _invalid("name", "name is text of 1 to 255 printable characters that tells whose key it is")
    if not isinstance(scopes, list) or not scopes or not all(scope in SCOPES for scope in scopes):
        raise _invalid("scopes", f"scopes is a list of {', '.join(SCOPES)}")
    secret, digest = new_secret()
    expires = _expiry(fields.get("expires_at"), now)
    return CreateKey(name=name, digest=digest, scopes=scopes, now=now, expires_at=expires), secret


def _expiry(value: Any, now: int) -> int | None:
    if value is None:
        return None
    try:
        moment = times.from_text(value)
    except (ValueError, TypeError) as problem:
        raise _invalid("expires_at", str(problem)) from None
    if moment <= now:
        raise _invalid("expires_at", "expires_at is past")
    return moment


def _shown(key: KeyRecord) -> dict[str, Any]:
    shown = {**msgspec.structs.asdict(key), "created_at": when(key.created_at)}
    del shown["digest"]
    return {**shown, "expires_at": when(key.expires_at), "revoked_at": when(key.revoked_at)}


def _invalid(field: str, message: str) -> Invalid:
    return Invalid(message, errors=[{"loc": ["body", field], "msg": message}])
