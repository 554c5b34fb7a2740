"""Frames between gateway, zygote and workers: their kinds, and their msgpack bodies. Never pickle."""

from __future__ import annotations

import hashlib
from enum import IntEnum

import msgspec

from busway.domain.event import Event
from busway.gateway.executors.port import Ended, HandlerFile, Number, WorkerLimits


class ToWorker(IntEnum):
    """Frames to a worker."""

    RUN = 1  # body: list[Call]
    END = 2  # tear down and exit
    PING = 3  # answered by PONG unless the GIL is held


class FromWorker(IntEnum):
    """Frames from a worker."""

    READY = 1  # body: the digest of the files, if the worker imported them itself
    PARTIAL = 2  # number: the attempt's token, body: Piece
    ENDED = 3  # body: list[Ended]
    SKIPPED = 4  # number: the token of an attempt that was cancelled or recalled before it started
    PONG = 5


class ToZygote(IntEnum):
    """Frames to the zygote. The number is the worker's."""

    LOAD = 1  # body: Boot
    SPAWN = 2  # body: Spawn; with the descriptors socket, page, output
    LEASE = 3  # the lease has an end from now on


class FromZygote(IntEnum):
    """Frames from the zygote."""

    LOADING = 1  # body: the file's name
    LOADED = 2  # body: Loaded
    SPAWNED = 3  # number: the worker's, body: its process id; with its pidfd
    REFUSED = 4  # number: the worker's, body: why it was not started
    EXITED = 5  # number: a process id, body: its wait status
    ENTERED = 6  # body: a directory of the user's project that the imports search


class Boot(msgspec.Struct, array_like=True):
    """What zygote and workers need to start. Limits in bytes.

    `folder`: the handlers folder. `skip`: files to skip, with the reason. `app_dir`: the root of the user's
    project, empty if there is none. `secrets`: the file or folder with secrets of handlers, likewise.
    `traces`: the name of the node if handlers can make spans, else empty.
    Paths are bytes, because their names need not be text.
    """

    folder: bytes
    skip: dict[str, str]
    max_result_bytes: int
    max_event_bytes: int
    app_dir: bytes = b""
    secrets: bytes = b""
    limits: WorkerLimits = WorkerLimits()
    traces: str = ""


class Loaded(msgspec.Struct, array_like=True):
    """The imported handlers folder. `mode`: `fork`, or `exec` because imports started threads."""

    files: list[HandlerFile]
    mode: str


def digest_of(files: list[HandlerFile]) -> str:
    """Return a digest of the code of these files as it was imported."""
    return hashlib.sha256(repr([(file.file, file.digest) for file in files]).encode()).hexdigest()


class Spawn(msgspec.Struct, array_like=True):
    """Configuration of a worker: the number of threads for sync targets, the number of seats of its page.

    `measures_memory`: it writes its memory to the page before each attempt.
    """

    threads: int
    seats: int
    measures_memory: bool = False


class Executed(msgspec.Struct, array_like=True):
    """The command line argument of an exec'd worker: its configuration and descriptors."""

    spawn: Spawn
    boot: Boot
    descriptors: tuple[int, int, int, int]


class Call(msgspec.Struct, array_like=True):
    """One attempt sent to a worker. `seat` is its place in the shared page.

    `quick`: it belongs to a handler whose attempts are quick.
    """

    token: int
    seat: int
    run: int
    attempt: int
    handler: str
    revision: int
    target: str
    event: Event
    quick: bool = False


class Piece(msgspec.Struct, array_like=True):
    """A partial sent by a worker. `time` in microseconds since 1970."""

    index: Number
    data: bytes
    binary: bool
    time: Number


def published_limit(max_result_bytes: int, max_event_bytes: int) -> int:
    """Return how many bytes one attempt may publish."""
    return max(max_result_bytes, max_event_bytes)


encode = msgspec.msgpack.Encoder().encode
decode_calls = msgspec.msgpack.Decoder(list[Call]).decode
decode_piece = msgspec.msgpack.Decoder(Piece).decode
decode_ended = msgspec.msgpack.Decoder(list[Ended]).decode
decode_boot = msgspec.msgpack.Decoder(Boot).decode
decode_loaded = msgspec.msgpack.Decoder(Loaded).decode
decode_spawn = msgspec.msgpack.Decoder(Spawn).decode
