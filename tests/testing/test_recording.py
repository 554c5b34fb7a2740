"""`busway.testing` without a gateway: what a test sees is what the gateway would have stored."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import math
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from busway import Fail, Retry, handler
from busway.testing import Cancelled, context, event, run, run_async


def function(event: Any, ctx: Any) -> Any:
    ctx.progress(0.5)
    ctx.publish("made", event.data)
    ctx.log.warning("low on %s", "paper")
    return (event.data, ctx.attempt)


async def coroutine(event: Any, ctx: Any) -> Any:
    await asyncio.sleep(0)
    return function(event, ctx)


def generator(event: Any, ctx: Any) -> Any:
    yield ("first", 1)
    return function(event, ctx)


async def async_generator(event: Any, ctx: Any) -> Any:
    yield ("first", 1)
    function(event, ctx)
    yield b"last"


PROGRESS = {"progress": 0.5, "note": None}
KINDS = [
    (function, [PROGRESS], [7, 3]),
    (coroutine, [PROGRESS], [7, 3]),
    (generator, [["first", 1], PROGRESS], [7, 3]),
    (async_generator, [["first", 1], PROGRESS, b"last"], None),
]


@pytest.mark.parametrize(("target", "partials", "value"), KINDS)
@pytest.mark.parametrize("inside_a_loop", [False, True])
def test_each_kind_of_target_is_run_and_recorded(
    target: Any, partials: list[Any], value: Any, inside_a_loop: bool
) -> None:
    ctx = context(attempt=3)
    if inside_a_loop:
        assert asyncio.run(run_async(target, event("t", 7), ctx)) == value
    else:
        assert run(target, event("t", 7), ctx) == value
    assert ctx.partials == partials
    assert [(published.type, published.data) for published in ctx.published] == [("made", 7)]
    assert ctx.logs == ["WARNING low on paper"]


@pytest.mark.parametrize("target", [lambda event: event.type, lambda event, ctx: event.type])
def test_a_target_takes_the_event_and_the_context_if_it_wants(target: Any) -> None:
    assert run(target, event("order.created")) == "order.created"


def test_what_is_no_target_is_refused_as_in_the_folder() -> None:
    with pytest.raises(TypeError, match="a target takes"):
        run(lambda: 1, event("t"))


def test_a_wrapper_that_hides_a_coroutine_is_run_as_in_a_worker() -> None:
    @functools.wraps(coroutine)
    def wrapped(event: Any, ctx: Any) -> Any:
        return coroutine(event, ctx)

    del wrapped.__wrapped__
    assert run(wrapped, event("t", 7)) == [7, 1]


def test_in_a_running_loop_it_says_what_to_await() -> None:
    async def scenario() -> None:
        with pytest.raises(RuntimeError, match=r"await busway\.testing\.run_async"):
            run(coroutine, event("t"))
        with pytest.raises(RuntimeError, match=r"await busway\.testing\.run_async"):
            run(lambda event, ctx: coroutine(event, ctx), event("t"))  # noqa: PLW0108 - it hides its kind

    asyncio.run(scenario())


def test_a_sync_target_runs_beside_the_loop_in_the_context_of_the_test() -> None:
    here = contextvars.ContextVar("here", default="")

    async def scenario() -> Any:
        here.set("set")
        return await run_async(lambda event: [threading.get_ident(), here.get()], event("t"))

    thread, value = asyncio.run(scenario())
    assert thread != threading.get_ident()
    assert value == "set"


@pytest.mark.parametrize("problem", [Retry(after=3), Fail("no"), ZeroDivisionError(), SystemExit(1)])
def test_what_a_handler_raises_comes_out(problem: BaseException) -> None:
    def raises(event: Any, ctx: Any) -> None:
        ctx.publish("made")
        raise problem

    ctx = context()
    with pytest.raises(type(problem)) as raised:
        run(raises, event("t"), ctx)
    assert raised.value is problem
    assert [published.type for published in ctx.published] == ["made"]


def test_a_handler_may_catch_what_publish_refuses() -> None:
    def publishes(event: Any, ctx: Any) -> str:
        try:
            ctx.publish("made", {"price": 1j})
        except TypeError as problem:
            ctx.publish("refused", {"why": str(problem)})
        return "done"

    ctx = context()
    assert run(publishes, event("t"), ctx) == "done"
    (refused,) = ctx.published
    assert refused.data == {
        "why": "the data published as 'made': .price is a complex, which has no JSON form"
    }


@pytest.mark.parametrize(
    ("value", "problem"),
    [({1j}, "complex"), (math.nan, "nan"), ({1.5: 2}, "float"), (object(), "object"), ("\ud800", "Unicode")],
)
def test_values_are_checked_as_in_a_worker(value: Any, problem: str) -> None:
    def yields(event: Any) -> Any:
        yield value

    def publishes(event: Any, ctx: Any) -> None:
        ctx.publish("made", value)

    for target in (lambda event: value, yields, publishes):
        with pytest.raises((TypeError, ValueError), match=problem):
            run(target, event("t"))
    with pytest.raises((TypeError, ValueError), match=problem):
        event("t", value)


def test_sizes_are_limited_as_the_gateway_does_by_default() -> None:
    with pytest.raises(ValueError, match="a result may have at most 16777216"):
        run(lambda event: b"x" * 16_777_217, event("t"))
    with pytest.raises(ValueError, match="the limit is 1048576"):
        run(lambda event, ctx: ctx.publish("made", b"x" * 1_048_577), event("t"))
    with pytest.raises(ValueError, match="the limit is 1048576"):
        event("t", b"x" * 1_048_577)


def test_an_event_has_what_the_gateway_gives_it() -> None:
    before = datetime.now(UTC)
    made = event("order.created", {"n": (1, 2)})
    assert (made.type, made.data, made.source, made.subject) == ("order.created", {"n": [1, 2]}, "/", None)
    assert made.attributes == {"correlationid": made.id}
    assert before - timedelta(seconds=1) < made.time <= datetime.now(UTC)
    assert event("t").id != event("t").id


def test_attributes_of_an_event_are_read_as_published_ones() -> None:
    at = datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    made = event(
        "t",
        b"\xff",
        id="7",
        source="/shop",
        subject="s",
        time=at,
        priority=9,
        deliverat=at,
        partitionkey=None,
    )
    assert (made.id, made.source, made.subject, made.time, made.data) == ("7", "/shop", "s", at, b"\xff")
    assert made.attributes == {"priority": 9, "deliverat": "2026-05-01T10:00:00Z", "correlationid": "7"}


@pytest.mark.parametrize(
    ("type_", "attributes"),
    [
        ("", {}),
        ("a b", {}),
        (7, {}),
        ("t", {"priority": 10}),
        ("t", {"Big": 1}),
        ("t", {"specversion": "1.0"}),
        ("t", {"time": "noon"}),
        ("t", {"deliverat": datetime.min}),  # noqa: DTZ901 - without a zone
    ],
)
def test_an_event_that_the_gateway_refuses_cannot_be_made(type_: Any, attributes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        event(type_, **attributes)
    with pytest.raises(ValueError, match=r".+"):
        context().publish(type_, **attributes)


def test_a_published_event_comes_from_the_handler_and_its_event() -> None:
    @handler("t", name="shipper")
    @handler("t")
    def ship(event: Any, ctx: Any) -> list[Any]:
        ctx.publish("plain")
        ctx.publish("own", source="/mine", correlationid="c", id="7")
        return [ctx.handler, ctx.run, ctx.attempt, ctx.revision]

    parent = event("t", correlationid="family")
    ctx = context(handler="ship")
    assert run(ship, parent, ctx) == ["ship", 1, 1, 1]
    plain, own = ctx.published
    assert plain.source == "/handlers/ship"
    assert plain.attributes == {"correlationid": "family", "causationid": parent.id}
    assert (own.id, own.source) == ("7", "/mine")
    assert own.attributes == {"correlationid": "c", "causationid": parent.id}
    assert run(ship, parent)[0] == "shipper"


def test_a_context_of_a_plain_call_knows_the_event_it_was_made_for() -> None:
    parent = event("t")
    ctx = context(parent)
    ctx.publish("made")
    assert ctx.published[0].attributes == {"correlationid": parent.id, "causationid": parent.id}
    alone = context()
    alone.publish("made")
    assert alone.published[0].attributes == {"correlationid": alone.published[0].id}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_generator_is_left_at_its_yield_when_the_run_was_cancelled(asynchronous: bool) -> None:
    left = []

    def plain(event: Any, ctx: Any) -> Any:
        try:
            for number in range(3):
                if number == 1:
                    ctx.cancel()
                yield number
        finally:
            left.append(ctx.cancelled)

    async def awaited(event: Any, ctx: Any) -> Any:
        try:
            for number in range(3):
                if number == 1:
                    ctx.cancel()
                yield number
        finally:
            left.append(ctx.cancelled)

    ctx = context()
    with pytest.raises(Cancelled):
        run(awaited if asynchronous else plain, event("t"), ctx)
    assert (ctx.partials, left) == ([0, 1], [True])
    assert context(cancelled=True).cancelled


def test_importing_it_loads_neither_pytest_nor_the_gateway_nor_a_client() -> None:
    program = "import busway.testing, json, sys; print(json.dumps(list(sys.modules)))"
    loaded = set(json.loads(subprocess.check_output([sys.executable, "-c", program], text=True)))
    assert not {"pytest", "_pytest", "httpx", "websockets", "pydantic", "sqlalchemy"} & loaded
    assert not [name for name in loaded if name.startswith(("busway.gateway", "busway.client"))]


@pytest.mark.parametrize("name", sorted(path.name for path in Path("examples/handlers").glob("*.py")))
def test_the_examples_can_be_imported_for_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("examples/handlers")
    __import__(name.removesuffix(".py"))
