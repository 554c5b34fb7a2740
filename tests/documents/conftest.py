from __future__ import annotations

import pytest

from .node import Node


@pytest.fixture(scope="session")
def node() -> Node:
    return Node()
