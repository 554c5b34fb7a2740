from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .service import Service

Serve = Callable[..., Service]


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
