"""Results as JSON items for subscribers: the contract's `Item`, from values that are encoded already."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from busway.contract.results import ITEM_EVENT, Item, ItemError, ItemEvent
from busway.domain import times
from busway.domain.event import Event
from busway.domain.result import Result

_NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


_Item = msgspec.defstruct("_Item", [name for name in Item.__struct_fields__ if name != "data_base64"])
"""An item with the fields of the contract in their order; it takes values that are encoded already."""


def encode_item(result: Result, epoch: str) -> bytes:
    """Encode one result of the log `epoch` as an item, UTF-8 JSON."""
    data = result.data
    if result.binary and data is not None:
        return _encode_binary(result, epoch, data)
    return _encode(
        _Item(
            result.cursor(epoch),
            result.kind,
            result.event,
            result.handler,
            result.revision,
            result.run,
            result.attempt,
            result.index,
            _NULL if data is None else msgspec.Raw(data),
            ItemError(*result.error) if result.error else None,
            msgspec.Raw(result.completes) if result.completes else _NULL,
            abs(result.replay) or None,
            _time(result.time),
        )
    )


def _encode_binary(result: Result, epoch: str, data: bytes) -> bytes:
    """Encode a result with a binary value, which stands as `data_base64` in place of `data`."""
    without = msgspec.structs.replace(result, data=None, binary=False)
    members: dict[str, Any] = _members(encode_item(without, epoch))
    del members["data"]
    return _encode({**members, "data_base64": data})  # bytes are encoded as base64


_ItemEvent = msgspec.defstruct("_ItemEvent", ItemEvent.__struct_fields__)


def encode_cloudevent(result: Result, epoch: str, item: bytes) -> bytes:
    """Encode one result of the log `epoch`, whose item is `item`, as a CloudEvent, UTF-8 JSON."""
    event = result.event
    return _encode(
        _ItemEvent(
            result.cursor(epoch),
            "1.0",
            f"/handlers/{result.handler}",
            f"{ITEM_EVENT}{result.kind}",
            event.type,
            _time(result.time),
            "application/json",
            event.correlationid,
            event.id,
            msgspec.Raw(item),
        )
    )


class Entry(msgspec.Struct, eq=False):
    """A result on its way to subscribers; its item is encoded when first wanted, and once.

    `event`: its whole event, where filters may look at it. `size`: the bytes to reckon with in a ring,
    encoded or not.
    """

    result: Result
    event: Event | None = None
    size: int = 0
    encoded: bytes | None = None

    def cloudevent(self, epoch: str) -> bytes:
        """Return the item as a CloudEvent."""
        return encode_cloudevent(self.result, epoch, self.item(epoch))

    def item(self, epoch: str) -> bytes:
        """Return the encoded item."""
        if self.encoded is None:
            self.encoded = encode_item(self.result, epoch)
        return self.encoded


def _time(us: int) -> str:
    second, fraction = divmod(us, times.SECOND)
    return f"{_second(second)}.{fraction:06d}Z"


@functools.lru_cache(maxsize=64)  # results come in bursts of the same second
def _second(second: int) -> str:
    return times.to_text(second * times.SECOND)[:19]
