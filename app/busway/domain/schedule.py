"""Schedules: what publishes an event again and again, by the clock."""

from __future__ import annotations

from typing import Any

import msgspec

from busway.domain import times
from busway.domain.event import NewEvent
from busway.domain.event_fields import accept
from busway.domain.firing import Timing, timing
from busway.domain.handler import FieldError
from busway.domain.times import SECOND

MAX_SCHEDULES = 1_000
MAX_TEMPLATE = 65_536  # bytes of an event as JSON
MOST_MISSED = 1_000  # firings that `all` catches up
LATE = 30 * SECOND  # a firing that is later than this is missed
CATCH_UP = ("one", "none", "all")
_SET_BY_US = {
    "id": "the schedule's name and the time of the firing",
    "source": "/schedules/NAME",
    "time": "the time of the firing",
}
_ABSOLUTE = ("deliverat", "expirytime")
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Due(msgspec.Struct, frozen=True):
    """The firings that happen now. After `until` others follow. `missed`: earlier ones are left out."""

    firings: list[int]
    until: int
    missed: bool = False


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as stored. Times are microseconds since 1970.

    Attributes:
        version: counted from 1; raised by each change, not by firings.
        every: such as `30s`. Either it or `cron` is set.
        event: the members of the event as JSON text, without id, source and time.
        anchor: from which `every` counts: when it was set.
        after: firings up to this time have happened, or do not count.
        last_fired_at: the time of the newest firing.
    """

    name: str
    version: int
    cron: str | None
    every: str | None
    timezone: str
    event: str
    catch_up: str
    paused: bool
    description: str
    anchor: int
    after: int
    last_fired_at: int | None
    created_at: int
    updated_at: int

    @property
    def timing(self) -> Timing:
        """When it fires."""
        return timing(self.cron, self.every, self.timezone, self.anchor)

    def due(self, now: int) -> Due | None:
        """Return the firings that happen now. None: none is due."""
        most = MOST_MISSED if self.catch_up == "all" else 1
        found = self.timing.newest(self.after, now, most)
        if not found:
            return None
        if self.catch_up == "none" and now - found[-1] > LATE:
            return Due([], found[-1], missed=True)
        return Due(found, found[-1], missed=self.timing.next(self.after) != found[0])

    def published(self, firing: int, now: int) -> NewEvent:
        """Return the event of a firing.

        Raises:
            FieldError: the event is not valid.
        """
        fields: dict[str, Any] = _decode(self.event)
        data = bytes(_raw_members(self.event)["data"]) if "data" in fields else None
        when = times.to_text(firing).replace(".000000", "")
        whole = {**fields, "id": f"{self.name}@{when}", "time": when}
        return accept(whole, data, now, f"/schedules/{self.name}")


def template_faults(fields: dict[str, Any], now: int) -> list[FieldError]:
    """Return what is wrong with the event of a schedule."""
    found = [
        FieldError(name, f"the schedule sets {name}, to {what}: remove it")
        for name, what in _SET_BY_US.items()
        if name in fields
    ]
    found += [
        FieldError(name, f"{name} is one time, and the schedule fires again and again: remove it")
        for name in _ABSOLUTE
        if name in fields
    ]
    if found:
        return found
    try:
        accept(fields, None, now)
    except FieldError as problem:
        return [problem]
    return []
