"""A hostile client beside a good one: each attack gets its answer, and leaves neither descriptors nor memory.

Other files show what is not here: `tests/api/test_faults.py` (framing and limits of heads and chunks, byte by
byte), `tests/subscribers/test_rfc6455.py` (broken frames, permessage-deflate), `test_access.py` and
`test_tickets.py` (keys, tickets, origins of pages), `tests/webhooks` (addresses that events may go to),
`tests/api/test_client_limits.py` (limits of keys and addresses).
"""

from __future__ import annotations

import gzip
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from busway.gateway.access import keys

from .service import PATIENCE, Service, until
from .test_noise import GOOD, frame, handshake

pytestmark = pytest.mark.one_database("connections that clients spoil")

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(
        tmp_path_factory.mktemp("hostile"), workers=1, head_timeout=2, body_timeout=2, stall_timeout=1,
        log_format="text",
    )  # fmt: skip
    service.start()
    service.publish("warm")
    yield service
    service.close()


class Beside:
    """A good client that publishes and reads all the time, one request after another."""

    def __init__(self, service: Service) -> None:
        self._service, self.served, self.failed = service, 0, [""][:0]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            for request in (("POST", "/v1/events", {"type": "good"}), ("GET", "/healthz", None)):
                answer = self._service.request(request[0], request[1], json=request[2])
                if not answer.is_success:
                    self.failed.append(f"{request}: {answer.status_code} {answer.text}")
            self.served += 1

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)


def dial(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), PATIENCE)


def told(sock: socket.socket, enough: bytes = b"") -> bytes:
    """What the gateway says until it has said enough, or ends the connection."""
    said = b""
    try:
        while not (enough and enough in said) and (part := sock.recv(65_536)):
            said += part
    except ConnectionError:
        pass
    return said


def post(body: bytes, *lines: bytes, path: bytes = b"/v1/events") -> bytes:
    head = [b"POST %b HTTP/1.1\r\n" % path, HOST, *lines, b"Connection: close\r\n"]
    return b"".join([*head, b"Content-Length: %d\r\n\r\n" % len(body), body])


def get(target: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (target, HOST)


def sends(data: bytes) -> Callable[[Service], bytes]:
    def attack(service: Service) -> bytes:
        with dial(service) as sock:
            sock.sendall(data)
            return told(sock)

    return attack


def drips(begin: bytes, byte: bytes) -> Callable[[Service], bytes]:
    """Send a byte five times a second until the gateway has enough."""

    def attack(service: Service) -> bytes:
        with dial(service) as sock:
            sock.sendall(begin)
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                sock.settimeout(0.2)
                try:
                    said = sock.recv(65_536)
                except TimeoutError:
                    sock.settimeout(PATIENCE)
                    sock.sendall(byte)
                except ConnectionError:
                    return b""
                else:
                    return said
        raise AssertionError("the gateway still waits")

    return attack


def never_ends(service: Service) -> bytes:
    """A chunked body of up to 10 GB, as fast as the gateway takes it."""
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with dial(service) as sock:
        sock.sendall(b"POST /v1/events HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 10_000:
                sock.sendall(chunk)
                sent += 1
        except OSError:
            pass
        assert sent < 200, f"the gateway read {sent} MiB"
        sock.settimeout(1)
        try:
            return told(sock)
        except TimeoutError:
            return b"413"


def reads_nothing(service: Service) -> bytes:
    """Ask for much, and read nothing of it."""
    with dial(service) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n")
        for _ in range(40):
            sock.sendall(b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n")
        before = reached(service, "stalled")
        until(lambda: reached(service, "stalled") > before, "the gateway to cut the reader")
    return b"cut"


def reached(service: Service, limit: str) -> float:
    found = re.search(rf'limits_reached_total{{limit="{limit}"}} (\S+)', service.get("/metrics").text)
    return float(found[1]) if found else 0.0


def socket_says(enough: bytes, *frames: bytes, path: str = "/v1/subscribe") -> Callable[[Service], bytes]:
    def attack(service: Service) -> bytes:
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        with dial(service) as sock:
            sock.sendall(handshake(*GOOD, offer, path=path) + b"".join(frames))
            return told(sock, enough)

    return attack


DEEP = b'{"type":"t","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BOMB = gzip.compress(bytes(50_000_000))
SMUGGLED = b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ANSI = "\x1b]0;owned\x07\x1b[31m\x9b2J\x08\r\n2026-01-01 00:00:00 INFO forged"

ATTACKS: dict[str, tuple[Callable[[Service], bytes], bytes]] = {
    "slowloris on the head": (drips(b"POST /v1/events HTTP/1.1\r\nX: ", b"x"), b" 408 "),
    "slowloris on the body": (drips(post(b"x" * 90_000, JSON)[:-89_000], b"x"), b" 408 "),
    "slowloris on another body": (
        drips(post(b"x" * 90_000, JSON, path=b"/v1/handlers")[:-89_000], b"x"), b" 408 ",
    ),
    "slowloris on chunks": (
        drips(b"POST /v1/events HTTP/1.1\r\n" + HOST + JSON + CHUNKED + b"\r\n", b"1\r\nx\r\n"), b" 408 ",
    ),
    "answers that nobody reads": (reads_nothing, b"cut"),
    "100,000 levels": (sends(post(DEEP, JSON)), b" 400 "),
    "100,000 levels for a handler": (sends(post(DEEP, JSON, path=b"/v1/handlers")), b" 400 "),
    "4,301 digits": (sends(post(b'{"type":"t","data":' + b"9" * 4_301 + b"}", JSON)), b" 400 "),
    "4,301 digits for a field": (
        sends(post(b'{"type":"t","priority":' + b"9" * 4_301 + b"}", JSON)), b" 4",
    ),
    "a gzip bomb": (sends(post(BOMB, JSON, b"Content-Encoding: gzip\r\n")), b"accept-encoding: identity"),
    "a gzip bomb for a handler": (
        sends(post(BOMB[:10_000], JSON, b"Content-Encoding: gzip\r\n", path=b"/v1/handlers")), b" 415 ",
    ),
    "a gzip bomb of lines": (
        sends(post(BOMB, b"Content-Type: application/x-ndjson\r\nContent-Encoding: gzip\r\n")), b" 415 ",
    ),
    "a deflate bomb": (socket_says(b"\x03\xea", b"\xc1\x80" + bytes(4)), b"\x03\xea"),  # 1002
    "a type that stands twice": (
        sends(
            post(
                b'{"specversion":"1.0","id":"i","source":"/","type":"a","type":"b"}',
                b"Content-Type: application/cloudevents+json\r\n",
            )
        ),
        b" 422 ",
    ),
    "a lone surrogate": (sends(post(b'{"type":"t\\ud800"}', JSON)), b" 4"),
    "a lone surrogate as payload": (sends(post(b'{"type":"t","data":"\\udfff"}', JSON)), b" 4"),
    "10 GB in chunks": (never_ends, b"413"),
    "CL.TE": (sends(post(b"0\r\n\r\n" + SMUGGLED, JSON, CHUNKED)), b" 400 "),
    "TE.CL": (sends(post(b"5c\r\n" + SMUGGLED + b"\r\n0\r\n\r\n", JSON, CHUNKED)), b" 400 "),
    "TE.TE": (sends(b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"Transfer-Encoding: x\r\n\r\n"), b" 400 "),
    "a hidden coding": (
        sends(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), b" 400 ",
    ),
    "a folded line": (sends(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n"), b" 400 "),
    "a bare LF": (sends(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\nY: b\r\n\r\n"), b" 400 "),
    "a bare CR": (sends(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n"), b" 400 "),
    "a length with a sign": (sends(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\n"), b" 400 "),
    "a line end in a parameter": (
        sends(get(b"/v1/runs?after=%0d%0aSet-Cookie:%20a=b")),
        b" 400 ",
    ),
    "a key in the query string": (
        sends(get(b"/v1/status?key=bw_1_x")), b" 422 ",
    ),
    "a key in the query string of a socket": (
        socket_says(b"\x11\x30", path="/v1/subscribe?key=bw_1_x"), b"\x11\x30",
    ),
    "a null origin": (
        sends(post(b'{"type":"t"}', JSON, b"Origin: null\r\n")), b" 403 ",
    ),
    "a foreign origin": (sends(post(b'{"type":"t"}', JSON, b"Origin: https://evil.example\r\n")), b" 403 "),
    "a foreign origin's socket": (sends(handshake(*GOOD, "Origin: https://evil.example")), b" 403 "),
    "a null origin's socket": (sends(handshake(*GOOD, "Origin: null")), b" 403 "),
    "another name for this machine": (
        sends(b"GET /v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"), b" 421 ",
    ),
    "escape sequences in a path": (
        sends(get(b"/v1/handlers/%1b%5d0%3bowned%07%0a")),
        b" 404 ",
    ),
    "escape sequences in a type": (sends(post(json.dumps({"type": ANSI}).encode(), JSON)), b" 422 "),
    "escape sequences in an id": (
        sends(post(json.dumps({"type": "t", "id": ANSI}).encode(), JSON)), b" 422 ",
    ),
    "escape sequences in a header": (sends(b"GET / HTTP/1.1\r\n" + HOST + b"X: \x1b[31m\r\n\r\n"), b" 4"),
    "escape sequences in a frame": (
        socket_says(b"bad_frame", frame(1, json.dumps({"op": ANSI}).encode())), b"bad_frame",
    ),
}  # fmt: skip


def at_rest(service: Service) -> tuple[int, int]:
    """Descriptors of the gateway, and its memory in bytes."""
    process = psutil.Process(service.pid)
    return process.num_fds(), process.memory_info().rss


@pytest.mark.long
def test_each_attack_gets_its_answer_beside_a_good_client(service: Service) -> None:
    """All of them at the same time."""
    sends(post(DEEP, JSON))(service)
    before, log = at_rest(service), len(service.log.read_text())
    answers: dict[str, bytes | BaseException] = {}

    def attack(name: str) -> None:
        try:
            answers[name] = ATTACKS[name][0](service)
        except BaseException as fault:
            answers[name] = fault

    threads = [threading.Thread(target=attack, args=(name,)) for name in ATTACKS]
    with Beside(service) as good:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        served = good.served
        until(lambda: good.served > served, "the good client to be served afterwards")
    assert good.failed == []
    wrong = {
        name: answer if isinstance(answer, BaseException) else answer[:300]
        for name, answer in answers.items()
        if isinstance(answer, BaseException) or ATTACKS[name][1] not in answer
    }
    assert wrong == {}
    until(lambda: at_rest(service)[0] <= before[0] + 2, "the descriptors to be back")
    assert at_rest(service)[1] < before[1] + 80_000_000
    written = service.log.read_text()[log:]
    assert "Traceback" not in written
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", written)
    assert "\n2026-01-01" not in written
    assert written.count("\n") < 100


@pytest.mark.long
def test_half_open_connections_as_many_as_descriptors_allow(service: Service) -> None:
    """In steps. After each, a good client is served, whose requests need a connection each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = min(50_000, hard - 1_000)
    before = at_rest(service)[0]
    opened: list[socket.socket] = []
    try:
        for step in (100, 1_000, 5_000, 20_000, 50_000):
            while len(opened) < min(step, most):
                try:
                    sock = dial(service)
                    sock.sendall(b"POST /v1/events HTTP/1.1\r\nX: ")
                except OSError:
                    break  # no ports or descriptors are left here
                opened.append(sock)
            assert service.publish("good")["seq"]
            assert service.get("/readyz").status_code == 200
            if step >= most:
                break
    finally:
        for sock in opened:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: at_rest(service)[0] <= before + 10, "the descriptors to be back")


def test_keys_are_compared_by_their_digests_and_in_constant_time() -> None:
    """Timing cannot be shown on a busy machine: it follows from how keys are compared."""
    text = Path(keys.__file__).read_text(encoding="utf-8")
    assert (
        "hmac.compare_digest(digest(secret), key.digest if key" in text
    )  # also for a key that does not exist
    assert not re.search(r"\b(secret|digest\(secret\)) *[!=]= ", text)
