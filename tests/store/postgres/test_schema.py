"""The tables that the code names are those that the migrations make."""

import psycopg
import pytest
import sqlalchemy as sa
from busway.gateway.store.core.schema import metadata
from busway.gateway.store.postgres.schema import own

from tests.store.databases import Postgres


@pytest.fixture
def columns(tmp_path):
    database = Postgres(tmp_path, tmp_path)
    query = """
        SELECT table_name, column_name, data_type, is_nullable, collation_name FROM information_schema.columns
        WHERE table_schema = 'busway' AND table_name <> 'alembic_version'
    """
    with psycopg.connect(database.url) as connection:
        yield {(table, name): rest for table, name, *rest in connection.execute(query)}
    database.close()


def kind(column):
    known = getattr(column.type, "impl_instance", column.type)
    for type_, name in (
        (sa.BigInteger, "bigint"),
        (sa.Double, "double precision"),
        (sa.LargeBinary, "bytea"),
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


def test_text_is_compared_byte_by_byte(columns):
    compared = {where: collation for where, (type_, _, collation) in columns.items() if type_ == "text"}
    by_others = {where for where, collation in compared.items() if collation != "C"}
    assert by_others <= {("cell", "epoch")}  # it is compared with nothing
