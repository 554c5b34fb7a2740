from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .environments import GREET, Environment, Installed, copy_sources, required, run

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Give the folder of a name. The first of all processes that run tests makes it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def give(name: str, make: Callable[[Path], object]) -> Path:
        with (root / f"{name}.made").open("a+") as made:
            fcntl.flock(made, fcntl.LOCK_EX)
            if not os.fstat(made.fileno()).st_size:
                make(root / name)
                made.write("yes")
        return root / name

    return give


@pytest.fixture(scope="session")
def wheel(once: Once) -> Path:
    """The wheel, built from the files that the image is made of."""

    def build(folder: Path) -> None:
        folder.mkdir()
        sources = copy_sources(folder / "sources")
        pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index")
        run(*pip, "--no-build-isolation", "--wheel-dir", folder, sources)

    (built,) = once("wheel", build).glob("*.whl")
    return built


def installed(once: Once, wheel: Path, extra: str) -> Environment:
    def make(folder: Path) -> None:
        made = Environment(folder)
        made.link(*required(extra))
        made.install(wheel)

    return Environment(once(f"environment-{extra}", make))


@pytest.fixture(scope="session")
def server(once: Once, wheel: Path) -> Environment:
    """An environment as `pip install 'busway[server]'` leaves it."""
    return installed(once, wheel, "server")


@pytest.fixture(scope="session")
def bare(once: Once, wheel: Path) -> Environment:
    """An environment as `pip install busway` leaves it."""
    return installed(once, wheel, "")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that has nothing to do with this project."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


@pytest.fixture
def gateway(server: Environment, tmp_path: Path, elsewhere: Path) -> Iterator[Installed]:
    """The installed gateway; not started yet."""
    made = Installed(server, tmp_path, elsewhere)
    made.write("greet.py", GREET)
    yield made
    made.close()
