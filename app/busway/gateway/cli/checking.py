"""What `busway publish --dry-run` checks: events as a gateway reads them, and which handlers take them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from busway.client.errors import refusal
from busway.contract.problems import BadField
from busway.domain.event import NewEvent
from busway.domain.filter import View, compile_filter
from busway.domain.pattern import matcher
from busway.gateway.cli.call import Caller, explained, field
from busway.gateway.cli.event import NAMES, encode
from busway.gateway.cli.ndjson import LONGEST, SHOWN, Show, completed, whole_lines
from busway.gateway.errors import BadSettings, BuswayError, Forbidden, Invalid
from busway.gateway.ingest.lines import read_lines
from busway.gateway.ingest.reading import outside, read_one
from busway.gateway.turns import finish


class Checked(msgspec.Struct):
    """What became of the lines of a file. `rejected` names the first ones, each with its number from 1."""

    dry_run: bool = True
    accepted: int = 0
    rejected: list[dict[str, Any]] = []
    rejected_total: int = 0


def check_event(event: Mapping[str, Any]) -> NewEvent:
    """Return an event as a gateway would read it.

    Raises:
        BadSettings: it would refuse it.
    """
    try:
        (found,), _ = finish(read_one(encode(event), time.time_ns() // 1000, LONGEST))
    except Invalid as problem:
        errors = problem.errors or []
        texts = [field([*each.loc], each.msg, NAMES) for each in errors]
        raise BadSettings("; ".join(texts) or problem.detail) from None
    except BuswayError as problem:
        raise BadSettings(problem.detail) from None
    return found


def check_access(caller: Caller, type_: str | None = None) -> None:
    """Check that the key may publish, and events of this type if one is given.

    Raises:
        BuswayError: it may not; the words are those of the gateway.
        BadSettings: it may not publish events of the type.
    """
    session = caller.call("GET", "/v1/session")
    if not {"publish", "admin"} & {*session["scopes"]}:
        kind, one = ("token", "token") if session["by"] == "token" else ("API key", "key")
        refused = Forbidden(f"this {kind} lacks the scope 'publish': use a {one} that has it")
    elif type_ is not None and session["types"] and not matcher(session["types"])(type_):
        refused = Forbidden.of([BadField(["body", "type"], outside(type_))])
    else:
        return
    raise explained(refusal(caller.gateway, refused.status, refused.document()), NAMES)


def stored_as(caller: Caller, event: NewEvent) -> int | None:
    """Return the number of a stored event with the same source and id, None if there is none.

    None also if the key may not read events.
    """
    params = {"id": event.id, "source": event.source, "limit": 1}
    answer = caller.send("GET", "/v1/events", params=params)
    if answer.status_code == 403:
        return None
    found: list[dict[str, Any]] = caller.call("GET", "/v1/events", params=params)["items"]
    return int(found[0]["seq"]) if found else None


def takers(caller: Caller, event: NewEvent) -> list[str] | None:
    """Return the names of the handlers that would run for an event, None if the key may not read handlers."""
    if caller.send("GET", "/v1/handlers", params={"limit": 1}).status_code == 403:
        return None
    return [item["name"] for item in caller.items("/v1/handlers", {}) if _takes(item, event)]


def _takes(handler: Mapping[str, Any], event: NewEvent) -> bool:
    if not matcher(handler["events"])(event.type):
        return False
    return handler["filter"] is None or compile_filter(handler["filter"])(View(event))


def check_lines(
    parts: Iterable[bytes | None], defaults: Mapping[str, Any], show: Show, done: Checked
) -> None:
    """Read the events of a file as a gateway would read them.

    Args:
        parts: its bytes.
        defaults: fields of events that do not have them.
        show: called with the bytes and lines that are done.
        done: gets what became of the lines.

    Raises:
        BadSettings: a line is too long.
    """
    lines = size = 0
    for block in whole_lines(parts):
        texts = completed(block, defaults).removesuffix(b"\n").split(b"\n")
        accepted, refused = finish(read_lines([*texts], time.time_ns() // 1000, LONGEST))
        done.accepted += len(accepted)
        done.rejected_total += len(refused)
        room = SHOWN - len(done.rejected)
        done.rejected += [{"line": lines + at + 1, "detail": detail} for at, detail in refused[:room]]
        lines, size = lines + len(texts), size + len(block)
        show(size, lines)
