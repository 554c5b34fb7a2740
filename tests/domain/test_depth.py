"""What the error of a loop says."""

from __future__ import annotations

import pytest
from busway.gateway.attempts.depth import describe


@pytest.mark.parametrize(
    ("types", "shown"),
    [
        (["a"], "a"),
        (["a", "b"], "a → b"),
        (["a", "a"], "a → a"),
        (["x", "a", "b", "a", "b"], "b → a → b"),
        (["x", "a", "b", "c", "a", "b", "c", "a"], "a → b → c → a"),
        ([*"abcdefghij"], "… → c → d → e → f → g → h → i → j"),
    ],
)
def test_a_chain_is_shown_by_what_repeats_itself(types: list[str], shown: str) -> None:
    assert describe(types) == shown
