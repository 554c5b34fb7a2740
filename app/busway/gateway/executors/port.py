"""The port to the workers: attempts go in, reports come out. It knows neither store nor HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from busway.domain.event import Event
from busway.domain.run import Error, Outcome


class Assignment(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One attempt for a worker to make.

    `token` is random and names this attempt alone. `kind` is the target's, from the catalog.
    `pool` is `process` or `thread`. `timeout` in seconds. `alone`: it gets a worker of its own,
    because a worker died with it on board. `memory`: MiB that it may add to its worker; all attempts
    of such a handler have workers that are the handler's own, and `pool` is `process`.
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


class Partial(msgspec.Struct, kw_only=True):
    """A value that a running attempt yielded, or progress. It must be credited once it is stored."""

    token: int
    index: int
    data: bytes
    binary: bool
    time: int


class Started(msgspec.Struct, kw_only=True):
    """An attempt runs for 100 ms already. Time in microseconds since 1970, `worker` a process id."""

    token: int
    started_at: int
    worker: int


class Ended(msgspec.Struct, array_like=True):
    """An attempt is over. Units as in the store's `Report`.

    `outcome` is succeeded, failed or lost. `data`: the final value as JSON text (None: it returned
    None), bytes if `binary`. `published` is what `ctx.publish` was given, as `Published`.
    `retry_after`: the handler asked for another attempt in so many seconds. `fatal`: the handler
    asked for no other attempt. `alone`: the next attempt must have a worker of its own. `lingers`: it was
    given up and may still run, so that `Gone` follows.
    `starved`: how much of `wall_time` it was ready to run and had no processor. `spent`: its worker ran
    out of descriptors, so that others would fail there too.
    """

    token: int
    outcome: Outcome
    started_at: int
    finished_at: int
    worker: int | None
    cpu_time: float | None = None
    wall_time: float = 0.0
    starved: float = 0.0
    peak_memory: int | None = None
    data: bytes | None = None
    binary: bool = False
    published: list[Published] = []
    error: Error | None = None
    log: str | None = None
    retry_after: float | None = None
    fatal: bool = False
    alone: bool = False
    spent: bool = False
    lingers: bool = False


class Published(msgspec.Struct, array_like=True):
    """One call of `ctx.publish`: type, JSON text or bytes of the data, and the named attributes."""

    type: str
    data: bytes | None
    binary: bool
    attributes: dict[str, str | int | bool]


class Returned(msgspec.Struct, kw_only=True):
    """An attempt that was handed over and certainly never started: it may go to another worker."""

    token: int


class Gone(msgspec.Struct, kw_only=True):
    """An attempt that lingered, or was cancelled while it may have been running, is certainly not running."""

    token: int


class Room(msgspec.Struct, kw_only=True):
    """An offer that was refused may be taken now. It is of no attempt."""

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
    """What one `@handler` says: the fields it gives, `target`, `events` and `name` always among them."""

    name: str
    fields: dict[str, Any]


class HandlerFile(msgspec.Struct, array_like=True, frozen=True):
    """A file of the handlers folder: what it offers, or the traceback of why it does not import."""

    file: str
    digest: str
    targets: list[Target] = []
    declarations: list[Declaration] = []
    error: str | None = None

    @property
    def module(self) -> str:
        """The name before the colon of its targets."""
        return self.file.removesuffix(".py")


Catalog = list[HandlerFile]


Listener = Callable[[list[WorkerReport]], None]


class Workers(Protocol):
    """The supervisor as the stages before and after it see it."""

    def listen(self, listener: Listener) -> None:
        """Have `listener` told all reports, in batches and in order per attempt; to be called once."""

    async def start(self) -> Catalog:
        """Start the zygote and return what the handlers folder holds; what hangs or kills is set aside."""

    def offer(self, assignment: Assignment) -> bool:
        """Hand over an attempt; False if its pool has no room for it now: `Room` follows when it may have."""

    def cancel(self, token: int) -> bool:
        """End an attempt that counts as over: ask, then kill. No outcome of it is reported any more.

        Returns:
            Whether it may still run: then `Gone` follows.
        """

    def credit(self, token: int, size: int) -> None:
        """Tell that a partial of `size` bytes was stored, so that a slowed generator may go on."""

    async def drain(self, timeout: float) -> None:
        """Take nothing new, let what runs end for up to `timeout` seconds; what did not start is returned."""

    async def stop(self) -> None:
        """End all children at once and wait until they are gone."""

    def status(self) -> dict[str, Any]:
        """Describe zygote, pools and workers for `/v1/status`."""
