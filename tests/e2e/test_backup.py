"""`busway backup` of a gateway that works, and a gateway on the copy: it has what was acknowledged before."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from .conftest import Serve
from .service import Service, join, until
from .test_command_line import busway

pytestmark = pytest.mark.one_database("copies SQLite's file")

CODE = """
from busway import handler

@handler("work")
def work(event):
    yield "part"
    return event.data
"""


class Load:
    """Publishes until it is stopped."""

    def __init__(self, service: Service) -> None:
        self.acknowledged: list[int] = []
        self._service, self._over = service, threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        join([self._thread], self.acknowledged)

    def _publish(self) -> None:
        while not self._over.is_set():
            receipt = self._service.publish("work", {"n": len(self.acknowledged), "text": "x" * 2000})
            self.acknowledged.append(receipt["seq"])


@pytest.mark.fault
@pytest.mark.long
def test_a_gateway_goes_on_from_a_copy_that_was_made_under_load(make_service: Serve, tmp_path: Path) -> None:
    service = make_service()
    service.write("all.py", CODE)
    service.start()
    copy = tmp_path / "copy.db"
    with Load(service) as load:
        until(lambda: len(load.acknowledged) > 100, "a load")
        before = len(load.acknowledged)
        known = service.results()
        done = busway("backup", str(copy), "--json", f"--database-url={service.database_url}")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told == {
            "database": service.database_shown, "file": str(copy), "bytes": copy.stat().st_size
        }  # fmt: skip
        enough = len(load.acknowledged) + 50
        until(lambda: len(load.acknowledged) > enough, "work after the copy")
    until(lambda: not service.unfinished(), "the runs")
    later = service.results()[-1]
    service.kill()
    service.database_url = f"sqlite:///{copy}"
    service.start()
    events = {item["seq"] for item in every_event(service)}
    assert set(load.acknowledged[:before]) <= events < set(load.acknowledged)
    until(lambda: not service.unfinished(), "the runs of the copy")
    log = service.results()
    assert log[: len(known)] == known
    assert service.results(after=known[-1]["cursor"]) == log[len(known) :]
    assert {item["event"]["seq"] for item in log if item["kind"] == "succeeded"} == events
    service.publish("work", {"n": "after the copy"})
    gone = service.get("/v1/results", params={"after": later["cursor"]})
    assert gone.status_code == 410


def every_event(service: Service) -> list[dict[str, int]]:
    items: list[dict[str, int]] = []
    after: str | None = None
    while True:
        page = service.get("/v1/events", params={"limit": 1000} | ({"after": after} if after else {})).json()
        items += page["items"]
        after = page["next"]
        if after is None:
            return items


def test_a_postgresql_database_is_one_line_that_names_pg_dump(tmp_path: Path) -> None:
    done = busway("backup", "copy.db", "--database-url=postgresql://me:secret@localhost/mine", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "pg_dump" in line
    assert "secret" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_copy_is_not_written_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine")
    assert busway("migrate", cwd=tmp_path).returncode == 0
    done = busway("backup", "copy.db", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "busway: 'copy.db' exists already: remove it, or choose another file\n"
    assert (tmp_path / "copy.db").read_text() == "mine"
    other = busway("backup", "other.db", cwd=tmp_path)
    assert (other.returncode, other.stderr) == (0, "")
    assert other.stdout.startswith(f"the database {tmp_path}/busway.db is copied to {tmp_path}/other.db (")
