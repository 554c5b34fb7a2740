import pytest

from tests.marks import few
from tests.store.databases import DATABASES
from tests.store.kit import Store


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(params=few(DATABASES, "sqlite"))
def database(request, tmp_path, shared_folder):
    """A new database, of each kind in turn. `ON_ALL` in a module lets `make test` run it on all of them."""
    made = DATABASES[request.param](tmp_path, shared_folder)
    yield made
    made.close()


@pytest.fixture
def store(database):
    """A database of each kind in turn, with handlers 1 and 2 and a connection that writes."""
    made = Store(database)
    yield made
    made.close()


@pytest.fixture
def path(tmp_path):
    """Where SQLite's file of a test is, or will be."""
    return tmp_path / "busway.db"
