"""A gateway on PostgreSQL with a standby that takes over."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.issuers import TokenIssuer
from tests.servers.postgres import PostgresServer

from .conftest import Serve
from .load import HANDLERS, Publisher, Subscriber, check
from .service import Service, hear, say, until
from .test_access import busway as key
from .test_postgres import SEED, busway

pytestmark = [
    pytest.mark.one_database("has PostgreSQL servers of its own"),
    pytest.mark.fault,
    pytest.mark.long,
]


class Pair(NamedTuple):
    """A primary server and its standby, both running."""

    primary: PostgresServer
    standby: PostgresServer

    @property
    def url(self) -> str:
        """The URL of the database, on either."""
        return self.primary.url("busway").replace("/busway", f",127.0.0.1:{self.standby.port}/busway")

    def synchronous(self) -> None:
        """Let commits wait for the standby from now on."""
        self.primary.set("synchronous_standby_names", "*")
        until(lambda: self._replicating("sync"), "the standby to be synchronous")

    def streams(self) -> bool:
        """Return whether the standby gets what the primary writes."""
        return self._replicating("async") or self._replicating("sync")

    def newest_commit(self) -> int:
        """Return the number of the newest commit that is visible on the primary."""
        number: int = self.primary.execute("SELECT max(number) FROM busway.commits", "busway")[0][0]
        return number

    def _replicating(self, how: str) -> bool:
        query = "SELECT state, sync_state FROM pg_stat_replication"
        return ("streaming", how) in self.primary.execute(query)


@pytest.fixture
def pair() -> Iterator[Pair]:
    primary = PostgresServer()
    try:
        primary.start().create("busway")
        standby = PostgresServer(primary=primary)
        try:
            both = Pair(primary, standby.start())
            until(both.streams, "the standby to stream")
            yield both
        finally:
            standby.close()
    finally:
        primary.close()


@pytest.fixture
def service(make_service: Serve, pair: Pair) -> Service:
    made = make_service()
    made.database_url = pair.url
    made.write("load.py", HANDLERS)
    return made


def some_events(publisher: Publisher) -> None:
    enough = len(publisher.acknowledged) + 50
    until(lambda: len(publisher.acknowledged) >= enough, "events")


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_nothing_is_lost_when_a_synchronous_standby_takes_over(
    service: Service, pair: Pair, how: str
) -> None:
    service.start()
    pair.synchronous()
    publisher, subscriber = Publisher(service, SEED), Subscriber(service)
    some_events(publisher)
    if how == "killed":
        pair.primary.kill()
    else:
        pair.primary.freeze()
    until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
    pair.standby.execute("SELECT pg_promote()")
    until(lambda: service.get("/readyz").status_code == 200, "the gateway to go on")
    some_events(publisher)
    check(service, publisher, subscriber)
    assert not [item for item in service.results() if item["kind"] == "lost"]
    assert service.stop() == 0


def test_nothing_is_acknowledged_or_delivered_while_the_synchronous_standby_is_away(
    service: Service, pair: Pair
) -> None:
    service.start()
    pair.synchronous()
    publisher, subscriber = Publisher(service, SEED), Subscriber(service)
    some_events(publisher)
    pair.standby.kill()
    _notices(service)
    pair.standby.start()
    until(lambda: service.get("/readyz").status_code == 200, "the gateway to go on")
    some_events(publisher)
    pair.standby.kill()
    _notices(service)
    # When the gateway ends the session of a commit that waits, the commit is visible, on the primary only.
    more = pair.newest_commit() + 3
    until(lambda: pair.newest_commit() >= more, "the gateway to try again")
    service.kill()
    pair.primary.kill()
    pair.standby.start()
    pair.standby.execute("SELECT pg_promote()")
    service.start()
    check(service, publisher, subscriber)


def _notices(service: Service) -> None:
    until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
    answer = service.post("/v1/events", {"type": "nobody"})
    assert answer.status_code == 503
    assert "no answer for 10 s" in answer.json()["detail"]


def test_a_takeover_by_a_standby_that_lacks_commits_is_noticed(service: Service, pair: Pair) -> None:
    service.start()
    service.all_finished([service.publish("load.one", {"n": n}) for n in range(5)])
    kept = service.results()[-1]["cursor"]
    until(lambda: pair.standby.execute("SELECT count(*) FROM busway.results", "busway") == [(10,)], "a copy")
    pair.standby.set("primary_conninfo", "")
    until(lambda: not pair.streams(), "the standby to be cut off")
    service.all_finished([service.publish("load.one", {"n": n}) for n in range(5)])
    lost = service.results()[-1]["cursor"]
    pair.primary.kill()
    pair.standby.execute("SELECT pg_promote()")
    assert service._reap() == 1
    assert "lacks commits" in service.log.read_text()
    service.start()
    service.all_finished([service.publish("load.one", {"n": n}) for n in range(20)])
    with service.connect() as websocket:
        for name, after, recovered in (("kept", kept, True), ("lost", lost, False)):
            say(websocket, op="subscribe", id=name, after=after)
            answer = until(lambda: (frame := hear(websocket))["op"] == "subscribed" and frame, "the answer")
            assert (answer["id"], answer["recovered"]) == (name, recovered)


def test_a_url_of_a_standby_alone_is_refused_in_one_line(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    for parameters in ({}, {"target_session_attrs": "any"}):
        url = f"--database-url={pair.standby.url('busway', **parameters)}"
        for command in (("migrate",), ("serve", "--port=0"), ("keys", "create", "me", "--create")):
            done = busway(*command, url, cwd=tmp_path)
            assert done.returncode == 2, done.stderr
            assert "read-only" in done.stderr
            assert "name the primary server" in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr


class Caller(threading.Thread):
    """Makes requests until it is told to stop. It knows what was accepted, and all statuses.

    Args:
        send: sends the request with a number, and returns the answer.
    """

    def __init__(self, send: Callable[[int], httpx.Response]) -> None:
        super().__init__(daemon=True)
        self._send, self.stopping = send, threading.Event()
        self.accepted: list[int] = []
        self.statuses: Counter[int] = Counter()
        self.without_retry: list[str] = []
        self.start()

    def run(self) -> None:
        for number in itertools.takewhile(lambda _: not self.stopping.is_set(), itertools.count()):
            answer = self._send(number)
            self.statuses[answer.status_code] += 1
            if answer.is_success:
                self.accepted.append(number)
            elif answer.status_code not in {429, 503} or not answer.headers.get("Retry-After"):
                self.without_retry.append(answer.text)

    def some(self) -> None:
        enough = len(self.accepted) + 5
        until(lambda: self.without_retry or len(self.accepted) >= enough, "accepted requests")
        assert self.without_retry == []


def test_tokens_limits_and_the_audit_log_while_a_standby_takes_over(service: Service, pair: Pair) -> None:
    """Requests get 503 or 429 with `Retry-After`. Each change has one entry, and each entry one change.

    Changes of keys one after another do not keep events from being stored.
    """
    with TokenIssuer() as issuer:
        service.options |= issuer.options | {"key_rate": "2/s"}
        service.key = service.admin = key(service, "keys", "create", "me", "--create")
        service.start()
        pair.synchronous()
        url, bearer = f"{service.url}/v1/events", {"Authorization": f"Bearer {issuer.token('publish')}"}
        publishing = Caller(
            lambda n: service.client.post(url, json={"type": "nobody", "id": f"p{n}"}, headers=bearer)
        )
        changing = Caller(lambda n: service.post("/v1/keys", {"name": f"k{n}", "scopes": ["subscribe"]}))
        for caller in (publishing, changing):
            caller.some()
        pair.primary.kill()
        until(lambda: publishing.statuses[503] and changing.statuses[503], "the gateway to refuse")
        pair.standby.execute("SELECT pg_promote()")
        for caller in (publishing, changing):
            caller.some()
        until(lambda: publishing.statuses[429], "the limit")
        for caller in (publishing, changing):
            caller.stopping.set()
            caller.join()
            assert caller.without_retry == []
        stored = {id_ for (id_,) in pair.standby.execute("SELECT id FROM busway.events", "busway")}
        assert stored >= {f"p{n}" for n in publishing.accepted}
        query = "SELECT details::json ->> 'name' FROM busway.audit WHERE action = 'key.created'"
        entries = sorted(name for (name,) in pair.standby.execute(query, "busway"))
        keys = sorted(name for (name,) in pair.standby.execute("SELECT name FROM busway.keys", "busway"))
        assert entries == keys
        assert len(set(keys)) == len(keys)
        assert set(keys) >= {f"k{n}" for n in changing.accepted}
        assert "Traceback" not in service.log.read_text()
        assert service.stop() == 0
