"""The busway command: what a newcomer types."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forked

from .conftest import Serve
from .service import PATIENCE, Service, clean_environment, until


def busway(
    *words: str, text: str | None = None, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [sys.executable, "-m", "busway", *words], input=text, capture_output=True, text=True,
        timeout=PATIENCE, env={**clean_environment(), "COLUMNS": "200", **variables}, cwd=cwd, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("commands"), workers=1)
    service.write(
        "all.py",
        "from busway import handler\n@handler('greet')\ndef hello(event): return ['hello', event.data]\n",
    )
    yield service.start()
    service.close()


def newest(service: Service) -> str:
    """The cursor behind all results that there are."""
    cursor: str = service.get("/v1/results", params={"limit": 1000}).json()["cursor"]
    return cursor


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("init",),
        ("serve",),
        ("invoke",),
        ("publish",),
        ("tail",),
        ("handlers",),
        ("delete",),
        ("keys",),
        ("keys", "create"),
        ("migrate",),
        ("backup",),
        ("openapi",),
    ],
)
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    program = [sys.executable, "-m", "busway", *command, "--help"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0
    assert "Usage" in done.stdout


@pytest.mark.long
def test_what_is_published_shows_in_the_tail(service: Service, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "busway",
        "tail",
        "greet",
        "--json",
        f"--after={newest(service)}",
        f"--url={service.url}",
    ]
    file = tmp_path / "payload.json"
    file.write_text('{"from": "file"}')
    with forked.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()) as tail:
        assert tail.stdout is not None
        for words, text in (
            (("--data", '"x"'), None),
            (("--file", str(file)), None),
            (("--file", "-"), "[1]"),
        ):
            done = busway("publish", "greet", *words, "-a", "colour=red", f"--url={service.url}", text=text)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["runs"] == 1
        assert busway("publish", "other", "-a", "priority=9", f"--url={service.url}").returncode == 0
        lines = [json.loads(tail.stdout.readline()) for _ in range(3)]
        assert [line["data"][1] for line in lines] == ["x", {"from": "file"}, [1]]
        tail.send_signal(signal.SIGINT)
        assert tail.wait(PATIENCE) in {0, 130}


def test_ctrl_c_ends_the_tail_with_the_cursor_to_go_on_from(service: Service) -> None:
    def tailed(after: str, wanted: list[int]) -> str:
        words = ["tail", "--json", "--correlationid=odd", "--handler=hello", f"--after={after}"]
        with forked.Popen(
            [sys.executable, "-m", "busway", *words, f"--url={service.url}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(),
        ) as running:  # fmt: skip
            assert running.stdout
            assert running.stderr
            assert [json.loads(running.stdout.readline())["data"][1] for _ in wanted] == wanted
            running.send_signal(signal.SIGINT)
            notes = running.stderr.read()
            assert running.wait(PATIENCE) == 0
        assert "Traceback" not in notes
        return notes.split("--after ")[1].split()[0]

    begin = newest(service)
    for number in range(4):
        service.finished(
            service.publish("greet", number, correlationid="odd" if number % 2 else "even")["seq"]
        )
    cursor = tailed(begin, [1, 3])
    service.publish("greet", 5, correlationid="odd")
    tailed(cursor, [5])


def test_the_tail_goes_on_after_a_restart(service: Service) -> None:
    command = [
        sys.executable,
        "-m",
        "busway",
        "tail",
        "--json",
        f"--after={newest(service)}",
        f"--url={service.url}",
    ]
    with forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as tail:
        assert tail.stdout is not None
        service.publish("greet", 1)
        assert json.loads(tail.stdout.readline())["data"][1] == 1
        service.kill()
        service.start()
        service.publish("greet", 2)
        assert json.loads(tail.stdout.readline())["data"][1] == 2
        tail.kill()


def test_a_person_sees_lines_with_kind_type_and_value(service: Service) -> None:
    command = [sys.executable, "-m", "busway", "tail", f"--after={newest(service)}", f"--url={service.url}"]
    wide = {**os.environ, "COLUMNS": "200"}
    with forked.Popen(command, stdout=subprocess.PIPE, text=True, env=wide) as tail:
        assert tail.stdout is not None
        service.publish("greet", "you")
        line = tail.stdout.readline()
        while "greet" not in line:
            line = tail.stdout.readline()
        assert "succeeded" in line
        assert "hello" in line
        tail.kill()


def test_handlers_are_listed(service: Service) -> None:
    done = busway("handlers", f"--url={service.url}")
    assert "hello" in done.stdout
    assert "all:hello" in done.stdout
    assert json.loads(busway("handlers", "--json", f"--url={service.url}").stdout)["name"] == "hello"


@pytest.mark.parametrize(
    ("words", "status", "word"),
    [
        (("publish", "a b", "--url={url}"), 2, "white space"),
        (("publish", "a", "--data", "{", "--url={url}"), 2, "--data"),
        (("publish", "a", "--data", "NaN", "--url={url}"), 2, "NaN"),
        (("publish", "a", "--file", "nowhere.json"), 2, "nowhere.json"),
        (("publish", "a", "--data", "1", "--file", "x"), 2, "not both"),
        (("publish", "a", "-a", "x", "--url={url}"), 2, "NAME=VALUE"),
        (("publish", "a", "-a", "type=b", "--url={url}"), 2, "TYPE"),
        (("publish", "a", "-a", "priority=high", "--url={url}"), 2, "priority"),
        (("openapi", "/dev/null/x"), 2, "/dev/null/x"),
        (("keys", "list", "--database-url", "postgresql://x"), 2, "--database-url"),
        (("publish", "a", "--url=http://127.0.0.1:9"), 1, "busway serve"),
        (("tail", "--url=http://127.0.0.1:9"), 1, "busway serve"),
        (("tail", "a..b", "--url={url}"), 2, "PATTERN: the pattern 'a..b'"),
        (("tail", "-n", "2", "a..b", "--url={url}"), 2, "PATTERN: the pattern 'a..b'"),
        (("tail", "--kind", "x", "--url={url}"), 2, "--kind: "),
        (("tail", "--after", "x", "--url={url}"), 2, "cursor"),
        (("tail", "--filter", "{", "--url={url}"), 2, "--filter"),
        (("tail", "a.**.b", "--url={url}"), 2, "PATTERN"),
        (("tail", "--kind=done", "-n", "1", "--url={url}"), 2, "--kind"),
        (("tail", "--filter", '{"exact": {}}', "--url={url}"), 2, "--filter"),
        (("handlers", "--url=http://127.0.0.1:9"), 1, "busway serve"),
        (("serve", "--pool", "fiber"), 2, "--pool"),
        (("serve", "--workers", "0"), 2, "--workers"),
        (("serve", "--handlers", "nowhere"), 2, "nowhere"),
        (("serve", "--database-url", "mysql://x"), 2, "--database-url"),
        (("serve", "--database-url", "mysql://x"), 2, "postgresql://USER@HOST/DATABASE"),
        (("serve", "--broker-url", "nats://x"), 2, "--broker-url"),
        (("serve", "--role", "worker"), 2, "--role"),
        (("keys", "create", "x", "--scope", "all", "--database-url", "sqlite:///k.db"), 2, "--scope"),
        (("keys", "create", "x"), 2, "--create"),
        (("keys", "list"), 2, "/here/busway.db"),
        (("keys", "revoke", "1", "--database-url", "sqlite:///k.db"), 2, "/here/k.db"),
    ],
)
def test_an_error_is_one_clear_line(
    service: Service, tmp_path: Path, words: tuple[str, ...], status: int, word: str
) -> None:
    (tmp_path / "here" / "handlers").mkdir(parents=True)
    done = busway(
        *(w.replace("{url}", service.url) for w in words),
        cwd=tmp_path / "here",
    )
    assert done.returncode == status, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
    assert not [*(tmp_path / "here").glob("*.db")]


@pytest.mark.long
def test_keys_are_created_listed_and_revoked_in_the_database_that_is_named(tmp_path: Path) -> None:
    made = busway("keys", "create", "me", "--create", "--expires-at=2099-01-01T00:00:00Z", cwd=tmp_path)
    assert made.stdout.startswith("bw_1_")
    assert made.stdout.count("\n") == 1
    where = str(tmp_path / "busway.db")
    assert where in made.stderr
    other = json.loads(busway("keys", "create", "shop", "--scope=publish", "--json", cwd=tmp_path).stdout)
    assert (other["id"], other["scopes"], other["key"][:5]) == (2, ["publish"], "bw_2_")
    listed = busway("keys", "list", cwd=tmp_path)
    assert where in listed.stderr
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [["1", "me"], ["2", "shop"]]
    assert where in busway("keys", "revoke", "2", cwd=tmp_path).stdout
    keys = [json.loads(line) for line in busway("keys", "list", "--json", cwd=tmp_path).stdout.splitlines()]
    assert [bool(key["revoked_at"]) for key in keys] == [False, True]
    assert keys[0]["expires_at"] == "2099-01-01T00:00:00.000000Z"
    missing = busway("keys", "revoke", "3", cwd=tmp_path)
    assert (missing.returncode, where in missing.stderr) == (1, True)


def test_migrate_says_whether_it_created_the_database(tmp_path: Path) -> None:
    assert busway("migrate", cwd=tmp_path).stdout == f"the database {tmp_path}/busway.db is created\n"
    assert busway("migrate", cwd=tmp_path).stdout == f"the database {tmp_path}/busway.db is up to date\n"
    assert json.loads(busway("migrate", "--json", cwd=tmp_path).stdout)["created"] is False


def test_a_database_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "busway.db").write_text("this is not a database, and long enough to be looked at" * 50)
    done = busway("serve", "--port=0", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0, done.stderr


def test_settings_come_from_the_environment_too(make_service: Serve) -> None:
    service = make_service()
    service.options = {"port": 0, "handlers": service.handlers}
    done = busway("serve", *[f"--{n}={v}" for n, v in service.options.items()], BUSWAY_WORKERS="many")
    assert done.returncode == 2
    assert "BUSWAY_WORKERS" in done.stderr


def test_the_commands_on_the_database_find_it_in_dot_env(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BUSWAY_DATABASE_URL=sqlite:///kept.db\n")
    assert busway("keys", "create", "me", "--create", cwd=tmp_path).stdout.startswith("bw_1_")
    assert (tmp_path / "kept.db").exists()
    assert not (tmp_path / "busway.db").exists()
    (tmp_path / ".env").write_bytes(b"BUSWAY_DATABASE_URL=\xff\n")
    done = busway("keys", "list", cwd=tmp_path)
    assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0), done.stderr


def test_settings_in_dot_env_are_refused_by_name_too(tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    (tmp_path / ".env").write_text("BUSWAY_ROLE=worker\n")
    done = busway("serve", "--port=0", cwd=tmp_path)
    assert done.returncode == 2
    assert "BUSWAY_ROLE (.env)" in done.stderr


def test_the_port_in_use_is_said(service: Service, tmp_path: Path) -> None:
    port = service.options["port"]
    done = busway(
        "serve",
        f"--port={port}",
        f"--handlers={service.handlers}",
        f"--database-url=sqlite:///{tmp_path}/other.db",
    )
    assert done.returncode == 2
    assert str(port) in done.stderr
    until(lambda: service.get("/readyz").status_code == 200, "the first one")
