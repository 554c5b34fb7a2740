"""The AsyncAPI 3.0 document of `/v1/subscribe`, frames and events, with an example of each."""

from __future__ import annotations

from typing import Any

from busway.domain.result import KINDS, Kind
from busway.version import __version__

_CLOSES = {
    1001: "going away: connect again with your cursor",
    1008: "not allowed",
    1009: "a frame is too large",
    1011: "a fault of the gateway: connect again with your cursor",
    1012: "the gateway restarts: connect again with your cursor",
    1013: "try again later",
    4400: "bad first message or query string",
    4401: "a key is missing, was revoked or has expired, or a ticket is unknown, used or expired",
    4408: "no progress for 60 s: read faster, and connect again with your cursor",
}
CLOSES = "\n".join(f"- `{code}` {meaning}" for code, meaning in _CLOSES.items())
"""The close codes as a list in Markdown; the stream says them in `close`."""

_STREAM_DESCRIPTION = """\
The same subscriptions and cursors for `EventSource`, `curl -N` and proxies. Each message is one event;
`item` has no name, the others are named `subscribed`, `gap`, `moved` and `close`. `id` is the cursor, and
`Last-Event-ID` goes before `after`. A comment comes after 10 s without anything else."""

NAMES = ("item", "stream_subscribed", "stream_gap", "stream_moved", "stream_close")


def stream_channel(query: dict[str, Any]) -> dict[str, Any]:
    """Describe the channel; `query` are the fields of the one-line form."""
    return {
        "address": "/v1/subscribe/sse",
        "title": "Results as Server-Sent Events",
        "description": f"{_STREAM_DESCRIPTION}\n\nQuery: "
        f"{', '.join(f'`{name}`' for name in query['properties'])}.",
        "servers": [{"$ref": "#/servers/http"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in NAMES},
    }


def operation(query: dict[str, Any]) -> dict[str, Any]:
    """Describe the one operation of the channel."""
    return {
        "action": "send",
        "summary": "What the stream tells",
        "channel": {"$ref": "#/channels/stream"},
        "messages": [{"$ref": f"#/channels/stream/messages/{name}"} for name in NAMES],
        "bindings": {"http": {"method": "GET", "query": query, "bindingVersion": "0.3.0"}},
    }


def messages(cursor: dict[str, Any], item: dict[str, Any], item_example: dict[str, Any]) -> dict[str, Any]:
    """Describe the events; all but `item` are its own."""
    place = item_example["cursor"]
    oldest = {"oldest": {**cursor, "description": "the oldest place that can be resumed from"}}
    start = f"{place.partition('-')[0]}-0-00000000"
    closes = {"code": {"enum": list(_CLOSES)}, "reason": {"type": "string"}}
    gap = {"detail": {"type": "string"}, "cursor": cursor, **oldest}
    begun = {"cursor": cursor, "recovered": {"type": "boolean"}, **oldest}
    return {
        "item": {
            "name": "item",
            "title": "item",
            "summary": "A result; `id` is its cursor.",
            "contentType": "application/json",
            "payload": item,
            "examples": [{"payload": item_example}],
        },
        "stream_subscribed": _event(
            "subscribed",
            "Where the stream begins, before any item.",
            begun,
            {"cursor": place, "recovered": True, "oldest": start},
        ),
        "stream_gap": _event(
            "gap",
            "The place that was asked for cannot be kept: what follows is live from now.",
            gap,
            {"detail": "results after that cursor are no longer kept", "cursor": place, "oldest": start},
        ),
        "stream_moved": _event(
            "moved", "The cursor passed results that do not match.", {"cursor": cursor}, {"cursor": place}
        ),
        "stream_close": _event(
            "close",
            "Why the stream ends.",
            closes,
            {"code": 1012, "reason": "the gateway restarts: come back with your cursor"},
        ),
    }


def _event(name: str, summary: str, properties: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "summary": summary,
        "contentType": "application/json",
        "payload": {
            "type": "object",
            "required": list(properties),
            "properties": properties,
            "additionalProperties": False,
        },
        "examples": [{"payload": example}],
    }


_CURSOR = "3f8a1c0de5b79264-41-9b2f00c7"
_RECEIPT = {
    "seq": 41,
    "id": "01980c8e-7a10-7c3e-9f0b-5c1d2e3f4a5b",
    "source": "/",
    "type": "order.created",
    "runs": 1,
    "duplicate": False,
}
_ITEM = {
    "cursor": _CURSOR,
    "kind": "succeeded",
    "event": {
        "seq": 41,
        "id": _RECEIPT["id"],
        "type": "order.created",
        "source": "/",
        "subject": None,
        "correlationid": _RECEIPT["id"],
    },
    "handler": "invoice",
    "revision": 1,
    "run": 41,
    "attempt": 1,
    "index": None,
    "data": {"pages": 1},
    "error": None,
    "completes": {"succeeded": 1},
    "replay": False,
    "time": "2026-01-31T12:00:00.000001Z",
}
_FILTER = {"all": [{"prefix": {"subject": "eu-"}}, {"exact": {"data.customer.country": "NO"}}]}
_FILTER_DESCRIPTION = """\
One dialect of the CloudEvents Subscriptions API; several comparisons in one must all hold. Names are
attributes, or paths into the event's payload: keys and list positions between dots. Attributes are
compared with text; in the payload `exact` takes any string, number, boolean or null and keeps their types
apart. What is missing does not match. At most 16 deep, 256 comparisons, 16,384 characters."""
_CODES = [
    "bad_frame", "bad_subscription", "bad_pattern", "bad_filter", "bad_cursor", "bad_event",
    "unknown_subscription", "not_allowed", "too_many", "unavailable",
]  # fmt: skip

_DESCRIPTION = """\
Text frames, one JSON object each, told apart by `op`. A connection may hold up to 1,000
subscriptions; each gets the results it asks for in log order, without gap and without repeat.
Keep the newest `cursor`: subscribing with it as `after` goes on behind it. Where that cannot be
kept, `subscribed` says `"recovered": false` and is live from now.

The one-line form opens the subscription `default` from the query string, for example
`/v1/subscribe?types=order.*&after=latest`.

`filter` speaks of the result's event: its attributes, and its payload by path. While nothing matches, the
cursor moves on in frames without items, so a rare match does not mean a long replay.

With `durable` the gateway keeps the place up to which the client acknowledged: subscribing with that name
goes on behind it, whatever `after` says; `after` is where its first connection begins. An `ack` is answered
only if it is not taken, with an `error`; it never goes back. A `pong` says that each `ack` before its `ping`
is safe on disk. One subscription has a name at a time: the newest takes it over, the other ends with an
`error`. Names belong to the gateway, not to keys; `GET /v1/subscriptions` lists them.

A page, which cannot send a key as a header, asks `POST /v1/tickets` for a ticket before each connection
and adds it: `/v1/subscribe?ticket=…`. It works once and for 30 seconds, and stands for the key that asked for
it: what the key may do, and when it ends. A key itself is never taken from a query string. Pages of other
origins are refused with 403 unless the gateway was started with `--allow-origin`.

When results that a subscription has not taken yet go because of their age (`--retention`), it ends with an
`error` of the code `bad_cursor`: subscribe again.

Not built yet, and refused by name: `shadow`.

Close codes:

"""


def _server(protocol: str) -> dict[str, Any]:
    ways = [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("key", "ticket")]
    return {"host": "127.0.0.1:8000", "protocol": protocol, "security": ways}


def document() -> dict[str, Any]:
    """Build the document."""
    sent = ("subscribe", "unsubscribe", "publish", "ack", "ping")
    received = ("subscribed", "unsubscribed", "results", "published", "error", "pong")
    channel = "#/channels/subscribe"
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Busway",
            "version": __version__,
            "description": _DESCRIPTION + CLOSES,
            "contact": {"name": "Busway"},
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": "results", "description": "what handlers produced, in one order"}],
        },
        "defaultContentType": "application/json",
        "servers": {"local": _server("ws"), "http": _server("http")},
        "channels": {
            "subscribe": {
                "address": "/v1/subscribe",
                "title": "Results, live and resumable",
                "servers": [{"$ref": "#/servers/local"}],
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in sent + received},
                "bindings": {"ws": {"method": "GET", "query": _query(), "bindingVersion": "0.1.0"}},
            },
            "stream": stream_channel(_query()),
        },
        "operations": {
            "send": _operation("receive", "What a client sends", channel, sent),
            "receive": _operation("send", "What the gateway sends", channel, received),
            "stream": operation(_query()),
        },
        "components": {
            "messages": {name: _message(name) for name in sent + received}
            | messages(_CURSOR_FIELD, {"$ref": "#/components/schemas/item"}, _ITEM),
            "schemas": {"item": _item(), "receipt": _receipt(), "filter": _filter()},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A key: `busway keys create`."},
                "ticket": {
                    "type": "httpApiKey",
                    "name": "ticket",
                    "in": "query",
                    "description": "A ticket for one connection: `POST /v1/tickets`.",
                },
            },
        },
    }


def _operation(action: str, summary: str, channel: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "action": action,  # AsyncAPI speaks from the side of the gateway
        "summary": summary,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in names],
    }


def _message(name: str) -> dict[str, Any]:
    summary, required, properties, example = _FRAMES[name]
    return {
        "name": name,
        "title": name,
        "summary": summary,
        "payload": {
            "type": "object",
            "required": ["op", *required],
            "properties": {"op": {"const": name}, **properties},
            "additionalProperties": False,
        },
        "examples": [{"payload": {"op": name, **example}}],
    }


def _query() -> dict[str, Any]:
    properties = {name: _SELECT[name] for name in ("types", "handlers", "kinds", "correlationid", "after")}
    properties["filter"] = {"type": "string", "description": "a filter as URL-encoded JSON"}
    properties["durable"] = {"type": "string", "description": "as in the frame"}
    properties["ticket"] = {"type": "string", "description": "from `POST /v1/tickets`, in place of a key"}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _texts(description: str, **items: Any) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"type": "string", **items},
        "maxItems": 100,
        "description": description,
    }


def _nullable(kind: str, description: str) -> dict[str, Any]:
    return {"type": [kind, "null"], "description": description}


def _item() -> dict[str, Any]:
    event = {
        "seq": {"type": "integer"},
        "id": {"type": "string"},
        "type": {"type": "string"},
        "source": {"type": "string"},
        "subject": {"type": ["string", "null"]},
        "correlationid": {"type": "string"},
    }
    error = {"type": {"type": "string"}, "message": {"type": "string"}}
    return {
        "type": "object",
        "description": "One result. Fields that do not apply are null.",
        "required": sorted(_ITEM.keys() - {"data"}),
        "properties": {
            "cursor": _CURSOR_FIELD,
            "kind": {"enum": [kind.value for kind in Kind]},
            "event": {"type": "object", "required": list(event), "properties": event},
            "handler": {"type": "string"},
            "revision": {"type": "integer"},
            "run": {"type": "integer"},
            "attempt": {"type": "integer", "description": "counted from 1"},
            "index": _nullable("integer", "counts the partials of one attempt from 0"),
            "data": {"description": 'the value, any JSON; progress is {"progress": 0.5, "note": null}'},
            "data_base64": {"type": "string", "description": "in place of `data` if the value is binary"},
            "error": {"type": ["object", "null"], "required": list(error), "properties": error},
            "completes": {
                **_nullable(
                    "object", "counts of runs by final state, once a root event and all its runs end"
                ),
                "additionalProperties": {"type": "integer"},
            },
            "replay": {"type": "boolean"},
            "time": {"type": "string", "format": "date-time"},
        },
        "examples": [_ITEM],
    }


def _filter() -> dict[str, Any]:
    this = {"$ref": "#/components/schemas/filter"}
    several = {"type": "array", "items": this, "minItems": 1, "maxItems": 256}
    texts = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "minLength": 1}}
    scalar = {"type": ["string", "number", "boolean", "null"]}
    return {
        "type": "object",
        "description": _FILTER_DESCRIPTION,
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {
            "exact": {"type": "object", "minProperties": 1, "additionalProperties": scalar},
            **dict.fromkeys(("prefix", "suffix"), texts),
            **dict.fromkeys(("all", "any"), several),
            "not": this,
        },
        "additionalProperties": False,
        "examples": [_FILTER],
    }


def _receipt() -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(_RECEIPT),
        "properties": _RECEIPT_FIELDS,
        "examples": [_RECEIPT],
    }


_CURSOR_FIELD = {"type": "string", "description": "an opaque place in the result log", "examples": [_CURSOR]}
_ID = {"type": "string", "minLength": 1, "maxLength": 255, "description": "names the subscription"}
_REF = {"type": ["string", "integer", "null"], "maxLength": 255, "description": "given back in the answer"}
_RECEIPT_FIELDS: dict[str, Any] = {
    "seq": {"type": "integer", "description": "the event's number in this gateway"},
    "id": {"type": "string"},
    "source": {"type": "string"},
    "type": {"type": "string"},
    "runs": {"type": "integer", "description": "how many runs it starts"},
    "duplicate": {"type": "boolean", "description": "it was stored before"},
}
_SELECT: dict[str, Any] = {
    "types": _texts("type patterns; empty means all", examples=["order.*"]),
    "handlers": _texts("names of handlers; empty means all"),
    "kinds": _texts("kinds of result, or `completed`; empty means all", enum=sorted(KINDS)),
    "correlationid": _nullable("string", "only results of events with this correlationid"),
    "after": _nullable("string", "null or `latest` from now, `earliest` from the oldest kept, or a cursor"),
}
_FRAMES: dict[str, tuple[str, list[str], dict[str, Any], dict[str, Any]]] = {
    "subscribe": (
        "Open a subscription; answered by `subscribed`, then `results` as they come.",
        ["id"],
        {
            "id": _ID,
            **_SELECT,
            "filter": {"oneOf": [{"$ref": "#/components/schemas/filter"}, {"type": "null"}]},
            "durable": {
                **_nullable("string", "the name under which the acknowledged place is kept"),
                "minLength": 1,
                "maxLength": 255,
            },
            "shadow": {"enum": [False, None], "description": "not built yet"},
        },
        {"id": "s1", "types": ["order.*"], "filter": _FILTER, "after": "latest"},
    ),
    "unsubscribe": ("End a subscription; answered by `unsubscribed`.", ["id"], {"id": _ID}, {"id": "s1"}),
    "publish": (
        "Publish an event; answered by `published`, or by an `error` with its `ref`.",
        ["event"],
        {"ref": _REF, "event": {"type": "object", "description": "as in `POST /v1/events`"}},
        {"ref": "r1", "event": {"type": "order.created", "data": {"n": 7}}},
    ),
    "ack": (
        "Everything up to a cursor is done: a durable subscription resumes behind it.",
        ["id", "cursor"],
        {"id": _ID, "cursor": {**_CURSOR_FIELD, "description": "of an item or of a `results` frame"}},
        {"id": "s1", "cursor": _CURSOR},
    ),
    "ping": ("Ask for a `pong`.", [], {}, {}),
    "subscribed": (
        "The subscription is open; comes before any of its results.",
        ["id", "cursor", "recovered", "oldest"],
        {
            "id": _ID,
            "cursor": {**_CURSOR_FIELD, "description": "where it begins"},
            "recovered": {"type": "boolean", "description": "false: `after` cannot be kept; live from now"},
            "oldest": {**_CURSOR_FIELD, "description": "the oldest place that can be resumed from"},
        },
        {"id": "s1", "cursor": _CURSOR, "recovered": True, "oldest": "3f8a1c0de5b79264-0-00000000"},
    ),
    "unsubscribed": ("The subscription has ended.", ["id"], {"id": _ID}, {"id": "s1"}),
    "results": (
        "Results in log order; without items, at most once a second, the cursor passed others.",
        ["id", "items", "cursor"],
        {
            "id": _ID,
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/item"}},
            "cursor": {**_CURSOR_FIELD, "description": "where to resume"},
        },
        {"id": "s1", "items": [_ITEM], "cursor": _CURSOR},
    ),
    "published": (
        "The event is stored and synced to disk.",
        ["ref", *_RECEIPT],
        {"ref": _REF, **_RECEIPT_FIELDS},
        {"ref": "r1", **_RECEIPT},
    ),
    "error": (
        "What was wrong with a frame, and what to do; the connection stays open where it can.",
        ["id", "ref", "code", "detail"],
        {
            "id": _nullable("string", "the subscription it is about"),
            "ref": _REF,
            "code": {"enum": _CODES},
            "detail": {"type": "string"},
        },
        {
            "id": "s1",
            "ref": None,
            "code": "bad_subscription",
            "detail": "the id 's1' is in use: choose another or unsubscribe it first",
        },
    ),
    "pong": ("The answer to `ping`; acknowledgements before it are safe on disk.", [], {}, {}),
}
