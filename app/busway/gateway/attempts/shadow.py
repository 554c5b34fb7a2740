"""What an attempt of a shadow replay published: it is kept with the attempt, and never stored as events."""

from __future__ import annotations

import msgspec

from busway.domain.event import NewEvent, document, to_event

MOST_BYTES = 65_536


def discarded(events: list[NewEvent]) -> str | None:
    """Return the first `MOST_BYTES` of events as a JSON array of CloudEvents. None if there are none."""
    texts: list[bytes] = []
    size = 0
    for event in events:
        shown = document(to_event(event, 0))
        del shown["seq"]
        text = msgspec.json.encode(shown)
        size += len(text) + 1
        if size > MOST_BYTES:
            break
        texts.append(text)
    return f"[{b','.join(texts).decode()}]" if events else None
