"""Routes for events. The hot path `publishing` serves POST /v1/events; here it is only documented."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import AfterValidator

from busway.contract import events as shapes
from busway.contract.uploads import UploadResult
from busway.domain import cloudevents
from busway.domain.event import Event, document
from busway.domain.pattern import check_pattern
from busway.domain.run import UNFINISHED, Error
from busway.gateway.access.scopes import Access
from busway.gateway.api import answers, examples, uploads
from busway.gateway.api.access import HolderDep, needs
from busway.gateway.api.answers import PAGE_BYTES, READ_BYTES, READ_ROWS, After, Limit
from busway.gateway.api.describing import answers as described
from busway.gateway.api.describing import bodies
from busway.gateway.api.negotiation import prefers
from busway.gateway.api.paths import NUMBER
from busway.gateway.api.runs import shown
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import Conflict, NotFound
from busway.gateway.ingest.codecs.choosing import FORMS
from busway.gateway.store.port.operations import Cancel
from busway.gateway.store.port.reader import EventQuery, RunRecord

router = APIRouter(prefix="/v1/events", tags=["events"])

MAX_TREE = 1_000
MAX_RUNS = 10_000
_LEAST = 300  # bytes of an event or a run in an answer, without its texts
_PUBLISH = bodies(
    {name: (codec.schema, codec.example) for name, codec in FORMS.items() if codec and codec.schema}
)
uploads.describe(_PUBLISH)
_GONE = (
    "The event does not exist, or it was finished and deleted after `--retention`.",
    "event 99 does not exist, or was deleted after --retention: GET /v1/events lists events",
)
_NOTHING_LEFT = (
    "No event of the tree has an unfinished run.",
    "neither event 3 nor an event of its tree has an unfinished run",
)
Seq = Annotated[int, Path(description="The event's number.", ge=1, lt=1 << 63, examples=[1])]


@router.post(
    "",
    status_code=202,
    summary="Publish events",
    dependencies=needs("publish"),
    openapi_extra=_PUBLISH,
    responses=described(
        shapes.EventOutcome,
        "The event is stored, and its runs have ended: `Prefer: wait` asked for the results.",
    )
    | described(
        (shapes.Receipt, shapes.ReceiptList, shapes.PendingReceipt, UploadResult),
        "The events are stored and synced to disk.",
        status=202,
        problems={409: uploads.MISSING_LINES, 415: None},
    ),
)
async def publish_events(
    request: Request,
    idempotency_key: Annotated[  # noqa: ARG001 - the front reads it
        str | None,
        Header(
            description="Makes a request safe to repeat for 24 hours: the same request with the same key "
            "gets the same receipts, and stores nothing again. 1 to 255 visible ASCII characters, such as a "
            "UUID. Each API key has its own. Another request with the same key gets 422, and one that comes "
            "while the first is in progress 409.",
            pattern="^[!-~]{1,255}$",
        ),
    ] = None,
    prefer: Annotated[  # noqa: ARG001 - as above
        str | None,
        Header(
            description="`wait=SECONDS` (at most 60) waits for the results of one event: 200 with the "
            "results if its runs end in time, otherwise 202 with a `cursor`. The answer then has the header "
            "`Preference-Applied`. It is ignored (RFC 7240) for arrays, and without the scope `subscribe`."
        ),
    ] = None,
) -> Response:
    """Stores one event or an array of events durably, then answers with receipts.

    Of an array, either all events are stored or none. A second event with the same `source` and `id` is not
    stored again: its receipt has `"duplicate": true` and the `seq` of the first one. This applies until the
    first event is deleted (`--retention`).

    The media type says in which form the events are: plain JSON, or a content mode of CloudEvents 1.0. In
    binary mode the body is the payload, of any media type, and headers have the attributes: `ce-specversion`,
    `ce-id`, `ce-source`, `ce-type` and others, percent-encoded.

    `application/x-ndjson` is one event a line, of any length. Lines are stored in batches while more arrive.
    A line that is no event is rejected, and the others are stored. With a `Producer-Id`, an upload that
    broke off goes on where it stopped: send it again. The header `Producer-Seq` of its answer is the number
    of lines that are taken. A problem that ends an upload has `upload`: what became of its lines.
    """
    raise AssertionError(f"the front serves {request.url.path}; this route is only for the document")


@router.get(
    "",
    summary="List events",
    dependencies=needs("subscribe"),
    responses=described(shapes.EventList, "A page of events."),
)
async def list_events(
    stages: StagesDep,
    access: HolderDep,
    type: Annotated[  # noqa: A002 - the contract's name
        str | None,
        Query(description="A type pattern, such as `order.*`."),
        AfterValidator(lambda text: None if text is None else check_pattern(text)),
    ] = None,
    source: Annotated[str | None, Query(description="The exact source.")] = None,
    subject: Annotated[str | None, Query(description="The exact subject.")] = None,
    id: Annotated[str | None, Query(description="The exact id.")] = None,  # noqa: A002 - the contract's name
    correlationid: Annotated[str | None, Query(description="The exact correlation id.")] = None,
    limit: Limit = 100,
    after: After = None,
) -> Response:
    """Returns events, newest first. An event must match all parameters.

    A page has at most 8 MiB, and may be shorter than `limit`. The last page has a `next` of null. Events that
    the type patterns of the key do not match are left out.
    """
    query = EventQuery(
        type=type, source=source, subject=subject, id=id, correlationid=correlationid, within=access.types
    )

    async def read(before: int | None, most: int, max_bytes: int) -> list[tuple[int, Any]]:
        asked = msgspec.structs.replace(query, before=before)
        return [(e.seq, document(e)) for e in await stages.reader.events(asked, most, max_bytes)]

    return await answers.page(stages, read, answers.number(after), limit)


@router.get(
    f"/{{seq:{NUMBER}}}",
    summary="Retrieve an event",
    dependencies=needs("subscribe"),
    responses=described(
        shapes.EventDetail,
        "The event.",
        problems={404: _GONE},
        others={cloudevents.STRUCTURED: shapes.StructuredEvent},
    ),
)
async def read_event(request: Request, stages: StagesDep, access: HolderDep, seq: Seq) -> Response:
    """Returns the attributes and the data of an event, and its runs, at most 10,000 and 8 MiB of them.

    With `Accept: application/cloudevents+json` it returns the event alone, in structured mode of CloudEvents.
    """
    event = await _event(stages, seq, access)
    if prefers(request.headers.get("accept", ""), cloudevents.STRUCTURED):
        body = answers.encode(cloudevents.document(event))
        answer = Response(body, media_type=cloudevents.STRUCTURED)
    else:
        answer = await _detail(stages, event)
    answer.headers["Vary"] = "Accept"
    return answer


async def _detail(stages: Stages, event: Event) -> Response:
    with stages.answers.hold(PAGE_BYTES):
        runs: list[Any] = []
        left, more = PAGE_BYTES, {}
        async for found in _runs(stages, [event.seq]):
            runs += [shown(stages, run) for run in found]
            left -= sum(map(_weight, found))
            if left <= 0 or len(runs) >= MAX_RUNS:
                more = {"truncated": True}
                break
        return answers.json({**document(event), "runs": runs, **more})


@router.get(
    f"/{{seq:{NUMBER}}}/tree",
    summary="Retrieve an event tree",
    dependencies=needs("subscribe"),
    responses=described(shapes.Tree, "The tree.", problems={404: _GONE}),
)
async def read_event_tree(stages: StagesDep, access: HolderDep, seq: Seq) -> Response:
    """Returns the event and all events that its handlers published, directly or not.

    A tree has at most 1000 events, 10,000 runs and 8 MiB. It leaves out events that the type patterns of the
    key do not match, with all that their handlers published.
    """
    root = await _event(stages, seq, access)
    with stages.answers.hold(PAGE_BYTES):
        return answers.json(await _tree(stages, root, access))


async def _tree(stages: Stages, event: Event, access: Access) -> shapes.Tree:
    root = _node(event)
    nodes, parents = {event.seq: root}, {}
    left = PAGE_BYTES - _weight(event)
    async for runs, children in _layers(stages, event.seq, access):
        for run in runs:
            nodes[run.event].runs.append(shown(stages, run))
            parents[run.id] = nodes[run.event]
            left -= _weight(run)
        for parent, child in children:
            left -= _weight(child)
            if len(nodes) >= MAX_TREE or left <= 0:
                root.truncated = True
                return root
            nodes[child.seq] = _node(child)
            parents[parent].events.append(nodes[child.seq])
        if left <= 0 or len(parents) > MAX_RUNS:
            root.truncated = True
            return root
    return root


def _weight(one: Event | RunRecord) -> int:
    """Return approximately how many bytes an event or a run takes in an answer."""
    if isinstance(one, Event):
        return _LEAST + len(one.data or b"") + sum(len(str(value)) for value in one.attributes.values())
    return _LEAST + (len(one.error.message) if one.error else 0)


@router.post(
    f"/{{seq:{NUMBER}}}/cancel",
    summary="Cancel an event",
    dependencies=needs("handlers:write", audit="event.cancelled"),
    responses=described(
        shapes.EventDetail,
        "The event with its runs.",
        example=examples.CANCELLED_EVENT,
        problems={404: _GONE, 409: _NOTHING_LEFT},
    ),
)
async def cancel_event(stages: StagesDep, access: HolderDep, seq: Seq) -> Response:
    """Cancels its unfinished runs, and those of all events that its handlers published, directly or not."""
    event = await _event(stages, seq, access)
    error = Error("Cancelled", "its event was cancelled over HTTP")
    cancelled = 0
    # From the root down: a cancelled run publishes no more events below it.
    async for runs, _ in _layers(stages, seq, access):
        unfinished = [run.id for run in runs if run.state in UNFINISHED]
        if unfinished:
            cancelled += len(
                await stages.commits.change(Cancel(runs=unfinished, error=error, now=stages.clock()))
            )
    if not cancelled:
        raise Conflict(f"neither event {seq} nor an event of its tree has an unfinished run")
    return await _detail(stages, event)


async def _layers(
    stages: Stages, seq: int, access: Access
) -> AsyncIterator[tuple[list[RunRecord], list[tuple[int, Event]]]]:
    """Yield the runs of each layer of an event's tree, then the events that these runs published, in parts.

    Events of types that the access does not see are left out, with all below them.
    The events are read after the caller has processed the runs: runs that it cancelled publish nothing more.
    """
    layer = [seq]
    while layer:
        ids: list[int] = []
        async for runs in _runs(stages, layer):
            ids += [run.id for run in runs]
            yield runs, []
        layer, after = [], 0
        while children := await stages.reader.children(ids, after, READ_ROWS, READ_BYTES):
            after = children[-1][1].seq
            seen = [each for each in children if access.sees(each[1].type)]
            layer += [event.seq for _, event in seen]
            yield [], seen


async def _runs(stages: Stages, events: list[int]) -> AsyncIterator[list[RunRecord]]:
    """Yield all runs of these events, in parts."""
    after = 0
    while runs := await stages.reader.runs_of(events, after, READ_ROWS, READ_BYTES):
        after = runs[-1].id
        yield runs


def _node(event: Event) -> shapes.Tree:
    return shapes.Tree(_shown(event), [], [])


def _shown(event: Event) -> shapes.Event:
    # A dict, because extension attributes are members of the same object.
    return cast("shapes.Event", document(event))


async def _event(stages: Stages, seq: int, access: Access) -> Event:
    event = await stages.reader.event(seq)
    if event is None or not access.sees(event.type):
        raise NotFound(
            f"event {seq} does not exist, or was deleted after --retention: GET /v1/events lists events"
        )
    return event
