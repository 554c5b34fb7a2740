"""Handlers, their revisions and targets, and trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.events import CloudEvent, EventIn
from busway.contract.filters import Filter
from busway.contract.runs import CountsByState, Error
from busway.contract.scalars import ONE_VALUE, Base64, Page, Time, any_of, one_of
from busway.domain.breaker import Breaker
from busway.domain.handler import (
    MAX_ATTEMPTS,
    MAX_CONCURRENCY,
    MAX_DESCRIPTION,
    MAX_MEMORY,
    MAX_PATTERNS,
    MAX_TIMEOUT,
    NAME,
    RATE,
    RULES,
    TARGET,
    Backoff,
)
from busway.domain.run import Outcome
from busway.domain.weburl import HTTP, MAX_URL, URL


def _rule(field: str) -> Mapping[str, Any]:
    """Return the rule of a field. Its message is more specific than that of the type."""
    return {"rule": RULES[field]}


HandlerName = Annotated[
    str,
    Meta(
        pattern=f"^{NAME.pattern}$",
        description="The unique name of the handler.",
        examples=["try-me"],
        extra=_rule("name"),
    ),
]
TargetName = Annotated[
    str,
    Meta(
        pattern=f"^({TARGET.pattern}|{URL.pattern})$",
        max_length=MAX_URL,
        description="`module:function` or `package.module:function`, which `GET /v1/targets` lists, or an "
        "`https://` URL, to which the gateway sends the events.",
        examples=["orders:price"],
        extra=_rule("target"),
    ),
]
Patterns = Annotated[
    list[str],
    Meta(
        min_length=1,
        max_length=MAX_PATTERNS,
        description="Type patterns: `*` matches one segment, `**` at the end one or more.",
        examples=[["order.*"]],
        extra=_rule("events"),
    ),
]
Filtered = Annotated[
    Filter | None, Meta(description="Selects events that match `events`. Null: all.", extra=_rule("filter"))
]
Pool = Annotated[
    Literal["process", "thread", "auto"],
    Meta(
        description="Where attempts run. `auto`: decided by measurement. Null: the gateway's `--pool`. "
        "Not for URLs.",
        extra=_rule("pool"),
    ),
]
Timeout = Annotated[
    float,
    Meta(
        gt=0,
        le=MAX_TIMEOUT,
        description="Maximum duration of one attempt in seconds. The default is 60.",
        extra=_rule("timeout"),
    ),
]
MaxAttempts = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_ATTEMPTS,
        description="Maximum number of attempts. The default is 5.",
        extra=_rule("max_attempts"),
    ),
]
BackoffIn = Annotated[Backoff | None, Meta(description="Seconds between attempts.", extra=_rule("backoff"))]
Concurrency = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_CONCURRENCY,
        description="Maximum number of concurrent runs. Null: no limit.",
        extra=_rule("concurrency"),
    ),
]
Rate = Annotated[
    str,
    Meta(
        pattern=f"^{RATE.pattern}$",
        description="Maximum starts per second, minute or hour. Starts are spread evenly, never dropped. "
        "Null: no limit.",
        examples=["100/s"],
        extra=_rule("rate"),
    ),
]
Ordered = Annotated[
    bool,
    Meta(
        description="The due runs of one `partitionkey` start in event order, one at a time. "
        "A run that waits for its next attempt holds its key.",
        extra=_rule("ordered"),
    ),
]
Memory = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_MEMORY,
        description="MiB that one attempt may add to its worker's memory. Not for threads. Null: no limit.",
        extra=_rule("memory"),
    ),
]
BreakerIn = Annotated[
    Breaker | None,
    Meta(
        description="The handler pauses itself after so many failed attempts within so many seconds and no "
        "success between them. Null: it does not.",
        extra=_rule("breaker"),
    ),
]
Paused = Annotated[
    bool,
    Meta(
        description="While the handler is paused, runs wait. Attempts that have started finish.",
        extra=_rule("paused"),
    ),
]
Description = Annotated[
    str, Meta(max_length=MAX_DESCRIPTION, description="Free text.", extra=_rule("description"))
]


class HandlerChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Handler fields to set. Null restores the value of the code, or the default."""

    name: (
        Annotated[HandlerName | None, Meta(description="The name in the URL. It cannot be changed.")]
        | UnsetType
    ) = UNSET
    target: TargetName | UnsetType | None = UNSET
    events: Patterns | UnsetType | None = UNSET
    filter: Filtered | UnsetType = UNSET
    pool: Pool | UnsetType | None = UNSET
    timeout: Timeout | UnsetType | None = UNSET
    max_attempts: MaxAttempts | UnsetType | None = UNSET
    backoff: BackoffIn | UnsetType = UNSET
    concurrency: Concurrency | UnsetType | None = UNSET
    rate: Rate | UnsetType | None = UNSET
    ordered: Ordered | UnsetType | None = UNSET
    memory: Memory | UnsetType | None = UNSET
    breaker: BreakerIn | UnsetType = UNSET
    paused: Paused | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET


class HandlerIn(HandlerChange, kw_only=True):
    """A handler to create. A field that is null or missing has its default."""

    name: HandlerName
    target: TargetName
    events: Patterns


class Settings(msgspec.Struct, kw_only=True):
    """The fields of a handler that are in force."""

    target: TargetName
    events: Patterns
    filter: Filtered
    pool: Pool | None
    timeout: Timeout
    max_attempts: MaxAttempts
    backoff: Annotated[Backoff, Meta(description="Seconds between attempts.")]
    concurrency: Concurrency | None
    rate: Rate | None
    ordered: Ordered
    memory: Memory | None
    breaker: BreakerIn
    paused: Paused
    description: Description


class PlacedIn(msgspec.Struct):
    """Where the attempts of a handler run."""

    pool: Annotated[str, one_of(["process", "thread", HTTP])]
    reason: Annotated[str, Meta(description="The reason, with measurements if there are any.")]
    since: Time


class Latency(msgspec.Struct):
    """The duration of the last attempts in seconds, or null without attempts."""

    p50: Annotated[float | None, Meta(description="The median.")]
    p95: Annotated[float | None, Meta(description="The 95th percentile.")]
    attempts: Annotated[int, Meta(description="The number of measured attempts.")]


class Stats(msgspec.Struct):
    """The runs of a handler."""

    runs: CountsByState
    latency: Latency
    last_error: Error | None


class Handler(Settings, kw_only=True):
    """A handler with the fields that are in force."""

    name: HandlerName
    revision: Annotated[int, Meta(description="Counted from 1.")]
    source: Annotated[str, one_of(["code", "api"]), Meta(description="Whether code or a client created it.")]
    overrides: Annotated[
        dict[str, Any],
        Meta(
            description="The fields set over HTTP that differ from the code's, with their values. "
            "Setting a field to null restores the code's value.",
            examples=[{"timeout": 30}],
        ),
    ]
    missing: Annotated[
        bool,
        Meta(description="Whether code declared the handler and no longer does. It gets no events."),
    ]
    created_at: Time
    updated_at: Time
    paused_by: Annotated[
        str | None,
        Meta(
            description="`breaker`: its breaker; `target`: its URL is gone. Null: a client, or nobody.",
            examples=["breaker"],
        ),
    ]
    paused_reason: Annotated[str | None, Meta(description="Why it paused itself, or null.")]
    paused_until: Annotated[Time | None, Meta(description="When it resumes by itself, or null.")]
    waits_because: Annotated[str | None, Meta(description="Why its runs wait, or null.")]
    placed_in: PlacedIn
    secret_since: Annotated[
        Time | None,
        Meta(
            description="Since when its newest secret signs what is sent to its URL. Null: it never had one."
        ),
    ] = None
    previous_secret_until: Annotated[
        Time | None,
        Meta(description="Until when the secret before signs, too. Null: the newest one signs alone."),
    ] = None
    stats: Stats
    secret: (
        Annotated[
            str,
            Meta(
                description="The secret that signs what is sent to its URL (Standard Webhooks). Only "
                "the answer to the request that made it has it.",
                examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
            ),
        ]
        | UnsetType
    ) = UNSET


class HandlerList(Page[Handler]):
    """A page of handlers, by name."""


class Revision(Settings, kw_only=True):
    """The fields of a handler that were in force under one of its revisions."""

    revision: Annotated[int, Meta(description="Counted from 1.")]
    created_at: Time
    file_digest: Annotated[str, Meta(description="Identifies the content of the target's source file.")]


class RevisionDetail(Revision, kw_only=True):
    """A revision with the source of its target."""

    source: Annotated[
        str | None,
        Meta(description="The text of the target's source file. Null: `source_missing` says why."),
    ]
    source_missing: Annotated[str | None, Meta(description="Why there is no `source`. Null: there is one.")]


class RevisionList(Page[Revision]):
    """A page of revisions of a handler, newest first."""


class Target(msgspec.Struct):
    """A function of the handlers folder that can be registered."""

    target: TargetName
    kind: Annotated[str, one_of(["function", "coroutine", "generator", "async_generator"])]
    doc: Annotated[str, Meta(description="The first line of its docstring.")]


class BrokenFile(msgspec.Struct):
    """A file of the handlers folder that cannot be imported, or what else is not loaded."""

    file: Annotated[
        str, Meta(description="A file or a folder below the handlers folder.", examples=["orders.py"])
    ]
    error: Annotated[str, Meta(description="The traceback, or why it is not loaded.")]


class TargetList(Page[Annotated[Any, any_of("Target", "BrokenFile")]]):
    """A page of targets. What cannot be imported or is not loaded comes first."""


class TrialIn(msgspec.Struct, forbid_unknown_fields=True):
    """The event to test a handler with."""

    event: EventIn


class PartialValue(msgspec.Struct, kw_only=True):
    """A value that the attempt yielded, or progress."""

    SCHEMA: ClassVar[dict[str, Any]] = ONE_VALUE

    index: Annotated[int, Meta(description="Counted from 0.")]
    data: Annotated[Any, Meta(description="The value.")] | UnsetType = UNSET
    data_base64: Base64 | UnsetType = UNSET


class TrialAnswer(msgspec.Struct, kw_only=True):
    """The outcome of a test. Nothing was stored."""

    SCHEMA: ClassVar[dict[str, Any]] = ONE_VALUE

    outcome: Annotated[
        str,
        one_of([Outcome.SUCCEEDED, Outcome.FAILED, Outcome.LOST]),
        Meta(description="`lost`: the gateway ended the worker. Try again."),
    ]
    revision: Annotated[int, Meta(description="The handler's revision that it ran.")]
    matches: Annotated[bool, Meta(description="Whether the handler's patterns and filter match the event.")]
    data: Annotated[Any, Meta(description="The final value.")] | UnsetType = UNSET
    data_base64: Base64 | UnsetType = UNSET
    partials: Annotated[list[PartialValue], Meta(description="The first partial results, at most 1 MiB.")]
    partials_left_out: int
    published: Annotated[list[CloudEvent], Meta(description="The events that a run would have published.")]
    published_left_out: int
    error: Error | None
    log: Annotated[str | None, Meta(description="What it printed and logged, at most 64 KiB.")]
    wall_time: Annotated[float | None, Meta(description="Seconds.")]
    cpu_time: Annotated[
        float | None, Meta(description="Seconds; null if it is not known for one attempt alone.")
    ]
    peak_memory: Annotated[int | None, Meta(description="Bytes; null if it is not known.")]
    pool: Annotated[str, Meta(description="The pool of the handler's runs: `process`, `thread` or `http`.")]
    worker: Annotated[int | None, Meta(description="The worker's process id. Null for a URL.")]
