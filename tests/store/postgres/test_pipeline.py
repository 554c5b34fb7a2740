"""Statements that go to the server in one write."""

import psycopg
import pytest
from busway.gateway.store.postgres import connections
from busway.gateway.store.postgres.pipeline import Pipeline

from tests.store.databases import Postgres


@pytest.fixture
def pipeline(tmp_path, shared_folder):
    database = Postgres(tmp_path, shared_folder)
    with connections.connect(database.url, "test") as connection:
        connection.execute("CREATE TEMPORARY TABLE numbers (n bigint PRIMARY KEY, t text)")
        yield Pipeline(connection)
    database.close()


INSERT = "INSERT INTO numbers SELECT * FROM unnest(%b::bigint[], %b::text[])"
COUNT = "SELECT count(*), sum(n) FROM numbers WHERE n < %b"


def test_statements_return_their_rows_also_when_they_are_prepared(pipeline):
    for turn in range(8):
        texts = [None] * 3 if turn % 2 else ["a", None, "\u00e4"]
        rows = pipeline.run(
            [
                ("BEGIN", ()),
                (INSERT, ([3 * turn, 3 * turn + 1, 3 * turn + 2], texts)),
                ("SELECT 7", ()),
                (COUNT, (1 << 40,)),
                ("SELECT t FROM numbers WHERE n = %b", (3 * turn + 2,)),
            ],
            2,
        )
        assert rows == [[(3 * turn + 3, sum(range(3 * turn + 3)))], [(texts[2],)]]
        assert pipeline.run([("COMMIT", ())], 0) == []


def test_the_first_error_is_raised_and_the_connection_can_be_used(pipeline):
    for _ in range(5):
        with pytest.raises(psycopg.errors.UniqueViolation, match="numbers_pkey"):
            pipeline.run([("BEGIN", ()), (INSERT, ([1, 1], ["x", "y"])), ("nonsense", ())], 0)
        with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
            pipeline.run([("SELECT %b", (object(),))], 1)
        assert pipeline.run([("ROLLBACK", ()), (COUNT, (9,))], 1) == [[(0, None)]]


def test_much_goes_both_ways_at_once(pipeline):
    text = "x" * 1_000_000
    rows = pipeline.run([("SELECT %b::text", (text,)) for _ in range(30)], 30)
    assert rows == [[(text,)]] * 30


def test_the_server_says_why_it_ends_a_connection(pipeline):
    end = "SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(psycopg.OperationalError, match=r"terminating connection|closed the connection"):
        pipeline.run([("BEGIN", ()), (end, ()), ("COMMIT", ())], 0)
    with pytest.raises(psycopg.OperationalError):
        pipeline.run([("SELECT 1", ())], 1)


def test_a_server_that_does_not_answer_is_given_up(pipeline):
    pipeline._connection.patience = 0.5
    with pytest.raises(psycopg.OperationalError, match="no answer"):
        pipeline.run([("SELECT pg_sleep(3600)", ())], 1)
    assert pipeline._connection.silent
    assert pipeline._connection.closed
