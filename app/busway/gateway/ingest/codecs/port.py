"""What a codec does: it reads events from the body of a request.

To add a codec, write a module beside this one that defines a `Codec` with its media type, and name it in
`_CODECS` in `choosing.py`. Requests with this media type are then read by it, and the header `Accept-Post`,
the messages of errors and the OpenAPI document list it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from busway.gateway.ingest.reading import Read, Take
from busway.gateway.turns import Steps

Headers = Sequence[tuple[bytes, bytes]]
"""Headers of a request: names in lower case, and values."""


class Reader(Protocol):
    """Reads the events of a body, in steps."""

    def __call__(
        self, headers: Headers, body: bytes, now: int, max_event_bytes: int, take: Take | None, /
    ) -> Steps[Read]:
        """Read the events of a body.

        Args:
            headers: of the request.
            body: of the request, whole.
            now: microseconds since 1970.
            max_event_bytes: maximum size of one event.
            take: gets the events of each slice, before the next slice is read. None: nothing does.

        Raises:
            BadRequest, Invalid, TooLarge: the events are invalid. `errors` names their positions.
        """


class Codec(msgspec.Struct, frozen=True):
    """A form of events.

    Attributes:
        media_type: of its bodies. None: any.
        read: reads a body.
        schema: JSON Schema of a body for the OpenAPI document. None: it does not show this form.
        example: of such a body.
    """

    media_type: str | None
    read: Reader
    schema: dict[str, Any] | None = None
    example: Any = None


Choose = Callable[[Headers], Codec | None]
"""Returns the codec for the headers of a request, None for NDJSON. Raises as `choosing.choose`."""
