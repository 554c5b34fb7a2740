"""What travels between gateway, zygote and workers: frame kinds and msgpack bodies, never pickle."""

from __future__ import annotations

import hashlib
from enum import IntEnum

import msgspec

from busway.domain.event import Event
from busway.gateway.executors.port import Ended, HandlerFile


class ToWorker(IntEnum):
    """Frames to a worker."""

    RUN = 1  # body: list[Call]
    END = 2  # nothing will follow: tear down and exit
    PING = 3  # answered by PONG unless the interpreter is locked


class FromWorker(IntEnum):
    """Frames from a worker."""

    READY = 1  # body: what `mark_of` says of the files, if it imported them by itself
    PARTIAL = 2  # number: the attempt's token, body: Piece
    ENDED = 3  # body: list[Ended]
    SKIPPED = 4  # number: the token of an attempt that was cancelled or recalled before it started
    PONG = 5


class ToZygote(IntEnum):
    """Frames to the zygote; the number is the worker's."""

    LOAD = 1  # body: Boot
    SPAWN = 2  # body: Spawn; with the descriptors socket, page, output


class FromZygote(IntEnum):
    """Frames from the zygote."""

    LOADING = 1  # body: the file's name
    LOADED = 2  # body: Loaded
    SPAWNED = 3  # number: the worker's, body: its process id; with its pidfd
    REFUSED = 4  # number: the worker's, body: why it could not be started
    EXITED = 5  # number: a process id, body: its wait status
    ENTERED = 6  # body: a directory of the user's project that the imports search


class Boot(msgspec.Struct, array_like=True):
    """What zygote and workers must know; limits in bytes.

    `folder`: of the handlers. `skip`: files to set aside, with the reason. `app_dir`: the root of the
    user's project, empty if there is none.
    """

    folder: str
    skip: dict[str, str]
    max_result_bytes: int
    max_event_bytes: int
    app_dir: str = ""


class Loaded(msgspec.Struct, array_like=True):
    """The handlers folder as imported. `mode`: `fork`, or `exec` because imports started threads."""

    files: list[HandlerFile]
    mode: str


def mark_of(files: list[HandlerFile]) -> str:
    """Return what names the code of these files, as they were when they were imported."""
    return hashlib.sha256(repr([(file.file, file.digest) for file in files]).encode()).hexdigest()


class Spawn(msgspec.Struct, array_like=True):
    """How a worker is to be: how many threads run sync targets, how many seats its page has.

    `weighs`: it tells how much memory it has before each attempt.
    """

    threads: int
    seats: int
    weighs: bool = False


class Executed(msgspec.Struct, array_like=True):
    """What an exec'd worker is told on its command line: its descriptors besides all the rest."""

    spawn: Spawn
    boot: Boot
    descriptors: tuple[int, int, int, int]


class Call(msgspec.Struct, array_like=True):
    """One attempt on its way to a worker; `seat` is its place in the shared page.

    `quick`: those of its handler hardly take time.
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
    """A value on its way out; `time` in microseconds since 1970."""

    index: int
    data: bytes
    binary: bool
    time: int


encode = msgspec.msgpack.Encoder().encode
decode_calls = msgspec.msgpack.Decoder(list[Call]).decode
decode_piece = msgspec.msgpack.Decoder(Piece).decode
decode_ended = msgspec.msgpack.Decoder(list[Ended]).decode
decode_boot = msgspec.msgpack.Decoder(Boot).decode
decode_loaded = msgspec.msgpack.Decoder(Loaded).decode
decode_spawn = msgspec.msgpack.Decoder(Spawn).decode
