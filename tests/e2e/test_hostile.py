"""A hostile client beside a good one: each attack gets its answer, and leaves neither descriptors nor memory.

Other files show what is not here: `tests/api/test_faults.py` (framing and limits of heads and chunks, byte by
byte), `tests/subscribers/test_rfc6455.py` (broken frames, permessage-deflate), `test_access.py` and
`test_tickets.py` (keys, tickets, origins of pages), `tests/webhooks` (addresses that events may go to),
`tests/api/test_client_limits.py` (limits of keys and addresses).
"""

from __future__ import annotations

import re
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from busway.gateway.access import keys

from tests.attacks import DEEP, FLOOD, JSON, Target, all_at_once, dial, post, sends, wrong

from .service import PATIENCE, Service, until

pytestmark = pytest.mark.one_database("connections that clients spoil")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(
        tmp_path_factory.mktemp("hostile"), workers=1, head_timeout=2, body_timeout=2, stall_timeout=1,
        log_format="text",
    )  # fmt: skip
    service.write("flood.py", FLOOD)
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


def at_rest(service: Service) -> tuple[int, int]:
    """Descriptors of the gateway, and its memory in bytes."""
    process = psutil.Process(service.pid)
    return process.num_fds(), process.memory_info().rss


@pytest.mark.long
def test_each_attack_gets_its_answer_beside_a_good_client(service: Service) -> None:
    """All of them at the same time."""
    target = Target(service.url)
    sends(post(DEEP, JSON))(target)
    before, log = at_rest(service), len(service.log.read_text())
    with Beside(service) as good:
        answers = all_at_once(target)
        served = good.served
        until(lambda: good.served > served, "the good client to be served afterwards")
    assert good.failed == []
    assert wrong(answers) == {}
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
    most, target = min(50_000, hard - 1_000), Target(service.url)
    before = at_rest(service)[0]
    opened: list[socket.socket] = []
    try:
        for step in (100, 1_000, 5_000, 20_000, 50_000):
            while len(opened) < min(step, most):
                try:
                    sock = dial(target)
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
