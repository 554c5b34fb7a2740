"""Connections to receivers: names are looked up once, all addresses checked, and one of those is used."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpcore
import pytest
from busway.domain.addresses import AllowedTargets, TargetNotAllowed, read_networks
from busway.domain.weburl import WebURL, read_url
from busway.gateway.executors.http.connections import Connections
from busway.gateway.executors.http.network import CannotConnect, Network
from busway.gateway.executors.http.resolver import Resolver

from tests.servers.sinks import Sink, sink


class Names:
    """A resolver whose answers a test sets: each list is the answer to one lookup."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = [*answers], 0

    def __call__(self, host: str, port: int, *_: Any) -> list[tuple[Any, ...]]:
        self.asked += 1
        found = self.answers.pop(0)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]


@pytest.fixture
def receiver() -> Iterator[Sink]:
    with sink() as made:
        yield made


def connections(lookup: Any, *allowed: str) -> Connections:
    return Connections(Network(AllowedTargets(read_networks(allowed)), Resolver(lookup)), 10)


async def post(made: Connections, url: WebURL) -> int:
    async with made.connection(url) as connection:
        target = httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.path)
        headers = [("host", url.authority), ("content-length", "0")]
        response = await connection.handle_async_request(httpcore.Request("POST", target, headers=headers))
        await response.aread()
        await response.aclose()
        return response.status


def test_a_name_that_changes_after_the_check_changes_nothing(receiver: Sink) -> None:
    """The name is allowed when it is looked up. A second lookup would give another address."""
    names = Names(["127.0.0.1"], ["127.0.0.2"])

    async def main() -> None:
        made, url = connections(names, "127.0.0.1"), read_url(f"http://rebinds.example:{receiver.port}/x")
        for _ in range(3):
            assert await post(made, url) == 204
        assert names.asked == 1
        [first, *_] = receiver.got("/x")
        assert first.headers["host"] == f"rebinds.example:{receiver.port}"
        await made.close()
        with pytest.raises(TargetNotAllowed, match=r"rebinds.example is 127.0.0.2"):
            await post(made, url)
        assert receiver.connections == 1

    asyncio.run(main())


def test_one_address_of_several_that_is_not_allowed_refuses_the_name(receiver: Sink) -> None:
    async def main() -> None:
        made = connections(Names(["127.0.0.1", "10.0.0.1"]), "127.0.0.1")
        with pytest.raises(TargetNotAllowed, match=r"10.0.0.1"):
            await post(made, read_url(f"http://two.example:{receiver.port}/x"))
        assert receiver.connections == 0

    asyncio.run(main())


def test_the_next_address_is_tried(receiver: Sink) -> None:
    async def main() -> None:
        made = connections(Names(["127.0.0.9", "127.0.0.1"]), "127.0.0.0/8")
        assert await post(made, read_url(f"http://two.example:{receiver.port}/x")) == 204
        await made.close()

    asyncio.run(main())


def test_a_name_without_an_address() -> None:
    async def main() -> None:
        with pytest.raises(CannotConnect, match=r"the name gone.example has no address"):
            await post(connections(Names([])), read_url("https://gone.example/"))

    asyncio.run(main())


def test_a_silent_name_server_holds_only_its_own_names(receiver: Sink) -> None:
    release = threading.Event()

    def lookup(host: str, port: int, *_: Any) -> list[tuple[Any, ...]]:
        if host.startswith("silent"):
            release.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return Names(["127.0.0.1"])(host, port)

    async def main() -> None:
        made = connections(lookup, "127.0.0.1")
        silent = [asyncio.create_task(post(made, read_url("https://silent.example/"))) for _ in range(100)]
        await asyncio.sleep(0)
        assert await post(made, read_url(f"http://quick.example:{receiver.port}/x")) == 204
        assert not any(task.done() for task in silent)
        release.set()
        assert {type(each) for each in await asyncio.gather(*silent, return_exceptions=True)} == {
            CannotConnect
        }
        await made.close()

    asyncio.run(main())


def test_many_silent_name_servers_hold_no_name_that_was_found_before(receiver: Sink) -> None:
    release = threading.Event()

    def lookup(host: str, port: int, *_: Any) -> list[tuple[Any, ...]]:
        if host.startswith("silent"):
            release.wait(60)
        return Names(["127.0.0.1"])(host, port)

    async def main() -> None:
        made = connections(lookup, "127.0.0.1")
        await post(made, read_url(f"http://quick.example:{receiver.port}/x"))
        silent = [
            asyncio.create_task(post(made, read_url(f"http://silent{n}.example:{receiver.port}/x")))
            for n in range(100)
        ]
        await asyncio.sleep(0)
        for port in (receiver.port, receiver.port):  # each is a lookup of its own
            assert await made._network._resolver.resolve("quick.example", port)
        assert not any(task.done() for task in silent)
        release.set()
        await asyncio.gather(*silent)
        await made.close()

    asyncio.run(main())


def test_a_connection_that_was_closed_while_idle_is_not_used_again(receiver: Sink) -> None:
    async def main() -> None:
        made, url = connections(None, "127.0.0.1"), read_url(f"{receiver.url}/x")
        assert await post(made, url) == 204
        [request] = receiver.got("/x")
        request.peer.shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0.05)  # one look of the loop at its sockets is enough: the end has arrived
        assert await post(made, url) == 204
        assert receiver.connections == 2
        await made.close()

    asyncio.run(main())
