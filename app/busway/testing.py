"""Test handlers without a gateway: create an event, run the handler function, check what it did.

from busway.testing import context, event, run

def test_an_invoice_is_written():
    ctx = context()
    assert run(invoice, event("order.created", {"item": "book"}), ctx) == {"pages": 1}
    assert ctx.partials == [{"page": 1}]
    assert [published.type for published in ctx.published] == ["invoice.ready"]

Values are checked and encoded as in a worker: a value without a JSON form fails the test, and `run` returns
the value that subscribers get. The pytest fixture `busway_gateway` runs a whole gateway. It needs no import.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

import msgspec

from busway.context import Context, check, check_size
from busway.domain.callables import ASYNC, kind_of, wants_context
from busway.domain.event import to_event
from busway.domain.event_fields import MAX_EVENT_BYTES, accept
from busway.domain.jsonvalue import encode, encode_result
from busway.domain.secret_values import given
from busway.event import Event
from busway.handlers import declared
from busway.payloads import typed

__all__ = ["Cancelled", "RecordingContext", "context", "event", "run", "run_async"]

_Given = str | int | bool | datetime | None
_NO_SECRET = "give it to the test with context(secrets={{{name!r}: …}})"  # noqa: S105 - a message


class Cancelled(Exception):
    """A generator was stopped at a `yield` because its context was cancelled, as in a worker."""


class RecordingContext(Context):
    """A context that records the calls of a handler. `context` creates it.

    Attributes:
        partials: yielded values (with `run`) and progress reports, in order, as subscribers get them.
        published: the published events, as the gateway stores them when the attempt succeeds. You can pass
            each to the next handler.
        logs: the lines of `log`, such as "WARNING out of paper".
    """

    _log_form = "%(levelname)s %(message)s"

    def __init__(self, port: Recording, *, run: int, attempt: int, handler: str, revision: int) -> None:
        super().__init__(run=run, attempt=attempt, handler=handler, revision=revision, port=port)
        self.partials: list[Any] = port.partials
        self.published: list[Event] = port.published
        self.logs: list[str] = port.logs
        self._recorded = port

    @property
    def parent(self) -> Event | None:
        """The event of the attempt. `run` sets it."""
        return self._recorded.parent

    @parent.setter
    def parent(self, event: Event) -> None:
        self._recorded.parent = event

    def yielded(self, value: Any) -> None:
        """Record a value that a generator yielded. `run` calls it."""
        self._recorded.partial(value)

    def cancel(self) -> None:
        """Set `cancelled`, as when the run is cancelled or its timeout expires."""
        self._recorded.cancelled = True


class Recording:
    """Records the calls of a context, instead of a worker."""

    def __init__(self, handler: str, parent: Event | None, *, cancelled: bool) -> None:
        self.partials: list[Any] = []
        self.published: list[Event] = []
        self.logs: list[str] = []
        self.handler, self.parent, self.cancelled = handler, parent, cancelled
        self.secrets = given({}, _NO_SECRET)

    def publish(
        self, type_: str, data: bytes | None, binary: bool, attributes: dict[str, str | int | bool]
    ) -> None:
        """Record an event.

        Raises:
            ValueError: it is larger than an event may be.
        """
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
        """Record a progress report."""
        self.partial(msgspec.json.decode(data))

    def partial(self, value: Any) -> None:
        """Record a partial result, as a subscriber receives it."""
        self.partials.append(value)

    def note(self, text: str) -> None:
        """Record a line of the log."""
        self.logs.append(text.removesuffix("\n"))


def event(type: str, data: Any = None, **attributes: _Given) -> Event:  # noqa: A002 - the attribute's name
    """Create an event as a handler receives it.

    Args:
        type: its type, such as `order.created`.
        data: a value with a JSON form, or bytes. None: the event has no data.
        attributes: `id`, `source`, `subject`, `time`, `datacontenttype` or extension attributes. The
            defaults are those of the gateway.

    Raises:
        TypeError: the data has no JSON form.
        ValueError: the type or an attribute is invalid. The message names it.
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
    secrets: Mapping[str, str] | None = None,
) -> RecordingContext:
    """Create a context without a gateway.

    Args:
        parent: the event of the attempt. Published events get its `correlationid`, and its id as
            `causationid`. `run` sets it.
        handler: the handler's name.
        run: the run's number.
        attempt: the number of the attempt, from 1.
        revision: the handler's revision.
        cancelled: whether the run is already cancelled.
        secrets: what `ctx.secrets` has, by name.
    """
    port = Recording(handler, parent, cancelled=cancelled)
    port.secrets = given(dict(secrets or {}), _NO_SECRET)
    return RecordingContext(port, run=run, attempt=attempt, handler=handler, revision=revision)


def run(target: Callable[..., Any], event: Event, ctx: RecordingContext | None = None) -> Any:
    """Run a handler function on an event, as a worker does, and return its final value.

    `target` is a `def`, an `async def`, a generator or an async generator that takes `(event)` or
    `(event, ctx)`. Its exceptions propagate, including `Retry` and `Fail`.

    Returns:
        The value as subscribers get it: decoded JSON, or bytes.

    Raises:
        Cancelled: a generator yielded after its context was cancelled.
        TypeError: the function is not a target, or a value has no JSON form.
        InvalidData: the payload does not fit the annotation of the function.
        ValueError: a value is larger than the limit of a result.
        RuntimeError: the function is async and an event loop is running: await `run_async` instead.
    """
    if kind_of(target) in ASYNC:
        _refuse_a_running_loop()
        return asyncio.run(run_async(target, event, ctx))
    ctx = _context(target, event, ctx)
    value = _call(target, event, ctx)
    if isinstance(value, GeneratorType):
        value = _drive(value, ctx)
    elif isinstance(value, CoroutineType):  # a synchronous wrapper around an async function
        _refuse_a_running_loop(value)
        value = asyncio.run(value)
    return _sent(value, "the returned value")


async def run_async(target: Callable[..., Any], event: Event, ctx: RecordingContext | None = None) -> Any:
    """Like `run`, for use in an event loop. A function that is not async runs in a thread."""
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
    event = typed(target, event)
    wants = wants_context(target)
    if wants is None:
        raise TypeError(f"{target!r} is not a target: a target takes (event) or (event, ctx)")
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
    ctx.yielded(_sent(value, "the yielded value"))
    if ctx.cancelled:
        raise Cancelled("the run was cancelled or its timeout expired")


def _sent(value: Any, what: str) -> Any:
    """Return a value as a subscriber receives it."""
    data, binary = encode_result(value, what)
    return data if binary else msgspec.json.decode(data)
