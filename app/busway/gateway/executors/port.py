"""The port of the executors: the gateway offers attempts, the executor reports what happens to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from busway.domain.event import Event
from busway.domain.event_fields import MAX_PUBLISHED
from busway.domain.run import Error, Outcome

# What handler code can spoil has limits, which decoding checks: the store and the API can hold every value.
Number = Annotated[int, Meta(ge=0, lt=1 << 53)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
_LOG = 66_000  # characters


class Assignment(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One attempt for a worker to run.

    `token` is random and identifies this attempt. `kind` is the kind of the target, from the catalog.
    `pool` is `process`, `thread`, or `http` for a URL. `timeout` is in seconds. `alone`: the attempt gets a
    worker of its own, because a worker died while it ran an earlier attempt of this run. `memory`: MiB that
    the attempt may add to its worker. Attempts of a handler with this limit run in workers of that handler
    only, and `pool` is `process`. `exclusive`: no other attempt may overlap with it, so it is killed when the
    lease of the node ends. `replay`: as in `Run`.
    """

    token: int
    run: int
    attempt: int
    handler: str
    revision: int
    target: str
    kind: str
    pool: str
    timeout: float
    event: Event
    alone: bool = False
    memory: int | None = None
    exclusive: bool = False
    replay: int = 0


class Partial(msgspec.Struct, kw_only=True):
    """A value that a running attempt yielded, or its progress. The gateway credits it once it is stored."""

    token: int
    index: int
    data: bytes
    binary: bool
    time: int


class Started(msgspec.Struct, kw_only=True):
    """An attempt has been running for 100 ms, or its first partial follows.

    Time in microseconds since 1970; `worker` is a process id, None if it is not known yet.
    """

    token: int
    started_at: int
    worker: int | None


class Ended(msgspec.Struct, array_like=True):
    """An attempt ended. Units as in the store's `Report`.

    `outcome`: succeeded, failed or lost. `data`: the final value as JSON text (None: it returned None), or
    bytes if `binary`. `published`: the events passed to `ctx.publish`. `retry_after`: the handler requested
    another attempt after so many seconds. `fatal`: the handler requested no further attempt, or none can
    succeed. `alone`: the next attempt must have a worker of its own. `lingers`: the attempt failed but may
    still run; `Gone` follows. `starved`: seconds of `wall_time` in which it was ready to run but had no CPU.
    `exhausted`: its worker ran out of file descriptors, so other attempts would fail there too.
    `keeps`: the run stays, even if this was its last attempt, because its handler is being paused.
    """

    token: int
    outcome: Outcome
    started_at: Number
    finished_at: Number
    worker: Number | None
    cpu_time: Seconds | None = None
    wall_time: Seconds = 0.0
    starved: Seconds = 0.0
    peak_memory: Number | None = None
    data: bytes | None = None
    binary: bool = False
    published: Annotated[list[Published], Meta(max_length=MAX_PUBLISHED)] = []
    error: Error | None = None
    log: Annotated[str, Meta(max_length=_LOG)] | None = None
    retry_after: Seconds | None = None
    fatal: bool = False
    alone: bool = False
    exhausted: bool = False
    lingers: bool = False
    keeps: bool = False


class Published(msgspec.Struct, array_like=True):
    """One call of `ctx.publish`: the type, the data as JSON text or bytes, and the named attributes."""

    type: str
    data: bytes | None
    binary: bool
    attributes: dict[str, str | int | bool]


class Returned(msgspec.Struct, kw_only=True):
    """An attempt that was accepted but never started. It may go to another worker.

    `died`: its worker died before, so it is not certain that the attempt never started.
    """

    token: int
    died: bool = False


class Gone(msgspec.Struct, kw_only=True):
    """An attempt that lingered, or was cancelled while it may have been running, no longer runs."""

    token: int


class Room(msgspec.Struct, kw_only=True):
    """The executor may accept attempts again after it refused one. This report belongs to no attempt."""

    token: int = 0


WorkerReport = Partial | Started | Ended | Returned | Gone | Room


class Target(msgspec.Struct, array_like=True, frozen=True):
    """A function that can be registered: `module:function`, its kind, and the first line of its docstring.

    `kind`: `function`, `coroutine`, `generator` or `async_generator`.
    """

    target: str
    kind: str
    doc: str


class Declaration(msgspec.Struct, array_like=True, frozen=True):
    """The fields of one `@handler` decorator. They always include `target`, `events` and `name`."""

    name: str
    fields: dict[str, Any]


class HandlerFile(msgspec.Struct, array_like=True, frozen=True):
    """A file with handler code: what it defines, or the traceback of its failed import.

    `file`: its path below the handlers folder, or below the user's project if it belongs to that. `name`: of
    its module, if not the file's. `notes`: what was found in it and is not loaded, each with the reason. A
    folder that is not loaded has notes, too. `source`: its content as it was imported, empty if that is not
    known or too long. Only the node that imported it has it.
    """

    file: str
    digest: str
    targets: list[Target] = []
    declarations: list[Declaration] = []
    error: str | None = None
    name: str = ""
    notes: list[str] = []
    source: bytes = b""

    @property
    def module(self) -> str:
        """The module name, which its targets have before the colon."""
        return self.name or self.file.removesuffix(".py")


Catalog = list[HandlerFile]


Listener = Callable[[list[WorkerReport]], None]


def has_room(running: int, to_host: int, most: int) -> bool:
    """Return whether one more event may be sent to a host.

    A host that does not answer must not take all places: it may have as many as are free.

    Args:
        running: requests under way.
        to_host: those of them to this host.
        most: requests at once.
    """
    return to_host < most - running


class Workers(Protocol):
    """The port itself: what the gateway needs from an executor."""

    def listen(self, listener: Listener) -> None:
        """Set the function that receives all reports, in batches and in order per attempt. Call it once."""

    async def start(self) -> Catalog:
        """Start the executor. Return what the handlers folder defines, without files that hang or crash."""

    async def renewed(self) -> Catalog:
        """Wait until handler code has changed, and return what the folder defines now.

        From then on nothing starts until `take_over`: an attempt runs the code of the revision it records.
        """

    def take_over(self) -> None:
        """Let attempts start again, all with the code that `renewed` returned."""

    def extend_lease(self, end: int) -> None:
        """Start no attempt after `end`, and kill exclusive ones then. `end`: nanoseconds of CLOCK_BOOTTIME.

        Without a call the lease does not end.
        """

    def offer(self, assignment: Assignment) -> bool:
        """Offer an attempt. Return False if its pool has no room; `Room` follows when it may have."""

    def cancel(self, token: int) -> bool:
        """Stop an attempt whose outcome is stored: ask it to end, then kill it. No outcome is reported.

        Returns:
            Whether it may still run. Then `Gone` follows.
        """

    def credit(self, token: int, size: int) -> None:
        """Record that a partial of `size` bytes was stored, so that a waiting generator may continue."""

    async def drain(self, timeout: float) -> None:
        """Accept nothing new and wait up to `timeout` seconds. Attempts that did not start are returned."""

    async def stop(self) -> None:
        """Kill all children and wait until they have ended."""

    def status(self) -> dict[str, Any]:
        """Describe zygote, pools and workers for `/v1/status`."""


class WorkerLimits(msgspec.Struct, array_like=True, frozen=True):
    """Limits of the processes that run handler code. None, 0 and an empty name: no limit.

    Attributes:
        user: the name of the user that they become before they import handler code.
        nice: is added to their nice value.
        file_bytes: the largest file that they may write.
        open_files: descriptors that each of them may have open.
        processes: processes and threads that their user may have.
    """

    user: str = ""
    nice: int = 0
    file_bytes: int | None = None
    open_files: int | None = None
    processes: int | None = None
