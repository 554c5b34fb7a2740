"""Routes for sources of webhooks. Their secrets are shown once."""

from __future__ import annotations

import base64
import secrets
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request, Response
from msgspec import UNSET

from busway.contract import sources as shapes
from busway.contract.problems import BadField
from busway.domain import times
from busway.domain.source import MAX_SOURCES, Source, check_secret
from busway.domain.times import SECOND
from busway.gateway.api import answers, examples
from busway.gateway.api.access import needs
from busway.gateway.api.answers import After, Limit, when
from busway.gateway.api.decoding import read
from busway.gateway.api.describing import answers as described
from busway.gateway.api.describing import body
from busway.gateway.api.keys import load_keys
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import Conflict, Invalid, NotFound
from busway.gateway.store.port.sources import DeleteSource, SaveSource

router = APIRouter(prefix="/v1/sources", tags=["sources"])

ROTATION = 86_400 * SECOND  # how long the secret before is valid, if the client does not say so
_SHOWN = ("name", "kind", "type", "filter", "signature_header", "id_header", "paused", "description")
Name = Annotated[str, Path(description="The source's name.", examples=["repo"])]
_NONE = ("The source does not exist.", "there is no source 'rebo': GET /v1/sources lists them")
_TAKEN = ("The name is taken.", "there is a source 'repo' already: change it with PATCH, or delete it")


@router.post(
    "",
    status_code=201,
    summary="Create a source of webhooks",
    dependencies=needs("admin", audit="source.created"),
    openapi_extra=body(shapes.SourceIn, {"name": "repo", "kind": "github", "type": "github.{event}"}),
    responses=described(
        shapes.SourceWithSecret, "The source with its secret, which is shown only once.", status=201,
        problems={409: _TAKEN},
    ),
)  # fmt: skip
async def create_source(stages: StagesDep, request: Request) -> Response:
    """The sender posts to `/v1/hooks/NAME` and signs with the secret. Each request becomes an event.

    Secrets of `stripe` and `slack` are made by the sender: `secret` must be given.
    """
    wanted, now = await read(request, shapes.SourceIn), stages.clock()
    fields = _given(wanted)
    secret = fields.pop("secret", None) or _new_secret(wanted.kind)
    source = Source(secret=secret, created_at=now, updated_at=now, **fields)
    _refuse_contradictions(source)
    known = await stages.reader.sources()
    if len(known) >= MAX_SOURCES:
        raise Conflict(f"there are {MAX_SOURCES} sources, and no more are possible: delete one")
    taken = any(each.name == source.name for each in known)
    if taken or not await stages.commits.change(SaveSource(source=source)):
        raise Conflict(f"there is a source {source.name!r} already: change it with PATCH, or delete it")
    await _spread(stages)
    return answers.json(shapes.SourceWithSecret(**_shown(source, now), secret=secret), 201)


@router.get(
    "",
    summary="List sources of webhooks",
    dependencies=needs("admin"),
    responses=described(shapes.SourceList, "The sources, by name, without their secrets."),
)
async def list_sources(stages: StagesDep, limit: Limit = 100, after: After = None) -> Response:
    """Returns all sources."""
    found = [source for source in await stages.reader.sources() if source.name > (after or "")]
    shown = [shapes.Source(**_shown(source, stages.clock())) for source in found[: limit + 1]]
    return answers.part(stages, shown, limit, lambda source, _: str(source.name))


@router.get(
    "/{name}",
    summary="Get a source of webhooks",
    dependencies=needs("admin"),
    responses=described(shapes.Source, "The source, without its secrets.", problems={404: _NONE}),
)
async def get_source(stages: StagesDep, name: Name) -> Response:
    """Returns one source."""
    return answers.json(shapes.Source(**_shown(await _named(stages, name), stages.clock())))


@router.patch(
    "/{name}",
    summary="Change a source of webhooks",
    dependencies=needs("admin", audit="source.changed"),
    openapi_extra=body(shapes.SourceChange, {"secret": None}),
    responses=described(
        (shapes.Source, shapes.SourceWithSecret), "The source. A new secret is shown only once.",
        example=examples.ROTATED, problems={404: _NONE},
    ),
)  # fmt: skip
async def change_source(stages: StagesDep, name: Name, request: Request) -> Response:
    """With a new `secret`, the one before is valid for 24 hours more, or until `previous_secret_until`."""
    change = await read(request, shapes.SourceChange)
    while True:
        before, now = await _named(stages, name), stages.clock()
        source = _changed(before, change, now)
        if source == before:
            break
        if await stages.commits.change(SaveSource(source=source, seen=before.updated_at)):
            await _spread(stages)
            break
    shown = _shown(source, now)
    if change.secret is UNSET:
        return answers.json(shapes.Source(**shown))
    return answers.json(shapes.SourceWithSecret(**shown, secret=source.secret))


@router.delete(
    "/{name}",
    status_code=204,
    summary="Delete a source of webhooks",
    dependencies=needs("admin", audit="source.deleted"),
    responses=described(None, "The source is deleted.", status=204, problems={404: _NONE}),
)
async def delete_source(stages: StagesDep, name: Name) -> Response:
    """Its webhooks get 401 from now on. Its events stay."""
    await _named(stages, name)
    if not await stages.commits.change(DeleteSource(name=name)):
        raise _unknown(name)
    await _spread(stages)
    return Response(status_code=204)


async def load_access(stages: Stages) -> None:
    """Load what admits requests from the store: keys and sources."""
    await load_keys(stages)
    await load_sources(stages)


async def load_sources(stages: Stages) -> None:
    """Load the sources from the store into what admits webhooks."""
    async with stages.gate.loading:
        stages.gate.hooks.load(await stages.reader.sources())


async def _spread(stages: Stages) -> None:
    """Wait until all nodes have what was stored."""
    await load_sources(stages)
    await stages.nodes.spread()


async def _named(stages: Stages, name: str) -> Source:
    found = next((source for source in await stages.reader.sources() if source.name == name), None)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no source {name!r}: GET /v1/sources lists them")


def _given(fields: msgspec.Struct) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(fields)  # without what is unset
    return built


def _changed(before: Source, change: shapes.SourceChange, now: int) -> Source:
    """Return the source with a change.

    Raises:
        Invalid: two fields contradict each other.
    """
    fields = _given(change)
    until = fields.pop("previous_secret_until", UNSET)
    previous_until = times.from_text(until) if isinstance(until, str) else None
    if "secret" in fields:
        fields["secret"] = fields["secret"] or _new_secret(before.kind)
        fields["previous_secret"] = before.secret
        fields["previous_until"] = now + ROTATION if until is UNSET else previous_until or now
    elif until is not UNSET:
        if before.previous_secret is None and until is not None:
            raise _invalid("previous_secret_until", "there is no secret before: set a new secret first")
        fields["previous_until"] = previous_until
    source = msgspec.structs.replace(before, **fields)
    if source.previous_until is None or source.previous_until <= now:
        source = msgspec.structs.replace(source, previous_secret=None, previous_until=None)
    _refuse_contradictions(source)
    if source == before:
        return before
    return msgspec.structs.replace(source, updated_at=max(now, before.updated_at + 1))


def _refuse_contradictions(source: Source) -> None:
    bad = check_secret(source.kind, source.secret)
    if bad:
        raise _invalid("secret", bad)
    for name in ("signature_header", "id_header"):
        if source.kind != "hmac" and getattr(source, name) is not None:
            raise _invalid(name, f"{name} is only for the kind hmac: {source.kind} names its own headers")


def _new_secret(kind: str) -> str:
    """Return a new secret.

    Raises:
        Invalid: the sender makes the secrets of this kind.
    """
    if kind in {"stripe", "slack"}:
        raise _invalid("secret", f"secret is missing: {kind} makes it, and shows it in its settings")
    if kind == "standard":
        return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(32)


def _shown(source: Source, now: int) -> dict[str, Any]:
    until = source.previous_until
    return {
        **{name: getattr(source, name) for name in _SHOWN},
        "previous_secret_until": None if until is None or until <= now else when(until),
        "created_at": when(source.created_at),
        "updated_at": when(source.updated_at),
    }


def _invalid(field: str, message: str) -> Invalid:
    return Invalid.of([BadField(["body", field], message)])
