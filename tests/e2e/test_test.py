"""POST /v1/handlers/{name}/test: one attempt through a real worker, of which nothing is stored."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from .conftest import Serve
from .service import PATIENCE, Service, until

CODE = """
import os, time
from busway import Context, handler

@handler("t.full", timeout=60)
def full(event, ctx):
    print("printed", event.data)
    ctx.log.info("logged")
    ctx.progress(0.5, "half")
    yield {"page": 1}
    ctx.publish("t.out", {"n": 7}, subject="s")
    return {"run": ctx.run, "attempt": ctx.attempt, "type": event.type, "colour": event.attributes["colour"]}

@handler("t.bytes")
def raw(event):
    return event.data[::-1]

@handler("t.fails")
def fails(event):
    raise ValueError("quantity must be positive")

@handler("t.crash")
def crash(event):
    os._exit(3)

@handler("t.hang", timeout=0.2)
def hang(event):
    time.sleep(1000)

@handler("t.endless", timeout=1)
def endless(event):
    while True:
        yield "x" * 10_000

@handler("t.slow")
def slow(event):
    open(event.data, "a").close()
    time.sleep(1000)

@handler("t.nap")
def nap(event):
    while not os.path.exists(event.data):
        time.sleep(0.01)
    return 1

@handler("t.waits")
async def waits(event):
    return os.getpid()

@handler("t.bad")
def publishes_badly(event, ctx):
    ctx.publish("t.out", "x" * 3000)
"""


@pytest.fixture(scope="module", params=["process", "thread"])
def service(tmp_path_factory: Any, request: pytest.FixtureRequest) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("trials")
    service = Service(folder, pool=request.param, max_event_bytes=2000, workers=1)
    service.write("all.py", CODE)
    yield service.start()
    service.close()


def trial(service: Service, name: str, data: Any = None, **members: Any) -> dict[str, Any]:
    event = {"type": "t.test", "data": data, **members}
    answer: dict[str, Any] = service.ok("POST", f"/v1/handlers/{name}/test", {"event": event})
    return answer


def test_the_outcome_tells_all_that_an_attempt_leaves(service: Service) -> None:
    answer = trial(service, "full", "in", colour="red")
    assert answer["outcome"] == "succeeded"
    assert answer["data"] == {"run": 0, "attempt": 1, "type": "t.test", "colour": "red"}
    assert answer["partials"] == [
        {"index": 0, "data": {"progress": 0.5, "note": "half"}},
        {"index": 1, "data": {"page": 1}},
    ]
    (published,) = answer["published"]
    assert (published["type"], published["data"], published["subject"], published["source"]) == (
        "t.out",
        {"n": 7},
        "s",
        "/handlers/full",
    )
    assert "printed in" in answer["log"]
    assert "logged" in answer["log"]
    assert (answer["error"], answer["pool"], answer["revision"]) == (None, service.options["pool"], 1)
    assert answer["wall_time"] > 0
    assert answer["cpu_time"] > 0


def test_nothing_is_stored_whatever_comes_of_it(service: Service) -> None:
    head = service.get("/v1/results").json()["cursor"]
    for name in ("full", "fails", "crash", "hang"):
        trial(service, name, colour="red")
    assert service.ok("GET", "/v1/events")["items"] == []
    assert service.runs() == []
    assert service.get("/v1/results").json()["cursor"] == head
    assert service.ok("GET", "/v1/handlers/full")["stats"]["latency"]["attempts"] == 0


def test_binary_values_stand_as_base64(service: Service) -> None:
    encoded = base64.b64encode(b"abc").decode()
    body = {"event": {"type": "t", "data_base64": encoded}}
    answer = service.ok("POST", "/v1/handlers/raw/test", body)
    assert base64.b64decode(answer["data_base64"]) == b"cba"
    assert "data" not in answer


@pytest.mark.parametrize(
    ("name", "type_", "word"),
    [
        ("fails", "ValueError", "quantity must be positive"),
        ("crash", "WorkerDied", "exited with status 3"),
        ("hang", "Timeout", "ran longer than 0.2 s"),
        ("publishes_badly", "ValueError", "3002"),
    ],
)
def test_a_failure_says_what_to_fix(service: Service, name: str, type_: str, word: str) -> None:
    answer = trial(service, name)
    assert (answer["outcome"], answer["data"], answer["published"]) == ("failed", None, [])
    assert answer["error"]["type"] == type_
    assert word in answer["error"]["message"]


def test_an_endless_generator_gets_its_time_and_a_bounded_answer(service: Service) -> None:
    answer = trial(service, "endless")
    assert answer["error"]["type"] == "Timeout"
    assert sum(len(p["data"]) for p in answer["partials"]) <= 1024 * 1024
    assert answer["partials_left_out"] > 0


def test_a_paused_handler_and_an_async_one_can_be_tried(service: Service) -> None:
    service.ok("POST", "/v1/handlers/waits/pause")
    assert trial(service, "waits")["outcome"] == "succeeded"


def test_more_at_once_wait_for_their_turn_and_too_many_are_told(service: Service) -> None:
    statuses: list[int] = []

    sign = service.folder / "sign"

    def ask() -> None:
        with httpx.Client(timeout=PATIENCE, verify=False) as client:
            body = {"event": {"type": "t", "data": str(sign)}}
            statuses.append(client.post(f"{service.own_url}/v1/handlers/nap/test", json=body).status_code)

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    until(lambda: 503 in statuses, "one to be refused")
    assert 200 not in statuses
    sign.touch()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 18


def test_one_whose_caller_goes_away_is_ended(service: Service) -> None:
    """A caller that only closes its side may still read: the connection must be reset."""
    mark = service.folder / "begun"
    body = json.dumps({"event": {"type": "t", "data": str(mark)}})
    head = f"POST /v1/handlers/slow/test HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", int(service.options["port"]))) as caller:
        caller.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        until(mark.exists, "the attempt")
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def running() -> int:
        status = service.client.get(f"{service.own_url}/v1/status").json()
        pools = status["workers"]["pools"].values()
        return sum(pool["running"] for pool in pools)

    until(lambda: running() == 0, "the attempt to end")


@pytest.mark.long
def test_what_cannot_run_is_a_conflict(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("all.py", "from busway import handler\n@handler('a')\ndef gone(event): ...\n")
    service.start()
    assert service.stop() == 0
    service.write("all.py", "import nowhere\n")
    service.start()
    answer = service.post("/v1/handlers/gone/test", {"event": {"type": "a"}})
    assert answer.status_code == 409
    assert "all.py does not import" in answer.json()["detail"]
