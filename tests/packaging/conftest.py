from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .environments import Environment, Installed, copy_sources, required, run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the files that the image is made of."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = copy_sources(folder / "sources")
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
        *("--wheel-dir", folder, sources),
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def server(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment as `pip install 'busway[server]'` leaves it."""
    made = Environment(tmp_path_factory.mktemp("server") / "env")
    made.link(*required("server"))
    made.install(wheel)
    return made


@pytest.fixture(scope="session")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment as `pip install busway` leaves it."""
    made = Environment(tmp_path_factory.mktemp("bare") / "env")
    made.link(*required())
    made.install(wheel)
    return made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that has nothing to do with this project."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


@pytest.fixture
def gateway(server: Environment, tmp_path: Path, elsewhere: Path) -> Iterator[Installed]:
    """The installed gateway; not started yet."""
    made = Installed(server, tmp_path, elsewhere)
    made.write(
        "greet.py",
        "from busway import handler\n\n\n@handler('t')\ndef greet(event):\n    return [event.data]\n",
    )
    yield made
    made.close()
