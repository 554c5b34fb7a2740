"""How the results of a replay differ from those on record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any

MOST_EVENTS = 20  # whose differences are printed
MOST_LINES = 8  # of one event
MOST_TEXT = 60  # characters of a value

SAME, DIFFERS, FAILS, SUCCEEDS = "same", "differs", "newly fails", "newly succeeds"
NEW, DELETED = "no result on record", "result deleted"
VERDICTS = (SAME, DIFFERS, FAILS, SUCCEEDS, NEW, DELETED)
_ABSENT = object()


def verdict(pair: dict[str, Any]) -> str:
    """Return which one of `VERDICTS` an item of `/v1/replays/{id}/results` has."""
    before = pair["recorded_run"]
    if before is None:
        return NEW
    now_good, was_good = (run["state"] == "succeeded" for run in (pair["run"], before))
    if now_good != was_good:
        return SUCCEEDS if now_good else FAILS
    if pair["result"] is None or pair["recorded_result"] is None:
        return DELETED
    return DIFFERS if any(differences(pair)) else SAME


def differences(pair: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each difference between a result and the one on record."""
    before, now = pair["recorded_result"] or {}, pair["result"] or {}
    for name in ("data", "data_base64", "error"):
        yield from _differences(name, before.get(name), now.get(name))


def _differences(path: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            yield from _differences(f"{path}.{name}", before.get(name, _ABSENT), now.get(name, _ABSENT))
    elif isinstance(before, list) and isinstance(now, list):
        for place, (old, new) in enumerate(zip_longest(before, now, fillvalue=_ABSENT)):
            yield from _differences(f"{path}.{place}", old, new)
    elif isinstance(before, bool) != isinstance(now, bool) or before != now:
        yield f"{path}: {_shown(before)} -> {_shown(now)}"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


class Comparison:
    """Counts verdicts, and keeps the first events that differ.

    Attributes:
        counts: events by verdict.
        shown: (event, verdict, lines) of the first `MOST_EVENTS` events that are neither same nor unknown.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.shown: list[tuple[int, str, list[str]]] = []
        self.left_out = 0

    def add(self, pair: dict[str, Any]) -> str:
        """Count one item. Return its verdict."""
        found = verdict(pair)
        self.counts[found] += 1
        if found in {DIFFERS, FAILS, SUCCEEDS}:
            if len(self.shown) < MOST_EVENTS:
                self.shown.append((pair["event"], found, lines(pair)))
            else:
                self.left_out += 1
        return found

    def summary(self) -> str:
        """Return the counts, such as `2 same, 1 newly fails`."""
        return ", ".join(f"{self.counts[each]} {each}" for each in VERDICTS if self.counts[each]) or "nothing"


def lines(pair: dict[str, Any]) -> list[str]:
    """Return the first differences of one item."""
    found = list(islice(differences(pair), MOST_LINES + 1))
    return [*found[:MOST_LINES], "…"] if len(found) > MOST_LINES else found
