"""Routes for handlers and their targets."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Request, Response

from busway.contract import handlers as shapes
from busway.domain.handler import spec_of
from busway.domain.signing import Secret
from busway.domain.weburl import is_url
from busway.gateway.api import answers, examples
from busway.gateway.api.access import needs
from busway.gateway.api.answers import After, Limit, when
from busway.gateway.api.decoding import read
from busway.gateway.api.describing import NO_HANDLER, body
from busway.gateway.api.describing import answers as described
from busway.gateway.api.paths import NUMBER
from busway.gateway.api.stages import Stages, StagesDep, current_handlers
from busway.gateway.dispatch.registry import RegisteredHandler
from busway.gateway.errors import NotFound
from busway.gateway.store.port.code import KEPT_REVISIONS, MAX_SOURCE
from busway.gateway.store.port.reader import RevisionRecord

router = APIRouter(prefix="/v1", tags=["handlers"], dependencies=[Depends(current_handlers)])

# The examples differ: in the order of the docs page each operation succeeds on `make run`.
Name = Annotated[str, Path(description="The handler's name.", examples=["price"])]
NotifyName = Annotated[str, Path(description="The handler's name.", examples=["notify"])]
HookName = Annotated[str, Path(description="The handler's name.", examples=["hook"])]
Revision = Annotated[int, Path(description="The number of the revision.", ge=1, lt=1 << 62, examples=[1])]
SpareName = Annotated[str, Path(description="The handler's name.", examples=["spare"])]
_NO_REVISION = (
    "The handler or the revision does not exist.",
    "handler 'price' has no revision 7: GET /v1/handlers/price/revisions lists them",
)
_TAKEN = (
    "A handler with this name exists.",
    "there is a handler 'try-me' already: change it with PATCH, or delete it",
)
_DECLARED = (
    "Code declares the handler.",
    "code declares the handler 'price': remove its decorator, or pause it",
)
_PAUSED = ("The handler is already paused.", "the handler 'notify' is paused already")
_NOT_SIGNED = (
    "The handler's target is not a URL.",
    "the handler 'price' sends nothing that is signed: its target is no URL",
)
_NOT_PAUSED = ("The handler is not paused.", "the handler 'notify' is not paused")
_NEW = {"name": "try-me", "target": "orders:price", "events": ["order.created"]}


async def _shown(stages: Stages, entries: list[RegisteredHandler]) -> list[shapes.Handler]:
    counts, errors = await asyncio.gather(stages.reader.counts(), stages.reader.last_errors())
    return [
        _handler(
            stages,
            entry,
            shapes.Stats(
                counts.get(entry.handler.id, {}),
                msgspec.convert(stages.recorder.durations.newest(entry.handler.id), shapes.Latency),
                answers.error(errors.get(entry.handler.id)),
            ),
        )
        for entry in entries
    ]


def _handler(stages: Stages, entry: RegisteredHandler, stats: shapes.Stats) -> shapes.Handler:
    handler, spec, pause = entry.handler, entry.spec, entry.handler.pause
    place = stages.placement.place(entry, stages.registry.kind(spec.target) or "")
    newest, before = _secrets(handler.secrets, stages.clock())
    return shapes.Handler(
        name=handler.name,
        **msgspec.structs.asdict(spec),
        revision=handler.revision,
        source="code" if handler.declared is not None else "api",
        overrides=handler.overridden,
        missing=handler.missing,
        created_at=when(handler.created_at),
        updated_at=when(handler.updated_at),
        paused_by=None if pause is None else pause.by,
        paused_reason=None if pause is None else pause.reason,
        paused_until=None if pause is None else when(pause.until),
        waits_because=stages.registry.obstacle(entry),
        placed_in=shapes.PlacedIn(place.pool, place.reason, when(place.since)),
        secret_since=newest,
        previous_secret_until=before,
        stats=stats,
    )


def _secrets(secrets: tuple[Secret, ...], now: int) -> tuple[str | None, str | None]:
    """Return since when the newest secret is used, and until when the one before."""
    newest = when(secrets[0].created_at) if secrets else None
    ends = [secret.ends_at for secret in secrets if secret.ends_at is not None and secret.ends_at > now]
    return newest, when(ends[0]) if ends else None


async def _one(
    stages: Stages, entry: RegisteredHandler, status: int = 200, secret: str | None = None
) -> Response:
    shown = (await _shown(stages, [entry]))[0]
    if secret is not None:
        shown.secret = secret
    return answers.json(shown, status)


def _newest(entry: RegisteredHandler) -> str | None:
    secrets = entry.handler.secrets
    return secrets[0].value if secrets else None


@router.post(
    "/handlers",
    status_code=201,
    summary="Create a handler",
    dependencies=needs("handlers:write", audit="handler.created"),
    openapi_extra=body(shapes.HandlerIn, _NEW),
    responses=described(
        shapes.Handler,
        "The handler. It applies to events from now on.",
        status=201,
        example=examples.CREATED,
        problems={409: _TAKEN},
    ),
)
async def create_handler(stages: StagesDep, request: Request) -> Response:
    """`name`, `target` and `events` are required. `GET /v1/targets` lists the functions.

    If the target is a URL, the answer has the `secret` that signs what is sent there. It is shown only once.
    """
    entry = await stages.changes.create(await read(request, shapes.HandlerIn))
    return await _one(stages, entry, 201, _newest(entry))


@router.get(
    "/handlers",
    summary="List handlers",
    dependencies=needs("handlers:read"),
    responses=described(shapes.HandlerList, "A page of handlers."),
)
async def list_handlers(stages: StagesDep, limit: Limit = 100, after: After = None) -> Response:
    """Returns the handlers by name, both those declared in code and those created over HTTP."""
    entries = [e for e in stages.registry.live() if after is None or e.handler.name > after]
    shown = await _shown(stages, entries[: limit + 1])
    return answers.part(stages, shown, limit, lambda handler, _: handler.name)


@router.get(
    "/handlers/{name}",
    summary="Retrieve a handler",
    dependencies=needs("handlers:read"),
    responses=described(shapes.Handler, "The handler.", problems={404: NO_HANDLER}),
)
async def read_handler(stages: StagesDep, name: Name) -> Response:
    """Returns the fields in force, the pool it runs in, and statistics of its runs."""
    return await _one(stages, stages.changes.live(name))


@router.patch(
    "/handlers/{name}",
    summary="Update a handler",
    dependencies=needs("handlers:write", audit="handler.changed"),
    openapi_extra=body(shapes.HandlerChange, {"timeout": 30, "max_attempts": 3}),
    responses=described(
        shapes.Handler, "The updated handler.", example=examples.CHANGED, problems={404: NO_HANDLER}
    ),
)
async def change_handler(stages: StagesDep, name: Name, request: Request) -> Response:
    """Fields set here override the code's until they are set to null. Waiting runs use the new revision.

    If this makes the target a URL for the first time, the answer has the `secret`, as when it is created.
    """
    entry, secret = await stages.changes.change(name, await read(request, shapes.HandlerChange))
    return await _one(stages, entry, secret=secret)


@router.delete(
    "/handlers/{name}",
    status_code=204,
    summary="Delete a handler",
    dependencies=needs("handlers:write", audit="handler.deleted"),
    responses=described(
        None, "The handler is deleted.", status=204, problems={404: NO_HANDLER, 409: _DECLARED}
    ),
)
async def delete_handler(stages: StagesDep, name: SpareName) -> Response:
    """Cancels its waiting runs. Running ones finish. A handler that code declares cannot be deleted (409)."""
    await stages.changes.delete(name)
    return Response(status_code=204)


@router.post(
    "/handlers/{name}/pause",
    summary="Pause a handler",
    dependencies=needs("handlers:write", audit="handler.paused"),
    responses=described(
        shapes.Handler,
        "The paused handler.",
        example=examples.PAUSED,
        problems={404: NO_HANDLER, 409: _PAUSED},
    ),
)
async def pause_handler(stages: StagesDep, name: NotifyName) -> Response:
    """New runs wait. Attempts that have started finish."""
    return await _one(stages, await stages.changes.set_paused(name, paused=True))


@router.post(
    "/handlers/{name}/resume",
    summary="Resume a handler",
    dependencies=needs("handlers:write", audit="handler.resumed"),
    responses=described(
        shapes.Handler,
        "The resumed handler.",
        example=examples.RESUMED,
        problems={404: NO_HANDLER, 409: _NOT_PAUSED},
    ),
)
async def resume_handler(stages: StagesDep, name: NotifyName) -> Response:
    """Starts the waiting runs."""
    return await _one(stages, await stages.changes.set_paused(name, paused=False))


@router.post(
    "/handlers/{name}/secret",
    summary="Rotate the secret of a handler",
    dependencies=needs("handlers:write", audit="handler.secret_rotated"),
    responses=described(
        shapes.Handler,
        "The handler, with its new `secret`.",
        example=examples.NEW_SECRET,
        problems={404: NO_HANDLER, 409: _NOT_SIGNED},
    ),
)
async def rotate_secret(stages: StagesDep, name: HookName) -> Response:
    """Makes a new secret for a handler whose target is a URL. The answer shows it, once.

    For 24 hours the secret before signs, too: each request has both signatures. A third one ends at once.
    """
    entry = await stages.changes.rotate_secret(name)
    return await _one(stages, entry, secret=_newest(entry))


@router.get(
    "/handlers/{name}/revisions",
    summary="List revisions of a handler",
    dependencies=needs("handlers:read"),
    responses=described(shapes.RevisionList, "A page of revisions.", problems={404: NO_HANDLER}),
)
async def list_revisions(stages: StagesDep, name: Name, limit: Limit = 100, after: After = None) -> Response:
    """Returns the revisions, newest first.

    A change of the source file or of a field other than `paused` and `description` creates a revision.
    """
    handler = stages.changes.live(name).handler.id

    async def find(before: int | None, most: int, max_bytes: int) -> list[tuple[int, Any]]:
        found = await stages.reader.revisions(handler, before, most, max_bytes)
        return [(record.revision, _revision(record)) for record in found]

    return await answers.page(stages, find, answers.number(after), limit)


def _revision(record: RevisionRecord) -> shapes.Revision:
    return shapes.Revision(**_fields(record))


def _fields(record: RevisionRecord) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(spec_of(record.fields)),
        "revision": record.revision,
        "created_at": when(record.created_at),
        "file_digest": record.file_digest,
    }


@router.get(
    f"/handlers/{{name}}/revisions/{{revision:{NUMBER}}}",
    summary="Retrieve a revision with its source",
    dependencies=needs("handlers:write"),
    responses=described(shapes.RevisionDetail, "The revision.", problems={404: _NO_REVISION}),
)
async def read_revision(stages: StagesDep, name: Name, revision: Revision) -> Response:
    """Returns the fields of a revision, and the text of the file that its target is in.

    The source of the newest 50 revisions is kept, of files up to 256 KiB. It needs `handlers:write`, because
    source code can have secrets in it.
    """
    handler = stages.changes.live(name).handler.id
    found = await stages.reader.revisions(handler, revision + 1, 1)
    if not found or found[0].revision != revision:
        raise NotFound(
            f"handler {name!r} has no revision {revision}: GET /v1/handlers/{name}/revisions lists them"
        )
    with stages.answers.hold(answers.PAGE_BYTES):
        source, missing = await _source(stages, found[0])
        return answers.json(shapes.RevisionDetail(**_fields(found[0]), source=source, source_missing=missing))


async def _source(stages: Stages, record: RevisionRecord) -> tuple[str | None, str | None]:
    """Return the source of a revision, or why there is none."""
    if is_url(record.fields["target"]):
        return None, "the target is a URL"
    file = await stages.reader.code(record.file_digest) if record.file_digest else None
    if file is None:
        return None, (
            f"it is not stored: only the source of the newest {KEPT_REVISIONS} revisions is. Of files that "
            "come from a bytecode cache it is, if they did not change while they were loaded"
        )
    if file.text is None:
        return None, f"the file has {file.size} bytes: at most {MAX_SOURCE} bytes of text are stored"
    return file.text, None


@router.get(
    "/targets",
    summary="List targets",
    dependencies=needs("handlers:read"),
    responses=described(
        shapes.TargetList, "A page of functions that handlers can run, and of files that cannot be imported."
    ),
)
async def list_targets(stages: StagesDep, limit: Limit = 100, after: After = None) -> Response:
    """Returns `{file, error}` for what cannot be imported or is not loaded, then `{target, kind, doc}`."""
    targets = [
        shapes.Target(target.target, target.kind, target.doc)
        for file in stages.registry.catalog
        for target in file.targets
    ]
    registry = stages.registry
    items = [
        *registry.broken_files(),
        *registry.not_loaded(),
        *sorted(targets, key=lambda target: target.target),
    ]
    start = answers.number(after) or 0
    return answers.part(stages, items[start:], limit, lambda _, count: str(start + count))
