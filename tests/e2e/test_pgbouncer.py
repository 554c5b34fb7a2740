"""A gateway on PostgreSQL behind PgBouncer."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.servers.pgbouncer import PATH, PgBouncer
from tests.servers.postgres import PostgresServer, running

from .conftest import Serve
from .load import HANDLERS, Publisher, Subscriber, check
from .service import until
from .test_postgres import SEED, busway

pytestmark = pytest.mark.one_database("has PgBouncer in front of PostgreSQL")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running() as made:
        yield made


@pytest.fixture
def database(server: PostgresServer) -> Iterator[str]:
    server.create("busway")
    yield "busway"
    server.drop("busway")


@contextlib.contextmanager
def bouncer(server: PostgresServer, mode: str, **options: str) -> Iterator[PgBouncer]:
    if shutil.which("pgbouncer", path=PATH) is None and os.environ.get("CI") != "true":
        pytest.skip("needs pgbouncer: .ci/run installs it")
    made = PgBouncer(server, mode, **options)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.mark.fault
@pytest.mark.long
def test_sessions_may_be_pooled(make_service: Serve, server: PostgresServer, database: str) -> None:
    with bouncer(server, "session") as pool:
        service = make_service()
        service.database_url = pool.url(database)
        service.write("load.py", HANDLERS)
        service.start()
        publisher, subscriber = Publisher(service, SEED), Subscriber(service)
        for end in (pool, server):
            enough = len(publisher.acknowledged) + 50
            until(lambda enough=enough: len(publisher.acknowledged) >= enough, "events")
            end.kill()
            until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
            end.start()
            until(lambda: service.get("/readyz").status_code == 200, "the gateway to go on")
        assert (
            busway("keys", "list", f"--database-url={pool.url(database)}", cwd=service.folder).returncode == 0
        )
        check(service, publisher, subscriber)
        assert service.stop() == 0
        service.start()
        service.all_finished([service.publish("load.tree", {"n": n}) for n in range(10)])


@pytest.mark.fault
@pytest.mark.long
def test_a_gateway_goes_on_when_a_pool_that_was_switched_keeps_sessions_again(
    make_service: Serve, server: PostgresServer, database: str
) -> None:
    """A connection that was given the session of another one lacks its prepared statements."""
    with bouncer(server, "session", server_round_robin="1") as pool:
        service = make_service()
        service.database_url = pool.url(database)
        service.write("load.py", HANDLERS)
        service.start()
        publisher, subscriber = Publisher(service, SEED), Subscriber(service)
        enough = len(publisher.acknowledged) + 50
        until(lambda: len(publisher.acknowledged) >= enough, "events")
        pool.switch("transaction")
        until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
        until(lambda: service.get("/v1/events").status_code == 503, "reads to notice")
        pool.switch("session")
        until(lambda: service.get("/readyz").status_code == 200, "the gateway to go on")
        until(lambda: service.get("/v1/events").status_code == 200, "reads to go on")
        check(service, publisher, subscriber)


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "options", "others"),
    [
        ("transaction", {}, 0),
        ("transaction", {}, 5),
        ("transaction", {"server_round_robin": "1"}, 1),
        ("transaction", {"server_round_robin": "1"}, 5),
        ("transaction", {"default_pool_size": "1"}, 0),
        ("statement", {}, 0),
    ],
)
def test_shared_sessions_are_refused_in_one_line(
    server: PostgresServer, database: str, tmp_path: Path, mode: str, options: dict[str, str], others: int
) -> None:
    (tmp_path / "handlers").mkdir()
    with bouncer(server, mode, **options) as pool, contextlib.ExitStack() as stack:
        url = pool.url(database)
        clients = [stack.enter_context(psycopg.connect(url)) for _ in range(others)]
        for client in clients:
            client.execute("SELECT 1")  # all in a transaction at the same time: each has a session
        for client in clients:
            client.commit()
        for command in (("migrate",), ("serve", "--port=0"), ("keys", "create", "me", "--create")):
            done = busway(*command, f"--database-url={url}", cwd=tmp_path)
            assert done.returncode == 2, done.stderr
            assert "pool_mode = session" in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        with psycopg.connect(url, autocommit=True) as other:  # perhaps in a session that Busway had
            assert other.execute("SHOW search_path").fetchall() == [('"$user", public',)]
    assert server.execute("SELECT FROM pg_namespace WHERE nspname = 'busway'", database) == []


def test_a_pool_without_connections_is_refused_in_one_line(
    server: PostgresServer, database: str, tmp_path: Path
) -> None:
    with bouncer(server, "session", default_pool_size="1", query_wait_timeout="1") as pool:
        done = busway("migrate", f"--database-url={pool.url(database)}", cwd=tmp_path)
        assert done.returncode == 2
        assert "no connection left" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.long
def test_too_few_connections_are_said_in_one_line(
    server: PostgresServer, database: str, tmp_path: Path
) -> None:
    (tmp_path / "handlers").mkdir()
    server.execute(f"CREATE ROLE few LOGIN CONNECTION LIMIT 3; ALTER DATABASE {database} OWNER TO few")
    with bouncer(server, "session", default_pool_size="4", query_wait_timeout="1") as pool:
        limited = server.url(database).replace("postgres@", "few@")
        for url, why in ((limited, "too many connections for role"), (pool.url(database), "Busway needs 7")):
            done = busway("serve", "--port=0", f"--database-url={url}", cwd=tmp_path)
            assert done.returncode == 1
            assert why in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
