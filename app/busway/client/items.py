"""What a subscriber receives, as values, and the frames that it comes in."""

from __future__ import annotations

import base64
from typing import Any

import msgspec


class Origin(msgspec.Struct, frozen=True):
    """What an item says of its event."""

    seq: int
    id: str
    type: str
    source: str
    subject: str | None = None
    correlationid: str | None = None


class ItemError(msgspec.Struct, frozen=True):
    """Why an attempt failed."""

    type: str
    message: str


class Item(msgspec.Struct, kw_only=True):
    """One result. `data` is decoded JSON, or bytes where the handler gave bytes; `time` is RFC 3339."""

    cursor: str
    kind: str
    event: Origin
    handler: str
    revision: int
    run: int
    attempt: int
    index: int | None = None
    data: Any = None
    data_base64: str | None = None
    error: ItemError | None = None
    completes: dict[str, int] | None = None
    replay: bool = False
    time: str

    def __post_init__(self) -> None:
        """Decode binary data."""
        if self.data_base64 is not None:
            self.data = base64.b64decode(self.data_base64)


class Frame(msgspec.Struct):
    """A frame of the gateway; fields that its `op` does not have keep their defaults."""

    op: str
    items: list[Item] = []
    cursor: str = ""
    recovered: bool = True
    oldest: str = ""
    code: str = ""
    detail: str = ""


read_frame = msgspec.json.Decoder(Frame).decode
