"""What the OpenAPI document says of bodies and answers. Models describe; the stages check."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE: Any = {
    "all": [{"exact": {"data.customer.country": "NO"}}, {"not": {"prefix": {"subject": "test-"}}}]
}


class Filter(BaseModel):
    """One dialect of the CloudEvents Subscriptions API; several comparisons in one must all hold.

    Names are attributes, or paths into the payload: keys and list positions between dots, such as
    `data.lines.0.sku`. Attributes are compared with text; in the payload `exact` takes any string, number,
    boolean or null and keeps their types apart. What is missing does not match. At most 16 deep, 256
    comparisons, 16,384 characters.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"minProperties": 1, "maxProperties": 1, "examples": [EXAMPLE]}
    )

    exact: dict[str, str | float | bool | None] = Field(
        default={}, min_length=1, description="equal", examples=[{"data.customer.country": "NO"}]
    )
    prefix: dict[str, str] = Field(
        default={}, min_length=1, description="begins with", examples=[{"subject": "eu-"}]
    )
    suffix: dict[str, str] = Field(
        default={}, min_length=1, description="ends with", examples=[{"source": "/shop"}]
    )
    all: list[Filter] = Field(default=[], min_length=1, description="each of these holds")
    any: list[Filter] = Field(default=[], min_length=1, description="one of these holds")
    not_: Filter | None = Field(default=None, alias="not", description="this does not hold")


State = Literal["available", "running", "retryable", "succeeded", "cancelled", "dead"]
TIME = "RFC 3339 in UTC"


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=["urn:busway:problem:invalid"], description="a name for this kind of error")
    title: str = Field(examples=["Invalid"])
    status: int = Field(examples=[422], description="the HTTP status")
    detail: str = Field(examples=["type: an event needs a type"], description="what is wrong and what to do")
    errors: list[dict[str, Any]] | None = Field(None, description="bad fields: `{loc, msg}` each")


class EventIn(BaseModel):
    """An event to publish. Only `type` is required; other names of a-z and 0-9 are extension attributes."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="what happened, in segments between dots", examples=["order.created"])
    data: Any = Field(None, description="any JSON", examples=[{"item": "book", "quantity": 2}])
    data_base64: str | None = Field(None, description="binary payload in place of `data`, as base64")
    id: str | None = Field(None, description="(source, id) is unique; defaults to a UUIDv7")
    source: str | None = Field(None, description='who says so; defaults to "/"')
    subject: str | None = Field(None, description="what it is about")
    time: str | None = Field(None, description=f"when it happened, {TIME}; defaults to now")
    datacontenttype: str | None = Field(None, description="the media type of the payload")
    specversion: Literal["1.0"] | None = Field(None, description="CloudEvents version")
    priority: int | None = Field(None, ge=0, le=9, description="9 first; defaults to 4")
    deliverat: str | None = Field(None, description=f"runs do not start before, {TIME}")
    expirytime: str | None = Field(None, description=f"unstarted runs are cancelled after, {TIME}")
    correlationid: str | None = Field(None, description="what it belongs to; defaults to its own id")
    causationid: str | None = Field(None, description="the id of the event that caused it")
    partitionkey: str | None = Field(
        None, description="ordered handlers run the events of one key one after another"
    )


class Receipt(BaseModel):
    """What became of a published event."""

    seq: int = Field(description="the event's number in this gateway", examples=[1])
    id: str = Field(examples=["0199f3c2-6a00-7000-8000-000000000001"])
    source: str = Field(examples=["/"])
    type: str = Field(examples=["order.created"])
    runs: int = Field(description="how many runs it starts; 0 for a duplicate", examples=[1])
    duplicate: bool = Field(description="(source, id) was stored before; `seq` is the first one's")


class ReceiptList(BaseModel):
    """The receipts of an array, in its order."""

    items: list[Receipt]


class ErrorBody(BaseModel):
    """Why an attempt failed."""

    type: str = Field(examples=["ValueError"])
    message: str = Field(examples=["quantity must be positive"])
    traceback: str | None = None


class RunBody(BaseModel):
    """One event through one handler."""

    id: int = Field(examples=[1])
    event: int = Field(description="the event's `seq`", examples=[1])
    handler: str = Field(examples=["price"])
    revision: int | None = Field(description="the handler's revision that the newest attempt ran")
    state: State
    attempt: int = Field(description="attempts made or under way")
    max_attempts: int
    available_at: str = Field(description=f"not before, {TIME}")
    created_at: str = Field(description=TIME)
    finished_at: str | None = Field(description=f"{TIME}; null while it is unfinished")
    error: ErrorBody | None = Field(description="of the newest failed attempt")
    replay: bool


class AttemptBody(BaseModel):
    """One try of a run."""

    attempt: int
    outcome: Literal["succeeded", "failed", "cancelled", "lost"] | None = Field(
        description="null while it runs"
    )
    revision: int
    started_at: str
    finished_at: str | None
    pool: str
    worker: int | None = Field(description="process id")
    cpu_time: float | None = Field(description="seconds")
    wall_time: float | None = Field(description="seconds")
    peak_memory: int | None = Field(description="bytes")
    error: ErrorBody | None
    log: str | None = Field(description="what it printed and logged, 64 KiB at most")


class RunDetail(RunBody):
    """A run with its attempts."""

    attempts: list[AttemptBody]


class RunList(BaseModel):
    """A page of runs, newest first."""

    items: list[RunBody]
    next: str | None = Field(description="`after` of the next page")


class EventBody(EventIn):
    """A stored event."""

    seq: int
    id: str
    source: str
    time: str


class EventList(BaseModel):
    """A page of events, newest first."""

    items: list[EventBody]
    next: str | None = Field(description="`after` of the next page")


class EventDetail(EventBody):
    """An event with its runs."""

    runs: list[RunBody]


class Tree(BaseModel):
    """An event, its runs, and the events that they published, each the same way."""

    event: EventBody
    runs: list[RunBody]
    events: list[Tree]
    truncated: bool | None = Field(
        None, description="on the root: there are over 1000 events, the rest is left out"
    )


class ItemEvent(BaseModel):
    """What a result says of its event."""

    seq: int
    id: str
    type: str
    source: str
    subject: str | None
    correlationid: str


class Item(BaseModel):
    """One entry of the result log."""

    cursor: str
    kind: Literal["partial", "succeeded", "failed", "dead", "cancelled"]
    event: ItemEvent
    handler: str
    revision: int
    run: int
    attempt: int
    index: int | None = Field(description="counts the partials of one attempt from 0")
    data: Any = Field(description="the value; binary values stand as `data_base64` in its place")
    error: ErrorBody | None
    completes: dict[str, int] | None = Field(
        description="the root event and all that came of it has no unfinished run now: runs by final state"
    )
    replay: bool
    time: str


class ItemList(BaseModel):
    """A page of results, oldest first."""

    items: list[Item]
    next: str | None = Field(description="`after` of the next page")
    cursor: str = Field(description="where to go on from, also when `next` is null")


class BackoffBody(BaseModel):
    """Seconds between attempts."""

    initial: float = 1
    factor: float = 2
    max: float = 3600
    jitter: float = Field(0.1, description="the share by which a delay may differ, 0 to 1")


class HandlerChange(BaseModel):
    """Handler fields to set; null takes an override back."""

    model_config = ConfigDict(extra="forbid")

    target: str | None = Field(
        None, description="module:function of the handlers folder", examples=["orders:price"]
    )
    events: list[str] | None = Field(None, description="type patterns", examples=[["order.*"]])
    filter: Filter | None = Field(None, description="which of these events; null: all")
    pool: Literal["process", "thread", "auto"] | None = Field(
        None, description="auto: as its attempts are measured; null: what the gateway was started with"
    )
    timeout: float | None = Field(
        None, gt=0, le=86400, description="seconds for one attempt; 60 if not given"
    )
    max_attempts: int | None = Field(None, ge=1, le=1000, description="5 if not given")
    backoff: BackoffBody | None = Field(None, description="seconds between attempts")
    memory: int | None = Field(
        None, ge=1, le=1048576, description="MiB that one attempt may add to its worker; not with threads"
    )
    concurrency: int | None = Field(
        None, ge=1, le=100_000, description="at most so many runs at once; null: no limit"
    )
    rate: str | None = Field(
        None,
        pattern="^[1-9][0-9]{0,8}/[smh]$",
        description="at most so many starts a second, minute or hour, spread evenly and never dropped; "
        "null: no limit",
        examples=["100/s"],
    )
    ordered: bool | None = Field(
        None,
        description="the due runs of one `partitionkey` go in event order, one at a time; a run that waits "
        "for its next attempt holds its key",
    )
    paused: bool | None = Field(None, description="runs wait, started attempts finish")
    description: str | None = Field(None, description="for people")


class HandlerIn(HandlerChange):
    """A handler to make."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9_-]{0,62}$")
    target: str = Field(description="module:function of the handlers folder")
    events: list[str] = Field(description="type patterns: `*` is one segment, `**` at the end one or more")


class HandlerBody(BaseModel):
    """A handler as it is in force."""

    name: str
    target: str
    events: list[str]
    filter: Filter | None
    pool: str | None
    timeout: float
    max_attempts: int
    backoff: BackoffBody
    concurrency: int | None
    rate: str | None
    ordered: bool
    memory: int | None
    paused: bool
    description: str
    revision: int
    source: Literal["code", "api"]
    created_at: str
    updated_at: str
    waits_because: str | None = Field(description="why its runs wait, null if nothing holds them")
    placed_in: dict[str, Any] = Field(
        description="`pool`, `since`, and `reason`, with the figures if measured"
    )
    stats: dict[str, Any] = Field(description="runs by state, latency in seconds, last error")


class TrialIn(BaseModel):
    """What to run a handler on."""

    model_config = ConfigDict(extra="forbid")

    event: EventIn


class TrialAnswer(BaseModel):
    """How one attempt ended, of which nothing was stored."""

    outcome: Literal["succeeded", "failed", "lost"] = Field(
        description="lost: the gateway had to end the worker; try again"
    )
    revision: int = Field(description="the revision that it ran")
    matches: bool = Field(description="whether its patterns and filter admit the event")
    data: Any = Field(None, description="the final value; a binary one stands as `data_base64` in its place")
    data_base64: str | None = None
    partials: list[dict[str, Any]] = Field(description="`index` and `data` of the first ones, 1 MiB at most")
    partials_left_out: int
    published: list[dict[str, Any]] = Field(description="the events that a run would have stored")
    published_left_out: int
    error: ErrorBody | None
    log: str | None = Field(description="what it printed and logged, 64 KiB at most")
    wall_time: float | None = Field(description="seconds")
    cpu_time: float | None = Field(description="seconds; null where it cannot be told for one attempt alone")
    peak_memory: int | None = Field(description="bytes; null where it cannot be told")
    pool: str = Field(description="where its runs go: process or thread")
    worker: int | None = Field(description="process id")


class HandlerList(BaseModel):
    """A page of handlers, by name."""

    items: list[HandlerBody]
    next: str | None


class RevisionList(BaseModel):
    """The revisions of a handler, newest first."""

    items: list[dict[str, Any]]
    next: str | None


class TargetList(BaseModel):
    """Functions that can be registered, and files that do not import."""

    items: list[dict[str, Any]]
    next: str | None


class RetryIn(BaseModel):
    """Which runs to retry."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["dead", "cancelled"] = "dead"
    handler: str | None = Field(None, description="only this handler's runs")


class RetryAnswer(BaseModel):
    """How many runs wait again."""

    retried: int


class KeyIn(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="whose it is")
    scopes: list[Literal["publish", "subscribe", "handlers:read", "handlers:write", "admin"]]
    expires_at: str | None = Field(None, description=f"{TIME}; null: never")


class KeyBody(BaseModel):
    """A key without its secret."""

    id: int
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class NewKey(KeyBody):
    """A key, shown this once."""

    key: str


class KeyList(BaseModel):
    """The keys that were made."""

    items: list[KeyBody]
    next: str | None


def answers(model: Any, description: str, *, status: int = 200, example: Any = None) -> Any:
    """Return the `responses` of a route: its answer, and the problem document for everything else."""
    answer: dict[str, Any] = {"description": description}
    if model is not None:
        answer["model"] = model
    if example is not None:
        answer["content"] = {"application/json": {"example": example}}
    problem = {
        "description": "a problem document that says what to do",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    return {status: answer, "4XX": problem, "5XX": problem}


def body(model: type[BaseModel], example: Any, **more: Any) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads its body itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": schema, "example": example, **more}}
    return {"requestBody": {"required": True, "content": content}}
