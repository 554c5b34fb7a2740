"""Link to the zygote: its process, its socket, and the loading of the folder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from busway.gateway import signals
from busway.gateway.channel import PAUSE, Buffer, Frame, pack
from busway.gateway.executors.python.host import checking, policy, stacks
from busway.gateway.executors.python.host.child_output import ChildOutput
from busway.gateway.executors.python.host.policy import cause_of
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire import slots
from busway.gateway.executors.python.wire.lease import Lease
from busway.gateway.executors.python.wire.programs import command
from busway.gateway.executors.python.wire.protocol import Boot, FromZygote, Loaded, Spawn, ToZygote

logger = logging.getLogger("busway.workers")

_READ_SIZE = 64 * 1024
_START_TIMEOUT = 60.0  # seconds until the first file is announced
_REAPED = "Pid:\t-1"  # see proc_pid_fdinfo(5)
_SMALL = 64 * 1024  # bytes of a frame
_LARGEST = 64 * 1024 * 1024  # bytes of the description of a folder
_DIRECTORIES = 10_000  # of the user's project that imports may search
_TRIES = 10  # calls that read what is left of an ended zygote
_END_TIMEOUT = 0.5  # seconds for a zygote to exit after it has closed its socket
_SCARCE = {errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}  # nothing was sent, and the socket is fine


class ZygoteLost(Exception):
    """The zygote ended, or was killed, while it loaded the folder.

    Args:
        file: the file that it was importing, None if it had not begun with one.
        reason: why the file cannot be used.
    """

    def __init__(self, file: str | None, reason: str) -> None:
        super().__init__(reason)
        self.file = file
        self.reason = reason


class Spawned(msgspec.Struct, frozen=True):
    """A worker was started. The receiver closes the descriptor."""

    number: int
    pid: int
    pidfd: int


class NotSpawned(msgspec.Struct, frozen=True):
    """A worker could not be started."""

    number: int
    reason: str


class Exited(msgspec.Struct, frozen=True):
    """A worker has died and was reaped."""

    pid: int
    status: int


class Entered(msgspec.Struct, frozen=True):
    """The imports search a directory of the user's project."""

    directory: str


class Down(msgspec.Struct, frozen=True):
    """The zygote has ended. This is the last report of a link."""


ZygoteReport = Spawned | NotSpawned | Exited | Entered | Down


class Link:
    """One zygote process. A new process needs a new link.

    Args:
        listener: receives the reports, in order.
        lifeline: the reading end of the pipe that closes when the gateway ends.
        lease: of the node.
        environment: the variables of the process.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(
        self,
        listener: Callable[[Link, ZygoteReport], None],
        lifeline: int,
        lease: Lease,
        environment: Mapping[str, str],
    ) -> None:
        self._listener = listener
        self._buffer = Buffer(self._frame_limit)
        self._pidfds: list[int] = []
        self._requested: set[int] = set()
        self._news: asyncio.Queue[str | Loaded | None] = asyncio.Queue()
        self._loading: str | None = None
        self._loaded = False
        self._entered = 0
        self._dropped = False  # the kernel dropped a descriptor of the last read
        self._fault: str | None = None
        self._receives_not = False  # there are no resources to read
        self._sends_not: str | None = None
        self._status: int | None = None
        self._last_stack = ""
        self.alive = True
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._start(lifeline, lease, environment)

    def _start(self, lifeline: int, lease: Lease, environment: Mapping[str, str]) -> None:
        with contextlib.ExitStack() as given, contextlib.ExitStack() as undo:
            self._socket, theirs = socket.socketpair()
            undo.callback(self._socket.close)
            given.callback(theirs.close)
            read_end, write_end = os.pipe()
            given.callback(os.close, write_end)
            self._output = ChildOutput(read_end, "handlers folder")
            undo.callback(self._output.close)
            stack = slots.create(1)
            self._stacks = slots.Page(stack, 1)
            undo.callback(self._stacks.close)
            reader = lease.reader()
            given.callback(os.close, reader)
            program = "busway.gateway.executors.python.child.zygote"
            line = command(program, str(theirs.fileno()), str(lifeline), str(stack), str(reader))
            # With only these arguments Python uses vfork and exec, so this process is not copied.
            with signals.blocked():
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    line, stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end, env=environment,
                    start_new_session=True, pass_fds=(theirs.fileno(), lifeline, stack, reader),
                )  # fmt: skip
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self._pidfd = os.pidfd_open(self._process.pid)
            undo.callback(os.close, self._pidfd)
            self._socket.setblocking(False)
            self._loop.add_reader(self._pidfd, self._exited)
            undo.callback(self._loop.remove_reader, self._pidfd)
            self._loop.add_reader(self._socket, self._readable)
            undo.pop_all()

    @property
    def pid(self) -> int:
        """The zygote's process id."""
        return self._process.pid

    async def load(self, boot: Boot, timeout: float) -> Loaded:
        """Import the folder, with a limit of `timeout` seconds for each file.

        Raises:
            ZygoteLost: a file hung or killed the zygote, which has ended.
        """
        self._write(pack(ToZygote.LOAD, 0, wire.encode(boot)))
        deadline = _START_TIMEOUT
        while True:
            news = await self._next(deadline)
            if news is None:
                raise ZygoteLost(self._loading, self._exit_reason())
            if isinstance(news, Loaded):
                return news
            self._loading = news
            deadline = timeout

    async def _next(self, timeout: float) -> str | Loaded | None:
        try:
            return await asyncio.wait_for(self._news.get(), timeout)
        except TimeoutError:
            pass
        if self.alive:
            written = asyncio.Event()
            stacks.when_written(self._loop, self._stacks, self._dump, written.set)
            await written.wait()
        self.kill()
        while await self._news.get() is not None:
            pass
        raise ZygoteLost(
            self._loading,
            f"its import did not end within {timeout:g} s, so it was stopped{self._last_stack}",
        )

    def _dump(self) -> None:
        signal.pidfd_send_signal(self._pidfd, signal.SIGUSR1)

    def _exit_reason(self) -> str:
        if self._fault is not None:
            return f"the importing process was killed because it broke the protocol: {self._fault}"
        if self._sends_not is not None:
            return f"the folder cannot be sent to the importing process: {self._sends_not}"
        return f"its import ended the importing process: {cause_of(self._status)}{self._last_stack}"

    def _stack(self) -> str:
        stack = policy.newest_stack(self._stacks.dumped())
        return f"\n{stack}" if stack else ""

    def spawn(self, number: int, spawn: Spawn, descriptors: list[int]) -> None:
        """Request a worker. The descriptors are copied. A zygote that does not read is killed.

        Raises:
            OSError: there are no resources to send the request.
        """
        frame = pack(ToZygote.SPAWN, number, wire.encode(spawn))
        try:
            sent = socket.send_fds(self._socket, [frame], descriptors)
        except OSError as problem:
            if problem.errno in _SCARCE:
                raise
            sent = 0
        if sent != len(frame):
            self.kill()
        else:
            self._requested.add(number)

    def lease_ends(self) -> None:
        """Let the zygote look at the lease, which had no end before. If it does not read, it is killed."""
        if self.alive:
            self._write(pack(ToZygote.LEASE, 0, b""))

    def refute(self, fault: str) -> None:
        """Kill the zygote because what it reports cannot be true: handler code may use its socket."""
        if self._fault is None:
            logger.warning("killing zygote %d: it broke the protocol: %s", self.pid, fault)
            self._fault = fault
            self._loop.remove_reader(self._socket)
            self.kill()

    def kill(self) -> None:
        """Kill the zygote. `Down` follows."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self, timeout: float) -> None:
        """Let the zygote exit, kill it after `timeout` seconds, and wait until it has ended."""
        if not self.alive:
            return
        self._loop.remove_reader(self._socket)
        self._socket.shutdown(socket.SHUT_RDWR)
        self._loop.call_later(timeout, self.kill)
        await self._ended.wait()

    def _write(self, chunk: bytes) -> None:
        self._socket.setblocking(True)
        try:
            self._socket.sendall(chunk)
        except OSError as problem:
            self._sends_not = problem.strerror
            self.kill()
        finally:
            self._socket.setblocking(False)

    def _readable(self) -> None:
        while self._read():
            pass
        if self._receives_not:
            self._loop.remove_reader(self._socket)
            self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if not self.alive or self._fault is not None:
            return
        try:
            self._loop.add_reader(self._socket, self._readable)
        except OSError:
            self._loop.call_later(PAUSE, self._resume)
        else:
            self._readable()

    def _drain(self) -> None:
        """Read the frames that it sent before it died."""
        for _ in range(_TRIES):
            while self._read():
                pass
            if not self._receives_not:
                return

    def _read(self) -> bool:
        if self._fault is not None:
            return False
        self._receives_not = False
        try:
            chunk, received, flags, _ = socket.recv_fds(self._socket, _READ_SIZE, 16, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError as problem:
            if problem.errno in _SCARCE:
                self._receives_not = True
                return False
            chunk, received, flags = b"", [], 0
        self._pidfds += received
        self._dropped = bool(flags & socket.MSG_CTRUNC)
        if not chunk:
            self._loop.remove_reader(self._socket)
            self._loop.call_later(_END_TIMEOUT, self.kill)  # its own exit status tells more than a kill
            return False
        frames = self._buffer.feed(chunk)
        try:
            for frame in frames:
                self._take(frame)
        except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
            self.refute(f"a frame is invalid ({problem})")
        if self._buffer.problem is not None:
            self.refute(self._buffer.problem)
        if len(self._pidfds) > len(self._requested):
            self.refute("it sent more descriptors than workers were requested")
        return True

    def _frame_limit(self, kind: int) -> int:
        return _LARGEST if kind == FromZygote.LOADED and not self._loaded else _SMALL

    def _take(self, frame: Frame) -> None:
        """Report a frame.

        Raises:
            ValueError, MsgspecError: it is not one that a zygote sends now.
        """
        kind, number, body = frame
        if kind == FromZygote.SPAWNED and number in self._requested:
            self._requested.discard(number)
            self._spawned(number, int(body))
        elif kind == FromZygote.REFUSED and number in self._requested:
            self._requested.discard(number)
            self._listener(self, NotSpawned(number, body.decode()))
        elif kind == FromZygote.EXITED:
            self._listener(self, Exited(number, int(body) & 0xFFFF))
        elif kind == FromZygote.ENTERED and not self._loaded and self._entered < _DIRECTORIES:
            self._entered += 1
            self._listener(self, Entered(os.fsdecode(body)))
        elif kind == FromZygote.LOADING and not self._loaded:
            self._news.put_nowait(body.decode())
        elif kind == FromZygote.LOADED and not self._loaded:
            self._news.put_nowait(checking.loaded(body))
            self._loaded = True
        else:
            raise ValueError(f"kind {kind} is not expected now")

    def _spawned(self, number: int, pid: int) -> None:
        if not self._pidfds and self._dropped:  # no descriptors are left here; closing its socket ends it
            self._listener(self, NotSpawned(number, os.strerror(errno.EMFILE)))
            return
        try:
            genuine = bool(self._pidfds) and _refers_to(self._pidfds[0], pid)
        except OSError as problem:
            os.close(self._pidfds.pop(0))
            self._listener(self, NotSpawned(number, str(problem.strerror)))
            return
        if not genuine:
            raise ValueError(f"the descriptor of worker {number} is not that of process {pid}")
        self._listener(self, Spawned(number, pid, self._pidfds.pop(0)))

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._drain()
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            # Before its pid can be reused. Workers have own groups: this kills what imports started.
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        self._status = -code if code < 0 else code << 8
        self._last_stack = self._stack()
        self._release()
        self._news.put_nowait(None)
        self._ended.set()
        self._listener(self, Down())

    def _release(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._buffer = Buffer()  # the former one refers to this link
        self._output.close()
        self._stacks.close()
        for descriptor in (self._pidfd, *self._pidfds):
            os.close(descriptor)


def _refers_to(pidfd: int, pid: int) -> bool:
    """Return whether a descriptor is a pidfd of that process, or of one that has ended and was reaped.

    Raises:
        OSError: there are no descriptors or no memory to find out.
    """
    named = _pid_line(pidfd)
    if named == _REAPED:
        return True
    try:
        own = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError):
        return _pid_line(pidfd) == _REAPED  # it may have ended meanwhile
    except OSError as problem:
        if problem.errno == errno.EINVAL:  # no process has that number
            return False
        raise
    try:
        return _pid_line(own) == named is not None
    finally:
        os.close(own)


def _pid_line(descriptor: int) -> str | None:
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    return next((line for line in lines if line.startswith("Pid:")), None)
