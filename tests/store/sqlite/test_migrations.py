"""Databases of earlier versions get the newest schema, with values for what is new."""

import sqlite3
from importlib import resources

from alembic import command
from alembic.config import Config
from busway.gateway.store.sqlite import database as sqlite


def earlier(path, revision):
    """Make a database with the schema of an earlier version."""
    config = Config()
    config.set_main_option("script_location", str(resources.files("busway.migrations.sqlite")))
    made = sqlite.engine(path, "journal_mode=WAL")
    with made.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.exec_driver_sql("COMMIT")
    made.dispose()


def test_a_database_of_the_previous_version_gets_the_table(path):
    earlier(path, "0002")
    sqlite.migrate(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM durables").fetchone() == (0,)
    connection.close()


def test_attempts_of_the_previous_version_have_no_node(path):
    earlier(path, "0006")
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO attempts (run, attempt, outcome, revision, started_at, finished_at, pool)"
            " VALUES (1, 1, 0, 1, 1, 1, 'process')"
        )
    connection.close()
    sqlite.migrate(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT node FROM attempts").fetchall() == [(None,)]
        assert connection.execute("SELECT count(*) FROM node_names").fetchone() == (0,)
    connection.close()


def test_waiting_runs_of_the_first_schema_get_keys(path):
    earlier(path, "0001")
    with sqlite3.connect(path) as connection:
        for seq, attributes in enumerate(('{"partitionkey":"a"}', '{"priority":5}', None), 1):
            connection.execute(
                "INSERT INTO events (seq, id, source, type, time, accepted_at, binary, attributes)"
                " VALUES (?, ?, '/', 't', 1, 1, 0, ?)",
                (seq, str(seq), attributes),
            )
            connection.execute(
                "INSERT INTO runs (id, event, handler, root, priority, created_at, counted)"
                " VALUES (?, ?, 1, 1, 4, 1, 0)",
                (seq, seq),
            )
    connection.close()
    sqlite.migrate(path)
    with sqlite3.connect(path) as connection:
        keys = connection.execute("SELECT partitionkey FROM runs ORDER BY id").fetchall()
    connection.close()
    assert keys == [("a",), (None,), (None,)]
