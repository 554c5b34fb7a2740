"""The protocol between gateway and committer: frames over a socketpair.

The gateway sends `OPEN` with the URL of the database. The committer replies `HELLO` when it can write.
Then the gateway sends one `BATCH` at a time and receives `DONE` or `FAILED` with the same number. The
committer sends `TROUBLE` when it cannot write any more, and again when it can. In between it writes nothing:
the gateway fails its batch and sends no other. It sends `BLOCKED` when a reader begins, or no longer
continues, to keep the write-ahead log from being emptied.
"""

from __future__ import annotations

from typing import Any

import msgspec

from busway.domain.event import NewEvent
from busway.domain.run import Run
from busway.gateway.store.port.audit import Audited, PruneAudit, Record, audited
from busway.gateway.store.port.code import SaveCode
from busway.gateway.store.port.keys import RotateKey, UseKeys
from busway.gateway.store.port.once import NotStored
from busway.gateway.store.port.operations import (
    Acknowledge,
    AnyOperation,
    Fire,
    Floor,
    OpenDurable,
    Opened,
    Operation,
    PruneResults,
    Publish,
    PublishEncoded,
    ReplayEvents,
    Retried,
    Retry,
    Settle,
    Settled,
    StoredEvent,
    TakeDurable,
    Unmoved,
)
from busway.gateway.store.port.retention import PruneKeys, PruneReplays
from busway.gateway.store.port.sources import DeleteSource, SaveSource
from busway.gateway.store.port.uploads import Upload, Uploaded

LARGE_OPERATION = 1 << 20  # bytes
_ARRAY_32 = b"\xdd"  # MessagePack: how an array begins whose length follows in four bytes
OPEN, HELLO, BATCH, DONE, FAILED, TROUBLE, BLOCKED = 1, 2, 3, 4, 5, 6, 7


FileId = tuple[int, int]
"""Device and inode of a file."""


class Open(msgspec.Struct, array_like=True):
    """The database to open. `files`: device and inode of each of its files, if a committer had it open.

    `node`: the id of this node, 0 if the database has only one. `name`: its name. `notifies`: its commits
    notify other nodes.
    """

    url: bytes
    files: list[FileId] | None
    node: int = 0
    name: str = ""
    notifies: bool = True


class Hello(msgspec.Struct, array_like=True):
    """The committer is ready; `head` is the number of the newest result. `files` as in `Open`.

    `commit` is the number of the newest commit, 0 if the database does not count them. If it is smaller than
    before, the database is not as the gateway left it.
    """

    epoch: str
    head: int
    files: list[FileId]
    commit: int = 0


class Batch(msgspec.Struct, array_like=True):
    """Operations for one transaction. `since` as in `Writer.write`."""

    since: int | None
    operations: list[Any]


class RawBatch(msgspec.Struct, array_like=True):
    """A batch with operations that are already encoded."""

    since: int | None
    operations: list[msgspec.Raw]


def batch_parts(batch: RawBatch) -> list[bytes | memoryview]:
    """Return the encoded batch in parts, so that its operations are not copied."""
    head = encode(RawBatch(batch.since, []))[:-1]  # without the empty array
    size = len(batch.operations)
    array = _ARRAY_32 + size.to_bytes(4, "big")
    return [head + array, *(memoryview(operation) for operation in batch.operations)]


def decode_batch(body: bytes | memoryview) -> Batch:
    """Decode a batch. Events of large `Publish` operations stay encoded: decoded they take much memory."""
    if len(body) < LARGE_OPERATION:
        return Batch(*_decode_small(body))
    raw = _decode_raw_batch(body)
    return Batch(raw.since, [_decode_large(operation) for operation in raw.operations])


def _decode_large(operation: msgspec.Raw) -> Any:
    if len(memoryview(operation)) >= LARGE_OPERATION:
        try:
            return _decode_encoded(operation)
        except msgspec.ValidationError:
            pass  # another operation
    return _decode_operation(operation)


def encode_publish(operation: Publish, slices: list[tuple[int, bytes]]) -> bytes:
    """Encode a `Publish` whose events were encoded before.

    msgspec cannot join encoded arrays, and encoding all events at once would stop the loop for as long. So
    the array of events is written by hand. That needs `events` to be the last field of `Publish`: what is
    encoded without events then ends with their empty array, one byte.

    Args:
        operation: the operation.
        slices: for each slice how many events it has, and these as an encoded array.
    """
    size = sum(count for count, _ in slices)
    head = encode(Publish(rules=operation.rules, once=operation.once, events=[]))[:-1]
    items = [_without_length(array, count) for count, array in slices]
    return b"".join([head, _ARRAY_32, size.to_bytes(4, "big"), *items])


def _without_length(array: bytes, count: int) -> bytes:
    """Return the items of an encoded array of fewer than 65,536.

    MessagePack has the length of up to 15 items in the first byte, and a larger one in two bytes after it.
    """
    return array[1 if count < 16 else 3 :]


class Done(msgspec.Struct, array_like=True):
    """The batch was written.

    `head` is the newest result. `replies` has one reply for each operation. `refused` has the reasons for
    refused operations, by index. `commit` as in `Hello`. `outdated`: the indexes of operations that did
    nothing, because they were made from older handlers than the store has. `waited`: seconds until the batch
    could begin, because others wrote. `news`: what the other nodes are to know of it, if anything.
    """

    head: int
    replies: list[Any]
    refused: dict[int, str] = {}
    commit: int = 0
    outdated: list[int] = []
    waited: float = 0.0
    news: bytes = b""


class RawDone(msgspec.Struct, array_like=True):
    """`Done` with encoded replies, because their types depend on the operations."""

    head: int
    replies: list[msgspec.Raw]
    refused: dict[int, str] = {}
    commit: int = 0
    outdated: list[int] = []
    waited: float = 0.0
    news: bytes = b""


class Failed(msgspec.Struct, array_like=True):
    """The outcome of the batch is unknown. `head` is the newest result in the store, `files` as in `Open`.

    `commit` as in `Hello`.
    """

    why: str
    head: int
    files: list[FileId]
    commit: int = 0


class Trouble(msgspec.Struct, array_like=True):
    """Why the committer cannot write, empty if it can again. `head` and `commit` as in `Hello`."""

    why: str
    head: int = 0
    commit: int = 0


encode = msgspec.msgpack.Encoder().encode
decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_done = msgspec.msgpack.Decoder(RawDone).decode
decode_new_events = msgspec.msgpack.Decoder(list[NewEvent]).decode
decode_stored_events = msgspec.msgpack.Decoder(list[StoredEvent] | NotStored).decode
decode_failed = msgspec.msgpack.Decoder(Failed).decode
decode_open = msgspec.msgpack.Decoder(Open).decode
decode_blocked = msgspec.msgpack.Decoder(bool).decode
decode_trouble = msgspec.msgpack.Decoder(Trouble).decode

_REPLIES: dict[type[Operation], Any] = {
    Publish: decode_stored_events,
    Fire: msgspec.msgpack.Decoder(list[StoredEvent] | None).decode,
    Upload: msgspec.msgpack.Decoder(Uploaded).decode,
    Settle: msgspec.msgpack.Decoder(Settled).decode,
    Retry: msgspec.msgpack.Decoder(Retried).decode,
    ReplayEvents: msgspec.msgpack.Decoder(list[Run]).decode,
    PruneResults: msgspec.msgpack.Decoder(Floor).decode,
    OpenDurable: msgspec.msgpack.Decoder(Opened | None).decode,
    TakeDurable: msgspec.msgpack.Decoder(Opened | None).decode,
    Acknowledge: msgspec.msgpack.Decoder(Unmoved).decode,
}
_Any = (
    AnyOperation | Upload | RotateKey | UseKeys | SaveSource | DeleteSource | PruneKeys | PruneReplays
    | Audited | Record | PruneAudit | SaveCode
)  # fmt: skip
_decode_small = msgspec.msgpack.Decoder(tuple[int | None, list[_Any]]).decode
_decode_raw_batch = msgspec.msgpack.Decoder(RawBatch).decode
_decode_operation = msgspec.msgpack.Decoder(_Any).decode
_decode_matched = msgspec.msgpack.Decoder(Publish | Upload | Settle).decode
_decode_encoded = msgspec.msgpack.Decoder(PublishEncoded).decode
_decode_plain = msgspec.msgpack.Decoder().decode


def encode_change(operation: Operation) -> bytes:
    """Encode an operation, with an entry of the audit log if somebody asks for it in this context."""
    return encode(audited(operation))


def decode_matched(body: bytes) -> Publish | Settle:
    """Decode an operation with events, as it was encoded."""
    decoded: Publish | Settle = _decode_matched(body)
    return decoded


def decode_reply(operation: type[Operation], reply: msgspec.Raw) -> Any:
    """Decode the reply to an operation of the given type."""
    return _REPLIES.get(operation, _decode_plain)(reply)
