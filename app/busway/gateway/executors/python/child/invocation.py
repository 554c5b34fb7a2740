"""One attempt in a worker, from the call to the report."""

from __future__ import annotations

import os
import resource
import sys
import threading
from threading import get_ident
from time import monotonic_ns, time_ns  # handler code may replace those of the module
from typing import Any

import msgspec

from busway.context import Context, check_size
from busway.domain.event_fields import MAX_PUBLISHED
from busway.domain.jsonvalue import encode_result
from busway.domain.run import Error, Outcome
from busway.domain.secret_values import Secrets
from busway.event import Event
from busway.gateway.executors.port import Ended, Published
from busway.gateway.executors.python.child import output, secret_files
from busway.gateway.executors.python.child.cputime import CpuTime, starved
from busway.gateway.executors.python.child.failure import delay_of, describe, is_exhaustion, is_final
from busway.gateway.executors.python.child.lifecycle import SetupFailed
from busway.gateway.executors.python.child.loading import LoadedTarget
from busway.gateway.executors.python.child.outbox import Latest, Outbox
from busway.gateway.executors.python.wire.memory import resident
from busway.gateway.executors.python.wire.protocol import Boot, Call, Piece, published_limit
from busway.gateway.executors.python.wire.slots import Page

WINDOW_FRAMES = 64
WINDOW_BYTES = 1024 * 1024
_SUCCEEDED, _FAILED = Outcome.SUCCEEDED, Outcome.FAILED  # enum members are slow to look up
_getrusage = resource.getrusage  # handler code may replace that of the module
_MEASURED = 0.001  # seconds: measuring a shorter attempt would cost too much


class Cancelled(Exception):
    """Raised in a generator at a yield because its attempt was cancelled."""


class Shared(msgspec.Struct):
    """State that all attempts of a worker share.

    `worker`: its process id. `baseline`: its peak memory when it started; `peak`: when last measured; both in
    bytes. `alone`: it runs one sync target at a time. `measures_memory`: it writes its memory to the page
    before each attempt. `awaiting`: the number of running coroutines. `lock`: protects partials being sent.
    """

    entries: dict[str, LoadedTarget]
    page: Page
    outbox: Outbox
    boot: Boot
    worker: int
    baseline: int
    peak: int
    alone: bool
    measures_memory: bool = False
    awaiting: int = 0
    latest: Latest = msgspec.field(default_factory=Latest)
    lock: threading.Lock = msgspec.field(default_factory=threading.Lock)


def peak_now() -> int:
    """Return the highest resident memory of this process so far, in bytes."""
    return _getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Invocation:
    """A running attempt. It is also the port that its `Context` uses.

    `target` is None if this worker does not have it.
    """

    __slots__ = (
        "_late", "_over", "_published", "_sent", "_sent_bytes", "_since", "_size", "_started_at", "_took",
        "call", "log", "published", "shared", "target", "token", "wall",
    )  # fmt: skip

    def __init__(self, shared: Shared, call: Call, target: LoadedTarget | None) -> None:
        self.shared = shared
        self.target = target
        self.token = call.token
        self.call = call
        self.log = output.Log(shared.page, call.seat)
        self.published: list[Published] = []
        self._sent = self._sent_bytes = self._size = self._published = 0
        self._over: bool | None = None  # None until somebody else can send partials of it
        self._late: bytes | None = None
        self.wall = 0.0  # seconds

    def begin(self) -> bool:
        """Write the start to the page. Return False if the attempt was cancelled or recalled before."""
        self._started_at = time_ns() // 1000
        self._since = since = monotonic_ns()
        if not self.shared.page.begin(self.call.seat, self.token, since, get_ident()):
            self.shared.outbox.skipped(self.token)
            return False
        return True

    def missing(self) -> LookupError:
        """Return the error that the folder, as this worker imported it, has no such target."""
        return LookupError(f"the handlers folder has no target {self.call.target!r}")

    def invoke(self, target: LoadedTarget) -> Any:
        """Call the target. For a coroutine or generator function this only creates the object."""
        target.module.used = True
        if self.shared.measures_memory:
            # Only now: memory that the file's setup() allocated does not belong to the attempt.
            self.shared.baseline = self.shared.peak = peak_now()
            self.shared.page.record_memory(self.call.seat, resident(os.getpid()) or 1)
        event: Event = Event(self.call.event)
        if target.payload is not None:
            event = target.payload.convert(event)
        return target.function(event, self._context()) if target.wants_context else target.function(event)

    def _context(self) -> Context:
        call = self.call
        self._over = False
        return Context(
            run=call.run, attempt=call.attempt, handler=call.handler, revision=call.revision, port=self
        )

    def succeeded(self, value: Any) -> Ended:
        """Encode the final value.

        Raises:
            NotEncodable: it has no JSON form.
            ValueError: it is too large.
        """
        data, binary = encode_result(value, "the returned value", self.shared.boot.max_result_bytes)
        ended = self._ended(_SUCCEEDED)
        ended.data, ended.binary, ended.published = data, binary, self.published
        self._size += len(data)
        return ended

    def failed(self, problem: BaseException) -> Ended:
        """Report why the attempt failed."""
        error, kind = describe(problem), type(problem)
        if kind is SetupFailed and problem.__cause__ is not None:
            cause = describe(problem.__cause__)
            error = Error(cause.type, f"{error.message}: {cause.message}", cause.traceback)
        ended = self._ended(_FAILED)
        ended.error = error
        self._size += len(error.message) + len(error.traceback or "")
        ended.retry_after = delay_of(problem)
        ended.fatal = is_final(problem)
        ended.exhausted = is_exhaustion(problem)
        return ended

    def _ended(self, outcome: Outcome) -> Ended:
        took = monotonic_ns() - self._since
        self._took = took = max(0, took)  # handler code may have replaced the clock
        started = self._started_at
        ended = Ended(self.token, outcome, started, started + took // 1000, self.shared.worker)
        ended.wall_time = self.wall = wall = took / 1e9
        if wall >= _MEASURED:
            ended.peak_memory = self._peak()
        ours = output.Installed
        try:
            replaced = sys.stdout is not ours.stdout or sys.stderr is not ours.stderr
        except AttributeError:
            replaced = True
        if replaced:
            output.flush_wrappers()
        ended.log = log = self.log.close()
        if log is not None:
            self._size += len(log)
        return ended

    def _peak(self) -> int | None:
        if not self.shared.alone or self.shared.awaiting:
            return None
        now, before = peak_now(), self.shared.peak
        self.shared.peak = now
        return now - self.shared.baseline if now > before else None

    def finish(self, ended: Ended, cpu_time: CpuTime | None) -> None:
        """Pass the report to the outbox. `cpu_time`: of this thread, None if other attempts share it."""
        if cpu_time is not None:
            wall = ended.wall_time
            ended.cpu_time = cpu = cpu_time.of(self._since, self._took)
            if wall >= _MEASURED:
                ended.starved = max(0.0, min(starved(), wall - cpu))
        if self._over is not None:
            self._stop_sending()
        self.shared.page.finish(self.call.seat, self.token)
        self.shared.outbox.ended(ended, self._size)

    def _stop_sending(self) -> None:
        """Send the last progress. What threads of the handler report later is dropped."""
        if self._late is not None:
            self.send_late(now=True)
        with self.shared.lock:
            self._over = True

    @property
    def secrets(self) -> Secrets:
        """The secrets that the operator gives to handlers."""
        return secret_files.secrets()

    @property
    def cancelled(self) -> bool:
        """Whether the attempt was cancelled."""
        return self.shared.page.cancelled(self.call.seat, self.token)

    def publish(
        self, type_: str, data: bytes | None, binary: bool, attributes: dict[str, str | int | bool]
    ) -> None:
        """Keep an event until the attempt succeeds.

        Raises:
            ValueError: it is larger than an event may be, or the attempt publishes too much.
        """
        boot = self.shared.boot
        size = check_size(type_, data, boot.max_event_bytes) + _size_of(type_, attributes)
        limit = published_limit(boot.max_result_bytes, boot.max_event_bytes)
        self._published += size
        if self._published > limit:
            raise ValueError(f"an attempt may publish {limit} bytes in all: publish the rest in another one")
        if len(self.published) >= MAX_PUBLISHED:
            raise ValueError(
                f"an attempt may publish {MAX_PUBLISHED} events: publish the rest in another one"
            )
        self._size += size
        self.published.append(Published(type_, data, binary, attributes))

    def progress(self, data: bytes) -> None:
        """Send progress. While too many partials are not stored yet, only the newest is kept: never block."""
        if self._over:
            return
        if self._late is None and self.has_room():
            if not self.cancelled:
                self._send(data, False)
            return
        self._late = data
        self.shared.latest.add(self)

    def send_late(self, *, now: bool = False) -> bool:
        """Send progress that waits for room, or send it `now`. Return False if there is no room."""
        if not (now or self._over or self.cancelled or self.has_room()):
            return False
        with self.shared.lock:
            late, self._late = self._late, None
        if late is not None and not self.cancelled:
            self._send(late, False)
        return True

    def note(self, text: str) -> None:
        """Add text to the attempt's log."""
        self.log.write(str.__str__(text))

    def emit(self, value: Any) -> None:
        """Send a value that a generator yielded.

        Raises:
            NotEncodable: it has no JSON form.
            ValueError: it is too large.
        """
        encoded = encode_result(value, "the yielded value", self.shared.boot.max_result_bytes)
        if self._late is not None:
            self.send_late(now=True)
        self._send(*encoded)

    def has_room(self) -> bool:
        """Return whether another partial may be sent before the earlier ones are stored."""
        frames, size = self.shared.page.credited(self.call.seat)
        return self._sent - frames < WINDOW_FRAMES and self._sent_bytes - size < WINDOW_BYTES

    def check_wanted(self) -> None:
        """Stop a generator at its yield if its attempt was cancelled.

        Raises:
            Cancelled: the run was cancelled or timed out.
        """
        if self.cancelled:
            raise Cancelled("the run was cancelled or timed out")

    def _send(self, data: bytes, binary: bool) -> None:
        with self.shared.lock:  # threads of the handler may call this too: index and order must agree
            if self._over:
                return
            piece = Piece(self._sent, data, binary, time_ns() // 1000)
            self._sent += 1
            self._sent_bytes += len(data)
            self.shared.outbox.piece(self.token, piece)


def _size_of(type_: str, attributes: dict[str, str | int | bool]) -> int:
    """Return about how many bytes an event takes without its data."""
    texts = (type_, *attributes, *(value for value in attributes.values() if isinstance(value, str)))
    return 64 + sum(len(text.encode()) for text in texts)
