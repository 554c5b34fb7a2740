"""One gateway a pool for most of the suite; each case has bystanders, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .code import CODE
from .house import Bystanders, House


def shared(folder: Path, pool: str) -> Iterator[House]:
    """A gateway that all cases share: if one of them broke it, the next would tell."""
    with House.opened(folder, pool) as house:
        house.write("faulty.py", CODE)
        house.start()
        house.settle_in()
        yield house


@pytest.fixture(scope="session")
def process_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from shared(tmp_path_factory.mktemp("process"), "process")


@pytest.fixture(scope="session")
def thread_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from shared(tmp_path_factory.mktemp("thread"), "thread")


@pytest.fixture(params=["process", "thread"])
def gateway(request: pytest.FixtureRequest) -> House:
    house: House = request.getfixturevalue(f"{request.param}_gateway")
    return house


@pytest.fixture
def house(gateway: House) -> Iterator[House]:
    """The shared gateway, with bystanders in both pools; what a case took must come back."""
    before = gateway.census()
    bystanders = Bystanders(gateway)
    yield gateway
    bystanders.finish()
    gateway.comes_back_to(before)


@pytest.fixture
def own_house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """A gateway for a case that ends it; not started yet. The parameter is its pool."""
    with House.opened(tmp_path, getattr(request, "param", "process")) as house:
        house.write("faulty.py", CODE)
        yield house
