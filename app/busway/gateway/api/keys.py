"""Routes for API keys. A key is shown once and stored as a digest."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request, Response

from busway.contract import keys as shapes
from busway.contract.problems import BadField
from busway.domain import times
from busway.gateway.access.gate import key_text, new_secret
from busway.gateway.api import answers
from busway.gateway.api.access import needs
from busway.gateway.api.answers import After, Limit, when
from busway.gateway.api.decoding import read
from busway.gateway.api.describing import answers as described
from busway.gateway.api.describing import body
from busway.gateway.api.paths import NUMBER
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import Invalid, NotFound
from busway.gateway.store.port.operations import CreateKey, RevokeKey
from busway.gateway.store.port.reader import KeyRecord

router = APIRouter(prefix="/v1/keys", tags=["keys"])

_NONE = ("The key does not exist.", "key 99 does not exist: GET /v1/keys lists the keys")


@router.post(
    "",
    status_code=201,
    summary="Create an API key",
    dependencies=needs("admin"),
    openapi_extra=body(shapes.KeyIn, {"name": "me", "scopes": ["admin"]}),
    responses=described(shapes.NewKey, "The key with its secret, which is shown only once.", status=201),
)
async def create_key(stages: StagesDep, request: Request) -> Response:
    """As soon as one key exists, every request needs a key. So the first key must have the scope `admin`.

    The page /docs uses the first key that it creates for its further requests.
    """
    operation, secret = new_key(await read(request, shapes.KeyIn), stages.clock())
    if stages.gate.open and "admin" not in operation.scopes:
        raise _invalid(
            "scopes", "the first key needs the scope admin, because every request then needs a key"
        )
    id_ = await stages.commits.change(operation)
    await load_keys(stages)
    record = next(key for key in await stages.reader.keys() if key.id == id_)
    return answers.json(shapes.NewKey(**_fields(record), key=key_text(id_, secret)), 201)


@router.get(
    "",
    summary="List API keys",
    dependencies=needs("admin"),
    responses=described(shapes.KeyList, "The keys, without their secrets."),
)
async def list_keys(stages: StagesDep, limit: Limit = 100, after: After = None) -> Response:
    """Returns all keys, including revoked ones."""
    start = answers.number(after) or 0
    found = [key for key in await stages.reader.keys() if key.id > start][: limit + 1]
    shown = [shapes.Key(**_fields(key)) for key in found]
    return answers.part(stages, shown, limit, lambda key, _: str(key.id))


@router.delete(
    f"/{{id:{NUMBER}}}",
    status_code=204,
    summary="Revoke an API key",
    dependencies=needs("admin"),
    responses=described(None, "The key is revoked.", status=204, problems={404: _NONE}),
)
async def revoke_key(
    stages: StagesDep,
    id: Annotated[int, Path(description="The key's number.", ge=1, lt=1 << 63, examples=[1])],  # noqa: A002 - the contract's name
) -> Response:
    """Requests with the key get 401 from now on. Its WebSockets close with 4401.

    The gateway stays closed when its last key is revoked: `busway keys create` makes another one.
    """
    if not await stages.commits.change(RevokeKey(id=id, now=stages.clock())):
        raise NotFound(f"key {id} does not exist: GET /v1/keys lists the keys")
    await load_keys(stages)
    return Response(status_code=204)


async def load_keys(stages: Stages) -> None:
    """Load the keys from the store into the gate, and close connections whose key is no longer valid."""
    for id_ in stages.gate.load(await stages.reader.keys()):
        stages.hub.revoke(id_)


def new_key(wanted: shapes.KeyIn, now: int) -> tuple[CreateKey, str]:
    """Return the operation that stores a new key, and its secret.

    Raises:
        Invalid: `expires_at` is in the past.
    """
    secret, digest = new_secret()
    scopes: list[str] = [*dict.fromkeys(wanted.scopes)]
    expires = times.from_text(wanted.expires_at) if wanted.expires_at else None
    if expires is not None and expires <= now:
        raise _invalid("expires_at", "expires_at is in the past")
    return CreateKey(name=wanted.name, digest=digest, scopes=scopes, now=now, expires_at=expires), secret


def _fields(key: KeyRecord) -> dict[str, Any]:
    fields = msgspec.structs.asdict(key)
    del fields["digest"]
    return {
        **fields,
        "created_at": when(key.created_at),
        "expires_at": when(key.expires_at),
        "revoked_at": when(key.revoked_at),
    }


def _invalid(field: str, message: str) -> Invalid:
    return Invalid.of([BadField(["body", field], message)])
