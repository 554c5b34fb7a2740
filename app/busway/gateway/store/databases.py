"""Which database a URL names."""

from __future__ import annotations

from pathlib import Path

from busway.gateway.store.port.database import Database, is_postgres, sqlite_path
from busway.gateway.store.sqlite.facade import SQLiteDatabase


def choose(url: str) -> Database:
    """Return the database of a URL. Nothing is opened."""
    if is_postgres(url):
        from busway.gateway.store.postgres.facade import PostgresDatabase  # noqa: PLC0415 - loaded if used

        return PostgresDatabase(url)
    return SQLiteDatabase(Path(sqlite_path(url)))
