"""The worker program: reads attempts, runs them, reports. It ends when its socket or the gateway does."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from busway.domain.callables import ASYNC
from busway.gateway.channel import BlockingChannel
from busway.gateway.executors.python.child import confining, logs, output, secret_files
from busway.gateway.executors.python.child.coroutines import Coroutines
from busway.gateway.executors.python.child.cputime import CpuTime
from busway.gateway.executors.python.child.invocation import Invocation, Shared, peak_now
from busway.gateway.executors.python.child.lifecycle import teardown
from busway.gateway.executors.python.child.loading import LoadedTarget, load
from busway.gateway.executors.python.child.outbox import Outbox
from busway.gateway.executors.python.child.threads import Threads, run_attempt
from busway.gateway.executors.python.child.ticker import Ticker
from busway.gateway.executors.python.wire import programs
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.protocol import Boot, Executed, Spawn, ToWorker
from busway.gateway.executors.python.wire.slots import Page

DUMP_SIGNAL = signal.SIGUSR1
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BY_LINE = 1  # _IOLBF


class Descriptors(msgspec.Struct, array_like=True):
    """The descriptors of a worker: its socket, its page, its output pipe, and the lifeline."""

    socket: int
    page: int
    output: int
    lifeline: int


class Worker:
    """Processes frames until the socket closes."""

    def __init__(
        self,
        shared: Shared,
        channel: BlockingChannel,
        ticker: Ticker,
        threads: int,
        invocation: type[Invocation] = Invocation,
    ) -> None:
        self._shared, self._invocation = shared, invocation
        self._channel = channel
        self._coroutines = Coroutines(shared)
        wait = self._coroutines.wait
        self._threads = Threads(threads, shared.outbox, ticker, wait) if threads > 1 else None
        self._left_threads = output.LeftThreads()
        self._told_to_end = False

    def serve(self, code_digest: str) -> None:
        """Run attempts until the gateway ends this worker."""
        self._shared.outbox.ready(code_digest)
        if self._threads is not None:
            self._threads.serve(self._receive)
        else:
            while (invocations := self._receive()) is not None:
                self._run(invocations)
        if not self._told_to_end:
            programs.end_group()
        modules = {id(entry.module): entry.module for entry in self._shared.entries.values()}
        teardown(modules.values(), self._coroutines.wait)

    def _receive(self) -> list[Invocation] | None:
        """Wait for attempts. Return those of sync targets, None if no more will follow."""
        frames = self._channel.receive()
        if not frames:
            return None
        waiting: list[Invocation] = []
        sync: list[Invocation] = []
        for kind, _number, body in frames:
            if kind == ToWorker.RUN:
                for call in wire.decode_calls(body):
                    entry = self._shared.entries.get(call.target)
                    later = entry is not None and entry.kind in ASYNC
                    (waiting if later else sync).append(self._invocation(self._shared, call, entry))
            elif kind == ToWorker.PING:
                self._shared.outbox.pong()
            elif kind == ToWorker.END:
                self._told_to_end = True
                return None
        if waiting:
            self._coroutines.submit(waiting)
        return sync

    def _run(self, invocations: Iterable[Invocation]) -> None:
        outbox, cpu_time, left = self._shared.outbox, CpuTime(), self._left_threads
        for invocation in invocations:
            outbox.flush_soon()  # finished reports must not wait for this attempt
            output.OnlyAttempt.log = invocation.log
            run_attempt(invocation, self._coroutines.wait, cpu_time)
            output.OnlyAttempt.log = None
            if output.thread_count() != left.count:
                left.check(invocation.log)
        outbox.flush()


def run(
    given: Descriptors, spawn: Spawn, boot: Boot, entries: dict[str, LoadedTarget], code_digest: str = ""
) -> NoReturn:
    """Run as a worker in this process, which leads its own session. Never returns."""
    status = 1
    try:
        _serve(given, spawn, boot, entries, code_digest)
        status = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        # Not sys.exit: a fork must not run the zygote's exit functions, nor wait for threads of handlers.
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(status)


def _serve(
    given: Descriptors, spawn: Spawn, boot: Boot, entries: dict[str, LoadedTarget], code_digest: str
) -> None:
    programs.watch(given.lifeline)
    os.dup2(given.output, 1)
    os.dup2(given.output, 2)
    os.close(given.output)
    confining.limit_processes(boot.limits)
    _line_by_line()
    output.install()  # imports may have replaced the streams
    quiet_signals()
    faulthandler.enable(file=given.page, all_threads=True)
    faulthandler.register(DUMP_SIGNAL, file=given.page, all_threads=True)
    channel = BlockingChannel(socket.socket(fileno=given.socket))
    ticker = Ticker()
    outbox = Outbox(channel, ticker)
    os.register_at_fork(after_in_child=outbox.disown)
    os.register_at_fork(after_in_child=output.disown)
    peak = peak_now()
    page = Page(given.page, spawn.seats)
    shared = Shared(
        entries, page, outbox, boot, os.getpid(), peak, peak, spawn.threads == 1, spawn.measures_memory
    )
    if not boot.traces:
        Worker(shared, channel, ticker, spawn.threads).serve(code_digest)
    else:
        _serve_traced(shared, channel, ticker, spawn.threads, code_digest)
    shared.outbox.flush()


def _serve_traced(
    shared: Shared, channel: BlockingChannel, ticker: Ticker, threads: int, code_digest: str
) -> None:
    from busway.gateway.executors.python.child import traces  # noqa: PLC0415 - loads OpenTelemetry

    traces.begin(shared.boot.traces)
    Worker(shared, channel, ticker, threads, traces.TracedInvocation).serve(code_digest)
    traces.end()


def _line_by_line() -> None:
    # C code buffers output to a pipe until it has 4 KiB, which a worker may never reach.
    libc = ctypes.CDLL(None)
    with contextlib.suppress(ValueError):  # another libc names it differently
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _BY_LINE, 0)


def quiet_signals() -> None:
    """Ignore SIGINT, SIGTERM and SIGHUP: sent to all processes, they must not kill workers before the drain.

    They get an empty handler instead of SIG_IGN, because programs that handler code starts would inherit
    SIG_IGN. Forks of handler code get the default handlers.
    """
    for number in STOPPING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    os.register_at_fork(after_in_child=_loud_signals)


def _nothing(_number: int, _frame: Any) -> None:
    pass


def _loud_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) == _nothing:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def main() -> NoReturn:
    """Run as a worker that was exec'd: import the folder first."""
    quiet_signals()
    output.install()
    logs.install()
    given = msgspec.json.decode(sys.argv[1], type=Executed)
    secret_files.open_secrets(given.boot.secrets)
    folder = load(given.boot, announce=lambda file: output.outside(f"{file}: "))
    output.outside("")
    logs.settle()
    code_digest = wire.digest_of(folder.files)
    folder.files.clear()
    run(Descriptors(*given.descriptors), given.spawn, given.boot, folder.entries, code_digest)
