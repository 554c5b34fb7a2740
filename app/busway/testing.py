"""Test handlers without a gateway: make an event, run the handler's function, look at what it did.

from busway.testing import context, event, run

def test_an_invoice_is_written():
    ctx = context()
    assert run(invoice, event("order.created", {"item": "book"}), ctx) == {"pages": 1}
    assert ctx.partials == [{"page": 1}]
    assert [published.type for published in ctx.published] == ["invoice.ready"]

Values are checked and encoded as in a worker: what JSON does not have fails the test too, and the value
that `run` returns is the one that subscribers get. The pytest fixture `busway_gateway`, which runs a whole
gateway, comes with the package and needs no import.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from datetime import datetime
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

import msgspec

from busway.context import Context, check, check_size
from busway.domain.callables import ASYNC, kind_of, wants_context
from busway.domain.event import to_event
from busway.domain.event_fields import MAX_EVENT_BYTES, accept
from busway.domain.jsonvalue import encode, encode_result
from busway.event import Event
from busway.handlers import declared

__all__ = ["Cancelled", "RecordingContext", "context", "event", "run", "run_async"]

_Given = str | int | bool | datetime | None


class Cancelled(Exception):
    """A generator was left at a `yield` because its context was cancelled, as a worker does."""


class RecordingContext(Context):
    """A context that keeps what a handler does with it; made by `context`.

    Attributes:
        partials: what `run` saw yielded, and progress reports, in order, as subscribers get them.
        published: the events that `publish` was given, as the gateway stores them if the attempt
            succeeds; each may be given to the handler that is to take it.
        logs: the lines of `log`, such as "WARNING out of paper".
    """

    def __init__(self, port: _Recording, *, run: int, attempt: int, handler: str, revision: int) -> None:
        super().__init__(run=run, attempt=attempt, handler=handler, revision=revision, port=port)
        self.partials: list[Any] = port.partials
        self.published: list[Event] = port.published
        self.logs: list[str] = port.logs
        self._recorded = port

    @property
    def parent(self) -> Event | None:
        """The event that the attempt is for; `run` sets it."""
        return self._recorded.parent

    @parent.setter
    def parent(self, event: Event) -> None:
        self._recorded.parent = event

    def cancel(self) -> None:
        """Make `cancelled` true, as when the run is cancelled or its time is up."""
        self._recorded.cancelled = True


class _Recording:
    """What the context calls in place of a worker."""

    def __init__(self, handler: str, parent: Event | None, *, cancelled: bool) -> None:
        self.partials: list[Any] = []
        self.published: list[Event] = []
        self.logs: list[str] = []
        self.handler, self.parent, self.cancelled = handler, parent, cancelled

    def publish(
        self, type_: str, data: bytes | None, binary: bool, attributes: dict[str, str | int | bool]
    ) -> None:
        check_size(type_, data, MAX_EVENT_BYTES)
        caused: dict[str, Any] = {}
        if self.parent is not None:
            caused = {
                "causationid": self.parent.id,
                "correlationid": self.parent.attributes["correlationid"],
            }
        source = f"/handlers/{self.handler}"
        self.published.append(_event({"type": type_, **caused, **attributes}, data, binary, source))

    def progress(self, data: bytes) -> None:
        self.partials.append(msgspec.json.decode(data))

    def note(self, text: str) -> None:
        self.logs.append(text.removesuffix("\n"))


def event(type: str, data: Any = None, **attributes: _Given) -> Event:  # noqa: A002 - the attribute's name
    """Make an event as a handler gets it.

    Args:
        type: its type, such as `order.created`.
        data: JSON or bytes; None: the event has no data.
        attributes: `id`, `source`, `subject`, `time`, `datacontenttype` or extension attributes;
            those left out are what the gateway makes them.

    Raises:
        TypeError: the data is not JSON.
        ValueError: the type or an attribute is not what it must be; names it.
    """
    checked, plain = check(type, attributes), str.__str__(type)
    payload, binary = (None, False) if data is None else encode(data, f"the data of {plain!r}")
    check_size(plain, payload, MAX_EVENT_BYTES)
    return _event({"type": plain, **checked}, payload, binary)


def _event(fields: dict[str, Any], data: bytes | None, binary: bool, source: str = "/") -> Event:
    new = accept(fields, data, time.time_ns() // 1000, source)
    new.binary = binary
    return Event(to_event(new, 1))


def context(
    parent: Event | None = None,
    *,
    handler: str = "handler",
    run: int = 1,
    attempt: int = 1,
    revision: int = 1,
    cancelled: bool = False,
) -> RecordingContext:
    """Make the context of an attempt that no gateway knows.

    Args:
        parent: the event that the attempt is for: what is published has its `correlationid`, and its id
            as `causationid`. `run` sets it by itself.
        handler: the handler's name.
        run: the run's number.
        attempt: which try of the run it is, from 1.
        revision: the handler's revision.
        cancelled: whether the run is already cancelled.
    """
    port = _Recording(handler, parent, cancelled=cancelled)
    return RecordingContext(port, run=run, attempt=attempt, handler=handler, revision=revision)


def run(target: Callable[..., Any], event: Event, ctx: RecordingContext | None = None) -> Any:
    """Run a handler's function on an event, as a worker does, and return its final value.

    `target` is a `def`, an `async def`, a generator or an async generator that takes `(event)` or
    `(event, ctx)`. What it raises comes out of here, `Retry` and `Fail` too.

    Returns:
        The value as subscribers get it: JSON decoded again, or bytes.

    Raises:
        Cancelled: a generator yielded after its context was cancelled.
        TypeError: the function is no target, or a value is not JSON.
        ValueError: a value is not JSON, or larger than a result may be.
        RuntimeError: an async function, in a running event loop: await `run_async` instead.
    """
    if kind_of(target) in ASYNC:
        _refuse_a_running_loop()
        return asyncio.run(run_async(target, event, ctx))
    ctx = _context(target, event, ctx)
    value = _call(target, event, ctx)
    if isinstance(value, GeneratorType):
        value = _drive(value, ctx)
    elif isinstance(value, CoroutineType):  # a wrapper hid that its function is async
        _refuse_a_running_loop(value)
        value = asyncio.run(value)
    return _sent(value, "the returned value")


async def run_async(target: Callable[..., Any], event: Event, ctx: RecordingContext | None = None) -> Any:
    """Do as `run` from within an event loop; a function that is not async runs in a thread."""
    if kind_of(target) not in ASYNC:
        return await asyncio.to_thread(run, target, event, ctx)
    ctx = _context(target, event, ctx)
    value = _call(target, event, ctx)
    if isinstance(value, AsyncGeneratorType):
        await _drive_async(value, ctx)
        return None
    return _sent(await value, "the returned value")


def _refuse_a_running_loop(coroutine: CoroutineType[Any, Any, Any] | None = None) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if coroutine is not None:
        coroutine.close()
    raise RuntimeError("an event loop is running: await busway.testing.run_async(...) instead")


def _context(target: Callable[..., Any], event: Event, ctx: RecordingContext | None) -> RecordingContext:
    if ctx is None:
        names = [fields["name"] for fields in declared(target)]
        ctx = context(handler=names[0] if names else target.__name__)
    ctx.parent = event
    return ctx


def _call(target: Callable[..., Any], event: Event, ctx: RecordingContext) -> Any:
    wants = wants_context(target)
    if wants is None:
        raise TypeError(f"{target!r} is no target: a target takes (event) or (event, ctx)")
    return target(event, ctx) if wants else target(event)


def _drive(generator: Generator[Any, None, Any], ctx: RecordingContext) -> Any:
    try:
        while True:
            _yielded(next(generator), ctx)
    except StopIteration as end:
        return end.value
    finally:
        generator.close()


async def _drive_async(generator: AsyncGeneratorType[Any, None], ctx: RecordingContext) -> None:
    try:
        async for value in generator:
            _yielded(value, ctx)
    finally:
        await generator.aclose()


def _yielded(value: Any, ctx: RecordingContext) -> None:
    ctx.partials.append(_sent(value, "the yielded value"))
    if ctx.cancelled:
        raise Cancelled("the run was cancelled, or its time is up")


def _sent(value: Any, what: str) -> Any:
    """Return a value as it is after its way to a subscriber."""
    data, binary = encode_result(value, what)
    return data if binary else msgspec.json.decode(data)
