"""Request bodies: bounded in size and time."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from busway.gateway.errors import RequestTimeout, TooLarge

IDLE = 30.0  # seconds that a request body may stand still


class Disconnected(Exception):
    """The client went away in the middle of its request."""


async def next_message(receive: Receive) -> Message:
    """Receive one more part of a body.

    Raises:
        RequestTimeout: none came for 30 seconds.
        Disconnected: the client went away.
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
    """Return the error for a body over its limit."""
    return TooLarge(f"the body is over {limit} bytes (--max-body-bytes): send less at once")


def too_slow() -> RequestTimeout:
    """Return the error for a body that stands still."""
    return RequestTimeout(f"no byte of the body came for {IDLE:.0f} s: send it again")
