"""NDJSON over real sockets, past ASGI and through it, in a whole gateway: bounds, faults, and going on."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
import uuid

import msgspec
import pytest
from busway.gateway.errors import Unauthorized
from busway.gateway.ingest import upload
from busway.gateway.main import create_app
from busway.gateway.settings import Settings

from tests.api.kit import HOST, PATIENCE, Peer, serving

HEAD = b"POST /v1/events HTTP/1.1\r\n" + HOST + b"Content-Type: application/x-ndjson\r\n"
LIMIT = 100_000  # bytes of an event
BODIES = 8 << 20


class Hidden:
    """An application as another server sees it: without the endpoints of the door."""

    def __init__(self, front):
        self._front = front

    async def __call__(self, scope, receive, send):
        await self._front(scope, receive, send)


class Running:
    """A gateway in this process: its parts, and its port."""

    def __init__(self, folder, shell):
        self.settings = Settings(
            database_url=f"sqlite:///{folder}/busway.db", handlers=folder, workers=1, max_event_bytes=LIMIT,
            max_body_bytes=10_000, max_bodies_bytes=BODIES,
        )  # fmt: skip
        self.shell, self.port = shell, 0

    def make(self):
        front, self.gateway = create_app(self.settings)
        self.loop = asyncio.get_running_loop()
        return Hidden(front) if self.shell == "asgi" else front

    @property
    def stages(self):
        return self.gateway.stages

    @property
    def held(self):
        return self.gateway.budgets.bodies.used

    def peer(self):
        peer = Peer(self.port)
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return peer

    def call(self, function, *arguments):
        """Call a function in the loop of the gateway."""

        async def called():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(PATIENCE)

    def events(self, type_):
        peer = self.peer()
        peer.send(b"GET /v1/events?limit=1000&type=" + type_.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        found = json.loads(peer.read()[1])
        peer.close()
        return [event.get("data") for event in reversed(found["items"])]


@pytest.fixture(scope="module", params=["endpoint", "asgi"])
def gateway(request, tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("uploads"), request.param)
    with serving(running.make, factory=True, lifespan="on") as (running.port, _):
        wait(lambda: running.stages is not None and running.stages.publisher.closed is None)
        yield running
        wait(lambda: running.held == 0)


@pytest.fixture
def peer(gateway):
    peer = gateway.peer()
    yield peer
    peer.close()


@pytest.fixture
def type_():
    return f"t{uuid.uuid4().hex}"


def wait(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def whole(body, extra=b""):
    return HEAD + extra + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(*parts, extra=b""):
    return [HEAD + extra + b"Transfer-Encoding: chunked\r\n\r\n", *map(chunk, parts), b"0\r\n\r\n"]


def line(type_, data):
    return json.dumps({"type": type_, "data": data}).encode() + b"\n"


def answer(peer):
    status, body, headers = peer.read()
    return status, json.loads(body), headers


def counts(found):
    return {name: found[name] for name in ("accepted", "duplicates", "rejected_total", "skipped", "lines")}


def test_the_answer_says_what_became_of_each_line(peer, gateway, type_):
    one = b'{"type":"%b","id":"one","source":"/%b"}\r\n' % (type_.encode(), type_.encode())
    peer.send(whole(one + b"\r\n" + one + b"nope\n" + line(type_, "x" * LIMIT) + line(type_, 3)[:-1]))
    status, found, headers = answer(peer)
    assert status == 202
    assert b"producer-seq" not in headers
    assert counts(found) == {"accepted": 2, "duplicates": 1, "rejected_total": 2, "skipped": 0, "lines": 6}
    assert [each["line"] for each in found["rejected"]] == [4, 5]
    assert "--max-event-bytes" in found["rejected"][1]["detail"]
    assert gateway.events(type_) == [None, 3]
    peer.send(whole(b""))
    assert counts(answer(peer)[1]) == dict.fromkeys(counts(found), 0)


def test_a_body_that_arrives_in_two_parts_is_the_same_at_every_byte(peer, type_):
    body = line(type_, "é") + b"\n" + line(type_, 2)[:-1]
    for at in range(len(body) + 1):
        for part in chunked(*filter(None, (body[:at], body[at:]))):
            peer.send(part)
        assert counts(answer(peer)[1]) == {
            "accepted": 2, "duplicates": 0, "rejected_total": 0, "skipped": 0, "lines": 3,
        }, at  # fmt: skip


def test_lines_are_stored_while_more_arrive(peer, gateway, type_):
    first, *_ = chunked()
    peer.send(first + chunk(line(type_, 1)))
    wait(lambda: gateway.events(type_) == [1])
    peer.send(chunk(line(type_, 2)[:-1]) + b"0\r\n\r\n")
    assert answer(peer)[1]["accepted"] == 2
    peer.send(whole(line(type_, 3)) + whole(line(type_, 4)))  # the connection goes on, also in a line
    assert [answer(peer)[1]["accepted"] for _ in range(2)] == [1, 1]
    assert gateway.events(type_) == [1, 2, 3, 4]


@pytest.mark.long
def test_a_long_upload_takes_bounded_memory(peer, gateway, type_):
    """The committer stands still meanwhile, so the upload has to stop reading."""
    part = line(type_, "x" * 16_000) * 8
    size = 256  # parts: 32 MiB, more than the sockets hold
    committer = gateway.stages.commits.pid
    os.kill(committer, signal.SIGSTOP)
    sending = threading.Thread(target=lambda: [peer.send(each) for each in chunked(*[part] * size)])
    try:
        sending.start()
        most, since = 0, time.monotonic()
        while time.monotonic() - since < 0.5:  # until nothing has changed for a while
            if gateway.held > most:
                most, since = gateway.held, time.monotonic()
            time.sleep(0.002)
        assert sending.is_alive(), answer(peer)
    finally:
        os.kill(committer, signal.SIGCONT)
    while sending.is_alive():
        most = max(most, gateway.held)
        sending.join(0.002)
    assert answer(peer)[1]["accepted"] == 8 * size
    assert most <= 2 * (upload.BATCH_BYTES + 65_536) + 600_000


@pytest.mark.parametrize("end", ["gone", "bad chunk", "slow", "no memory", "closed"])
def test_an_upload_that_ends_early_leaves_nothing_and_goes_on_later(gateway, type_, monkeypatch, end):
    if gateway.shell == "asgi" and end == "bad chunk":
        pytest.skip("the server notices it, not the application")
    producer = b"Producer-Id: %b\r\n" % type_.encode()
    lines = [line(type_, number) for number in range(5)]
    peer, budget = gateway.peer(), gateway.gateway.budgets.bodies
    times = msgspec.structs.replace(gateway.stages.times, upload=0.3 if end == "slow" else PATIENCE)
    monkeypatch.setitem(vars(gateway.stages), "times", times)
    first, *_ = chunked(extra=producer)
    peer.send(first + chunk(b"".join(lines[:2]) + lines[2][:-2]))
    wait(lambda: gateway.events(type_) == [0, 1])
    if end == "bad chunk":
        peer.send(b"nope\r\n")
        assert peer.read()[0] == 400
    elif end == "no memory":
        gateway.call(budget.take, BODIES - budget.used)
        peer.send(chunk(b"x"))
    elif end == "closed":
        gateway.stages.publisher.closed = "the gateway is stopping"
        peer.send(chunk(lines[2][-2:]))
    if end in {"slow", "no memory", "closed"}:
        status, found, headers = answer(peer)
        assert (status, found["status"]) == ((408, 408) if end == "slow" else (503, 503))
        assert headers[b"producer-seq"] == b"2"
        assert counts(found["upload"])["lines"] == found["upload"]["accepted"] == 2
        assert "2 lines are taken" in found["detail"]
    peer.close()
    gateway.stages.publisher.closed = None
    if end == "no memory":
        gateway.call(budget.give, budget.used)
    wait(lambda: gateway.held == 0)
    again = gateway.peer()
    again.send(whole(b"".join(lines), producer))
    status, found, headers = answer(again)
    assert counts(found) == {"accepted": 3, "duplicates": 0, "rejected_total": 0, "skipped": 2, "lines": 5}
    assert headers[b"producer-seq"] == b"5"
    assert gateway.events(type_) == [0, 1, 2, 3, 4]
    again.send(b"GET /v1/producers/%b HTTP/1.1\r\n%b\r\n" % (type_.encode(), HOST))
    known = answer(again)[1]
    assert (known["lines"], known["accepted"], known["duplicates"]) == (5, 5, 0)
    again.close()


def test_many_lines_are_read_in_many_turns_of_the_loop(peer, gateway, type_):
    turns = gateway.stages.publisher.turns
    before = turns.given
    peer.send(whole(b'{"type":"%b"}\n' % type_.encode() * 20_000))
    assert answer(peer)[1]["accepted"] == 20_000
    assert turns.given - before >= 20_000 // 256


def test_many_small_chunks_are_work_once_a_turn(peer, gateway, type_):
    turns = gateway.stages.publisher.turns
    before = turns.given
    body = line(type_, "x" * 20_000)
    peer.send(b"".join(chunked(*(body[at : at + 1] for at in range(len(body))))))
    assert answer(peer)[1]["accepted"] == 1
    assert turns.given - before < 1_000


def test_the_same_upload_twice_at_once_is_taken_once(gateway, type_):
    lines = [line(type_, number) for number in range(900)]
    producer = b"Producer-Id: %b\r\n" % type_.encode()
    peers = [gateway.peer() for _ in range(4)]
    for peer in peers:
        peer.send(HEAD + producer + b"Transfer-Encoding: chunked\r\n\r\n")
    for at in range(0, 900, 60):
        for place, peer in enumerate(peers):
            peer.send(chunk(b"".join(lines[at : at + 60])) if at or place % 2 else chunk(lines[0]))
            if at == 0 and not place % 2:
                peer.send(chunk(b"".join(lines[1:60])))
    for peer in peers:
        peer.send(b"0\r\n\r\n")
    found = [answer(peer)[1] for peer in peers]
    assert sum(each["accepted"] for each in found) == 900
    assert {each["accepted"] + each["skipped"] for each in found} == {900}
    assert {each["lines"] for each in found} == {900}
    assert gateway.events(type_) == [*range(900)]
    for peer in peers:
        peer.close()


def test_an_upload_may_begin_where_the_last_one_ended_and_not_behind(peer, gateway, type_):
    id_ = b"Producer-Id: %b\r\n" % type_.encode()
    peer.send(whole(line(type_, 0) + b"\n" + line(type_, 1), id_))
    assert answer(peer)[1]["lines"] == 3
    peer.send(whole(line(type_, 9), id_ + b"Producer-Seq: 4\r\n"))
    status, found, headers = answer(peer)
    assert (status, headers[b"producer-seq"]) == (409, b"3")
    assert "begin with line 3" in found["detail"]
    peer.send(whole(line(type_, 1) + b"nope\n" + line(type_, 2), id_ + b"Producer-Seq: 2\r\n"))
    found = answer(peer)[1]
    assert counts(found) == {"accepted": 1, "duplicates": 0, "rejected_total": 1, "skipped": 1, "lines": 5}
    assert [each["line"] for each in found["rejected"]] == [4]
    assert gateway.events(type_) == [0, 1, 2]


@pytest.mark.parametrize(
    "headers",
    [
        b"Producer-Seq: 1\r\n",
        b"Producer-Id: a b\r\n",
        b"Producer-Id: \r\n",
        b"Producer-Id: %b\r\n" % (b"x" * 129),
        b"Producer-Id: a\r\nProducer-Id: b\r\n",
        b"Producer-Id: a\r\nProducer-Seq: -1\r\n",
        b"Producer-Id: a\r\nProducer-Seq: 1e3\r\n",
        b"Producer-Id: a\r\nProducer-Seq: 9999999999999999\r\n",
    ],
)
def test_bad_headers_are_refused(peer, headers):
    peer.send(whole(b'{"type":"a"}', headers))
    status, found, _ = answer(peer)
    assert status == 400
    assert "Producer-" in found["detail"]


def test_headers_of_other_bodies_are_refused(peer):
    for header in (b"Idempotency-Key: a\r\n", b"Prefer: wait=1\r\n"):
        peer.send(whole(b'{"type":"a"}', header))
        status, found, _ = answer(peer)
        assert (status, "NDJSON" in found["detail"]) == (400, True)


def test_who_asks_before_sending_is_told_to_go_on(peer, type_):
    head, *rest = chunked(line(type_, 1), extra=b"Expect: 100-continue\r\n")
    peer.send(head)
    assert peer.read()[0] == 100
    peer.send(b"".join(rest))
    assert answer(peer)[1]["accepted"] == 1


def test_an_upload_ends_when_it_is_not_allowed_any_more(peer, gateway, type_, monkeypatch):
    first, *_ = chunked(extra=b"Producer-Id: %b\r\n" % type_.encode())
    peer.send(first + chunk(line(type_, 1)))
    wait(lambda: gateway.events(type_) == [1])

    def refuse(_headers):
        raise Unauthorized("this API key was revoked or has expired: use another one")

    with monkeypatch.context() as changed:
        changed.setattr(gateway.stages.gate, "admit", refuse)
        peer.send(chunk(line(type_, 2)))
        status, found, _ = answer(peer)
    assert (status, found["upload"]["accepted"]) == (401, 1)
    assert gateway.events(type_) == [1]


def test_a_head_that_was_refused_is_that_of_an_upload_later(peer, gateway, type_, monkeypatch):
    def refuse(_headers):
        raise Unauthorized("unknown API key")

    body = whole(line(type_, 1))
    with monkeypatch.context() as changed:
        changed.setattr(gateway.stages.gate, "admit", refuse)
        peer.send(body)
        assert answer(peer)[0] == 401
    peer.send(body)
    assert answer(peer)[1]["accepted"] == 1


def test_only_an_id_that_can_be_one_is_looked_up(peer):
    for id_, status in ((b"unknown", 404), (b"a%00b", 422), (b"%ff", 422), (b"x" * 129, 422)):
        peer.send(b"GET /v1/producers/%b HTTP/1.1\r\n%b\r\n" % (id_, HOST))
        assert peer.read()[0] == status


def test_rejected_lines_are_counted_and_the_first_ones_named(peer):
    peer.send(whole(b"nope\n" * 5000))
    found = answer(peer)[1]
    assert found["rejected_total"] == 5000
    assert [each["line"] for each in found["rejected"]] == [*range(1, 1001)]


def test_a_store_that_has_no_room_is_waited_for(peer, gateway, type_, monkeypatch):
    monkeypatch.setattr("busway.gateway.store.group.queues.QUEUE_EVENTS", 0)
    committer = gateway.stages.commits.pid
    others = [gateway.peer() for _ in range(3)]
    os.kill(committer, signal.SIGSTOP)
    try:
        for number, each in enumerate([*others, peer]):
            each.send(whole(line(type_, number)))
            time.sleep(0.05)
    finally:
        os.kill(committer, signal.SIGCONT)
    for each in [*others, peer]:
        assert answer(each)[1]["accepted"] == 1
    assert sorted(gateway.events(type_)) == [0, 1, 2, 3]
    for each in others:
        each.close()


def test_a_committer_that_dies_ends_the_upload_and_its_producer_goes_on(peer, gateway, type_):
    producer = b"Producer-Id: %b\r\n" % type_.encode()
    part = b"".join(line(type_, number) for number in range(100))
    committer = gateway.stages.commits.pid
    first, *_ = chunked(extra=producer)
    commits = gateway.stages.commits
    peer.send(first + chunk(part))
    wait(lambda: len(gateway.events(type_)) == 100 and not commits._batch)
    os.kill(committer, signal.SIGSTOP)
    peer.send(chunk(part))
    wait(lambda: commits._batch)  # what is only queued would be stored by the next committer
    os.kill(committer, signal.SIGKILL)
    status, found, headers = answer(peer)
    assert (status, headers[b"producer-seq"]) == (503, b"100")
    assert found["upload"]["accepted"] == 100
    wait(lambda: gateway.stages.commits.healthy)
    again = gateway.peer()
    again.send(whole(part * 3, producer))
    found = answer(again)[1]
    assert (found["lines"], found["accepted"] + found["skipped"]) == (300, 300)
    assert len(gateway.events(type_)) == 300
    again.close()


def test_the_end_of_the_server_ends_uploads(tmp_path):
    running = Running(tmp_path, "endpoint")
    with serving(running.make, factory=True, lifespan="on") as (running.port, server):
        wait(lambda: running.stages is not None and running.stages.publisher.closed is None)
        peer = running.peer()
        first, *_ = chunked()
        peer.send(first + chunk(line("t", 1)))
        wait(lambda: running.events("t") == [1])
        server.should_exit = True
        status, found, _ = answer(peer)
        assert (status, found["upload"]["accepted"]) == (503, 1)
        assert "stopping" in found["detail"]
        peer.close()


def test_events_in_every_mode_pass_both_shells_also_behind_known_heads(peer, type_):
    """A head that was admitted before is known by what matters: neither attributes nor modes get mixed up."""
    data = b'{"a": 1}'
    members = {"specversion": "1.0", "source": "/s", "type": type_}

    def binary(id_, version="1.0", more=b""):
        named = {**members, "id": id_, "specversion": version}.items()
        return b"".join(f"Ce-{name}: {value}\r\n".encode() for name, value in named) + more

    def post(body, media_type, more=b""):
        peer.send(whole(body, more).replace(b"application/x-ndjson", media_type))
        status, found, _ = answer(peer)
        return (status, found["id"] if status == 202 and "id" in found else found)

    structured = b"application/cloudevents+json"
    for number in range(3):
        own = f"{type_}-{number}"
        assert post(data, b"application/json", binary(f"{own}-b%20b")) == (202, f"{own}-b b")
        body = json.dumps({**members, "id": f"{own}-s"}).encode()
        assert post(body, structured) == (202, f"{own}-s")
        assert post(body, structured, binary(own)) == (202, f"{own}-s")
        assert post(b"[]", b"application/cloudevents-batch+json") == (202, {"items": []})
        assert post(b'{"type":"%b","id":"%b-j"}' % (type_.encode(), own.encode()), b"application/json") == (
            202,
            f"{own}-j",
        )
        assert post(data, b"application/json", binary(own, "0.3"))[0] == 400
        assert post(data, b"application/json", binary(own, more=b"ce-id: x\r\n"))[0] == 400
        assert post(data, b"application/json", binary("%0D%0A"))[0] == 400
        assert post(data, b"text/plain")[0] == 415
