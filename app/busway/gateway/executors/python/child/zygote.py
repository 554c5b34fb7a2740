"""The zygote: imports the handlers folder once and forks workers on request.

It stays single-threaded. It is the parent of all workers, and it reaps them and their orphans. When the
gateway's end of its socket closes, it kills every worker's process group and exits.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time

import msgspec

from busway.gateway.channel import PAUSE, SCARCE, Buffer, pack, send_all
from busway.gateway.executors.python.child import confining, logs, output, secret_files
from busway.gateway.executors.python.child import worker as child
from busway.gateway.executors.python.child.loading import LoadedTarget, load
from busway.gateway.executors.python.child.worker import Descriptors
from busway.gateway.executors.python.wire import programs
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.lease import Lease
from busway.gateway.executors.python.wire.programs import children, command
from busway.gateway.executors.python.wire.protocol import Boot, Executed, FromZygote, Loaded, Spawn, ToZygote

_REAP_TIMEOUT = 0.5  # seconds to reap the killed workers at the end, so that the gateway need not
_READ_SIZE = 64 * 1024
_AFTER_END = 50  # milliseconds between two looks at a lease that has ended
_DROPPED = [-1, -1, -1]  # in place of a worker's descriptors


class Zygote:
    """Serves the gateway's requests on the socket `control`."""

    def __init__(self, control: socket.socket, lifeline_end: int, lease: Lease) -> None:
        self._control = control
        self._lifeline = lifeline_end
        self._lease = lease
        self._buffer = Buffer()
        self._descriptors: list[int] = []
        self._workers: set[int] = set()
        self._boot: Boot
        self._entries: dict[str, LoadedTarget] = {}
        self._forks = True
        self._loaded = False

    def run(self) -> None:
        """Serve until the gateway's end closes."""
        wake_in, wake_out = os.pipe()
        os.set_blocking(wake_in, False)
        os.set_blocking(wake_out, False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_in, select.POLLIN)
        self._wake = (wake_in, wake_out)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(self._patience())}
            if wake_in in ready:
                os.read(wake_in, _READ_SIZE)
                self._reap()
            if self._control.fileno() in ready and not self._read():
                self._end()
                return

    def _patience(self) -> float | None:
        """Return the milliseconds until the lease must be looked at. Kill what must not run after its end."""
        left = self._lease.left()
        if left is None:
            return None
        if left:
            return left * 1000 + 1
        for pid in self._workers.intersection(self._lease.holders()):
            kill_group(pid)
        return _AFTER_END

    def _read(self) -> bool:
        control = self._control
        try:
            chunk, received, flags, _ = socket.recv_fds(control, _READ_SIZE, 16, socket.MSG_CMSG_CLOEXEC)
        except OSError as problem:
            if problem.errno not in SCARCE:
                raise
            time.sleep(PAUSE)
            return True
        if flags & socket.MSG_CTRUNC:  # no descriptors are left here: the kernel dropped some
            for descriptor in received:
                os.close(descriptor)
            received = _DROPPED
        self._descriptors += received
        for kind, number, body in self._buffer.feed(chunk):
            if kind == ToZygote.LOAD:
                self._load(wire.decode_boot(body))
            elif kind == ToZygote.SPAWN:
                self._spawn(number, wire.decode_spawn(body))
        return bool(chunk)

    def _load(self, boot: Boot) -> None:
        self._boot = boot
        secret_files.open_secrets(boot.secrets)
        confining.confine(boot.limits)
        if boot.traces:  # for all workers
            importlib.import_module("busway.gateway.executors.python.child.traces")
        kept = os.dup(1)
        folder = load(
            boot,
            announce=self._announce,
            entered=self._entered,
        )
        self._loaded = True
        output.outside("")
        logs.settle()
        self._entries = folder.entries
        restore_standard_descriptors(kept)
        with contextlib.suppress(Exception):  # an import may have replaced it
            sys.stdout.flush()  # otherwise every fork would write it again
        self._forks = threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - names suffice
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        child.quiet_signals()  # again, imports may have replaced it
        gc.collect()
        gc.freeze()  # otherwise a collection in a worker would copy every shared page
        self._send(FromZygote.LOADED, 0, wire.encode(Loaded(folder.files, "fork" if self._forks else "exec")))

    def _announce(self, file: str) -> None:
        output.outside(f"{file}: ")
        self._send(FromZygote.LOADING, 0, file.encode())

    def _entered(self, directory: str) -> None:
        if not self._loaded:  # imports during attempts, in workers, also call this
            self._send(FromZygote.ENTERED, 0, os.fsencode(directory))

    def _spawn(self, number: int, spawn: Spawn) -> None:
        taken, self._descriptors = self._descriptors[:3], self._descriptors[3:]
        if taken == _DROPPED:
            self._refuse(number, os.strerror(errno.EMFILE))
            return
        given = Descriptors(taken[0], taken[1], taken[2], self._lifeline)
        pid = 0
        try:
            pid = self._fork(given, spawn) if self._forks else self._exec(given, spawn)
            # The child is not reaped yet, so the pid cannot have been reused.
            pidfd = os.pidfd_open(pid)
            try:
                frame = pack(FromZygote.SPAWNED, number, str(pid).encode())
                socket.send_fds(self._control, [frame], [pidfd])
            finally:
                os.close(pidfd)
        except OSError as problem:
            if pid:
                os.kill(pid, signal.SIGKILL)
            self._refuse(number, problem.strerror)
        else:
            self._workers.add(pid)
        finally:
            for descriptor in taken:
                os.close(descriptor)

    def _refuse(self, number: int, why: str | None) -> None:
        self._send(FromZygote.REFUSED, number, (why or "unknown").encode())

    def _fork(self, given: Descriptors, spawn: Spawn) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            self._lease.close()
            os.close(self._wake[0])
            os.close(self._wake[1])
            os.setsid()
            child.run(given, spawn, self._boot, self._entries)
        finally:
            os._exit(1)

    def _exec(self, given: Descriptors, spawn: Spawn) -> int:
        descriptors = (given.socket, given.page, given.output, given.lifeline)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        boot = msgspec.structs.replace(self._boot, skip=dict.fromkeys(self._boot.skip, ""))  # a short line
        what = msgspec.json.encode(Executed(spawn, boot, descriptors)).decode()
        line = command("busway.gateway.executors.python.child.worker", what)
        variables = {**os.environ, **secret_files.environment()}
        try:
            return os.posix_spawn(line[0], line, variables, setsid=True, setsigmask=child.STOPPING)
        finally:
            os.set_inheritable(self._lifeline, False)

    def _reap(self) -> None:
        while True:
            try:
                gone = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if gone is None:
                return
            if gone.si_pid in self._workers:
                kill_group(gone.si_pid)  # with the processes that it started, before its pid can be reused
            _, status = os.waitpid(gone.si_pid, 0)
            if gone.si_pid in self._workers:
                self._workers.discard(gone.si_pid)
                self._send(FromZygote.EXITED, gone.si_pid, str(status).encode())

    def _end(self) -> None:
        for pid in self._workers:
            kill_group(pid)
        # Processes that left a dead worker's group are children of the zygote now. Kill them too.
        deadline = time.monotonic() + _REAP_TIMEOUT
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    for pid in children():
                        os.kill(pid, signal.SIGKILL)
                    time.sleep(0.002)

    def _send(self, kind: FromZygote, number: int, body: bytes) -> None:
        try:
            send_all(self._control, pack(kind, number, body))
        except OSError:
            self._end()
            os._exit(0)


def restore_standard_descriptors(output: int) -> None:
    """Reopen descriptors 0 to 2 if imports closed them: a worker's socket must not get their numbers."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # gets the lowest free number
    for number in (0, 1, 2):
        if number == nothing or not _is_open(number):
            os.dup2(output if number else nothing, number)
    for descriptor in {nothing, output} - {0, 1, 2}:
        os.close(descriptor)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def kill_group(pid: int) -> None:
    """Kill a worker, which leads its process group, and every process still in the group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:  # a process of the group changed its user: kill at least the worker
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Run as the zygote. The command line has the descriptors control, lifeline, stacks and lease."""
    child.quiet_signals()
    control, lifeline_end, stacks, lease = map(int, sys.argv[1:5])
    for descriptor in (control, lifeline_end, stacks, lease):
        os.set_inheritable(descriptor, False)
    programs.watch(lifeline_end)
    output.install()
    logs.install()
    faulthandler.enable(file=stacks)
    faulthandler.register(child.DUMP_SIGNAL, file=stacks)
    programs.become_subreaper()
    Zygote(socket.socket(fileno=control), lifeline_end, Lease(lease, writes=False)).run()
