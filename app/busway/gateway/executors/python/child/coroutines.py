"""Run async targets concurrently on an event loop in a thread of the worker."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Coroutine
from contextvars import Context
from types import AsyncGeneratorType
from typing import Any

from busway.gateway.executors.port import Ended
from busway.gateway.executors.python.child import output
from busway.gateway.executors.python.child.invocation import Invocation, Shared
from busway.gateway.executors.python.child.lifecycle import copy_decimals, prepare
from busway.gateway.executors.python.child.loading import LoadedTarget

_FIRST_NAP, _LONGEST_NAP = 0.0005, 0.02  # seconds
_WATCH = 0.05  # seconds between checks for cancelled attempts


class Coroutines:
    """The event loop of a worker. It starts when first needed and stays. Other threads call it."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._live: dict[Invocation, asyncio.Task[None]] = {}
        self._watching = False
        self._flushing = False

    def submit(self, invocations: list[Invocation]) -> None:
        """Start the attempts on the loop."""
        self._running().call_soon_threadsafe(self._start, invocations, context=Context())

    def wait(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """Run a coroutine on the loop, in that context, and return its value.

        Do not call it from the loop's own thread.
        """

        async def within() -> Any:
            return await asyncio.get_running_loop().create_task(coroutine, context=context)

        return asyncio.run_coroutine_threadsafe(within(), self._running()).result()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._run, args=(self._loop,), name="busway-loop", daemon=True
                ).start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
            except BaseException:  # noqa: S112 - SystemExit in a handler's own task comes out here
                continue

    def _start(self, invocations: list[Invocation]) -> None:
        loop = asyncio.get_running_loop()
        for invocation in invocations:
            target = invocation.target
            ready = target is None or target.module.ready
            context = Context() if target is None else target.module.context.copy()
            task = loop.create_task(self._run_one(invocation, ready), context=context)
            self._live[invocation] = task
        if not self._watching:
            self._watching = True
            loop.call_later(_WATCH, self._watch, set())

    def _watch(self, told: set[int]) -> None:
        for invocation, attempt in self._live.items():
            if invocation.cancelled and invocation.token not in told:
                told.add(invocation.token)
                attempt.cancel()
        self._watching = bool(self._live)
        if self._watching:
            asyncio.get_running_loop().call_later(_WATCH, self._watch, told)

    async def _run_one(self, invocation: Invocation, ready: bool) -> None:
        try:
            if invocation.begin():
                self._shared.awaiting += 1
                await self._attempt(invocation, ready)
                self._shared.awaiting -= 1
        finally:
            del self._live[invocation]
            self._flush_soon()

    async def _attempt(self, invocation: Invocation, ready: bool) -> None:
        """Run it in the task's context, which is a copy of the module's if that was `ready`."""
        try:
            target = invocation.target
            if target is None:
                raise invocation.missing()  # noqa: TRY301 - reported like any failure
            if ready:
                ended = await _run(invocation, target)
            else:
                await asyncio.to_thread(prepare, target.module, invocation.log, self.wait)
                context = target.module.context.copy()  # with what setup() has left in it
                ended = await asyncio.create_task(_run(invocation, target), context=context)
        except BaseException as problem:
            ended = invocation.failed(problem)
        invocation.finish(ended, None)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._shared.outbox.flush()


async def _run(invocation: Invocation, target: LoadedTarget) -> Ended:
    try:
        output.current.set(invocation.log)
        if target.module.has_decimals:
            copy_decimals()
        value = invocation.invoke(target)
        if isinstance(value, AsyncGeneratorType):
            await _drive(invocation, value)
            value = None
        elif inspect.isawaitable(value):
            value = await value
        return invocation.succeeded(value)
    except BaseException as problem:
        return invocation.failed(problem)


async def _drive(invocation: Invocation, generator: AsyncGeneratorType[Any, None]) -> None:
    try:
        while True:
            await _await_room(invocation)
            try:
                value = await anext(generator)
            except StopAsyncIteration:
                return
            invocation.emit(value)
            invocation.check_wanted()
            await asyncio.sleep(0)  # a generator that never awaits must not block the loop
    finally:
        await generator.aclose()


async def _await_room(invocation: Invocation) -> None:
    nap = _FIRST_NAP
    while not invocation.has_room():
        invocation.check_wanted()
        await asyncio.sleep(nap)
        nap = min(nap * 2, _LONGEST_NAP)
