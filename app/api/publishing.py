"""POST /v1/events as bare ASGI: the hot path, with nothing between the socket and ingest."""

from __future__ import annotations

import msgspec
from starlette.types import Receive, Scope, Send

from app.api import problems
from app.api.access import check_scope
from app.api.bodies import read_body
from app.domain.access import Access
from app.errors import BadRequest, BuswayError, UnsupportedMediaType
from app.ingest.publisher import EventReceipt, Publisher

_JSON = b"application/json"
_REFUSED = {
    b"idempotency-key": "Idempotency-Key is not built yet: give the event an id, a second one is a duplicate",
    b"prefer": "Prefer is not built yet: subscribe to the results at /v1/subscribe",
}

_encode = msgspec.json.Encoder().encode


class Items(msgspec.Struct):
    """The answer to an array of events."""

    items: list[EventReceipt]


class PublishEndpoint:
    """Takes events; `scope["busway.access"]` says who asks."""

    def __init__(self, publisher: Publisher, max_body_bytes: int) -> None:
        self._publisher, self._max_body_bytes = publisher, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI application."""
        try:
            access: Access = scope["busway.access"]
            check_scope(access, "publish")
            _check_headers(scope["headers"])
            body = await read_body(receive, self._max_body_bytes)
            receipts, many = await self._publisher.publish_body(body)
        except BuswayError as error:
            await problems.response(error)(scope, receive, send)
            return
        answer = _encode(Items(receipts) if many else receipts[0])
        await send(
            {
                "type": "http.response.start",
                "status": 202,
                "headers": [
                    (b"content-type", _JSON),
                    (b"content-length", b"%d" % len(answer)),
                ],
            }
        )
        await send({"type": "http.response.body", "body": answer})


def _check_headers(headers: list[tuple[bytes, bytes]]) -> None:
    media_type = b""
    for name, value in headers:
        if name == b"content-type":
            media_type = value
        elif name == b"ce-specversion":
            raise UnsupportedMediaType("CloudEvents binary mode is not built yet: send application/json")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType("bodies are taken as they are: send it without Content-Encoding")
        elif name in _REFUSED:
            raise BadRequest(_REFUSED[name])
    if media_type != _JSON and media_type.partition(b";")[0].strip().lower() != _JSON:
        shown = media_type.decode("latin-1") or "no Content-Type"
        raise UnsupportedMediaType(f"send Content-Type: application/json, not {shown}")
