"""`busway export` and `busway import`: a gateway moves between SQLite and PostgreSQL with everything."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests import forked
from tests.servers.chosen import postgres
from tests.servers.postgres import PostgresServer

from .service import PATIENCE, Service, clean_environment, hear, items, say, until

pytestmark = pytest.mark.one_database("moves between both databases")

CODE = """
import time
from pathlib import Path
from busway import Fail, handler

@handler("move.good")
def good(event, ctx):
    print("printed \\\\0 ü")
    yield {"part": event.data["n"]}
    ctx.publish("move.child", event.data)
    return event.data

@handler("move.child")
def child(event):
    return b"\\\\x00\\\\xff binary"

@handler("move.bad", max_attempts=2, backoff={"initial": 0.01})
def bad(event):
    raise ValueError("bad ü")

@handler("move.fuse", max_attempts=1, breaker={"failures": 9, "within": 3600})
def fuse(event):
    raise ValueError("fuse")

@handler("move.later", max_attempts=5, backoff={"initial": 3600})
def later(event):
    raise ValueError("later")

@handler("move.wait", ordered=True)
def wait(event):
    return event.data["n"]

@handler("move.slow")
def slow(event):
    while not Path(FOLDER, "go").exists():
        time.sleep(0.01)
    return "slow"

@handler("move.slow")
def quick(event):
    return "quick"
""".replace("\\\\", "\\")


def busway(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [sys.executable, "-m", "busway", *words], capture_output=True, text=True, timeout=PATIENCE,
        env={**clean_environment(), "COLUMNS": "200"}, cwd=cwd, check=False,
    )  # fmt: skip


@pytest.fixture
def target() -> Iterator[str]:
    server: PostgresServer = postgres()
    yield server.create("moved")
    server.drop("moved")


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Service]:
    """A gateway that was killed, with rows of every kind in its database."""
    service = Service(tmp_path)
    fill(service)
    yield service
    service.close()


def fill(service: Service, good: int = 5, waiting: int = 20) -> None:
    """Start a gateway, let it store rows of every kind, and kill it."""
    service.write("move.py", CODE.replace("FOLDER", repr(str(service.folder))))
    service.start()
    for n in range(good):
        service.publish("move.good", {"n": n})
    for n in range(5):
        service.publish("move.bad", {"n": n})
    service.publish("move.later", {"n": 0})
    service.ok("PATCH", "/v1/handlers/wait", {"paused": True})
    for n in range(waiting):
        service.publish("move.wait", {"n": n}, partitionkey=f"k{n % 3}")
    service.publish("move.nobody", None, deliverat="2100-01-01T00:00:00Z", subject="ünïcode", extra="x")
    service.publish("move.slow", None)
    lines = {"Content-Type": "application/x-ndjson", "Producer-Id": "moves"}
    service.request("POST", "/v1/events", content=b'{"type": "move.nobody"}\n\n', headers=lines)
    service.publish("move.fuse")
    with service.connect() as websocket:
        say(websocket, op="subscribe", id="s", durable="kept", after="earliest")
        assert hear(websocket)["op"] == "subscribed"
        first = items(websocket, 1)[0]
        say(websocket, op="ack", id="s", cursor=first["cursor"])
        say(websocket, op="ping")
        while hear(websocket)["op"] != "pong":
            pass
    until(lambda: len(service.runs(state="dead")) == 6, "what is bad to be dead")
    until(lambda: len(service.runs(state="running")) == 1, "what is slow to be marked as running")
    until(lambda: len(service.runs(state="retryable")) == 1, "what comes later to have failed once")
    until(lambda: len(service.runs(state="succeeded")) == 2 * good + 1, "what is good")
    service.ok("POST", "/v1/sources", {"name": "repo", "kind": "github", "type": "github.{event}"})
    service.ok("POST", "/v1/schedules", {"name": "rare", "every": "366d", "event": {"type": "move.rare"}})
    replayed = service.ok("POST", "/v1/handlers/wait/replay", {"shadow": True})["id"]
    until(lambda: service.ok("GET", f"/v1/replays/{replayed}")["created"], "the replay to have runs")
    created = busway("keys", "create", "me", f"--database-url={service.database_url}", cwd=service.folder)
    service.key = created.stdout.strip()
    open_ = service.url + "/v1/handlers"
    until(lambda: service.client.get(open_).status_code == 401, "the key to be needed")
    (service.folder / "receipt").write_text(send_once(service))
    service.kill()


def send_once(service: Service) -> str:
    once = {"Idempotency-Key": "moves", "Content-Type": "application/json"}
    return service.request("POST", "/v1/events", content=b'{"type": "move.nobody"}', headers=once).text


def export(url: str, file: Path) -> bytes:
    done = busway("export", str(file), f"--database-url={url}", cwd=file.parent)
    assert done.returncode == 0, done.stderr
    return file.read_bytes()


def load(url: str, file: Path) -> None:
    done = busway("import", str(file), f"--database-url={url}", cwd=file.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_gateway_moves_to_postgresql_and_back_with_everything(
    filled: Service, target: str, tmp_path: Path
) -> None:
    first = export(filled.database_url, tmp_path / "first")
    load(target, tmp_path / "first")
    with psycopg.connect(target) as connection:
        query = "SELECT count(*) FROM pg_stat_user_tables WHERE last_analyze IS NOT NULL"
        assert connection.execute(query).fetchall() == [(5,)]
    assert export(target, tmp_path / "second") == first
    load(f"sqlite:///{tmp_path}/back.db", tmp_path / "second")
    assert export(f"sqlite:///{tmp_path}/back.db", tmp_path / "third") == first
    tables = {json.loads(line).get("table") for line in first.splitlines()[1:-1]}
    assert tables == {
        "node_names", "handlers", "handler_revisions", "handler_files", "keys", "sources", "durables",
        "producers", "replays", "schedules", "events", "runs", "attempts", "results", "trees", "breakers",
        "idempotency_keys", "audit",
    }  # fmt: skip

    filled.database_url = target
    filled.start()
    assert send_once(filled) == (tmp_path / "receipt").read_text()
    before = filled.results()
    (tmp_path / "go").touch()
    filled.ok("PATCH", "/v1/handlers/wait", {"paused": False})
    until(lambda: filled.unfinished() == 1, "all runs to end but the one that is due in an hour")
    slow = next(run for run in filled.runs(handler="slow"))
    assert [a["outcome"] for a in filled.ok("GET", f"/v1/runs/{slow['id']}")["attempts"]] == [
        "lost", "succeeded"
    ]  # fmt: skip
    waited = [item["data"] for item in filled.results() if item["handler"] == "wait"]
    for key in range(3):
        assert [n for n in waited if n % 3 == key] == [n for n in range(20) if n % 3 == key]
    replay = filled.ok("GET", "/v1/replays?handler=wait")["items"][0]
    assert (replay["shadow"], replay["created"], replay["runs"]) == (True, 20, {"succeeded": 20})
    after = filled.results()
    assert after[: len(before)] == before
    with filled.connect() as websocket:
        say(websocket, op="subscribe", id="s", durable="kept")
        answer = hear(websocket)
        assert answer["recovered"]
        assert answer["cursor"] == after[0]["cursor"]
        assert [item["cursor"] for item in items(websocket, len(after) - 1)] == [
            i["cursor"] for i in after[1:]
        ]
    assert filled.ok("GET", "/v1/producers/moves")["lines"] == 2
    newest = filled.ok("GET", "/v1/events?limit=1")["items"][0]["seq"]
    seq = filled.publish("move.good", {"n": 9})["seq"]
    assert seq == newest + 1
    assert filled.finished(seq)["runs"][0]["state"] == "succeeded"
    assert len(filled.ok("GET", "/v1/schedules/rare")["next"]) == 5
    filled.ok("POST", "/v1/handlers", {"name": "new", "target": "move:child", "events": ["move.new"]})
    assert filled.finished(filled.publish("move.new", {"n": 1})["seq"])["runs"][0]["state"] == "succeeded"


@pytest.mark.fault
@pytest.mark.long
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_import_that_was_killed_goes_on(filled: Service, target: str, tmp_path: Path, kind: str) -> None:
    whole = export(filled.database_url, tmp_path / "whole")
    header, *pages, trailer = whole.splitlines(keepends=True)
    split = []  # a page a row, so that the import takes long enough to be killed
    for page in pages:
        known = json.loads(page)
        split += [
            json.dumps({"table": known["table"], "rows": [row]}, ensure_ascii=False).replace(
                '{"table": ', '{"table":', 1
            ).encode() + b"\n"
            for row in known["rows"]
        ]  # fmt: skip
    (tmp_path / "slow").write_bytes(b"".join([header, *split, trailer]))
    url = target if kind == "postgres" else f"sqlite:///{tmp_path}/new.db"
    command = [sys.executable, "-m", "busway", "import", str(tmp_path / "slow"), f"--database-url={url}"]
    killed = 0
    for delay in (0, 0.1, 0.2, 0.4, 0.8):
        with forked.Popen(command, stderr=subprocess.DEVNULL, env=clean_environment()) as running:
            until(
                lambda running=running: running.poll() is not None or _has_begun(url), "the import to begin"
            )
            time.sleep(delay)
            running.send_signal(signal.SIGKILL)
            killed += running.wait(PATIENCE) == -signal.SIGKILL
        if _has_begun(url):
            refused = busway("keys", "list", f"--database-url={url}", cwd=tmp_path)
            if _has_begun(url):  # a server may still have committed the end of what was killed
                assert refused.returncode == 2
                assert "`busway import FILE`" in refused.stderr
    assert killed
    last = busway("import", str(tmp_path / "slow"), f"--database-url={url}", cwd=tmp_path)
    assert last.returncode == 0 or "is not empty" in last.stderr, last.stderr
    assert export(url, tmp_path / "again") == whole


def _has_begun(url: str) -> bool:
    """Return whether a page was imported, but not all."""
    query = "SELECT count(*) FROM imports"
    if url.startswith("sqlite"):
        file = url.removeprefix("sqlite:///")
        try:
            with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
                return bool(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:  # no file or no table yet, or it is being made
            return False
    with psycopg.connect(url, options="-c search_path=busway") as connection:
        made = connection.execute("SELECT to_regclass('imports')").fetchone()
        return bool(made and made[0] and connection.execute(query.encode()).fetchone() != (0,))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def _without_a_page(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3] + lines[4:]))


def _damaged(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:20] + b"\n"
    file.write_bytes(b"".join(lines))


def _of_other_types(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    page = json.loads(lines[3])
    page["rows"][0] = ["text"] * len(page["rows"][0])
    lines[3] = b'{"table":' + json.dumps(page)[len('{"table": ') :].encode() + b"\n"
    file.write_bytes(b"".join(lines))


def _twice(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], lines[1], *lines[2:]]))


def _without_base64(file: Path) -> None:
    file.write_bytes(re.sub(rb'"[A-Za-z0-9+/]{8}[^"]*=="', b'"?"', file.read_bytes()))


def _newer(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"version":1', b'"version":2', 1))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "not an export"),
    "something else": (lambda file: file.write_bytes(b"{}\n" * 100), "not an export"),
    "binary": (lambda file: file.write_bytes(os.urandom(10_000)), "not an export"),
    "missing": (lambda file: file.unlink(), "No such file"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "Is a directory"),
    "cut off": (_cut, "cut off"),
    "without a page": (_without_a_page, "damaged"),
    "damaged": (_damaged, "damaged in line 4"),
    "with values of other types": (_of_other_types, "damaged in line 4"),
    "with a page twice": (_twice, "damaged in line 3"),
    "without base64": (_without_base64, "damaged in line"),
    "of a newer Busway": (_newer, "newer Busway"),
}


@pytest.mark.long
def test_what_cannot_be_moved_is_refused_in_one_line(filled: Service, tmp_path: Path) -> None:
    file = tmp_path / "file"
    whole = export(filled.database_url, file)
    assert file.stat().st_mode & 0o777 == 0o600

    def refused(*words: str) -> str:
        done = busway(*words, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return done.stderr

    assert "exists" in refused("export", str(file), f"--database-url={filled.database_url}")
    assert file.read_bytes() == whole
    assert "there is no database" in refused("export", "x", "--database-url=sqlite:///missing.db")
    assert "there is no folder" in refused("export", "nowhere/x", f"--database-url={filled.database_url}")
    assert "is not empty" in refused("import", str(file), f"--database-url={filled.database_url}")
    for number, (name, (damage, why)) in enumerate(DAMAGES.items()):
        damage(file)
        said = refused("import", str(file), f"--database-url=sqlite:///{name.replace(' ', '-')}.db")
        assert why in said, (name, said)
        postgres().create(f"damaged {number}")
        said = refused("import", str(file), f"--database-url={postgres().url(f'damaged%20{number}')}")
        assert why in said, (name, said)
        if file.is_dir():
            file.rmdir()
        file.write_bytes(whole)
    filled.start()
    assert "another gateway" in refused("import", str(file), f"--database-url={filled.database_url}")
    assert not list(tmp_path.glob("*.partial"))
