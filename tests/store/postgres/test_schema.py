"""The tables that the code names are those that the migrations make."""

import psycopg
import pytest
import sqlalchemy as sa
from busway.gateway.errors import BadSettings
from busway.gateway.store.core.moving import NOT_MOVED, TABLES
from busway.gateway.store.core.schema import metadata
from busway.gateway.store.postgres import connections
from busway.gateway.store.postgres.facade import PostgresDatabase
from busway.gateway.store.postgres.schema import REVISION, own
from sqlalchemy.dialects.postgresql import JSONB

from tests.store.databases import Postgres


@pytest.fixture
def database(tmp_path):
    made = Postgres(tmp_path, tmp_path)
    yield made
    made.close()


@pytest.fixture
def columns(database):
    query = """
        SELECT table_name, column_name, data_type, is_nullable, collation_name FROM information_schema.columns
        WHERE table_schema = 'busway' AND table_name <> 'alembic_version'
    """
    with psycopg.connect(database.url) as connection:
        yield {(table, name): rest for table, name, *rest in connection.execute(query)}


def kind(column):
    known = getattr(column.type, "impl_instance", column.type)
    for type_, name in (
        (sa.BigInteger, "bigint"),
        (sa.Double, "double precision"),
        (sa.LargeBinary, "bytea"),
        (JSONB, "jsonb"),
    ):
        if isinstance(known, type_):
            return name
    return "ARRAY" if isinstance(known, sa.ARRAY) else "text"


def test_a_new_database_has_the_tables_of_the_code(columns):
    named = {
        (str(table.name), str(column.name)): [kind(column), "YES" if column.nullable else "NO"]
        for tables in (metadata, own)
        for table in tables.sorted_tables
        for column in table.columns
    }
    assert {where: [type_, null] for where, (type_, null, _) in columns.items()} == named


def test_each_table_is_moved_to_another_database_or_named(database):
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'busway'"
    with psycopg.connect(database.url) as connection:
        tables = {name for (name,) in connection.execute(query)}
    assert tables - NOT_MOVED.keys() == {table.name for table in TABLES}


def become(database, revision, oldest):
    with psycopg.connect(database.url, options="-c search_path=busway") as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (revision,))
        connection.execute("UPDATE cell SET oldest = %s", (oldest,))


def test_a_newer_schema_names_the_oldest_that_may_use_it(database):
    facade = PostgresDatabase(database.url)
    become(database, "9999", REVISION)
    facade.migrate()
    facade.migrate(upgrade=True)
    assert facade.exists()
    become(database, "9999", "9999")
    for upgrade in (False, True):
        with pytest.raises(BadSettings, match="a newer Busway"):
            facade.migrate(upgrade=upgrade)


@pytest.mark.long
def test_an_older_schema_is_upgraded_when_asked_and_not_under_nodes_that_need_it(database):
    facade = PostgresDatabase(database.url)
    become(database, "0000", "0000")
    with pytest.raises(BadSettings, match="run `busway migrate` first"):
        facade.migrate()
    with connections.engine(database.url, "test", poolclass=sa.NullPool).connect() as node:
        connections.lock(node)
        with pytest.raises(BadSettings, match="a gateway uses this database: stop it"):
            facade.migrate(upgrade=True)


def test_text_is_compared_byte_by_byte(columns):
    compared = {where: collation for where, (type_, _, collation) in columns.items() if type_ == "text"}
    by_others = {where for where, collation in compared.items() if collation != "C"}
    assert by_others <= {("cell", "epoch")}  # it is compared with nothing
