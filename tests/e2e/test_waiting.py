"""Requests that wait for results: `Prefer: wait` when publishing, and long polls of the result log."""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.documents.answers import as_described

from .conftest import Serve, Shared
from .service import PATIENCE, Service, join, until
from .test_access import busway, made

HANDLERS = """
import os, time
from pathlib import Path
from busway import handler

@handler("ask.quick", "ask.both")
def quick(event):
    yield {"part": 1}
    return {"quick": event.data}

@handler("ask.both", max_attempts=2, backoff={"initial": 0.01, "factor": 1, "max": 0.01, "jitter": 0})
def broken(event):
    raise ValueError("always")

@handler("ask.held")
def held(event):
    while not Path(event.data).exists():
        time.sleep(0.01)
    return "released"

@handler("ask.large")
def large(event):
    return "x" * 3_000_000

for number in range(4):
    handler("ask.many", "ask.large", name=f"large{number}")(large)
"""
_names = (f"w{number}" for number in itertools.count())


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(HANDLERS)


def ask(service: Service, body: Any, prefer: str = "wait=60", **headers: str) -> httpx.Response:
    return as_described(
        service.client.post(service.url + "/v1/events", json=body, headers={"Prefer": prefer, **headers})
    )


def poll(service: Service, **params: Any) -> dict[str, Any]:
    answer = service.get("/v1/results", params=params)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def waiting(service: Service) -> int:
    """How many requests wait on all nodes."""
    texts = [service.client.get(url + "/metrics").text for url in service.urls]
    return sum(int(float(n)) for text in texts for n in re.findall(r"waiting_requests{.*} (\S+)", text))


def gate(service: Service) -> Path:
    return service.folder / next(_names)


def test_the_answer_has_the_final_result_of_each_run_in_log_order(service: Service) -> None:
    answer = ask(service, {"type": "ask.both", "data": 1})
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=60")
    found = answer.json()
    assert (found["event"]["runs"], found["event"]["duplicate"]) == (2, False)
    kinds = {item["handler"]: (item["kind"], item["data"]) for item in found["results"]}
    assert kinds == {"quick": ("succeeded", {"quick": 1}), "broken": ("dead", None)}
    assert {item["event"]["seq"] for item in found["results"]} == {found["event"]["seq"]}
    numbers = [int(item["cursor"].split("-")[1]) for item in found["results"]]
    assert numbers == sorted(numbers)


def test_an_event_without_runs_is_answered_at_once(service: Service) -> None:
    answer = ask(service, {"type": "ask.nobody"})
    assert (answer.status_code, answer.json()["results"]) == (200, [])


@pytest.mark.parametrize("form", ["application/cloudevents+json", "application/json"])
def test_cloudevents_may_wait_too(service: Service, form: str) -> None:
    name = next(_names)
    if form == "application/json":
        more = {"ce-specversion": "1.0", "ce-id": name, "ce-source": "/w", "ce-type": "ask.quick"}
        answer = service.client.post(
            service.url + "/v1/events",
            content=b"2",
            headers={"Content-Type": form, "Prefer": "wait=60", **more},
        )
    else:
        event = {"specversion": "1.0", "id": name, "source": "/w", "type": "ask.quick", "data": 2}
        answer = ask(service, event, **{"Content-Type": form})
    assert answer.status_code == 200, answer.text
    assert [item["kind"] for item in answer.json()["results"]] == ["succeeded"]


def test_what_takes_longer_is_202_with_a_cursor_for_a_long_poll(service: Service) -> None:
    file = gate(service)
    answer = ask(service, {"type": "ask.held", "data": str(file)}, "wait=1")
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=1")
    receipt = answer.json()
    pages: list[dict[str, Any]] = []
    thread = threading.Thread(
        target=lambda: pages.append(
            poll(service, after=receipt["cursor"], wait=60, correlationid=receipt["id"])
        )
    )
    thread.start()
    until(lambda: waiting(service) == 1, "the poll to wait")
    file.touch()
    join([thread], pages)
    assert [(item["kind"], item["data"]) for item in pages[0]["items"]] == [("succeeded", "released")]


def test_a_duplicate_gets_the_results_on_record_or_waits_for_them(service: Service) -> None:
    file, name = gate(service), next(_names)
    event = {"type": "ask.held", "id": name, "data": str(file)}
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(service, event))) for _ in range(5)]
    for thread in threads:
        thread.start()
    until(lambda: waiting(service) == 5, "all to wait")
    file.touch()
    join(threads, answers)
    answers.append(ask(service, event))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert sorted(answer.json()["event"]["duplicate"] for answer in answers) == [False] + [True] * 5
    assert len({json.dumps(answer.json()["results"]) for answer in answers}) == 1
    assert answers[0].json()["results"][0]["data"] == "released"


def test_a_repeated_key_gets_the_results_as_well(service: Service) -> None:
    event, key = {"type": "ask.quick", "data": 3}, {"Idempotency-Key": next(_names)}
    first, again = ask(service, event, **key), ask(service, event, **key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert service.get("/v1/events", params={"id": first.json()["event"]["id"]}).json()["items"]


def test_arrays_and_unknown_preferences_are_as_usual(service: Service) -> None:
    for body, prefer in (([{"type": "ask.quick"}], "wait=60"), ({"type": "ask.quick"}, "handling=lenient")):
        answer = ask(service, body, prefer)
        assert answer.status_code == 202
        assert "Preference-Applied" not in answer.headers
        assert "cursor" not in answer.text


def test_large_results_are_left_out_and_the_answer_says_so(service: Service) -> None:
    answer = ask(service, {"type": "ask.many"})
    found = answer.json()
    assert found["truncated"] is True
    assert [len(item["data"]) for item in found["results"]] == [3_000_000] * 3


def test_a_key_that_may_not_read_results_only_publishes(make_service: Serve) -> None:
    service = make_service()
    service.write("all.py", HANDLERS)
    service.admin = busway(service, "keys", "create", "me", "--create")
    service.start()
    for scopes, status in ((["publish"], 202), (["publish", "subscribe"], 200)):
        key = made(service, "-".join(scopes), *scopes)["key"]
        answer = ask(service, {"type": "ask.quick"}, Authorization=f"Bearer {key}")
        assert answer.status_code == status
        assert ("Preference-Applied" in answer.headers) == (status == 200)


def test_a_poll_answers_with_the_first_match_and_its_cursor_goes_on(service: Service) -> None:
    name = next(_names)
    after = poll(service, after="latest")["cursor"]
    pages: list[dict[str, Any]] = []

    def read() -> None:
        pages.append(poll(service, after=after, wait=60, correlationid=name, kinds="succeeded"))

    thread = threading.Thread(target=read)
    thread.start()
    until(lambda: waiting(service) == 1, "the poll to wait")
    for number in range(20):
        service.publish("ask.quick", number)  # nothing that it wants
    service.publish("ask.quick", "mine", correlationid=name)
    join([thread], pages)
    assert [item["data"] for item in pages[0]["items"]] == [{"quick": "mine"}]
    empty = poll(service, after=pages[0]["cursor"], wait=1, correlationid=name)
    assert (empty["items"], empty["next"]) == ([], None)
    early = poll(service, after="earliest", wait=60, correlationid=name, kinds="succeeded")
    assert early["items"] == pages[0]["items"]


def test_a_poll_with_a_filter_waits(service: Service) -> None:
    name = next(_names)
    pages: list[dict[str, Any]] = []
    wanted = {"after": "latest", "wait": 60, "filter": json.dumps({"exact": {"data.name": name}})}
    thread = threading.Thread(target=lambda: pages.append(poll(service, **wanted)))
    thread.start()
    until(lambda: waiting(service) == 1, "the poll to wait")
    service.publish("ask.quick", {"name": "other"})
    service.publish("ask.quick", {"name": name})
    join([thread], pages)
    assert pages[0]["items"][0]["data"] in ({"part": 1}, {"quick": {"name": name}})
    assert {item["event"]["type"] for item in pages[0]["items"]} == {"ask.quick"}


@pytest.mark.parametrize("query", ["wait=61", "wait=-1", "wait=x", "wait=5&last=3", "wait=5&after=nonsense"])
def test_a_bad_poll_is_refused_at_once(service: Service, query: str) -> None:
    assert service.get(f"/v1/results?{query}").status_code in {400, 422}


def requests(service: Service, file: Path) -> list[bytes]:
    body = json.dumps({"type": "ask.held", "data": str(file)}).encode()
    head = b"Host: localhost\r\nContent-Type: application/json\r\nPrefer: wait=60\r\n"
    return [
        b"POST /v1/events HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body),
        b"GET /v1/results?after=latest&wait=60&types=ask.never HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]


def connect(service: Service) -> socket.socket:
    host, port = service.own_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def test_nothing_stays_of_clients_that_are_gone(service: Service) -> None:
    file = gate(service)
    for request in requests(service, file):
        for end in (socket.socket.close, lambda peer: peer.shutdown(socket.SHUT_WR)):
            peers = [connect(service) for _ in range(5)]
            for peer in peers:
                peer.sendall(request)
            until(lambda: waiting(service) == 5, "all to wait")
            for peer in peers:
                end(peer)
            until(lambda: waiting(service) == 0, "none to wait")
            for peer in peers:
                if peer.fileno() >= 0:  # it may still read
                    assert peer.recv(20).startswith((b"HTTP/1.1 202", b"HTTP/1.1 200"))
                peer.close()
    file.touch()


def test_a_drain_answers_all_at_once(make_service: Serve) -> None:
    service = make_service(drain_timeout=60)
    service.write("all.py", HANDLERS)
    service.start()
    file, answers = gate(service), {}

    def keep(name: str, get: Callable[[], httpx.Response]) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.update({name: get()}))
        thread.start()
        return thread

    url = service.own_url
    threads = [
        keep("event", lambda: ask(service, {"type": "ask.held", "data": str(file)})),
        keep("poll", lambda: service.client.get(url + "/v1/results?after=latest&wait=60&types=ask.never")),
    ]
    until(lambda: waiting(service) == 2, "both to wait")
    service.terminate()
    join(threads, answers)  # while the attempt runs
    assert answers["event"].status_code == 202
    assert answers["event"].json()["cursor"]
    assert answers["poll"].json()["items"] == []
    assert answers["poll"].json()["cursor"]
    file.touch()
    assert service._reap() == 0


@pytest.mark.one_node("the memory of one process is looked at")
def test_a_thousand_waiting_requests_take_less_than_20_mib(service: Service) -> None:
    memory = psutil.Process(service.pid).memory_info
    service.ok("POST", "/v1/handlers/quick/pause")
    body = b'{"type":"ask.quick","data":{"n":1}}'
    head = (
        b"Host: localhost\r\nContent-Type: application/json\r\nPrefer: wait=60\r\nContent-Length: %d\r\n\r\n"
    )
    request = b"POST /v1/events HTTP/1.1\r\n" + head % len(body) + body
    try:
        taken = []
        for count in (100, 1_000):  # the first ones take what is needed once
            before = memory().rss
            peers = [connect(service) for _ in range(count)]
            for peer in peers:
                peer.sendall(request)
            until(lambda count=count: waiting(service) == count, "all to wait")
            taken.append(memory().rss - before)
            threads = threads_of(service)
            service.ok("POST", "/v1/handlers/quick/resume")
            for peer in peers:
                assert peer.recv(65_536).startswith(b"HTTP/1.1 200")
                peer.close()
            assert threads == threads_of(service)
            service.ok("POST", "/v1/handlers/quick/pause")
        print("bytes", taken)
        assert taken[-1] <= 20 << 20
    finally:
        service.ok("POST", "/v1/handlers/quick/resume")


def threads_of(service: Service) -> int:
    return psutil.Process(service.pid).num_threads()
