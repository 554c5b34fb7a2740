"""Limits for the size and the speed of request bodies."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from busway.gateway.errors import RequestTimeout, TooLarge

IDLE = 30.0  # seconds that a request body may pause


class Disconnected(Exception):
    """The client disconnected during its request."""


async def next_message(receive: Receive) -> Message:
    """Receive the next part of a body.

    Raises:
        RequestTimeout: nothing arrived for 30 seconds.
        Disconnected: the client disconnected.
    """
    try:
        async with asyncio.timeout(IDLE):
            message = await receive()
    except TimeoutError:
        raise too_slow() from None
    _check_there(message)
    return message


def _check_there(message: Message) -> None:
    if message["type"] == "http.disconnect":
        raise Disconnected


def too_large(limit: int) -> TooLarge:
    """Return the error for a body over the limit."""
    return TooLarge(
        f"the body is larger than {limit} bytes: send less at a time; for events --max-body-bytes changes it"
    )


def too_slow() -> RequestTimeout:
    """Return the error for a body that paused for too long."""
    return RequestTimeout(f"no data of the body arrived for {IDLE:.0f} s: send the request again")
