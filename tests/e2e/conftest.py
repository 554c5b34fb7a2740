from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import chosen
from tests.servers.postgres import PostgresServer, running

from .load import HANDLERS
from .service import Service


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ran on SQLite already and is the same on another database, or needs a single node."""
    marks = [*(["one_database"] * (chosen.KIND != "sqlite")), *(["one_node"] * (chosen.NODES > 1))]
    if marks:
        left_out = [item for item in items if any(map(item.get_closest_marker, marks))]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


Serve = Callable[..., Service]
Shared = Callable[..., Service]


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Give the gateway with these handlers and options that the tests of a module share.

    It starts when it is first asked for. Each test looks at its own events only, leaves handlers as they
    were, and does not end it.
    """
    made: dict[str, Service] = {}

    def share(code: str, **options: Any) -> Service:
        name = "-".join(f"{name}={value}" for name, value in options.items()) or "usual"
        if name not in made:
            made[name] = Service(tmp_path_factory.mktemp(name), **options)
            made[name].write("all.py", code.replace("FOLDER", repr(str(made[name].folder))))
            made[name].start()
        return made[name]

    yield share
    for service in made.values():
        service.close()


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Serve]:
    """Make a service that is not started yet; it is gone at the end of the test."""
    made: list[Service] = []

    def make(**options: Any) -> Service:
        made.append(Service(tmp_path, **options))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture(scope="module")
def cell_server() -> Iterator[PostgresServer]:
    with running(max_connections="60") as made:
        yield made


@pytest.fixture
def nodes(tmp_path: Path, cell_server: PostgresServer) -> Iterator[list[Service]]:
    """Three nodes that are not started yet, each with its own folder and the same handlers."""
    cell_server.create("cell")
    made = []
    for number in range(3):
        folder = tmp_path / f"node{number}"
        folder.mkdir()
        service = Service(folder)
        service.database_url = cell_server.url("cell")
        service.write("load.py", HANDLERS)
        made.append(service)
    yield made
    for service in made:
        service.close()
    cell_server.drop("cell")
