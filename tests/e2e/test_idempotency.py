"""`Idempotency-Key`: a request that is repeated is stored once, and gets the first one's answer."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.documents.answers import as_described

from .conftest import Serve, Shared
from .service import Service, join, until
from .test_access import busway, made

HANDLERS = """
from busway import handler

@handler("idem.run")
def run(event):
    return event.data
"""
_keys = (f"key-{number}" for number in itertools.count())


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(HANDLERS)


def send(service: Service, key: str, body: Any, **headers: str) -> httpx.Response:
    known = {"Idempotency-Key": key, "Content-Type": "application/json", **headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return as_described(service.client.post(service.url + "/v1/events", headers=known, content=content))


def stored(service: Service, type_: str) -> int:
    return len(service.ok("GET", f"/v1/events?limit=1000&type={type_}")["items"])


EVENT = {"type": "idem.form", "data": {"n": 1}}
CLOUDEVENT = {"specversion": "1.0", "type": "idem.form", "id": "c", "source": "/c"}
BINARY = {"ce-specversion": "1.0", "ce-id": "e", "ce-source": "/e", "ce-type": "idem.form"}


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("application/json", EVENT),
        ("application/json", [EVENT, {**EVENT, "id": "same"}, EVENT]),
        ("application/cloudevents+json", CLOUDEVENT),
        ("application/cloudevents-batch+json", [{**CLOUDEVENT, "id": "d"}, {**CLOUDEVENT, "id": "c"}]),
        ("text/plain", b"any"),
    ],
)
def test_a_repeated_request_gets_the_first_ones_answer_in_every_form(
    service: Service, form: str, body: Any
) -> None:
    key, binary = next(_keys), BINARY if form == "text/plain" else {}
    first = send(service, key, body, **{"Content-Type": form, **binary})
    assert first.status_code == 202, first.text
    before = stored(service, "idem.form")
    for _ in range(3):
        again = send(service, key, body, **{"Content-Type": form, **binary})
        assert (again.status_code, again.content) == (202, first.content)
    assert stored(service, "idem.form") == before
    if binary:
        other = send(service, key, body, **{"Content-Type": form, **binary, "ce-id": "f"})
        assert other.status_code == 422


def test_another_body_is_refused_and_the_key_stays_with_the_first(service: Service) -> None:
    key = next(_keys)
    first = send(service, key, {"type": "idem.other", "data": 1})
    refused = send(service, key, {"type": "idem.other", "data": 2})
    assert refused.status_code == 422
    assert "new key" in refused.json()["detail"]
    assert send(service, key, {"type": "idem.other", "data": 1}).content == first.content
    assert stored(service, "idem.other") == 1


def test_an_invalid_request_leaves_its_key_free(service: Service) -> None:
    key = next(_keys)
    assert send(service, key, b'{"type": "idem.bad*"}').status_code == 422
    assert send(service, key, b"[1").status_code == 400
    assert send(service, key, {"type": "idem.bad"}).status_code == 202


@pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 256, "tab\there"])
def test_a_malformed_key_is_refused(service: Service, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode()), (b"Content-Type", b"application/json")]
    for more in ([], [(b"Idempotency-Key", b"second")]):
        answer = service.client.post(
            service.url + "/v1/events", headers=[*headers, *more], content=b'{"type":"idem.key"}'
        )
        assert answer.status_code == 400
    assert stored(service, "idem.key") == 0


def test_a_long_key_that_is_repeated_on_one_connection_is_seen_each_time(service: Service) -> None:
    key = "x" * 255
    with httpx.Client(base_url=service.own_url) as client:
        answers = {
            client.post("/v1/events", json={"type": "idem.long"}, headers={"Idempotency-Key": key}).content
            for _ in range(5)
        }
    assert len(answers) == 1
    assert stored(service, "idem.long") == 1


def test_of_a_hundred_at_once_one_is_stored_and_the_others_get_its_answer_or_409(service: Service) -> None:
    key, answers = next(_keys), []
    start = threading.Barrier(100)

    def one() -> None:
        start.wait()
        answers.append(send(service, key, {"type": "idem.run", "subject": key, "data": {"n": 1}}))

    threads = [threading.Thread(target=one) for _ in range(100)]
    for thread in threads:
        thread.start()
    join(threads, answers)
    statuses = Counter(answer.status_code for answer in answers)
    assert sum(statuses.values()) == 100
    assert statuses.keys() <= {202, 409}
    receipts = {answer.content for answer in answers if answer.status_code == 202}
    assert len(receipts) == 1
    found = service.ok("GET", f"/v1/events?subject={key}")["items"]
    assert [event["seq"] for event in found] == [json.loads(receipts.pop())["seq"]]
    for answer in answers:
        if answer.status_code == 409:
            assert "Retry-After" in answer.headers
    assert send(service, key, {"type": "idem.run", "subject": key, "data": {"n": 1}}).status_code == 202


def test_an_upload_of_ndjson_has_another_way(service: Service) -> None:
    refused = send(service, next(_keys), b'{"type":"idem.lines"}', **{"Content-Type": "application/x-ndjson"})
    assert refused.status_code == 400
    assert "Producer-Id" in refused.json()["detail"]
    assert stored(service, "idem.lines") == 0


def test_a_large_array_keeps_its_receipts(service: Service) -> None:
    key = next(_keys)
    body = json.dumps([{"type": "idem.large", "data": "x" * 100}] * 5_000).encode()
    first = send(service, key, body)
    assert len(first.json()["items"]) == 5_000
    assert send(service, key, body).content == first.content


def test_receipts_outlive_kill_and_belong_to_one_key(make_service: Serve) -> None:
    service = make_service()
    service.admin = busway(service, "keys", "create", "me", "--create")
    service.start()
    body = {"type": "idem.run", "data": 1}
    mine, theirs = (
        {"Authorization": f"Bearer {key}"}
        for key in (service.admin, made(service, "other", "publish")["key"])
    )
    first = send(service, "k", body, **mine)
    second = send(service, "k", {"type": "idem.else"}, **theirs)
    assert (first.json()["seq"], second.json()["seq"]) == (1, 2)
    service.kill()
    service.start()
    assert send(service, "k", body, **mine).content == first.content
    assert send(service, "k", {"type": "idem.else"}, **theirs).content == second.content
    assert send(service, "k", {"type": "idem.else"}, **mine).status_code == 422


class Repeating:
    """Publishes pairs of events, each pair with a key of its own. `answers` has all answers by key."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.answers: dict[str, set[bytes]] = {}
        self.ended = threading.Event()

    def publish(self, worker: int, number: int) -> None:
        key = f"{worker}-{number}"
        try:
            answer = send(self.service, key, [{"type": "idem.run", "subject": key}] * 2)
        except httpx.TransportError:
            return
        if answer.status_code == 202:
            self.answers.setdefault(key, set()).add(answer.content)

    def go_on(self, worker: int, first: int) -> None:
        for number in itertools.count(first):
            if self.ended.is_set():
                return
            self.publish(worker, number)


def all_events(service: Service) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = service.get("/v1/events", params={"limit": 1000, **after}).json()
        events += page["items"]
        if page["next"] is None:
            return events
        after = {"after": page["next"]}


@pytest.mark.long
@pytest.mark.fault
def test_killed_anywhere_each_key_is_stored_once_and_keeps_its_answer(make_service: Serve) -> None:
    service = make_service()
    service.write("all.py", HANDLERS)
    service.start()
    repeating = Repeating(service)
    answers = repeating.answers
    for first in (0, 1_000, 2_000):
        repeating.ended.clear()
        threads = [threading.Thread(target=repeating.go_on, args=(worker, first)) for worker in range(8)]
        enough = len(answers) + 50
        for thread in threads:
            thread.start()
        until(lambda enough=enough: len(answers) > enough, "some answers")
        service.kill()
        repeating.ended.set()
        join(threads, answers)
        service.start()
        for worker in range(8):
            for number in range(first, first + 12):
                repeating.publish(worker, number)  # answered before or not
    events = all_events(service)
    stored = Counter(event["subject"] for event in events)
    assert set(stored.values()) == {2}
    assert stored.keys() >= answers.keys()
    for key, found in answers.items():
        [answer] = found
        seqs = {receipt["seq"] for receipt in json.loads(answer)["items"]}
        assert seqs == {event["seq"] for event in events if event["subject"] == key}
