import pytest

from tests.store.kit import Store


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "busway.db")
    yield made
    made.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "busway.db"
