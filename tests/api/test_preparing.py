"""What takes long and is done once is done beside the event loop, or at the start."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest
from busway.gateway.api import routes
from busway.gateway.api.preparing import Prepared, prepare_routes
from busway.gateway.api.routes import describe
from busway.gateway.errors import BuswayError
from fastapi import FastAPI

from tests.e2e.service import PATIENCE


def test_a_value_is_made_once_and_the_loop_runs_meanwhile() -> None:
    made, go = list[int](), threading.Event()

    def make() -> int:
        assert go.wait(PATIENCE), "the loop did not run"
        made.append(threading.get_ident())
        return len(made)

    async def ask_often() -> list[int]:
        value = Prepared(make)
        asked = [asyncio.ensure_future(value.get()) for _ in range(50)]
        await asyncio.sleep(0)
        go.set()
        return [*await asyncio.gather(*asked), await value.get()]

    assert asyncio.run(ask_often()) == [1] * 51
    assert made != [threading.get_ident()]


def test_a_value_is_made_again_if_that_failed() -> None:
    faults = [RuntimeError("no memory")]

    def make() -> str:
        if faults:
            raise faults.pop()
        return "made"

    async def ask_twice() -> str:
        value = Prepared(make)
        with pytest.raises(RuntimeError, match="no memory"):
            await value.get()
        return await value.get()

    assert asyncio.run(ask_twice()) == "made"


def test_routes_are_built_before_the_first_request() -> None:
    asyncio.run(prepare_routes(describe(FastAPI(openapi_url=None, docs_url=None, redoc_url=None))))
    with pytest.raises(BuswayError, match="answered 404 to a request for /healthz"):
        asyncio.run(prepare_routes(FastAPI()))


def test_no_request_waits_for_a_thread_of_its_own() -> None:
    """FastAPI calls what is no coroutine function in a thread, which takes longer than most answers."""
    plain: set[str] = set()

    def look(dependant: Any) -> None:
        call = dependant.call
        if call is not None and not (inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)):
            plain.add(call.__qualname__)
        for each in dependant.dependencies:
            look(each)

    found = [route for each in routes._ROUTES for route in each.router.routes]
    for route in found:
        look(route.dependant)
    assert len(found) > 50
    assert plain == set()
