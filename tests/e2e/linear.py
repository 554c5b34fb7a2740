"""The check that what a client received is exactly the log: no gap, no repeat, no reorder."""

from __future__ import annotations

from collections.abc import Sequence


def exactly(log: Sequence[str], received: Sequence[str], who: str) -> None:
    """Compare cursors; say where and how they part."""
    places = {cursor: place for place, cursor in enumerate(log)}
    assert len(places) == len(log), "the log itself has a result twice"
    for place, (wanted, got) in enumerate(zip(log, received, strict=False)):
        if wanted == got:
            continue
        found = places.get(got)
        if found is None:
            fault = "something that is not in the log"
        elif found < place:
            fault = f"a repeat or reorder: {got}, which stands {place - found} before"
        else:
            fault = f"a gap or reorder: {got}, {found - place} too early"
        raise AssertionError(
            f"{who} received as number {place} of {len(log)}, where {wanted} stands, {fault}"
        )
    assert len(received) == len(log), f"{who} received {len(received)} of {len(log)}"
