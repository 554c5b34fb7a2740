"""Which of many similar cases `make test` runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Return parameters for all cases, each but the quick ones with the mark `long`.

    A case with several values is a tuple.
    """
    return [case if case in quick else pytest.param(*_values(case), marks=pytest.mark.long) for case in cases]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
