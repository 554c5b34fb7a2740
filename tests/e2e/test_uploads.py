"""NDJSON on each database and with two nodes: an upload goes on elsewhere, after kill -9, exactly once."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import uuid
from typing import Any

import httpx
import pytest

from .conftest import Serve, Shared
from .service import PATIENCE, Service, until

CODE = """
from busway import handler

@handler("run.*")
def run(event): return event.data
"""
KIND = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(CODE)


@pytest.fixture
def type_() -> str:
    return f"run.{uuid.uuid4().hex}"


def lines(type_: str, numbers: range) -> bytes:
    return b"".join(json.dumps({"type": type_, "data": number}).encode() + b"\n" for number in numbers)


def upload(service: Service, body: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.request("POST", "/v1/events", content=body, headers=KIND | named)


def stored(service: Service, type_: str) -> list[int]:
    """The payloads of all events of a type, in the order of the log."""
    found: list[int] = []
    after: dict[str, Any] = {}
    while True:
        page = service.get("/v1/events", params={"type": type_, "limit": 1000, **after}).json()
        found += [event["data"] for event in page["items"]]
        if page["next"] is None:
            return found[::-1]
        after = {"after": page["next"]}


def test_events_of_lines_start_runs(service: Service, type_: str) -> None:
    answer = upload(service, lines(type_, range(300)) + b"nope\n")
    assert answer.status_code == 202
    assert (answer.json()["accepted"], answer.json()["rejected_total"]) == (300, 1)
    assert stored(service, type_) == [*range(300)]
    until(lambda: len(results(service, type_)) == 300, "all results")
    assert sorted(results(service, type_)) == [*range(300)]


def results(service: Service, type_: str) -> list[int]:
    found = service.get("/v1/results", params={"types": type_, "limit": 1000}).json()["items"]
    return [item["data"] for item in found if item["kind"] == "succeeded"]


def test_an_upload_goes_on_on_any_node(service: Service, type_: str) -> None:
    for until_line in (400, 900, 900, 1500):
        answer = upload(service, lines(type_, range(until_line)), Producer_Id=type_)
        assert answer.headers["Producer-Seq"] == str(until_line)
        found = answer.json()
        assert found["accepted"] + found["skipped"] == found["lines"] == until_line
        known = service.get(f"/v1/producers/{type_}").json()
        assert (known["lines"], known["accepted"]) == (until_line, until_line)
    assert stored(service, type_) == [*range(1500)]
    assert service.request("GET", "/v1/producers/unknown").status_code == 404


@pytest.mark.long
@pytest.mark.fault
def test_after_kill_9_in_the_middle_each_line_is_stored_once(make_service: Serve, type_: str) -> None:
    service = make_service()
    service.start()
    total, taken = 20_000, 0
    body = lines(type_, range(total))
    for share in (0.2, 0.5, 0.9):
        sending = Sending(service.urls[0], body, type_, int(len(body) * share))
        until(lambda before=taken: known(service, type_) > before, "more lines")
        service.kill()
        sending.close()
        service.start()
        assert taken < known(service, type_) < total
        taken = known(service, type_)
    sending = Sending(service.urls[0], body, type_, len(body))
    answer = sending.answer()
    assert answer["accepted"] + answer["skipped"] == answer["lines"] == total
    assert stored(service, type_) == [*range(total)]
    assert service.get(f"/v1/producers/{type_}").json()["accepted"] == total


def known(service: Service, producer: str) -> int:
    answer = service.request("GET", f"/v1/producers/{producer}")
    return int(answer.json()["lines"]) if answer.status_code == 200 else 0


class Sending:
    """An upload in a thread, of which only so many bytes are sent."""

    def __init__(self, url: str, body: bytes, producer: str, sent: int) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        head = (
            f"POST /v1/events HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-ndjson\r\n"
            f"Producer-Id: {producer}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode()
        self._sock = socket.create_connection((host, int(port)), PATIENCE)
        self._thread = threading.Thread(target=self._send, args=(head + body[:sent],))
        self._thread.start()

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(data)

    def close(self) -> None:
        self._thread.join(PATIENCE)
        self._sock.close()

    def answer(self) -> Any:
        found = b""
        while part := self._sock.recv(65_536):
            found += part
        self.close()
        return json.loads(found.partition(b"\r\n\r\n")[2])
