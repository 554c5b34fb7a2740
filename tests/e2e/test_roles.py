"""Nodes with roles on one PostgreSQL database: gateways without workers, workers without clients."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from .cells import leader_of
from .service import Service, hear, say, until
from .test_metrics import Scraped
from .test_nodes import WAITS, busway, running_of

pytestmark = pytest.mark.one_database("has a PostgreSQL server of its own")
LATER = """
from busway import handler

@handler("later")
def later(event):
    return event.data
"""


@pytest.fixture
def roles(nodes: list[Service], tmp_path: Path) -> tuple[Service, Service, Service]:
    """Two gateways without a handlers folder, and a worker. None is started yet."""
    for number, node in enumerate(nodes):
        node.options |= {"role": "gateway", "node_name": f"node{number}"}
        node.options["handlers"] = tmp_path / "nowhere"
    worker = nodes[2]
    worker.options |= {"role": "worker", "handlers": worker.handlers, "workers": 1}
    worker.write("waits.py", WAITS.format(go=str(tmp_path / "go")))
    return nodes[0], nodes[1], nodes[2]


def node_of(service: Service, role: str) -> list[dict[str, Any]]:
    return [node for node in service.ok("GET", "/v1/status")["nodes"] if node["role"] == role]


def leads(service: Service) -> bool:
    return any(node["leader"] and node["this"] for node in node_of(service, "gateway"))


def serves_no_clients(worker: Service) -> None:
    for path in ("/v1/status", "/v1/events", "/docs", "/"):
        refused = worker.client.get(worker.url + path)
        assert (refused.status_code, refused.headers["Content-Type"]) == (404, "application/problem+json")
        assert "role worker" in refused.json()["detail"]
    assert worker.client.post(f"{worker.url}/v1/events", json={"type": "t"}).status_code == 404
    assert worker.client.get(f"{worker.url}/healthz").status_code == 200
    assert "busway_node_info" in worker.client.get(f"{worker.url}/metrics").text


def report_the_same(*gateways: Service) -> None:
    """A run of `early` waits, and one of the gateways leads."""
    for gateway in gateways:
        scraped = Scraped(gateway)
        assert scraped("busway_runs", handler="early", state="available") == 1
        assert scraped("busway_runs_oldest_seconds", handler="early") > 0
        assert (scraped("busway_leader_known"), scraped("busway_leader_term")) == (1, 1)
        assert scraped("busway_nodes", role="gateway") == len(gateways)
    assert sum(Scraped(gateway)("busway_node_leads") for gateway in gateways) == 1


def test_gateways_publish_and_deliver_what_a_worker_runs(
    roles: tuple[Service, Service, Service], tmp_path: Path
) -> None:
    first, second, worker = roles
    first.start()
    assert first.ok("GET", "/readyz")["trouble"] == ["no node has workers: runs wait until one joins"]
    early = {"name": "early", "target": "load:leaf", "events": ["early"]}
    assert first.post("/v1/handlers", early).status_code == 422, "no node has the target yet"
    second.start()
    worker.start()
    serves_no_clients(worker)
    until(lambda: any(node["capacity"]["process"] for node in node_of(second, "worker")), "a worker")
    assert second.ok("GET", "/readyz")["trouble"] == []
    second.ok("POST", "/v1/handlers", {**early, "pool": "thread"})
    refused = second.post("/v1/handlers/early/test", {"event": {"type": "early", "data": {"n": 1}}})
    assert (refused.status_code, "does not have its code" in refused.json()["detail"]) == (409, True)
    until(lambda: second.get("/v1/handlers/waits").status_code == 200, "the handlers of the worker")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(node.connect()) for node in (first, second)]
        for websocket in sockets:
            say(websocket, op="subscribe", id="s", types=["early"])
            assert hear(websocket)["op"] == "subscribed"
        receipts = [node.publish("early", {"n": n}) for n in range(5) for node in (first, second)]
        for websocket in sockets:
            items: list[dict[str, Any]] = []
            while len(items) < len(receipts):
                items += hear(websocket)["items"]
            assert {item["kind"] for item in items} == {"succeeded"}
    [run] = first.finished(receipts[0]["seq"])["runs"]
    [attempt] = first.ok("GET", f"/v1/runs/{run['id']}")["attempts"]
    assert (attempt["node"], attempt["pool"]) == ("node2", "thread")
    assert leader_of([first, second]) in (first, second)

    seq = second.publish("waits")["seq"]
    until(lambda: len(running_of(second)) == 2, "runs on the worker")
    until(lambda: sum(node_of(first, "worker")[0]["running"].values()) == 2, "the status to count them")
    lines = busway("nodes", f"--url={first.url}").stdout.splitlines()
    assert [line.split()[1:3] for line in lines[1:]] == [
        ["node0", "gateway"], ["node1", "gateway"], ["node2", "worker"]
    ]  # fmt: skip
    assert lines[1].split()[3:6] == ["in", "term", "1"]
    asked = busway("nodes", "--json", f"--database-url={first.database_url}").stdout.splitlines()
    assert [json.loads(line)["role"] for line in asked] == ["gateway", "gateway", "worker"]
    assert "node2 (3): role worker, " in busway("status", f"--url={second.url}").stdout

    worker.terminate()  # it drains: what runs may end
    until(lambda: "draining" in worker.log.read_text(), "the drain")
    (tmp_path / "go").touch()
    assert worker._reap() == 0
    for run in first.finished(seq)["runs"]:
        assert (run["state"], run["attempt"]) == ("succeeded", 1)
    later = first.publish("early", {"n": 9})["seq"]
    assert [run["state"] for run in first.runs(event=later)] == ["available"]
    report_the_same(first, second)
    worker.start()
    assert first.finished(later)["runs"][0]["state"] == "succeeded"


@pytest.mark.long
def test_runs_of_gateways_wait_for_workers_and_are_lost_with_them(
    roles: tuple[Service, Service, Service], tmp_path: Path
) -> None:
    first, second, worker = roles
    for node in roles:
        node.start()
    until(lambda: first.get("/v1/handlers/quick").status_code == 200, "the handlers of the worker")
    worker.kill()
    for node in (first, second):
        until(lambda node=node: not node_of(node, "worker"), "the worker to be gone")
    receipts = [node.publish("quick") for node in (first, second) for _ in range(3)]
    assert all(run["state"] == "available" for run in first.runs(handler="quick"))
    worker.start()
    first.all_finished(receipts)

    waits = second.publish("waits")["seq"]
    until(lambda: len(running_of(first)) == 2, "runs on the worker")
    worker.kill()
    until(lambda: [item for item in second.results() if item["kind"] == "lost"], "the attempt to be lost")
    (tmp_path / "go").touch()
    worker.write("later.py", LATER)
    worker.start()
    assert {(run["state"], run["attempt"]) for run in first.finished(waits)["runs"]} == {("succeeded", 2)}
    until(lambda: second.get("/v1/handlers/later").status_code == 200, "the new handlers of the worker")
    first.all_finished([first.publish("later")])


@pytest.mark.long
def test_a_worker_leads_when_no_gateway_does_and_gateways_come_first(
    roles: tuple[Service, Service, Service],
) -> None:
    first, second, worker = roles
    worker.start()
    for node in (first, second):
        node.start()
    until(
        lambda: [node for node in node_of(first, "worker") if node["leader"]], "the worker to be seen to lead"
    )
    first.all_finished([second.publish("quick") for _ in range(3)])
    assert worker.stop() == 0
    leader = leader_of([first, second])
    worker.start()
    leader.all_finished([leader.publish("quick")])
    other = second if leader is first else first
    leader.kill()
    until(lambda: leads(other), "the other one to lead")
    other.all_finished([other.publish("quick")])
    other.kill()
    until(lambda: "leads now: it hands out runs" in worker.log.read_text(), "the worker to lead")


@pytest.mark.long
def test_a_handler_runs_only_where_its_file_is(nodes: list[Service]) -> None:
    gateway, plain, special = nodes
    gateway.options["role"] = "gateway"
    for name, worker in (("plain", plain), ("special", special)):
        worker.options |= {"role": "worker", "node_name": name}
    special.write("special.py", LATER)
    for node in nodes:
        node.start()
    until(lambda: gateway.get("/v1/handlers/later").status_code == 200, "the handler to be declared")
    receipts = [gateway.publish(type_, {"n": n}) for n in range(5) for type_ in ("later", "load.one")]
    gateway.all_finished(receipts)
    runs = [gateway.ok("GET", f"/v1/runs/{run['id']}") for run in gateway.runs(handler="later")]
    assert [run["attempts"][0]["node"] for run in runs] == ["special"] * 5
    special.stop()
    waits = gateway.publish("later", {"n": 5})
    gateway.all_finished([gateway.publish("load.one", {"n": n}) for n in range(5)])
    assert gateway.runs(event=waits["seq"])[0]["state"] == "available"
    special.start()
    assert gateway.finished(waits["seq"])["runs"][0]["state"] == "succeeded"
