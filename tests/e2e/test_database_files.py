"""The database of a running gateway goes away, or another gateway finds it under another name."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from .conftest import Serve
from .service import PATIENCE, Service, clean_environment, until

pytestmark = pytest.mark.fault

CODE = """
from busway import handler

@handler("work")
def work(event):
    return event.data
"""


def lines(service: Service) -> list[str]:
    """What the gateway logged as an error or a warning, from the first publish on."""
    found = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line["event"] for line in found if line["level"] in {"error", "warning"}]


@pytest.fixture
def service(make_service: Serve, tmp_path: Path) -> Service:
    made = make_service(workers=1)
    (tmp_path / "data").mkdir()
    made.database = tmp_path / "data" / "busway.db"
    made.write("work.py", CODE)
    made.start()
    made.finished(made.publish("work", 1)["seq"])
    return made


@pytest.mark.parametrize("what", ["busway.db", "busway.db-wal", "."])
def test_the_gateway_is_not_ready_until_the_file_is_back(service: Service, what: str) -> None:
    there = (service.database.parent / what).resolve()
    elsewhere = service.folder / "elsewhere"
    before = lines(service)
    there.rename(elsewhere)
    refused = until(lambda: (r := service.get("/readyz")).status_code == 503 and r, "not ready")
    assert "busway.db" in refused.json()["detail"]
    answer = service.post("/v1/events", {"type": "work", "data": 2})
    assert answer.status_code == 503
    assert "removed or renamed" in answer.json()["detail"]
    assert answer.headers["retry-after"]
    status = service.ok("GET", "/v1/status")
    assert "removed or renamed" in status["state"]
    assert not status["committer"]["healthy"]
    assert service.get("/healthz").status_code == 200
    assert len(service.results()) == 1
    [line] = lines(service)[len(before) :]
    assert "busway.db" in line
    elsewhere.rename(there)
    until(lambda: service.get("/readyz").status_code == 200, "readiness")
    service.finished(service.publish("work", 3)["seq"])
    assert [item["data"] for item in service.results()] == [1, 3]
    assert service.stop() == 0


def test_a_gateway_without_its_database_ends_cleanly(service: Service) -> None:
    service.database.unlink()
    until(lambda: service.get("/readyz").status_code == 503, "not ready")
    assert service.stop() == 0


def serve(service: Service, database: Path) -> subprocess.CompletedProcess[str]:
    """Start another gateway, which must not run."""
    command = [sys.executable, "-m", "busway", "serve", f"--database-url=sqlite:///{database}", "--port=0"]
    return subprocess.run(
        [*command, f"--handlers={service.handlers}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=clean_environment(),
        check=False,
    )


@pytest.mark.parametrize("name", ["hard link", "symlink", "lock file deleted"])
def test_a_second_gateway_does_not_start_and_leaves_the_first_alone(service: Service, name: str) -> None:
    other = service.folder / "other.db"
    if name == "hard link":
        other.hardlink_to(service.database)
    elif name == "symlink":
        other.symlink_to(service.database)
    else:
        service.database.with_name("busway.db.lock").unlink()
        other = service.database
    committer = service.ok("GET", "/v1/status")["committer"]["pid"]
    second = serve(service, other)
    assert second.returncode == 2
    assert second.stderr.startswith("busway: another gateway")
    assert len(second.stderr.splitlines()) == 1
    assert service.ok("GET", "/v1/status")["committer"]["pid"] == committer
    service.finished(service.publish("work", 2)["seq"])
    psutil.Process(committer).send_signal(signal.SIGKILL)
    until(lambda: service.post("/v1/events", {"type": "work"}).status_code == 202, "another committer")
