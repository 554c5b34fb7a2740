"""Webhooks out with a gateway of their own: what is refused by default, hosts that are dead, kill -9."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from standardwebhooks.webhooks import Webhook

from tests.servers.sinks import Request, ok, sink

from .conftest import Serve
from .service import Service, until
from .webhooks import register, run

HANDLERS, DELIVERIES = 1_000, 20


def test_without_allowed_networks_names_are_checked_at_each_attempt(make_service: Serve) -> None:
    with sink() as receiver:
        service = make_service(workers=1).start()
        register(service, "named", f"https://localhost:{receiver.port}/x", max_attempts=1)
        dead = run(service, "named")
        assert dead["error"]["type"] == "TargetNotAllowed"
        assert "not a public address" in dead["error"]["message"]
        plain = {"name": "plain", "target": "http://example.com/", "events": ["x"]}
        assert "must begin with https://" in service.post("/v1/handlers", plain).json()["errors"][0]["msg"]
        assert receiver.connections == 0


@pytest.mark.long
def test_dead_hosts_leave_room_for_others(make_service: Serve) -> None:
    """Runs of many handlers wait for hosts that never answer: one of many handlers, and one for each."""
    with socket.create_server(("", 0), backlog=1000) as dead, sink() as receiver:
        service = make_service(workers=1, allow_target="127.0.0.0/8", max_deliveries=DELIVERIES).start()

        def create(number: int) -> int:
            host = "127.0.0.1" if number % 2 else f"127.1.{number // 250}.{number % 250 + 1}"
            url = f"http://{host}:{dead.getsockname()[1]}/{number}"
            new = {"name": f"dead-{number}", "target": url, "events": ["dead"]}
            return service.client.post(f"{service.own_url}/v1/handlers", json=new).status_code

        with ThreadPoolExecutor(8) as threads:
            assert {*threads.map(create, range(HANDLERS))} == {201}
        register(service, "alive", f"{receiver.url}/alive")
        process = psutil.Process(service.pid)
        service.all_finished([service.publish("alive", n) for n in range(100)])
        descriptors, memory = process.num_fds(), process.memory_info().rss
        for _ in range(3):
            service.publish("dead")
        until(lambda: service.ok("GET", "/v1/status")["workers"]["pools"]["http"]["running"], "the requests")
        receipts = [service.publish("alive", n) for n in range(100)]
        service.all_finished(receipts)
        assert len(receiver.got("/alive")) == 200
        assert service.ok("GET", "/v1/handlers/dead-0")["stats"]["runs"].get("succeeded") is None
        assert process.num_fds() <= descriptors + DELIVERIES + 20  # the connections, and some of clients
        assert process.memory_info().rss < memory + (32 << 20)


@pytest.mark.long
def test_an_attempt_of_a_killed_gateway_is_lost_and_repeated(make_service: Serve) -> None:
    with sink() as receiver:
        receiver.behaviours["/x"] = lambda _: None
        service = make_service(workers=1, allow_target="127.0.0.1").start()
        register(service, "killed", f"{receiver.url}/x", max_attempts=1)
        seq = service.publish("killed", os.getpid())["seq"]
        until(lambda: receiver.got("/x"), "the request")

        def running() -> bool:
            [found] = service.ok("GET", f"/v1/events/{seq}")["runs"]
            return bool(found["state"] == "running")

        until(running, "the attempt to be marked")
        service.kill()
        receiver.behaviours["/x"] = ok
        service.start()
        done = service.run_of(seq)
        assert [attempt["outcome"] for attempt in done["attempts"]] == ["lost", "succeeded"]
        first, second = receiver.got("/x")
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert [each.headers["busway-attempt"] for each in (first, second)] == ["1", "2"]


@pytest.mark.one_database("has a PostgreSQL server of its own")
@pytest.mark.long
def test_nodes_with_workers_send_and_gateways_do_not(nodes: list[Service], tmp_path: Path) -> None:
    """The gateway leads. It gives each event to the node with most room, half of its places for a host."""
    gateway, *workers = nodes
    gateway.options |= {"role": "gateway", "handlers": tmp_path / "nowhere", "allow_target": "127.0.0.1"}
    for number, worker in enumerate(workers):
        worker.options |= {"role": "worker", "workers": 1, "allow_target": "127.0.0.1", "max_deliveries": 4}
        worker.options["node_name"] = f"worker{number}"
    with sink() as receiver:
        gate = threading.Event()

        def held(request: Request) -> bytes:
            gate.wait(60)
            return ok(request)

        receiver.behaviours["/x"] = held
        gateway.start()
        made = register(gateway, "spread", f"{receiver.url}/x")
        assert made["waits_because"] == "no node sends events to URLs: start one with the role all or worker"
        receipts = [gateway.publish("spread", n) for n in range(12)]
        for worker in workers:
            worker.start()
        until(lambda: len(receiver.got("/x")) == 4, "two requests of each node")
        gate.set()
        gateway.all_finished(receipts)
        runs = [gateway.run_of(receipt["seq"]) for receipt in receipts]
        assert {run["state"] for run in runs} == {"succeeded"}
        assert {attempt["node"] for run in runs for attempt in run["attempts"]} == {"worker0", "worker1"}
        for request in receiver.got("/x"):
            Webhook(made["secret"]).verify(request.body, request.headers)
