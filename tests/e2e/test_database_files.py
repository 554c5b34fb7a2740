"""The database's files: who may read them, and what cannot be a database is one clear line with status 2."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import few

from .conftest import Serve
from .service import PATIENCE, Service, clean_environment, until
from .test_command_line import busway

pytestmark = [pytest.mark.fault, pytest.mark.one_database("files")]
NOBODY = 65534


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.glob("busway.db*")}


@pytest.mark.parametrize(("umask", "mode"), [(0o000, 0o600), (0o022, 0o600), (0o277, 0o400)])
def test_only_the_owner_reads_what_busway_makes(tmp_path: Path, umask: int, mode: int) -> None:
    command = [sys.executable, "-m", "busway", "migrate", "--database-url=sqlite:///busway.db"]
    subprocess.run(
        ["sh", "-c", f'umask {umask:03o}; exec "$@"', "sh", *command],
        cwd=tmp_path, env=clean_environment(), capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert set(modes(tmp_path).values()) == {mode}


def test_the_log_and_the_lock_are_the_owners_too(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    service.publish("t")
    assert modes(service.folder) == dict.fromkeys(
        ("busway.db", "busway.db-wal", "busway.db-shm", "busway.db.lock"), 0o600
    )


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def no_database(path: Path) -> None:
    path.write_bytes(b"this is not a database, and long enough to be looked at " * 50)


def cut(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\0" * 90)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def nowhere(path: Path) -> None:
    path.symlink_to("missing/folder/busway.db")


KINDS = {
    "a loop of links": (loop, "link"),
    "a folder": (Path.mkdir, "folder"),
    "not SQLite": (no_database, "not a database"),
    "cut off": (cut, ""),
    "a pipe": (fifo, "not a regular file"),
    "a link to nowhere": (nowhere, "no folder"),
}


@pytest.mark.parametrize("words", few(["serve --port=0", "keys list", "keys create x"], "serve --port=0"))
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_database_is_one_clear_line(tmp_path: Path, kind: str, words: str) -> None:
    make, word = KINDS[kind]
    (tmp_path / "handlers").mkdir()
    make(tmp_path / "busway.db")
    done = busway(*words.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("busway: --database-url (default): ")
    assert "busway.db" in done.stderr
    assert word in done.stderr


ROOT = os.geteuid() == 0
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if ROOT else ()


@pytest.mark.long
@pytest.mark.skipif(ROOT and shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("name", few(["busway.db", "busway.db-wal", "busway.db.lock", "."], "busway.db"))
def test_a_database_of_another_user_names_its_owner(tmp_path: Path, name: str) -> None:
    """Without privileges to make a file of another user, one that this user may not write stands for it."""
    (tmp_path / "handlers").mkdir()
    assert busway("migrate", cwd=tmp_path).returncode == 0
    file = tmp_path / name
    if not file.exists():
        file.touch()
    file.chmod(0o555 if name == "." else 0o444)
    if ROOT:
        os.chown(file, NOBODY, NOBODY)
    for words in (("serve", "--port=0"), ("keys", "create", "x")):
        done = subprocess.run(
            [*UNPRIVILEGED, sys.executable, "-m", "busway", *words], cwd=tmp_path, env=clean_environment(),
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith("busway: --database-url (default): ")
        assert f"belongs to the user {pwd.getpwuid(file.stat().st_uid).pw_name!r}" in done.stderr
    file.chmod(0o755)


MOUNTING = ("unshare", "--user", "--map-root-user", "--mount")


def may_mount() -> bool:
    """Whether this user may mount a file system."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*MOUNTING, "true"], capture_output=True, check=False).returncode == 0


CRASH = (
    "serve --port=0 >out & while ! grep -qs busway out; do sleep 0.1; done; kill -9 $!; "
    "while fuser -s busway.db 2>/dev/null; do sleep 0.1; done"
)
FILL = "dd if=/dev/zero of=filler bs=4k 2>/dev/null"
DISKS = {
    "full and new": (FILL, "full"),
    "full with a database": (f'"$@" migrate >/dev/null; {FILL}', "full"),
    "full after a crash": (f'"$@" {CRASH}; {FILL}', "full"),
    "read-only and new": ("mount -o remount,ro none .", "read-only"),
    "read-only with a database": ('"$@" migrate >/dev/null; mount -o remount,ro none .', "read-only"),
}


@pytest.mark.long
@pytest.mark.skipif(not may_mount(), reason="needs mount namespaces")
@pytest.mark.parametrize("disk", DISKS)
def test_a_disk_that_cannot_be_written_is_one_clear_line(tmp_path: Path, disk: str) -> None:
    prepare, word = DISKS[disk]
    script = (
        'mount -t tmpfs -o size=2m none "$0" && cd "$0" && mkdir handlers || exit 3\n'
        f'{prepare}\nexec "$@" serve --port=0'
    )
    done = subprocess.run(
        [*MOUNTING, "sh", "-c", script, str(tmp_path), sys.executable, "-m", "busway"],
        env=clean_environment(),
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("busway: --database-url (default): ")
    assert word in done.stderr


@pytest.mark.long
def test_errors_about_the_database_begin_with_what_chose_it(make_service: Serve, tmp_path: Path) -> None:
    service = make_service(workers=1).start()
    folder = tmp_path / "other"
    (folder / "handlers").mkdir(parents=True)
    variable = "BUSWAY_DATABASE_URL"
    for place, words, environment in (
        ("--database-url", [f"--database-url={service.database_url}"], {}),
        (f"{variable} (environment)", [], {variable: service.database_url}),
        (f"{variable} (.env)", [], {}),
    ):
        if "env)" in place:
            (folder / ".env").write_text(f"{variable}={service.database_url}\n")
        done = busway("serve", "--port=0", *words, cwd=folder, **environment)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(f"busway: {place}: another gateway (process {service.process.pid})")


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_a_running_gateway_names_the_setting_of_a_file_that_is_gone(make_service: Serve, ending: str) -> None:
    service = make_service(workers=1).start()
    service.publish("t")
    file = service.database.with_name(f"{service.database.name}{ending}")
    file.rename(file.with_name("elsewhere"))
    named = f"{str(file)!r} (--database-url)"
    until(lambda: named in service.get("/readyz").json().get("detail", ""), "the gateway to say so")
    service.logged(named)
    file.with_name("elsewhere").rename(file)


class Unprivileged(Service):
    """A gateway that permissions hold for, also when root runs the tests."""

    def command(self) -> list[str]:
        return [*UNPRIVILEGED, *super().command()]


def committer_of(gateway: int) -> int:
    """Return the process that writes to the database of a gateway."""
    children = [pid for task in Path(f"/proc/{gateway}/task").iterdir()
                for pid in (task / "children").read_text().split()]  # fmt: skip
    [found] = [int(pid) for pid in children if "committer" in Path(f"/proc/{pid}/cmdline").read_text()]
    return found


@pytest.mark.long
@pytest.mark.skipif(ROOT and shutil.which("setpriv") is None, reason="needs setpriv")
def test_permissions_that_are_taken_away_stop_publishing_until_they_are_back(tmp_path: Path) -> None:
    """Open files stay usable, so the first two cases need a new committer."""
    service = Unprivileged(tmp_path, workers=1)
    files = [tmp_path / name for name in ("busway.db", "busway.db-wal", "busway.db-shm")]
    stored = 0
    try:
        service.start()
        for paths, mode, reopens, says in (
            (files, 0o400, True, "may not write it"),
            (files[:1], 0o000, True, "may not write it"),
            ([tmp_path], 0o000, False, "Permission denied"),
        ):
            service.publish("t")
            before = [path.stat().st_mode for path in paths]
            for path in paths:
                path.chmod(mode)
            if reopens:
                os.kill(committer_of(service.pid), signal.SIGKILL)
            until(lambda says=says: says in service.get("/readyz").text, "the gateway to say why")
            refused = service.post("/v1/events", {"type": "t"})
            assert refused.status_code == 503
            assert "busway.db" in refused.json()["detail"]
            stored += 1
            assert len(service.ok("GET", "/v1/events")["items"]) == stored  # reading goes on
            for path, old in zip(paths, before, strict=True):
                path.chmod(old)
            until(lambda: service.get("/readyz").status_code == 200, "the gateway to write again")
        assert service.stop() == 0
        assert "Traceback" not in service.log.read_text()
    finally:
        tmp_path.chmod(0o755)
        service.close()


def test_a_copy_over_the_open_database_ends_with_what_was_copied(make_service: Serve) -> None:
    """`cp backup.db busway.db` beside a running gateway: name and inode stay."""
    service = make_service(workers=1).start()
    service.publish("first")
    copy = service.folder / "backup.db"
    done = busway("backup", str(copy), f"--database-url={service.database_url}", cwd=service.folder)
    assert done.returncode == 0, done.stderr
    service.publish("second")
    shutil.copyfile(copy, service.database)
    until(lambda: "is kept in" in service.get("/readyz").text, "the gateway to notice it")
    assert service.post("/v1/events", {"type": "refused"}).status_code == 503
    assert service.stop() == 0
    assert service.database.read_bytes() == copy.read_bytes()
    service.start()
    service.publish("third")
    assert [event["type"] for event in service.ok("GET", "/v1/events")["items"]] == ["third", "first"]
    assert service.stop() == 0
