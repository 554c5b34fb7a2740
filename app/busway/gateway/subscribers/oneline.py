"""The one-line form: a subscription named `default` in the query string of the WebSocket's URL."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from busway.domain.text import JSONError, decode_json
from busway.gateway.errors import BadRequest

DEFAULT = "default"
_LISTS = ("types", "handlers", "kinds")
_SINGLE = ("correlationid", "after", "filter", "durable", "shadow", "format")
_FLAGS = {"true": True, "false": False}
_TICKET = "ticket"  # already redeemed when the connection was admitted
_SECRETS = ("key", "apikey", "api_key", "token", "access_token", "authorization", "bearer")


def read_query(query: bytes) -> dict[str, Any] | None:
    """Decode a query string into the fields of a `subscribe` frame. None: it has no subscription.

    Raises:
        BadRequest: a parameter is invalid. `detail` fits into a close reason (123 bytes).
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=300)
    except ValueError:
        raise BadRequest("malformed query string: use %-encoded UTF-8 and at most 300 values") from None
    fields: dict[str, Any] = {"id": DEFAULT}
    wanted = [pair for pair in pairs if pair[0] != _TICKET]
    if len(pairs) - len(wanted) > 1:
        raise BadRequest("'ticket' appears twice in the query string: send it once")
    for name, value in wanted:
        _check_name(name)
        if name in _LISTS:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise BadRequest(f"{name!r} appears twice in the query string: send it once")
        else:
            fields[name] = _value(name, value)
    return fields if wanted else None


def _value(name: str, text: str) -> Any:
    if name == "shadow":
        if text not in _FLAGS:
            raise BadRequest("shadow must be true or false")
        return _FLAGS[text]
    return _filter(text) if name == "filter" else text


class BadQueryFilter(BadRequest):
    """The filter of a query string is not JSON."""

    code = "bad_filter"


def _filter(text: str) -> Any:
    try:
        return decode_json(text.encode())
    except JSONError:
        raise BadQueryFilter('filter must be URL-encoded JSON, such as {"exact": {"subject": "x"}}') from None


def _check_name(name: str) -> None:
    if name in _LISTS or name in _SINGLE:
        return
    if name.lower() in _SECRETS:
        raise BadRequest(
            "an API key in a query string is refused: use the Authorization header or POST /v1/tickets"
        )
    raise BadRequest(f"unknown parameter {name[:20]!a}: use {', '.join((*_LISTS, *_SINGLE, _TICKET))}")
