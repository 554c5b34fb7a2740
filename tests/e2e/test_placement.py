"""`--pool auto` and `pool="auto"`: handlers are placed as their attempts are measured, and it is said why."""

from __future__ import annotations

import pytest

from .conftest import Serve, Shared
from .service import Service, until

pytestmark = pytest.mark.one_node("each node measures its own attempts")
CODE = """
import asyncio, os, threading, time
from busway import handler

def in_process():
    return threading.current_thread() is threading.main_thread()

@handler("work")
def waiter(event):
    time.sleep(0.02)
    return in_process()

@handler("work")
def burner(event):
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass
    return in_process()

@handler("work", pool="process")
def settled(event):
    return 1

@handler("crash", max_attempts=1)
def crasher(event):
    if event.data == "die":
        os._exit(1)
    time.sleep(0.02)

@handler("later")
async def awaits(event):
    await asyncio.sleep(0)
"""


def placed(service: Service, name: str) -> dict[str, str]:
    place: dict[str, str] = service.ok("GET", f"/v1/handlers/{name}")["placed_in"]
    return place


def publish(service: Service, type_: str, times: int) -> None:
    service.ok("POST", "/v1/events", [{"type": type_, "data": n} for n in range(times)])

    def idle() -> bool:
        return not service.runs(state="available") and not service.runs(state="running")

    until(idle, "the runs to end")


@pytest.mark.long
def test_waiters_go_to_threads_others_stay_and_it_is_said_why(shared_service: Shared) -> None:
    service = shared_service(CODE, pool="auto")
    assert placed(service, "waiter")["pool"] == "process"
    assert placed(service, "waiter")["reason"] == "not measured yet: 0 of 30 attempts"
    assert placed(service, "settled")["reason"] == "the handler chose it"
    publish(service, "work", 40)
    waiter, burner = placed(service, "waiter"), placed(service, "burner")
    assert (waiter["pool"], burner["pool"]) == ("thread", "process")
    assert waiter["reason"].startswith("it waits: cpu/wall 0.")
    assert waiter["reason"].endswith("over 30 attempts")
    assert waiter["since"] > burner["since"]
    publish(service, "work", 5)
    results = service.results()
    assert [r["data"] for r in results if r["handler"] == "waiter"][-5:] == [False] * 5
    assert {r["data"] for r in results if r["handler"] == "burner"} == {True}


@pytest.mark.fault
def test_a_crash_sends_a_handler_to_processes_for_good(make_service: Serve) -> None:
    service = make_service()
    service.write("all.py", CODE)
    service.start()
    assert service.ok("PATCH", "/v1/handlers/crasher", {"pool": "auto"})["placed_in"]["pool"] == "process"
    publish(service, "crash", 30)
    assert placed(service, "crasher")["pool"] == "thread"
    service.finished(service.publish("crash", "die")["seq"])
    assert placed(service, "crasher")["pool"] == "process"
    assert placed(service, "crasher")["reason"] == "an attempt ended its worker: exited with status 1"
    publish(service, "crash", 70)
    assert placed(service, "crasher")["pool"] == "process"


def test_an_async_handler_is_placed_at_once(shared_service: Shared) -> None:
    service = shared_service(CODE, pool="auto")
    assert placed(service, "awaits")["pool"] == "thread"
    assert "async" in placed(service, "awaits")["reason"]
    run = service.run_of(service.publish("later")["seq"])
    assert run["state"] == "succeeded"
