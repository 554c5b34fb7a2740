"""Changes of schedules over HTTP, and firings by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from busway.contract.problems import BadField
from busway.contract.schedules import ScheduleChange, ScheduleIn
from busway.domain.firing import TimingError, check_cron, read_period
from busway.domain.handler import FieldError
from busway.domain.schedule import MAX_SCHEDULES, MAX_TEMPLATE, Schedule, template_faults
from busway.gateway.dispatch.firings import Firings
from busway.gateway.errors import Conflict, Invalid, NotFound
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.operations import DeleteSchedule, SaveSchedule
from busway.gateway.store.port.reader import Reader

_TIMING = ("cron", "every", "timezone")
_DEFAULTS: dict[str, Any] = {
    "cron": None,
    "every": None,
    "timezone": "UTC",
    "catch_up": "one",
    "paused": False,
    "description": "",
}


class Schedules:
    """Creates, changes and deletes schedules. The store has them; each change begins with what it has.

    Args:
        commits, reader: the store.
        clock: microseconds since 1970.
        firings: publish the events while this node leads.

    Attributes:
        firings: what it was made with.
    """

    def __init__(self, commits: Commits, reader: Reader, clock: Callable[[], int], firings: Firings) -> None:
        self._commits, self._reader, self._clock, self.firings = commits, reader, clock, firings

    def start(self) -> None:
        """Fire from now on: this node leads. First comes what was missed."""
        self.firings.start()

    def stop(self) -> None:
        """Fire no more."""
        self.firings.stop()

    def look(self) -> None:
        """Read the schedules again: another node may have changed them."""
        self.firings.look()

    async def create(self, new: ScheduleIn, event: str) -> Schedule:
        """Create a schedule. `event` is its event as received: payloads keep their text.

        Raises:
            Invalid: a field is wrong, or both or none of `cron` and `every` are set.
            Conflict: the name is taken, or there are too many schedules.
        """
        now = self._clock()
        fields = _given(new)
        name = fields.pop("name")
        whole = _with(_DEFAULTS, fields)
        schedule = Schedule(
            name=name,
            version=1,
            **_checked(whole, event, now),
            anchor=now,
            after=now,
            last_fired_at=None,
            created_at=now,
            updated_at=now,
        )
        if await self._reader.schedule(name) is None and await self._save(schedule):
            return schedule
        raise Conflict(f"there is a schedule {name!r} already: change it with PATCH, or delete it")

    async def change(self, name: str, change: ScheduleChange, event: str | None) -> Schedule:
        """Change fields of a schedule. Null restores the default. `event` as in `create`, None if not given.

        Raises:
            NotFound: there is no such schedule.
            Invalid: as from `create`, or the change renames it.
        """
        fields = _given(change)
        if fields.pop("name", name) != name:
            raise Invalid.of(
                [_bad("name", "a name cannot be changed: make a new schedule and delete this one")]
            )
        return await self._changed(name, lambda _: fields, event)

    async def set_paused(self, name: str, *, paused: bool) -> Schedule:
        """Pause or resume a schedule. Firings that a pause left out are not caught up.

        Raises:
            NotFound: there is no such schedule.
            Conflict: it is already in that state.
        """

        def changes(known: Schedule) -> dict[str, Any]:
            if known.paused is paused:
                raise Conflict(f"the schedule {name!r} is {'paused already' if paused else 'not paused'}")
            return {"paused": paused}

        return await self._changed(name, changes)

    async def delete(self, name: str) -> None:
        """Delete a schedule. Events that it published stay.

        Raises:
            NotFound: there is no such schedule.
        """
        await self.live(name)
        if not await self._commits.change(DeleteSchedule(name=name)):
            raise _missing(name)
        self.firings.look()

    async def run(self, name: str) -> Schedule:
        """Fire a schedule now, also a paused one. Its other firings stay.

        Raises:
            NotFound: there is no such schedule.
            Invalid: its event is not valid for this version of Busway.
            Unavailable: the event cannot be stored now.
        """
        while True:
            known = await self.live(name)
            try:
                fired = await self.firings.run(known)
            except FieldError as problem:
                raise Invalid(f"the schedule {name!r} has an event that is not valid: {problem}") from None
            if fired:
                return await self.live(name)

    async def live(self, name: str) -> Schedule:
        """Return a schedule.

        Raises:
            NotFound: there is no such schedule.
        """
        known = await self._reader.schedule(name)
        if known is None:
            raise _missing(name)
        return known

    async def _changed(
        self, name: str, changes: Callable[[Schedule], dict[str, Any]], event: str | None = None
    ) -> Schedule:
        """Save changes. Begin again if another request changed the schedule meanwhile."""
        while True:
            known, now = await self.live(name), self._clock()
            fields = msgspec.structs.asdict(known)
            before = {
                **{field: fields[field] for field in _DEFAULTS},
                "event": msgspec.json.decode(known.event),
            }
            given = changes(known)
            whole = _with(before, given)
            new = msgspec.structs.replace(
                known, **_checked(whole, event or known.event, now), version=known.version + 1, updated_at=now
            )
            if any(whole[field] != before[field] for field in _TIMING) or (known.paused and not new.paused):
                new = msgspec.structs.replace(new, after=now)
            if whole["every"] != before["every"]:
                new = msgspec.structs.replace(new, anchor=now)
            if await self._save(new):
                return await self.live(name)

    async def _save(self, schedule: Schedule) -> bool:
        refused = await self._commits.change(SaveSchedule(schedule=schedule, most=MAX_SCHEDULES))
        if refused == "full":
            raise Conflict(f"there are {MAX_SCHEDULES} schedules, which is the limit: delete one")
        self.firings.look()
        return refused is None


def _with(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return changed fields. None restores the default."""
    return {**fields, **{k: _DEFAULTS.get(k) if v is None else v for k, v in changes.items()}}


def _given(change: ScheduleChange) -> dict[str, Any]:
    """Return the fields that are set."""
    fields = {name: getattr(change, name) for name in change.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


def _checked(fields: dict[str, Any], event: str, now: int) -> dict[str, Any]:
    """Return the fields as they are stored, with the event as JSON text.

    Raises:
        Invalid: one of them is wrong.
    """
    cron, every = fields["cron"], fields["every"]
    bad: list[BadField] = []
    if (cron is None) is (every is None):
        both = "set either cron or every, not both" if every else "set cron or every: when does it fire?"
        bad.append(_bad("cron", both))
    try:
        if every is not None:
            read_period(every)
        check_cron("* * * * *" if cron is None else cron, fields["timezone"], now)
    except TimingError as problem:
        bad.append(_bad(problem.field, str(problem)))
    bad += [
        BadField(["body", "event", *([fault.field] if fault.field else [])], str(fault))
        for fault in template_faults(fields["event"], now)
    ]
    size = len(event.encode())
    if size > MAX_TEMPLATE:
        bad.append(_bad("event", f"the event has {size} bytes: the limit is {MAX_TEMPLATE}"))
    if bad:
        raise Invalid.of(bad)
    return {**fields, "event": event}


def _bad(field: str, message: str) -> BadField:
    return BadField(["body", field], message)


def _missing(name: str) -> NotFound:
    return NotFound(f"there is no schedule {name!r}: GET /v1/schedules lists them")
