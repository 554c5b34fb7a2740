"""`busway doctor`: whether a gateway can run well here."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import forked
from tests.ports import unused_port
from tests.servers import chosen

from .service import PATIENCE, Service, clean_environment

pytestmark = pytest.mark.one_database("a command without a gateway, on each database")

HANDLER = "from busway import handler\n@handler('greet')\ndef hello(event): return 'hello'\n"
Found = dict[str, tuple[str, str]]


def doctor(
    folder: Path, *words: str, status: int = 0, before: tuple[str, ...] = (), **variables: str
) -> Found:
    """Run it in a folder, behind other words, and return state and text of each check."""
    command = [*before, sys.executable, "-m", "busway", "doctor", "--json", *words]
    done = forked.run(
        command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**clean_environment(), "BUSWAY_URL": f"http://127.0.0.1:{unused_port()}", **variables},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, ""), done.stdout + done.stderr
    items = [json.loads(line) for line in done.stdout.splitlines()]
    return {each["check"]: (each["state"], f"{each['found']} {each['advice']}") for each in items}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "hello.py").write_text(HANDLER, encoding="utf-8")
    (tmp_path / ".env").write_text(f"BUSWAY_PORT={unused_port()}\n", encoding="utf-8")
    return tmp_path


def test_a_new_folder_is_well_and_stays_as_it_is(place: Path) -> None:
    before = sorted(place.rglob("*"))
    found = doctor(place)
    assert {state for state, _ in found.values()} <= {"ok", "warning"}
    assert found["handlers"] == ("ok", "handlers has files: 1, functions: 1, handlers: 1 None")
    assert "does not exist yet" in found["database"][1]
    assert found["address"][0] == "ok"
    assert {
        "settings",
        "disk space",
        "disk sync",
        "open files",
        "processes",
        "memory",
        "CPUs",
        "clock",
    } <= set(found)
    assert [path for path in sorted(place.rglob("*")) if "__pycache__" not in str(path)] == before


def test_people_get_lines_with_advice(place: Path) -> None:
    (place / "handlers" / "broken.py").write_text("import no_such_module\n", encoding="utf-8")
    command = [sys.executable, "-m", "busway", "doctor", f"--url=http://127.0.0.1:{unused_port()}"]
    done = forked.run(
        command, cwd=place, capture_output=True, text=True, env=clean_environment(), check=False,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert "problem  file broken.py: ModuleNotFoundError: No module named 'no_such_module'" in done.stdout
    assert "python handlers/broken.py shows where" in done.stdout


Fault = Callable[[Path], dict[str, str]]


def _settings(place: Path) -> dict[str, str]:
    (place / "handlers" / "hello.py").unlink()
    (place / "handlers").rmdir()
    return {}


def _ends(place: Path) -> dict[str, str]:
    (place / "handlers" / "ends.py").write_text("import os\nos._exit(3)\n", encoding="utf-8")
    return {}


def _foreign(place: Path) -> dict[str, str]:
    with sqlite3.connect(place / "busway.db") as connection:
        connection.execute("CREATE TABLE t (n int)")
    connection.close()
    return {}


def _no_database(place: Path) -> dict[str, str]:
    (place / "busway.db").write_bytes(b"no database, but a text that is long enough" * 100)
    return {}


def _newer(place: Path) -> dict[str, str]:
    subprocess.run([sys.executable, "-m", "busway", "migrate"], cwd=place, check=True, capture_output=True)
    with sqlite3.connect(place / "busway.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    return {}


def _no_server(_place: Path) -> dict[str, str]:
    return {"BUSWAY_DATABASE_URL": f"postgresql://me@127.0.0.1:{unused_port()}/busway"}


@pytest.mark.parametrize(
    ("break_it", "check", "text"),
    [
        (_settings, "settings", "there is no handlers folder"),
        (_ends, "handlers", "the import ends the process"),
        (_foreign, "database", "another program"),
        (_no_database, "database", "cannot use the database"),
        (_newer, "database", "newer Busway"),
        (_no_server, "database", "BUSWAY_DATABASE_URL (environment): "),
    ],
)
def test_what_keeps_a_gateway_from_running_is_a_problem(
    place: Path, break_it: Fault, check: str, text: str
) -> None:
    found = doctor(place, status=1, **break_it(place))
    assert found[check][0] == "problem"
    assert text in found[check][1]


def test_what_may_become_a_problem_is_a_warning(place: Path) -> None:
    migrate = [sys.executable, "-m", "busway", "migrate"]
    subprocess.run(migrate, cwd=place, check=True, capture_output=True)
    with (place / ".env").open("a", encoding="utf-8") as file:
        file.write("BUSWAY_SECRET_TOKEN=hidden\n")
    ahead = time.time() + 3600
    os.utime(place / "busway.db", (ahead, ahead))
    for name in ("secrets", "keys.toml"):
        (place / name).write_text("", encoding="utf-8")
        (place / name).chmod(0o666)
    (place / "secrets").write_text("TOKEN=hidden\n", encoding="utf-8")
    few = ("sh", "-c", 'ulimit -n 100; exec "$@"', "sh")
    found = doctor(place, status=1, before=few, BUSWAY_SECRETS_FILE="secrets", BUSWAY_KEYS_FILE="keys.toml")
    assert found["file secrets"] == (
        "warning", "every user of this machine may change it (--secrets-file) chmod o-rwx secrets"
    )  # fmt: skip
    assert found["file keys.toml"][1].endswith("chmod o-w keys.toml")
    assert found["file .env"][1].endswith("chmod o-rwx .env")
    assert "set the clock" in found["time of the database"][1]
    assert found["open files"][0] == "problem"
    assert "ulimit -n" in found["open files"][1]


def test_a_taken_port_is_a_problem(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = doctor(place, f"--port={other.getsockname()[1]}", status=1)
    assert "choose another --port" in found["address"][1]


def test_a_gateway_that_runs_is_asked(place: Path) -> None:
    gateway = Service(place, workers=1).start()
    try:
        database = f"--database-url=sqlite:///{gateway.database}"
        found = doctor(place, f"--url={gateway.url}", database)
        assert found["gateway"] == ("ok", f"{gateway.url} is ready None")
        assert found["clock"] == ("ok", "equal to that of the gateway None")
        assert f"in use by process {gateway.pid}" in found["database"][1]
        assert "address" not in found
    finally:
        gateway.close()


def test_a_database_server_is_measured(place: Path) -> None:
    server = chosen.postgres()  # it does not sync
    url = server.create("doctor")
    found = doctor(place, f"--database-url={url}")
    assert "does not exist yet" in found["database"][1]
    subprocess.run(
        [sys.executable, "-m", "busway", "migrate", f"--database-url={url}"],
        cwd=place, check=True, capture_output=True, env=clean_environment(),
    )  # fmt: skip
    found = doctor(place, f"--database-url={url}")
    assert found["database"][0] == "ok"
    assert found["fsync"][0] == "warning"
    assert "one answer of the server" in found["round trip"][1]
    assert "database server" in found["clock"][1]
