"""Example answers of the OpenAPI document, by type. They show the sample data of `make run`."""

from __future__ import annotations

from typing import Any

from busway.contract import (
    audit,
    events,
    handlers,
    keys,
    replays,
    results,
    runs,
    schedules,
    service,
    sessions,
    sources,
    uploads,
)
from busway.contract.scalars import CURSOR, TIME
from busway.version import __version__

_ORDER, _PRICED = "01980c8e-7a10-7c3e-9f0b-5c1d2e3f4a5b", "01980c8e-7a2c-7d41-8e65-0b9a1c7d3f28"
_PARCEL = "01980c8e-6f52-7a83-b1d4-92e07c5a6b13"
_AT, _DONE = "2026-01-31T12:00:00.000001Z", "2026-01-31T12:00:00.018274Z"
_DIGEST = "7cd20ca1cb21dc0acc20e6114c054ddc0de44bfcc831cd5d7768945eeac6b0a3"
_RETRY = {"type": "Retry", "message": "the ship to Svalbard leaves tomorrow"}
_TRACEBACK = (
    'Traceback (most recent call last):\n  File "handlers/parcels.py", line 15, in book_carrier\n'
    '    raise Retry(after=86_400, reason="the ship to Svalbard leaves tomorrow")\n'
    "busway.handlers.Retry: the ship to Svalbard leaves tomorrow\n"
)


def _page(*items: Any, **more: Any) -> dict[str, Any]:
    return {"items": [*items], "next": None, **more}


_RUN = {
    "id": 3, "event": 3, "handler": "price", "revision": 1, "state": "succeeded", "attempt": 1,
    "max_attempts": 5, "available_at": _AT, "created_at": _AT, "finished_at": _DONE, "error": None,
    "replay": None,
}  # fmt: skip
_WAITING = {
    **_RUN, "id": 1, "event": 1, "handler": "book_carrier", "state": "retryable", "max_attempts": 4,
    "available_at": "2026-02-01T12:00:00.018274Z", "finished_at": None,
    "error": {**_RETRY, "traceback": None},
}  # fmt: skip
_CANCELLED = {
    **_WAITING, "state": "cancelled", "finished_at": _DONE,
    "error": {"type": "Cancelled", "message": "cancelled over HTTP", "traceback": None},
}  # fmt: skip
_AVAILABLE = {**_WAITING, "state": "available", "available_at": _DONE, "max_attempts": 5}
_ATTEMPT = {
    "attempt": 1, "outcome": "failed", "revision": 1, "started_at": _AT, "finished_at": _DONE,
    "pool": "process", "worker": 4711, "node": "web1", "cpu_time": 0.002053, "wall_time": 0.002053,
    "peak_memory": 995328, "error": {**_RETRY, "traceback": _TRACEBACK},
    "log": "INFO attempt 1 for a parcel to Svalbard\n", "published": None,
}  # fmt: skip
_PARCEL_EVENT = {
    "seq": 1, "specversion": "1.0", "id": _PARCEL, "source": "/", "type": "parcel.sent", "time": _AT,
    "correlationid": _PARCEL, "data": {"to": "Svalbard"},
}  # fmt: skip
_ORDER_EVENT = {
    "seq": 3, "specversion": "1.0", "id": _ORDER, "source": "/", "type": "order.created", "time": _AT,
    "correlationid": _ORDER, "data": {"item": "book", "quantity": 2},
}  # fmt: skip
_STRUCTURED = {name: value for name, value in _ORDER_EVENT.items() if name != "seq"}
_PUBLISHED = {
    "specversion": "1.0", "id": _PRICED, "source": "/handlers/price", "type": "order.priced", "time": _DONE,
    "causationid": _ORDER, "correlationid": _ORDER, "data": {"item": "book", "quantity": 2, "total": 2500},
}  # fmt: skip
_FIELDS = {
    "target": "orders:price", "events": ["order.created"], "filter": None, "pool": None, "timeout": 60,
    "max_attempts": 5, "backoff": {"initial": 1, "factor": 2, "max": 3600, "jitter": 0.1},
    "concurrency": None, "rate": None, "ordered": False, "memory": None, "breaker": None, "paused": False,
    "description": "Price an order.",
}  # fmt: skip
_HANDLER = {
    **_FIELDS, "name": "price", "revision": 1, "source": "code", "overrides": {}, "missing": False,
    "created_at": _AT, "updated_at": _AT, "waits_because": None, "secret_since": None,
    "previous_secret_until": None,
    "paused_by": None, "paused_reason": None, "paused_until": None,
    "placed_in": {"pool": "process", "reason": "the gateway was started with it", "since": _AT},
    "stats": {
        "runs": {"succeeded": 1, "dead": 1},
        "latency": {"p50": 0.000389, "p95": 0.000533, "attempts": 2},
        "last_error": {
            "type": "Fail", "message": "we do not sell 'piano': choose one of book, pen, lamp",
            "traceback": None,
        },
    },
}  # fmt: skip
_NEW = {
    **_HANDLER, "name": "try-me", "source": "api", "description": "",
    "stats": {"runs": {}, "latency": {"p50": None, "p95": None, "attempts": 0}, "last_error": None},
}  # fmt: skip
_RECEIPT = {
    "seq": 3, "id": _ORDER, "source": "/", "type": "order.created", "runs": 1, "duplicate": False,
}  # fmt: skip
_RESULT = {
    **results.EXAMPLE, "event": {**results.EXAMPLE["event"], "seq": 3}, "handler": "price", "run": 3,
    "data": {"total": 2500}, "completes": None, "time": _DONE,
}  # fmt: skip
_KEY = {
    "id": 1, "name": "me", "scopes": ["admin"], "types": None, "created_at": _AT, "expires_at": None,
    "revoked_at": None, "last_used_at": None, "source": "database",
}  # fmt: skip
_POOL = {
    "processes": 2, "threads": 1, "running": 0, "delayed": False, "crash_loop": None, "error": None,
    "workers": [
        {
            "pid": 4711, "state": "ready", "running": 0, "served": 4, "alone": False, "memory": 15335424,
            "age": 60.2,
        },
    ],
}  # fmt: skip
_STATUS: dict[str, Any] = {
    "version": __version__, "state": "ready", "started_at": _AT,
    "tokens": None, "keys_file": None,
    "access": "open on loopback: no API key exists",
    "nodes": [
        {
            "id": 1, "name": "web1", "role": "all", "version": "0.1.0", "code": "5d41402abc4b",
            "leader": True, "term": 3,
            "this": True, "started_at": _AT, "capacity": {"process": 2, "thread": 32, "http": 100},
            "running": {"process": 1}, "lag": 0,
        },
    ],
    "broker": {
        "url": "nats://nats.example.com:4222", "connected": True, "problem": None, "sent": 41,
        "received": 38, "ignored": {},
    },
    "workers": {
        "zygote": {"pid": 4710, "starts_workers_by": "fork", "restarts": 0, "error": None},
        "parked": 0, "deaths": {"process": {}, "thread": {}},
        "pools": {"process": _POOL, "http": {"running": 0, "limit": 100, "workers": []}},
    },
    "committer": {"pid": 4709, "healthy": True, "log_bytes": 189552, "log_blocked": False},
    "queues": {
        "publishes_and_outcomes": 0,
        "handlers": [
            {"handler": "price", "runs": {"succeeded": 1, "dead": 1}, "waiting_in_memory": 0, "oldest": None}
        ],
    },
    "files_that_do_not_import": [],
    "subscribers": {
        "connections": 1, "subscriptions": 1, "live": 1, "lagging": 0, "furthest_behind": 0, "head": 41,
        "ring": {"results": 41, "bytes": 42180},
    },
    "disk": {"database": "examples.db", "bytes": 337008, "free": 55429001216},
}  # fmt: skip
_TARGET = {"target": "orders:price", "kind": "function", "doc": "Price an order."}
_TREE = {
    "event": _ORDER_EVENT,
    "runs": [_RUN],
    "events": [
        {
            "event": {"seq": 4, **_PUBLISHED},
            "runs": [{**_RUN, "id": 4, "event": 4, "handler": "invoice"}],
            "events": [],
        }
    ],
}
_TRIAL = {
    "outcome": "succeeded", "revision": 1, "matches": True, "data": {"total": 2500}, "partials": [],
    "partials_left_out": 0, "published": [_PUBLISHED], "published_left_out": 0, "error": None, "log": None,
    "wall_time": 0.000392, "cpu_time": 0.000392, "peak_memory": None, "pool": "process", "worker": 4711,
}  # fmt: skip
_DURABLE = {
    "name": "billing", "cursor": CURSOR, "behind": 3, "connected": False, "created_at": _AT,
    "acknowledged_at": _DONE,
}  # fmt: skip

_REPLAY = {
    "id": 1, "handler": "price", "types": ["order.*"], "after": 1000, "before": 2000, "shadow": True,
    "state": "running", "matched": 250, "created": 250, "runs": {"available": 100, "succeeded": 150},
    "position": 1312, "created_at": _AT, "finished_at": None,
}  # fmt: skip
_REPLAYED = {**_RUN, "id": 9, "replay": 1}
_COMPARED = {
    "event": 3, "run": _REPLAYED, "recorded_run": _RUN, "recorded_result": _RESULT,
    "result": {**_RESULT, "run": 9, "replay": 1, "data": {"total": 2750}},
}  # fmt: skip

_SCHEDULE = {
    "name": "nightly-report", "cron": "0 3 * * *", "every": None, "timezone": "Europe/Berlin",
    "event": {"type": "report.wanted", "data": {"of": "yesterday"}}, "catch_up": "one", "paused": False,
    "description": "", "next": [f"2026-02-0{day}T02:00:00.000000Z" for day in range(1, 6)],
    "last_fired_at": "2026-01-31T02:00:00.000000Z", "created_at": _AT, "updated_at": _AT,
}  # fmt: skip

NEW_SCHEDULE = {**_SCHEDULE, "name": "try-me", "last_fired_at": None}
PAUSED_SCHEDULE = {**_SCHEDULE, "paused": True, "next": [], "updated_at": _DONE}
CREATED = _NEW
CANCELLED_REPLAY = {
    **_REPLAY, "state": "cancelled", "runs": {"cancelled": 100, "succeeded": 150}, "finished_at": _DONE,
}  # fmt: skip
_SOURCE = {
    "name": "repo", "kind": "github", "type": "github.{event}", "filter": None, "signature_header": None,
    "id_header": None, "paused": False, "description": "", "previous_secret_until": None, "created_at": _AT,
    "updated_at": _AT,
}  # fmt: skip
_HOOKED = {
    **_RECEIPT, "id": "72d3162e-cc78-11e3-81ab-4c9367dc0958", "source": "/hooks/repo", "type": "github.push",
}  # fmt: skip

ROTATED = {
    **_SOURCE, "previous_secret_until": "2026-02-01T12:00:00.018274Z", "updated_at": _DONE,
    "secret": "9f86d0…",
}  # fmt: skip
ROTATED_KEY = {**_KEY, "id": 2, "created_at": _DONE, "key": "bw_2_Zt0k…"}
CANCELLED_RUN, RETRIED_RUN = _CANCELLED, _AVAILABLE
PAUSED = {
    **_HANDLER, "name": "notify", "target": "orders:notify", "events": ["invoice.ready"], "paused": True,
    "overrides": {"paused": True}, "waits_because": "it is paused", "description": "Notify the customer.",
}  # fmt: skip
RESUMED = {**PAUSED, "paused": False, "overrides": {}, "waits_because": None}
CHANGED = {
    **_HANDLER, "timeout": 30, "max_attempts": 3, "revision": 2,
    "overrides": {"timeout": 30, "max_attempts": 3}, "updated_at": _DONE,
}  # fmt: skip
NEW_SECRET: dict[str, Any] = {
    **_NEW, "name": "hook", "target": "https://example.com/hooks/orders", "pool": None, "secret_since": _DONE,
    "previous_secret_until": "2026-02-01T12:00:00.018274Z",
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "placed_in": {"pool": "http", "reason": "its target is a URL", "since": _AT},
}  # fmt: skip
CANCELLED_EVENT = {**_PARCEL_EVENT, "runs": [_CANCELLED]}
_REVISION = {
    **_FIELDS, "revision": 1, "created_at": _AT, "file_digest": _DIGEST, "source_missing": None,
    "source": "from busway import handler\n\n\n@handler('order.created')\ndef price(event):\n    return 42\n",
}  # fmt: skip
_RECIPIENT = {
    "connection": 1, "id": "s1", "durable": "billing", "name": None, "selected": 1, "received": 1,
    "pushed_at": _DONE, "since": _AT, "acknowledged": 1, "acknowledged_at": _DONE,
}  # fmt: skip

ANSWERS: dict[Any, Any] = {
    events.Receipt: _RECEIPT,
    events.EventOutcome: {"event": _RECEIPT, "results": [_RESULT]},
    events.EventList: _page(_ORDER_EVENT, _PARCEL_EVENT),
    events.EventDetail: {**_PARCEL_EVENT, "runs": [_WAITING]},
    events.StructuredEvent: _STRUCTURED,
    events.Tree: _TREE,
    handlers.Handler: _HANDLER,
    handlers.HandlerList: _page(_HANDLER),
    handlers.RevisionList: _page({**_FIELDS, "revision": 1, "created_at": _AT, "file_digest": _DIGEST}),
    handlers.RevisionDetail: _REVISION,
    handlers.TargetList: _page(_TARGET),
    handlers.TrialAnswer: _TRIAL,
    replays.Replay: _REPLAY,
    replays.ReplayList: _page(_REPLAY),
    replays.ReplayResultList: _page(_COMPARED),
    runs.RunList: _page(_RUN, _WAITING),
    runs.RunDetail: {**_WAITING, "attempts": [_ATTEMPT]},
    runs.RetryAnswer: {"retried": 1},
    results.ItemList: _page(results.EXAMPLE, cursor=CURSOR),
    results.DurableSubscriptionList: _page(_DURABLE),
    service.Recipients: {"results": 1, "unfinished": 0, "items": [_RECIPIENT], "truncated": False},
    service.FollowerList: _page(
        {
            "connection": 1,
            "id": "s1",
            "durable": None,
            "key": None,
            "name": None,
            "types": ["order.*"],
            "handlers": [],
            "kinds": [],
            "correlationid": None,
            "filter": None,
            "shadow": False,
            "live": True,
            "behind": 0,
        }
    ),
    schedules.Schedule: _SCHEDULE,
    schedules.ScheduleList: _page(_SCHEDULE),
    uploads.UploadResult: {
        "accepted": 998,
        "duplicates": 1,
        "rejected": [{"line": 7, "detail": 'type: type is missing: set it, for example to "order.created"'}],
        "rejected_total": 1,
        "skipped": 0,
        "lines": 1000,
    },
    uploads.Producer: {
        "id": "import-2026-01-31",
        "lines": 1000,
        "accepted": 998,
        "duplicates": 1,
        "rejected_total": 1,
        "created_at": _AT,
        "updated_at": _DONE,
    },
    keys.NewKey: {**_KEY, "key": "bw_1_Wq3x…"},
    keys.KeyList: _page(_KEY),
    audit.AuditList: _page(
        {
            "id": 7,
            "time": _DONE,
            "actor": "key:1",
            "name": "me",
            "address": "203.0.113.7",
            "action": "handler.paused",
            "object": "price",
            "details": {"revision": 1},
            "node": "web1",
        }
    ),
    keys.Ticket: {"ticket": "bwt_Zk9…", "expires_at": "2026-01-31T12:00:30.000000Z"},
    sessions.Session: {
        "by": "session",
        "key": 1,
        "name": "me",
        "scopes": ["admin"],
        "types": None,
        "expires_at": "2026-02-01T00:00:00.018274Z",
    },
    sources.Source: _SOURCE,
    sources.SourceWithSecret: {**_SOURCE, "secret": "9f86d0…"},
    sources.SourceList: _page(_SOURCE),
    sources.HookAnswer: {"event": _HOOKED},
    service.Health: {"status": "alive"},
    service.Readiness: {"status": "ready", "trouble": []},
    service.Status: _STATUS,
    service.Rates: {"samples": [{"time": TIME, "seconds": 4.0, "events": 40, "results": 120, "failures": 1}]},
}
"""The usual answer of each type. A route whose answer differs names one of the others above."""
