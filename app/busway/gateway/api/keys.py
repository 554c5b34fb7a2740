"""Routes for API keys. A key is shown once and stored as a digest."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Path, Request, Response
from msgspec import UNSET, UnsetType

from busway.contract import keys as shapes
from busway.contract.keys import LIMITED_SCOPES, OVERLAP
from busway.contract.problems import BadField
from busway.domain import times
from busway.domain.times import SECOND
from busway.gateway.access.keys import key_text, new_secret
from busway.gateway.access.keysfile import KeysFile
from busway.gateway.api import answers, examples
from busway.gateway.api.access import needs
from busway.gateway.api.answers import After, Limit, when
from busway.gateway.api.decoding import read
from busway.gateway.api.describing import answers as described
from busway.gateway.api.describing import body
from busway.gateway.api.paths import NUMBER
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import Conflict, Invalid, NotFound, Unavailable
from busway.gateway.store.port.keys import RotateKey, UseKeys
from busway.gateway.store.port.operations import CreateKey, RevokeKey
from busway.gateway.store.port.reader import KeyRecord

router = APIRouter(prefix="/v1/keys", tags=["keys"])

USE_EVERY = 60.0  # seconds
_ENDED = ("The key was revoked or has expired.", "key 3 was revoked or has expired: create another one")
_DECLARED = (
    "The key stands in the keys file.",
    "key 1099511627776 stands in the keys file: change it there",
)
_NONE = ("The key does not exist.", "key 99 does not exist: GET /v1/keys lists the keys")


@router.post(
    "",
    status_code=201,
    summary="Create an API key",
    dependencies=needs("admin", audit="key.created"),
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
    return await _created(stages, await stages.commits.change(operation), secret)


@router.get(
    "",
    summary="List API keys",
    dependencies=needs("admin"),
    responses=described(shapes.KeyList, "The keys, without their secrets."),
)
async def list_keys(stages: StagesDep, limit: Limit = 100, after: After = None) -> Response:
    """Returns all keys, including revoked ones. Those of the keys file come last."""
    start = answers.number(after) or 0
    known = [*await stages.reader.keys(), *stages.gate.keys.declared]
    found = [key for key in known if key.id > start][: limit + 1]
    shown = [shapes.Key(**_fields(key)) for key in found]
    return answers.part(stages, shown, limit, lambda key, _: str(key.id))


@router.post(
    f"/{{id:{NUMBER}}}/rotate",
    status_code=201,
    summary="Rotate an API key",
    dependencies=needs("admin", audit="key.rotated"),
    openapi_extra=body(shapes.RotateIn, {"overlap": 3600}),
    responses=described(
        shapes.NewKey,
        "The new key with its secret, which is shown only once.",
        status=201,
        example=examples.ROTATED_KEY,
        problems={404: _NONE, 409: _ENDED},
    ),
)
async def rotate_key(
    stages: StagesDep,
    request: Request,
    id: Annotated[int, Path(description="The key's number.", ge=1, lt=1 << 63, examples=[1])],  # noqa: A002 - the contract's name
) -> Response:
    """Creates a key with the same name, scopes and type patterns. Both are valid for `overlap` seconds.

    So programs can change over one after another. The default is one hour.
    """
    _check_stored(stages, id)
    operation, secret = rotated(
        await stages.reader.keys(), id, await read(request, shapes.RotateIn), stages.clock()
    )
    new = await stages.commits.change(operation)
    if new is None:
        raise ended(id)
    return await _created(stages, new, secret)


@router.delete(
    f"/{{id:{NUMBER}}}",
    status_code=204,
    summary="Revoke an API key",
    dependencies=needs("admin", audit="key.revoked"),
    responses=described(None, "The key is revoked.", status=204, problems={404: _NONE, 409: _DECLARED}),
)
async def revoke_key(
    stages: StagesDep,
    id: Annotated[int, Path(description="The key's number.", ge=1, lt=1 << 63, examples=[1])],  # noqa: A002 - the contract's name
) -> Response:
    """Requests with the key get 401 from now on. Its WebSockets close with 4401.

    The gateway stays closed when its last key is revoked: `busway keys create` makes another one.
    """
    _check_stored(stages, id)
    known = any(key.id == id for key in await stages.reader.keys())
    if not known or not await stages.commits.change(RevokeKey(id=id, now=stages.clock())):
        raise NotFound(f"key {id} does not exist: GET /v1/keys lists the keys")
    await load_keys(stages)
    await stages.nodes.spread()
    return Response(status_code=204)


def _check_stored(stages: Stages, id_: int) -> None:
    if any(key.id == id_ for key in stages.gate.keys.declared):
        raise Conflict(f"key {id_} stands in the keys file: change it there")


async def _created(stages: Stages, id_: int, secret: str) -> Response:
    await load_keys(stages)
    await stages.nodes.spread()
    record = next(key for key in await stages.reader.keys() if key.id == id_)
    return answers.json(shapes.NewKey(**_fields(record), key=key_text(id_, secret)), 201)


async def load_keys(stages: Stages) -> None:
    """Load the keys from the store into the gate, and close connections whose key is no longer valid."""
    async with stages.gate.loading:
        for id_ in stages.gate.load(await stages.reader.keys()):
            stages.hub.revoke(id_)


def take_declared(stages: Stages, file: KeysFile) -> None:
    """Give the keys of the keys file to the gate, and close connections whose key is no longer in it."""
    for id_ in stages.gate.declare(file.keys):
        stages.hub.revoke(id_)


class KeyUse:
    """Records when keys were used last: at most once a minute each, several in one operation.

    Args:
        stages: of the gateway.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages, self._next = stages, time.monotonic() + USE_EVERY
        self._recorded: set[int] = set()  # in this minute

    def look(self) -> None:
        """Record what was used since the last look. If that fails, the use of the next minute is recorded."""
        stages = self._stages
        used = stages.gate.keys.take_used()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + USE_EVERY
            self._recorded.clear()
            stages.gate.count_again()
            used |= stages.gate.keys.stored({sink.access.key for sink in stages.hub.sinks})
        used -= self._recorded
        if used:
            self._recorded |= used
            with contextlib.suppress(Unavailable):
                storing = stages.commits.change(UseKeys(ids=sorted(used), now=stages.clock()))
                storing.add_done_callback(lambda done: done.cancelled() or done.exception())


def rotated(known: list[KeyRecord], id_: int, wanted: shapes.RotateIn, now: int) -> tuple[RotateKey, str]:
    """Return the operation that replaces a key, and the secret of the new one.

    Raises:
        NotFound: no key has this id.
        Conflict: it was revoked or has expired.
        Invalid: `expires_at` is in the past.
    """
    old = next((key for key in known if key.id == id_), None)
    if old is None:
        raise NotFound(f"key {id_} does not exist: GET /v1/keys lists the keys")
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise ended(id_)
    expires_at = wanted.expires_at
    if expires_at is UNSET:
        expires_at = when(old.expires_at)
    new, secret = new_key(
        shapes.KeyIn(
            name=old.name,
            scopes=cast("list[shapes.Scope]", old.scopes),
            expires_at=expires_at,
            types=old.types,
        ),
        now,
    )
    overlap = OVERLAP if isinstance(wanted.overlap, UnsetType) else wanted.overlap
    return RotateKey(id=id_, until=now + overlap * SECOND, key=new), secret


def ended(id_: int) -> Conflict:
    """Return the error for a key that cannot be rotated."""
    return Conflict(f"key {id_} was revoked or has expired: create another one")


def new_key(wanted: shapes.KeyIn, now: int) -> tuple[CreateKey, str]:
    """Return the operation that stores a new key, and its secret.

    Raises:
        Invalid: `expires_at` is in the past, or a key with `types` has other scopes than these allow.
    """
    secret, digest = new_secret()
    scopes: list[str] = [*dict.fromkeys(wanted.scopes)]
    expires = times.from_text(wanted.expires_at) if wanted.expires_at else None
    if expires is not None and expires <= now:
        raise _invalid("expires_at", "expires_at is in the past")
    types = [*dict.fromkeys(wanted.types)] if wanted.types else None
    if types and not LIMITED_SCOPES.issuperset(scopes):
        raise _invalid(
            "types",
            "a key with type patterns may have the scopes publish and subscribe only: remove the others",
        )
    operation = CreateKey(
        name=wanted.name, digest=digest, scopes=scopes, now=now, expires_at=expires, types=types
    )
    return operation, secret


def _fields(key: KeyRecord) -> dict[str, Any]:
    fields = msgspec.structs.asdict(key)
    del fields["digest"]
    return {
        **fields,
        "created_at": when(key.created_at),
        "expires_at": when(key.expires_at),
        "revoked_at": when(key.revoked_at),
        "last_used_at": when(key.last_used_at),
    }


def _invalid(field: str, message: str) -> Invalid:
    return Invalid.of([BadField(["body", field], message)])
