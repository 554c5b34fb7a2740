"""Builds the AsyncAPI 3.0 document of `/v1/subscribe`, with an example of each frame and event."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec

from busway.contract import schemas
from busway.contract.frames import (
    CLIENT_FRAMES,
    CLOSES,
    SERVER_FRAMES,
    CloseEvent,
    FrameEvent,
    GapEvent,
    MovedEvent,
    SubscribedEvent,
)
from busway.contract.results import EXAMPLE, Item, ItemEvent
from busway.version import __version__

Shape = type[msgspec.Struct]

_EVENTS: dict[str, Shape] = {
    "subscribed": SubscribedEvent,
    "gap": GapEvent,
    "moved": MovedEvent,
    "close": CloseEvent,
}
_DESCRIPTION = """\
Each text frame is one JSON object. The field `op` is its type. A connection can have up to 1,000
subscriptions. Each subscription gets the results it selects in log order, without gaps and without
duplicates. Keep the newest `cursor`. To resume after it, subscribe with it as `after`. If results after
it are no longer available, `subscribed` has `"recovered": false` and the subscription is live from now.

The one-line form opens a subscription named `default` from the query string, for example
`/v1/subscribe?types=order.*&after=latest`.

`filter` applies to the result's event: to its attributes, and to its payload by path. While nothing
matches, frames without items move the cursor, so resuming never repeats a long search.

With `durable`, the gateway stores the acknowledged cursor under that name. Subscribing with the name
resumes after it. `after` applies only to the first subscription with the name. The gateway answers an
`ack` only if it refuses it, with an `error`. An acknowledgement cannot go back. A `pong` confirms that
each `ack` before its `ping` is synced to disk. One subscription uses a name at a time: a new one takes it
over, and the old one ends with an `error`. Names belong to the gateway, not to API keys. `GET
/v1/subscriptions` lists them.

A web page cannot send an API key as a header. It requests a ticket from `POST /v1/tickets` before each
connection and connects to `/v1/subscribe?ticket=…`. A ticket is valid once, for 30 seconds. It has the
rights and the expiry of the key that requested it. The gateway refuses a key in a query string. It
refuses pages of other origins with 403, unless it was started with `--allow-origin`.

A connection ends with 4401 when its API key or token does. Before that, `authenticate` gives it a fresh
token of the same subject. A fresh token never widens an open subscription, which keeps the type patterns
that it was opened with. It ends with an `error` if the fresh token does not allow all of these.

When results that a subscription has not received are deleted because of their age (`--retention`), it
ends with an `error` with the code `bad_cursor`: subscribe again.

With `shadow`, a subscription also gets the results of shadow replays. Others never get them.

With `"format": "cloudevents"`, items are CloudEvents 1.0 (`item_cloudevent`). Their type is
`busway.result.` and the kind, their `id` the cursor, and their `data` the item. With the subprotocol
`cloudevents.json`, each message of the gateway is one CloudEvent in structured mode: an item, or another
frame as `data` (`frame_cloudevent`). Such a client sends frames as others do, or opens its subscription in
the query string. Use one subscription per connection: items do not name theirs.

Close codes:

"""
_STREAM_DESCRIPTION = """\
The same subscriptions and cursors for `EventSource`, `curl -N` and proxies. Each message is one event.
`item` has no event name. The others are named `subscribed`, `gap`, `moved` and `close`. The `id` is the
cursor. `Last-Event-ID` overrides `after`. The gateway sends a comment after 10 s of silence."""


def document() -> dict[str, Any]:
    """Build the document."""
    sent, received = [name(shape) for shape in CLIENT_FRAMES], [name(shape) for shape in SERVER_FRAMES]
    messages = {name(shape): _frame(shape) for shape in (*CLIENT_FRAMES, *SERVER_FRAMES)}
    messages["item"] = _message("item", "A result; `id` is its cursor.", Item, EXAMPLE)
    messages["item_cloudevent"] = _cloudevent("item_cloudevent", ItemEvent)
    messages["frame_cloudevent"] = _cloudevent("frame_cloudevent", FrameEvent)
    messages |= {f"stream_{event}": _event(event, shape) for event, shape in _EVENTS.items()}
    cloudevents = ["item_cloudevent", "frame_cloudevent"]
    stream = ["item", "item_cloudevent", *(f"stream_{event}" for event in _EVENTS)]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Busway",
            "version": __version__,
            "description": _DESCRIPTION
            + "\n".join(f"- `{code}` {meaning}" for code, meaning in CLOSES.items()),
            "contact": {"name": "Busway"},
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": "results", "description": "The results of handlers, in log order."}],
        },
        "defaultContentType": "application/json",
        "servers": {"local": _server("ws"), "http": _server("http")},
        "channels": {
            "subscribe": {
                "address": "/v1/subscribe",
                "title": "Results over a WebSocket",
                "servers": [{"$ref": "#/servers/local"}],
                "messages": _listed(sent + received + cloudevents),
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
            # AsyncAPI describes operations from the gateway's point of view.
            "send": _operation("receive", "Frames from a client", "subscribe", sent),
            "receive": _operation("send", "Frames from the gateway", "subscribe", received),
            "receive_cloudevents": _operation(
                "send", "Messages with the subprotocol cloudevents.json", "subscribe", cloudevents
            ),
            "stream": {
                **_operation("send", "Events of the stream", "stream", stream),
                "bindings": {"http": {"method": "GET", "query": _query(), "bindingVersion": "0.3.0"}},
            },
        },
        "components": {
            "messages": messages,
            "schemas": schemas.components(set(schemas.refs(messages))),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key: `busway keys create`.",
                },
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A JSON Web Token of the issuer of `--jwt-issuer`.",
                },
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


def _cloudevent(name_: str, shape: Any) -> dict[str, Any]:
    made = _message(name_, shape.__doc__, shape, shape.EXAMPLE)
    return {**made, "contentType": "application/cloudevents+json"}


def _message(title: str, summary: str, shape: Shape, example: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": title,
        "title": title,
        "summary": inspect.cleandoc(summary),  # from Python 3.13 on docstrings have no indentation
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
    ways = [{"$ref": f"#/components/securitySchemes/{way}"} for way in ("key", "token", "ticket")]
    return {"host": "127.0.0.1:8000", "protocol": protocol, "security": ways}


def _query() -> dict[str, Any]:
    return {**schemas.components(["Query"])["Query"], "additionalProperties": False}
