"""Limits for the size and the speed of request bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.types import Message, Receive

from busway.gateway.door.cycle import late_body
from busway.gateway.door.deadlines import Pace, Times
from busway.gateway.errors import TooLarge, UnsupportedMediaType
from busway.gateway.limits import hits


class Disconnected(Exception):
    """The client disconnected during its request."""


async def next_message(receive: Receive, pace: Pace, times: Times) -> Message:
    """Receive the next part of a body.

    Raises:
        RequestTimeout: it did not come in time.
        Disconnected: the client disconnected.
    """
    try:
        async with asyncio.timeout(pace.left(asyncio.get_running_loop().time())):
            message = await receive()
    except TimeoutError:
        hits["body_timeout"] += 1
        raise late_body(times) from None
    _check_there(message)
    pace.came(len(message.get("body", b"")))
    return message


def _check_there(message: Message) -> None:
    if message["type"] == "http.disconnect":
        raise Disconnected


def too_large(limit: int) -> TooLarge:
    """Return the error for a body over the limit."""
    hits["body_size"] += 1
    return TooLarge(
        f"the body is larger than {limit} bytes: send less at a time; for events --max-body-bytes changes it"
    )


def check_coding(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a compressed body: a small one could become very large.

    Raises:
        UnsupportedMediaType: it is one. The response names the codings that are supported (RFC 9110, 12.5.3).
    """
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise UnsupportedMediaType(
                "compressed bodies are not supported: send it without Content-Encoding",
                accept_encoding="identity",
            )
