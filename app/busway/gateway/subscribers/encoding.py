"""Results as JSON items for subscribers: the contract's `Item`, from values that are encoded already."""

from __future__ import annotations

import functools

import msgspec

from busway.contract.results import Item, ItemError
from busway.domain import times
from busway.domain.event import Event
from busway.domain.result import Result

_encode = msgspec.json.Encoder().encode


def _shape(without: str) -> type[msgspec.Struct]:
    """Make a type with the fields of an item but for one, in their order, that takes values as they are."""
    return msgspec.defstruct("Item", [name for name in Item.__struct_fields__ if name != without])


_Item, _BinaryItem = _shape(without="data_base64"), _shape(without="data")


def encode_item(result: Result, epoch: str) -> bytes:
    """Encode one result of the log `epoch` as an item, UTF-8 JSON."""
    shape, data = _Item, result.data
    if data is not None:
        if result.binary:
            shape = _BinaryItem  # its bytes are encoded as base64
        else:
            data = msgspec.Raw(data)
    return _encode(
        shape(
            result.cursor(epoch),
            result.kind,
            result.event,
            result.handler,
            result.revision,
            result.run,
            result.attempt,
            result.index,
            data,
            ItemError(*result.error) if result.error else None,
            msgspec.Raw(result.completes) if result.completes else None,
            result.replay,
            _time(result.time),
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
