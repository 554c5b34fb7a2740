"""The part of the AsyncAPI document that tells of Server-Sent Events."""

from __future__ import annotations

from typing import Any

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

_DESCRIPTION = """\
The same subscriptions and cursors for `EventSource`, `curl -N` and proxies. Each message is one event;
`item` has no name, the others are named `subscribed`, `gap`, `moved` and `close`. `id` is the cursor, and
`Last-Event-ID` goes before `after`. A comment comes after 10 s without anything else."""

NAMES = ("item", "stream_subscribed", "stream_gap", "stream_moved", "stream_close")


def channel(query: dict[str, Any]) -> dict[str, Any]:
    """Describe the channel; `query` are the fields of the one-line form."""
    return {
        "address": "/v1/subscribe/sse",
        "title": "Results as Server-Sent Events",
        "description": f"{_DESCRIPTION}\n\nQuery: {', '.join(f'`{name}`' for name in query['properties'])}.",
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
