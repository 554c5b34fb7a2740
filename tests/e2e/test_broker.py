"""Three nodes that notify each other over NATS, and a broker that is away, refuses, or carries forgeries."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import nats
import psycopg
import pytest

from tests.servers.nats import NatsServer
from tests.servers.postgres import PostgresServer

from .service import Service, until

pytestmark = [pytest.mark.long, pytest.mark.one_database("has a PostgreSQL server of its own")]


@pytest.fixture
def broker() -> Iterator[NatsServer]:
    """A server that is not started yet."""
    made = NatsServer()
    yield made
    made.close()


def connected(nodes: list[Service]) -> bool:
    return all(node.ok("GET", "/v1/status")["broker"]["connected"] for node in nodes)


def work(nodes: list[Service]) -> None:
    for node in nodes:
        node.all_finished([node.publish("load.one", {"n": n}) for n in range(5)])


def warnings(node: Service) -> list[str]:
    return re.findall(r"cannot use the broker [^ ]+: ([^\"]+?)\. This node", node.log.read_text())


def metrics(node: Service) -> dict[str, float]:
    found = re.findall(
        r"^busway_((?:broker|notifications)\S+) (\S+)$", node.get("/metrics").text, re.MULTILINE
    )
    return {name: float(value) for name, value in found}


async def forge(url: str, subject: str) -> None:
    stranger = await nats.connect(url)
    for message in (b"", b"\x01" + bytes(40), b"\x02" + bytes(40), bytes(1_000_000)):
        await stranger.publish(subject, message)
    await stranger.close()


def test_nodes_go_on_whatever_the_broker_does(
    nodes: list[Service], cell_server: PostgresServer, broker: NatsServer
) -> None:
    for node in nodes:
        node.options["broker_url"] = f"{broker.url(user='me:very%20secret')},tls://127.0.0.1:1"
        node.start()
    for node in nodes:
        status = node.ok("GET", "/v1/status")["broker"]
        assert status["url"] == f"nats://127.0.0.1:{broker.port},tls://127.0.0.1:1"
        assert (status["connected"], status["problem"].count("Connection refused")) == (False, 2)
    work(nodes)

    broker.set(authorization={"user": "me", "password": "another"})
    broker.start()
    for node in nodes:
        until(lambda node=node: "Authorization" in node.ok("GET", "/v1/status")["broker"]["problem"], "it")
        assert len(warnings(node)) == 1
    work(nodes)

    broker.kill()
    broker.set(
        authorization={"users": [{"user": "me", "password": "very secret"}, {"user": "x", "password": "x"}]}
    )
    broker.start()
    until(lambda: connected(nodes), "all to be connected")
    [(epoch,)] = cell_server.execute("SELECT epoch FROM busway.cell", "cell")
    with psycopg.connect(cell_server.url("cell"), autocommit=True) as connection:
        connection.execute(f"LISTEN busway_{epoch}")
        work(nodes)
        assert list(connection.notifies(timeout=0)) == [], "they notify over PostgreSQL, too"

    before = [metrics(node) for node in nodes]
    asyncio.run(forge(broker.url(user="x:x"), f"busway.{epoch}"))
    work(nodes)
    for node, earlier in zip(nodes, before, strict=True):
        now = metrics(node)
        assert now["broker_connected"] == 1
        assert now["notifications_sent_total"] > earlier["notifications_sent_total"]
        assert now["notifications_received_total"] > earlier["notifications_received_total"]
        ignored = {
            reason: now[f'notifications_ignored_total{{reason="{reason}"}}']
            for reason in ("size", "version", "seal")
        }
        assert ignored == {"size": 2, "version": 1, "seal": 1}

    broker.kill()
    until(lambda: not any(node.ok("GET", "/v1/status")["broker"]["connected"] for node in nodes), "the end")
    assert metrics(nodes[0])["broker_connected"] == 0
    work(nodes)
    broker.start()
    until(lambda: connected(nodes), "all to be connected again")
    work(nodes)
    for node in nodes:
        assert node.stop() == 0
        assert warnings(node)[-1] == "it closed the connection"
        assert len(warnings(node)) == 2
        assert "secret" not in node.log.read_text() + node.announcement
