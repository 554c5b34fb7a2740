"""A request to an endpoint whose body is still coming."""

from __future__ import annotations

from collections.abc import Callable

from busway.gateway.door.port import Answer, Endpoint, Head, Hurry, Intake, Respond


def take_body(endpoint: Endpoint, head: Head, respond: Respond, unread: Callable[[int], None]) -> Intake:
    """Return what takes the body of an admitted request. The arguments are as for `Endpoint.open`."""
    return endpoint.open(head, respond, unread) if head.streams else Exchange(endpoint, head, respond)


class Exchange:
    """Collects a body up to the endpoint's limit, then passes it to the endpoint.

    Args:
        endpoint: has admitted the request.
        head: of the request.
        respond: sends the answer.
    """

    counted = False

    __slots__ = ("_endpoint", "_head", "_parts", "_respond", "_size", "idle", "least")

    def __init__(self, endpoint: Endpoint, head: Head, respond: Respond) -> None:
        self._endpoint, self._head, self._respond = endpoint, head, respond
        self._parts: list[bytes] = []
        self._size = 0
        self.idle, self.least = endpoint.idle, endpoint.least

    def add(self, part: bytes) -> None:
        """Take a part of the body."""
        self._size += len(part)
        if self._size <= self._endpoint.max_body:
            self._parts.append(part)
            return
        self._parts.clear()
        self._respond(self._endpoint.too_large(self._head))

    def whole(self) -> Hurry | None:
        """The body is whole. Return what `take` of the endpoint returns."""
        parts, self._parts = self._parts, []
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        del parts  # the endpoint may work on the body for a while
        return self._endpoint.take(self._head, body, self._respond)

    def too_slow(self) -> Answer:
        """Return the answer for a body that does not come in time."""
        return self._endpoint.too_slow(self._head)

    def disconnect(self) -> None:
        """Drop the body: nobody waits for the answer."""
        self._parts.clear()

    def end_with_response(self) -> None:
        """Go on: the rest of the body is still read."""
