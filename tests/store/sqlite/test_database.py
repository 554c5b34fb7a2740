"""One gateway per file, the schema, and commands that write while a gateway runs."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from busway.gateway.errors import BadSettings
from busway.gateway.store.core.schema import metadata
from busway.gateway.store.port.operations import CreateKey
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.lock import lock
from busway.gateway.store.sqlite.schema import own

from tests.store.databases import SQLiteFile
from tests.store.kit import NOW, committing


def key(name="k", digest=b"d"):
    return CreateKey(name=name, digest=digest, scopes=["admin"], now=NOW)


def test_a_second_gateway_is_refused_until_the_first_releases_the_lock(path):
    first = lock(path)
    with pytest.raises(BadSettings, match=f"process {os.getpid()}"):
        lock(path)
    first.release()
    lock(path).release()


def bind(path, folder):
    """Mount the database's folder in another place."""
    other = folder / "mounted"
    other.mkdir()
    done = subprocess.run(["mount", "--bind", path.parent, other], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root may mount")
    return other / path.name


@pytest.fixture(params=["symlink", "hard link", "bind mount", "relative"])
def other_name(request, path, tmp_path, monkeypatch):
    """Another name of the database."""
    path.touch()
    other = tmp_path / "other.db"
    if request.param == "symlink":
        other.symlink_to(path)
    elif request.param == "hard link":
        other.hardlink_to(path)
    elif request.param == "bind mount":
        other = bind(path, tmp_path)
    else:
        monkeypatch.chdir(tmp_path)
        other = Path("..") / tmp_path.name / path.name
    yield other
    if request.param == "bind mount":
        subprocess.run(["umount", other.parent], check=True)


@pytest.mark.parametrize("forget", [False, True], ids=["", "lock file deleted"])
def test_the_lock_belongs_to_the_file_not_to_its_name(path, other_name, forget):
    first = lock(path)
    sqlite.migrate(path)  # closing SQLite's connections does not end the lock
    if forget:
        path.with_name(path.name + ".lock").unlink()
    for name in (path, other_name):
        if forget or name is other_name:
            with pytest.raises(BadSettings, match="another gateway"):
                lock(name)
    first.release()
    lock(other_name).release()


def test_a_new_file_does_not_get_the_log_of_a_gateway_that_runs(path):
    first = lock(path)
    path.rename(path.with_suffix(".moved"))
    with pytest.raises(BadSettings, match=f"process {os.getpid()}"):
        lock(path)
    assert not path.exists()
    first.release()


def test_the_lock_does_not_get_in_the_way_of_sqlite(path):
    held = lock(path)
    sqlite.migrate(path)
    assert sqlite.apply(path, key()) == 1
    held.release()


def test_what_cannot_be_locked_is_named(path):
    path.mkdir()
    with pytest.raises(BadSettings, match=r"busway\.db.*: it is a folder"):
        lock(path)
    shutil.rmtree(path)
    path.symlink_to(path)
    with pytest.raises(BadSettings, match="symbolic links"):
        lock(path)


def test_a_killed_gateway_holds_no_lock(path):
    code = (
        "from pathlib import Path\n"
        "from busway.gateway.store.sqlite.lock import lock\n"
        f"held = lock(Path({str(path)!r}))\n"
        "print(1, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline()
        with pytest.raises(BadSettings, match=f"process {other.pid}"):
            lock(path)
        other.kill()
    lock(path).release()


def test_a_new_database_gets_the_schema_of_the_tables(path, tmp_path):
    sqlite.migrate(path)
    plain = sa.create_engine(f"sqlite:///{tmp_path / 'plain.db'}")
    metadata.create_all(plain)
    own.create_all(plain)
    with sqlite3.connect(path) as migrated, sqlite3.connect(tmp_path / "plain.db") as created:
        assert schema(migrated) == schema(created)
    migrated.close()
    created.close()
    plain.dispose()


def schema(connection):
    query = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%' AND sql IS NOT NULL"
    return {name: "".join(sql.split()) for name, sql in connection.execute(query)}


def test_migrating_again_changes_nothing(path):
    sqlite.migrate(path)
    before = path.read_bytes()
    sqlite.migrate(path)
    assert path.read_bytes() == before


def test_an_empty_file_is_a_new_database(path):
    path.touch()
    sqlite.migrate(path)
    assert sqlite.read_keys(path) == []


def test_the_newest_migration_is_the_expected_one():
    config = Config()
    config.set_main_option("script_location", str(resources.files("busway.migrations.sqlite")))
    assert ScriptDirectory.from_config(config).get_current_head() == sqlite.REVISION


def test_a_newer_database_is_refused(path):
    sqlite.migrate(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(BadSettings, match="newer Busway"):
        sqlite.migrate(path)


def test_a_database_of_another_program_is_refused_and_not_changed(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE events (id)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(BadSettings, match="another program"):
        sqlite.migrate(path)
    assert path.read_bytes() == before


def test_a_file_that_is_not_a_database_is_refused_and_not_changed(path):
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(BadSettings, match="not a database"):
        sqlite.migrate(path)
    assert path.read_text().startswith("Dear diary")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BadSettings, match="nowhere"):
        sqlite.migrate(tmp_path / "nowhere" / "busway.db")


def test_two_databases_are_two_logs(path, tmp_path):
    async def epoch(at):
        sqlite.migrate(at)
        async with committing(SQLiteFile(at)) as commits:
            return commits.epoch

    epochs = [asyncio.run(epoch(at)) for at in (path, tmp_path / "other.db", path)]
    assert epochs[0] == epochs[2] != epochs[1]


def test_a_file_with_keys_is_made_by_the_first_command(path):
    assert sqlite.read_keys(path) == []
    number = sqlite.apply(path, key())
    [made] = sqlite.read_keys(path)
    assert (made.id, made.name, made.digest, made.scopes, made.revoked_at) == (
        number,
        "k",
        b"d",
        ["admin"],
        None,
    )
