import pytest

from tests.store.databases import SQLite


@pytest.fixture
def database(tmp_path, shared_folder):
    """A new SQLite database."""
    return SQLite(tmp_path, shared_folder)
