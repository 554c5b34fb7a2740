"""The AsyncAPI 3.0 document of `/v1/subscribe`, frames and events, with an example of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from busway.contract import schemas
from busway.contract.frames import (
    CLIENT_FRAMES,
    CLOSES,
    SERVER_FRAMES,
    CloseEvent,
    GapEvent,
    MovedEvent,
    SubscribedEvent,
)
from busway.contract.results import EXAMPLE, Item
from busway.version import __version__

Shape = type[msgspec.Struct]

_EVENTS: dict[str, Shape] = {
    "subscribed": SubscribedEvent,
    "gap": GapEvent,
    "moved": MovedEvent,
    "close": CloseEvent,
}
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
_STREAM_DESCRIPTION = """\
The same subscriptions and cursors for `EventSource`, `curl -N` and proxies. Each message is one event;
`item` has no name, the others are named `subscribed`, `gap`, `moved` and `close`. `id` is the cursor, and
`Last-Event-ID` goes before `after`. A comment comes after 10 s without anything else."""


def document() -> dict[str, Any]:
    """Build the document."""
    sent, received = [name(shape) for shape in CLIENT_FRAMES], [name(shape) for shape in SERVER_FRAMES]
    messages = {name(shape): _frame(shape) for shape in (*CLIENT_FRAMES, *SERVER_FRAMES)}
    messages["item"] = _message("item", "A result; `id` is its cursor.", Item, EXAMPLE)
    messages |= {f"stream_{event}": _event(event, shape) for event, shape in _EVENTS.items()}
    stream = ["item", *(f"stream_{event}" for event in _EVENTS)]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Busway",
            "version": __version__,
            "description": _DESCRIPTION
            + "\n".join(f"- `{code}` {meaning}" for code, meaning in CLOSES.items()),
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
                "messages": _listed(sent + received),
                "bindings": {"ws": {"method": "GET", "query": _query(), "bindingVersion": "0.1.0"}},
            },
            "stream": {
                "address": "/v1/subscribe/sse",
                "title": "Results as Server-Sent Events",
                "description": _STREAM_DESCRIPTION,
                "servers": [{"$ref": "#/servers/http"}],
                "messages": _listed(stream),
            },
        },
        "operations": {
            # AsyncAPI speaks from the side of the gateway.
            "send": _operation("receive", "What a client sends", "subscribe", sent),
            "receive": _operation("send", "What the gateway sends", "subscribe", received),
            "stream": {
                **_operation("send", "What the stream sends", "stream", stream),
                "bindings": {"http": {"method": "GET", "query": _query(), "bindingVersion": "0.3.0"}},
            },
        },
        "components": {
            "messages": messages,
            "schemas": schemas.components(set(schemas.refs(messages))),
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


def name(frame: Shape) -> str:
    """Return the `op` of a frame."""
    return str(frame.__struct_config__.tag)


def _frame(shape: Any) -> dict[str, Any]:
    return _message(name(shape), shape.__doc__, shape, {"op": name(shape), **shape.EXAMPLE})


def _event(event: str, shape: Any) -> dict[str, Any]:
    return _message(event, shape.__doc__, shape, shape.EXAMPLE)


def _message(title: str, summary: str, shape: Shape, example: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": title,
        "title": title,
        "summary": summary,
        "contentType": "application/json",
        "payload": schemas.ref(shape),
        "examples": [{"payload": example}],
    }


def _listed(names: Iterable[str]) -> dict[str, Any]:
    return {each: {"$ref": f"#/components/messages/{each}"} for each in names}


def _operation(action: str, summary: str, channel: str, names: Iterable[str]) -> dict[str, Any]:
    return {
        "action": action,
        "summary": summary,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{each}"} for each in names],
    }


def _server(protocol: str) -> dict[str, Any]:
    ways = [{"$ref": f"#/components/securitySchemes/{way}"} for way in ("key", "ticket")]
    return {"host": "127.0.0.1:8000", "protocol": protocol, "security": ways}


def _query() -> dict[str, Any]:
    return {**schemas.components(["Query"])["Query"], "additionalProperties": False}
