"""The one-line form: the subscription `default` in the query string of the WebSocket's address."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from busway.domain.text import JSONError, decode_json
from busway.gateway.errors import BadRequest

DEFAULT = "default"
_LISTS = ("types", "handlers", "kinds")
_SINGLE = ("correlationid", "after", "filter", "durable")
_LATER = ("shadow",)
_TICKET = "ticket"  # whoever admitted the connection took it
_SECRETS = ("key", "apikey", "api_key", "token", "access_token", "authorization", "bearer")


def read_query(query: bytes) -> dict[str, Any] | None:
    """Read a query string into the fields of a `subscribe` frame; None if it asks for no subscription.

    Raises:
        BadRequest: something in it is not taken here; `detail` fits a close reason (123 bytes).
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=300)
    except ValueError:
        raise BadRequest("the query string cannot be read: use %-encoded UTF-8, at most 300 values") from None
    fields: dict[str, Any] = {"id": DEFAULT}
    wanted = [pair for pair in pairs if pair[0] != _TICKET]
    if len(pairs) - len(wanted) > 1:
        raise BadRequest("'ticket' stands twice in the query string: give it once")
    for name, value in wanted:
        _check_name(name)
        if name in _LISTS:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise BadRequest(f"{name!r} stands twice in the query string: give it once")
        else:
            fields[name] = _filter(value) if name == "filter" else value
    return fields if wanted else None


class BadQueryFilter(BadRequest):
    """The filter of a query string cannot even be read."""

    code = "bad_filter"


def _filter(text: str) -> Any:
    try:
        return decode_json(text.encode())
    except JSONError:
        raise BadQueryFilter('filter is URL-encoded JSON, such as {"exact": {"subject": "x"}}') from None


def _check_name(name: str) -> None:
    if name in _LISTS or name in _SINGLE:
        return
    if name.lower() in _SECRETS:
        raise BadRequest(
            "keys are not taken from a query string: use the header Authorization, or POST /v1/tickets"
        )
    if name in _LATER:
        raise BadRequest(f"{name!r} is not built yet: leave it out")
    raise BadRequest(f"no parameter {name[:20]!a}: use {', '.join((*_LISTS, *_SINGLE, _TICKET))}")
