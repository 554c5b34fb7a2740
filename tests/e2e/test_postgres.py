"""A gateway on PostgreSQL: outages of the server, and databases that cannot be used."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from busway.gateway.store.postgres.statements import ONE_WRITER

from tests import forked
from tests.marks import few
from tests.ports import unused_port
from tests.servers.postgres import PostgresServer, running

from .conftest import Serve
from .disturbance import Cutter
from .load import HANDLERS, Publisher, Subscriber, check
from .service import PATIENCE, Service, clean_environment, hear, say, until

pytestmark = pytest.mark.one_database("has a PostgreSQL server of its own")
SEED = int(os.environ.get("BUSWAY_TEST_SEED", "20261128"))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running(max_connections="30") as made:
        yield made


@pytest.fixture
def on_postgres(make_service: Serve, server: PostgresServer) -> Iterator[Service]:
    service = make_service()
    server.create("busway")
    service.database_url = server.url("busway")
    yield service
    service.close()
    server.drop("busway")


def busway(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [sys.executable, "-m", "busway", *words], capture_output=True, text=True, timeout=PATIENCE,
        env={**clean_environment(), "COLUMNS": "200"}, cwd=cwd, check=False,
    )  # fmt: skip


ENDS: dict[str, Callable[[PostgresServer], None]] = {
    "stopped": lambda server: server.stop(),
    "crashed": lambda server: server.stop(signal.SIGQUIT),
    "killed": lambda server: server.kill(),
}


@pytest.mark.fault
@pytest.mark.long
@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_lost_when_the_server_goes_away_under_load(
    on_postgres: Service, server: PostgresServer, how: str
) -> None:
    chance = random.Random(SEED)
    print("BUSWAY_TEST_SEED", SEED)
    service = on_postgres
    service.write("load.py", HANDLERS)
    service.start()
    publisher, subscriber = Publisher(service, SEED), Subscriber(service)
    for _ in range(3):
        enough = len(publisher.acknowledged) + 50
        until(lambda enough=enough: len(publisher.acknowledged) >= enough, "events")
        ENDS[how](server)
        until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
        answer = service.post("/v1/events", {"type": "nobody"})
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert "PostgreSQL" in answer.json()["detail"]
        time.sleep(chance.random())
        server.start()
        until(lambda: service.get("/readyz").status_code == 200, "the gateway to go on")
    check(service, publisher, subscriber)
    assert not [item for item in service.results() if item["kind"] == "lost"]


@pytest.mark.fault
@pytest.mark.long
def test_nothing_is_lost_when_server_and_gateway_are_killed_together(
    on_postgres: Service, server: PostgresServer
) -> None:
    service = on_postgres
    service.write("load.py", HANDLERS)
    service.start()
    publisher, subscriber = Publisher(service, SEED), Subscriber(service)
    for _ in range(2):
        enough = len(publisher.acknowledged) + 50
        until(lambda enough=enough: len(publisher.acknowledged) >= enough, "events")
        server.kill()
        service.kill()
        server.start()
        service.start()
    check(service, publisher, subscriber)


@pytest.mark.fault
@pytest.mark.long
def test_nothing_is_lost_when_the_network_to_the_server_is_cut_and_halted(
    on_postgres: Service, server: PostgresServer
) -> None:
    service = on_postgres
    service.write("load.py", HANDLERS)
    with Cutter(server.port) as relay:
        service.database_url = f"postgresql://postgres@127.0.0.1:{relay.port}/busway"
        service.start()
        publisher, subscriber = Publisher(service, SEED), Subscriber(service)
        for round_ in range(6):
            enough = len(publisher.acknowledged) + 30
            until(lambda enough=enough: len(publisher.acknowledged) >= enough, "events")
            if round_ % 2:
                relay.halt(1.0)
            relay.cut()
        check(service, publisher, subscriber)
        service.stop()


@pytest.mark.fault
@pytest.mark.long
@pytest.mark.parametrize("silent", ["server", "network"])
def test_nothing_is_lost_when_the_server_does_not_answer(
    on_postgres: Service, server: PostgresServer, silent: str
) -> None:
    service = on_postgres
    service.write("load.py", HANDLERS)
    with Cutter(server.port) as relay:
        service.database_url = f"postgresql://postgres@127.0.0.1:{relay.port}/busway"
        service.start()
        publisher, subscriber = Publisher(service, SEED), Subscriber(service)
        begin, end = {"server": (server.freeze, server.thaw), "network": (relay.swallow, relay.carry)}[silent]
        for _ in range(2):
            enough = len(publisher.acknowledged) + 50
            until(lambda enough=enough: len(publisher.acknowledged) >= enough, "events")
            begin()
            until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
            answer = service.post("/v1/events", {"type": "nobody"})
            end()
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert "no answer for 10 s" in answer.json()["detail"]
            until(lambda: service.get("/readyz").status_code == 200, "the gateway to go on")
        check(service, publisher, subscriber)
        assert not [item for item in service.results() if item["kind"] == "lost"]
        assert service.stop() == 0


@pytest.mark.fault
@pytest.mark.long
def test_a_gateway_without_work_notices_a_server_that_does_not_answer_and_can_end(
    on_postgres: Service, server: PostgresServer
) -> None:
    service = on_postgres
    service.write("load.py", HANDLERS)
    service.start()
    server.freeze()
    try:
        until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
        assert service.get("/v1/runs").status_code == 503
        service.terminate()
        assert service._reap() == 0
    finally:
        server.thaw()


@pytest.mark.fault
@pytest.mark.parametrize("traffic", [True, False])
@pytest.mark.long
def test_a_failover_that_lost_commits_is_noticed(make_service: Serve, traffic: bool) -> None:
    with running() as server:
        server.create("busway")
        service = make_service()
        service.database_url = server.url("busway")
        service.write("load.py", HANDLERS)
        service.start()
        service.all_finished([service.publish("load.one", {"n": n}) for n in range(5)])
        server.stop()
        server.keep()
        server.start()
        # Without a run or a result.
        until(lambda: service.post("/v1/events", {"type": "nobody"}).status_code == 202, "it to go on")
        cursor = ""
        if traffic:
            service.all_finished([service.publish("load.one", {"n": n}) for n in range(5)])
            cursor = service.results()[-1]["cursor"]
        server.kill()
        server.go_back()
        server.start()
        assert service._reap() == 1
        assert "lacks commits" in service.log.read_text()
        service.start()
        service.all_finished([service.publish("load.one", {"n": n}) for n in range(20)])
        if traffic:
            with service.connect() as websocket:
                say(websocket, op="subscribe", id="s", after=cursor)
                assert hear(websocket)["recovered"] is False


@pytest.mark.long
@pytest.mark.fault
def test_a_connection_that_only_the_gateway_lost_holds_nobody_up(
    on_postgres: Service, server: PostgresServer
) -> None:
    """The server keeps the old session, which has the lock."""
    service = on_postgres
    service.write("load.py", HANDLERS)
    with Cutter(server.port) as relay:
        service.database_url = f"postgresql://postgres@127.0.0.1:{relay.port}/busway"
        service.start()
        for _ in range(2):
            service.all_finished([service.publish("load.one", {"n": n}) for n in range(5)])
            relay.strand()
            until(lambda: service.post("/v1/events", {"type": "nobody"}).status_code == 202, "it to go on")
        service.all_finished([service.publish("load.one", {"n": n}) for n in range(5)])
        assert service.stop() == 0


@pytest.mark.fault
@pytest.mark.long
@pytest.mark.parametrize("killed", ["network", "committer"])
def test_a_gateway_ends_when_another_one_used_its_database_meanwhile(
    on_postgres: Service, server: PostgresServer, tmp_path: Path, killed: str
) -> None:
    service = on_postgres
    service.write("load.py", HANDLERS)
    with Cutter(server.port) as relay:
        service.database_url = f"postgresql://postgres@127.0.0.1:{relay.port}/busway"
        service.start()
        service.all_finished([service.publish("load.one", {"n": n}) for n in range(5)])
        relay.lead_to(1)
        if killed == "committer":
            os.kill(service.ok("GET", "/v1/status")["committer"]["pid"], signal.SIGKILL)
        relay.cut()
        until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
        (tmp_path / "other").mkdir()
        other = Service(tmp_path / "other")
        try:
            other.database_url = server.url("busway")
            other.write("load.py", HANDLERS)
            other.start()
            other.all_finished([other.publish("load.one", {"n": n}) for n in range(5)])
            assert other.stop() == 0
        finally:
            other.close()
        relay.lead_to(server.port)
        assert service._reap() == 1
        assert "considered this one gone" in service.log.read_text()
        service.start()
        service.all_finished([service.publish("load.one", {"n": n}) for n in range(5)])
        assert not service.runs(state="running")
        assert service.stop() == 0


@pytest.mark.long
def test_an_outage_loses_no_attempt_that_runs_meanwhile(
    on_postgres: Service, server: PostgresServer, tmp_path: Path
) -> None:
    service = on_postgres
    go = tmp_path / "go"
    service.write(
        "slow.py",
        f"""
import time
from pathlib import Path
from busway import handler

@handler("slow")
def slow(event):
    while not Path({str(go)!r}).exists():
        time.sleep(0.01)
    return "done"

@handler("slow", pool="thread")
def thread(event):
    return slow(event)
""",
    )
    service.start()
    seq = service.publish("slow")["seq"]
    until(lambda: {r["state"] for r in service.runs()} == {"running"}, "both attempts to run")
    server.stop()
    until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
    go.touch()
    time.sleep(0.5)  # both end while their outcome cannot be stored
    server.start()
    runs = service.finished(seq)["runs"]
    assert [(r["state"], r["attempt"]) for r in runs] == [("succeeded", 1)] * 2


@pytest.mark.long
def test_a_transaction_that_somebody_leaves_open_holds_nobody_up(
    on_postgres: Service, server: PostgresServer
) -> None:
    service = on_postgres
    service.write("load.py", HANDLERS)
    service.start()
    with psycopg.connect(server.url("busway")) as reads, psycopg.connect(server.url("busway")) as writes:
        reads.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reads.execute("SELECT count(*) FROM busway.runs")
        writes.execute("CREATE TABLE other (n int)")
        receipts = [service.publish("load.one", {"n": n}) for n in range(50)]
        service.all_finished(receipts)


@pytest.mark.long
def test_defaults_of_the_server_change_nothing(on_postgres: Service, server: PostgresServer) -> None:
    defaults = {
        "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
        "lock_timeout": "1ms", "statement_timeout": "1s", "synchronous_commit": "off",
        "search_path": "public", "bytea_output": "escape", "jit_above_cost": "0", "enable_nestloop": "off",
        "idle_session_timeout": "1s", "client_encoding": "LATIN1", "datestyle": "German",
        "array_nulls": "off", "timezone": "Asia/Kathmandu", "transform_null_equals": "on",
        "plan_cache_mode": "force_generic_plan",
    }  # fmt: skip
    if int(server.execute("SHOW server_version_num")[0][0]) >= 170_000:
        defaults["transaction_timeout"] = "1s"
    for name, value in defaults.items():
        server.execute(f"ALTER DATABASE busway SET {name} TO '{value}'")
    service = on_postgres
    service.write("load.py", HANDLERS)
    service.start()
    timeouts = "'lock_timeout', 'statement_timeout', 'idle_session_timeout'"
    with psycopg.connect(server.url("busway"), autocommit=True) as other:
        other.execute(f"SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ({timeouts})")
        other.execute(f"SELECT pg_advisory_lock({ONE_WRITER})")  # as a command that takes long
        publishing = threading.Thread(target=service.publish, args=("load.one", {"n": 1}))
        publishing.start()
        publishing.join(2)
        assert publishing.is_alive()
        other.execute(f"SELECT pg_advisory_unlock({ONE_WRITER})")
    publishing.join(PATIENCE)
    service.all_finished([service.publish("load.tree", {"n": n}) for n in range(10)])
    expected = 2 + 10 * 3  # the leaves are events of their own
    until(lambda: len(service.results(kinds="succeeded")) >= expected, "the results of the leaves")
    assert len(service.results(kinds="succeeded")) == expected
    text = {"\u0153": ["\u20ac", "\U0001d11e"]}
    seq = service.publish("text", text, subject="\u20ac\U0001d11e")["seq"]
    time.sleep(2)  # longer than `idle_session_timeout`
    event = service.ok("GET", f"/v1/events/{seq}")
    assert (event["data"], event["subject"]) == (text, "\u20ac\U0001d11e")
    assert "PostgreSQL" not in service.log.read_text()


def test_connections_at_rest_are_few(on_postgres: Service, server: PostgresServer) -> None:
    service = on_postgres
    service.write("load.py", HANDLERS)
    service.start()
    service.all_finished([service.publish("load.one", {"n": n}) for n in range(50)])
    query = "SELECT application_name FROM pg_stat_activity WHERE datname = 'busway'"
    names = [name for (name,) in server.execute(query)]
    assert len(names) <= 5, names
    assert {name.rstrip("/0123456789") for name in names} == {
        "busway/committer", "busway/cell", "busway/reader"
    }  # fmt: skip


@pytest.mark.long
def test_the_commands_on_the_database_know_postgresql(
    on_postgres: Service, server: PostgresServer, tmp_path: Path
) -> None:
    url = f"--database-url={on_postgres.database_url}"
    missing = busway("keys", "list", url, cwd=tmp_path)
    assert missing.returncode == 2
    assert "there is no database" in missing.stderr
    assert busway("migrate", url, cwd=tmp_path).stdout.endswith("/busway is created\n")
    assert busway("migrate", url, cwd=tmp_path).stdout.endswith("/busway is up to date\n")
    on_postgres.write("load.py", HANDLERS)
    on_postgres.start()
    created = busway("keys", "create", "me", url, cwd=tmp_path)
    assert created.stdout.startswith("bw_")
    assert "me" in busway("keys", "list", url, cwd=tmp_path).stdout
    until(lambda: on_postgres.get("/v1/events").status_code == 401, "the gateway to see the key")


@pytest.mark.long
def test_a_password_is_never_shown(server: PostgresServer, tmp_path: Path) -> None:
    server.execute("CREATE ROLE me LOGIN PASSWORD 'very secret'")
    server.create("secret", "OWNER me")
    (tmp_path / "handlers").mkdir()
    url = server.url("secret").replace("postgres@", "me:very%20secret@")
    service = Service(tmp_path)
    try:
        service.database_url = url
        service.write("load.py", HANDLERS)
        service.start()
        assert f"database postgresql://me@127.0.0.1:{server.port}/secret\n" in service.announcement
        status = service.ok("GET", "/v1/status")
        assert status["disk"]["database"] == f"postgresql://me@127.0.0.1:{server.port}/secret"
        server.stop()
        until(lambda: service.get("/readyz").status_code == 503, "the gateway to notice")
        shown = [
            service.get("/readyz").text,
            service.log.read_text(),
            busway("migrate", f"--database-url={url}", cwd=tmp_path).stderr,
        ]
    finally:
        service.close()
        server.start()
    assert "secret" in shown[-1]
    assert not [text for text in shown if "very" in text]


def _other_program(server: PostgresServer) -> str:
    url = server.create("other")
    server.execute("CREATE SCHEMA busway", "other")
    server.execute("CREATE TABLE busway.orders (n int)", "other")
    return url


def _newer(server: PostgresServer) -> str:
    url = server.create("newer")
    assert busway("migrate", f"--database-url={url}", cwd=Path("/")).returncode == 0
    server.execute("UPDATE busway.alembic_version SET version_num = '9999'", "newer")
    server.execute("UPDATE busway.cell SET oldest = '9999'", "newer")
    return url


def _read_only(server: PostgresServer) -> str:
    url = server.create("readonly")
    server.execute("ALTER DATABASE readonly SET default_transaction_read_only TO on")
    return url + "?target_session_attrs=any"


def _no_rights(server: PostgresServer) -> str:
    server.execute("CREATE ROLE guest LOGIN")
    return server.create("guarded").replace("postgres@", "guest@")


def _nobody_listens(_server: PostgresServer) -> str:
    return f"postgresql://postgres@127.0.0.1:{unused_port()}/busway"


def _not_postgres(server: PostgresServer) -> str:
    """A server that says something else."""
    listener = socket.create_server(("127.0.0.1", 0))

    def speak() -> None:
        while True:
            other, _ = listener.accept()
            with other:
                other.sendall(b"SSH-2.0-other\r\n")

    threading.Thread(target=speak, daemon=True).start()
    return f"postgresql://postgres@127.0.0.1:{listener.getsockname()[1]}/busway?sslmode=disable"


UNFIT: dict[str, tuple[Callable[[PostgresServer], str], str]] = {
    "no such database": (lambda server: server.url("missing"), 'database "missing" does not exist'),
    "no such role": (
        lambda server: server.url().replace("postgres@", "nobody@"), 'role "nobody" does not exist'
    ),
    "nobody listens": (_nobody_listens, "Connection refused"),
    "not PostgreSQL": (_not_postgres, "cannot use the database"),
    "not a URL": (lambda _: "postgresql://a b/c%", "cannot use the database"),
    "unknown parameter": (lambda server: server.url(pool="3"), "pool"),
    "another encoding": (
        lambda server: server.create("latin", "ENCODING 'LATIN1' TEMPLATE template0"), "encoding is LATIN1"
    ),
    "another program's": (_other_program, "belongs to another program"),
    "a newer Busway's": (_newer, "belongs to a newer Busway"),
    "read-only": (_read_only, "read-only"),
    "no rights": (_no_rights, "permission denied for database"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("case", few(UNFIT, "no such role", "another program's", "read-only"))
def test_a_database_that_cannot_be_used_is_refused_in_one_line(
    server: PostgresServer, tmp_path: Path, case: str
) -> None:
    make, why = UNFIT[case]
    url = make(server)
    (tmp_path / "handlers").mkdir()
    for command in (("migrate",), ("serve", "--port=0"), ("keys", "create", "me", "--create")):
        done = busway(*command, f"--database-url={url}", cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert why in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "Traceback" not in done.stderr
