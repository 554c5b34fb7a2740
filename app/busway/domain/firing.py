"""The times at which schedules fire. Pure functions: the clock is a parameter, times are whole numbers.

*cron.* A line fires on the wall clock of its zone. If neither its minute nor its hour begins with `*`, it
fires once for each matching time of day: when the wall clock first reaches or passes it. So a time that is
skipped when clocks go forward fires at the end of the gap, and a time that comes twice fires the first time
only. Other lines, such as `*/15 * * * *`, fire at each minute whose wall clock matches: not in the hour that
is missing, and twice in the hour that comes twice.

*every.* The n-th firing is n periods after the anchor, in elapsed time. Wall clocks do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from busway.domain.times import SECOND

MAX_CRON = 255  # characters
SHOWN = 5  # firings in `Timing.upcoming`
_FIELDS = 5
_PERIOD = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST = 366 * 86_400 * SECOND
_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_YEAR = 9900  # later times cannot be searched
_WINDOWS = tuple(seconds * SECOND for seconds in (60, 3600, 86_400, 32 * 86_400, 366 * 86_400, 3660 * 86_400))


class TimingError(ValueError):
    """A cron line, a period or a time zone is wrong. `field` names which."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Timing(msgspec.Struct, frozen=True):
    """When a schedule fires: either a `cron` line in a time zone, or `every` so many microseconds.

    `anchor`: microseconds since 1970, from which `every` counts.
    """

    cron: str | None
    every: int | None
    timezone: str
    anchor: int

    @property
    def problem(self) -> str | None:
        """Why it never fires, such as a time zone that is not known any more. None if it fires."""
        return _problem(self.cron or "", self.timezone) if self.every is None else None

    def after(self, moment: int) -> Iterator[int]:
        """Yield the firing times after a moment, in microseconds since 1970, in order. A `problem`: none."""
        if self.every is not None:
            return _every(self.anchor, self.every, moment)
        if self.problem is not None:
            return iter(())
        return _cron(self.cron or "", zone(self.timezone), moment)

    def next(self, moment: int) -> int | None:
        """Return the first firing time after a moment, None if there is none."""
        return next(iter(self.after(moment)), None)

    def upcoming(self, moment: int) -> list[int]:
        """Return the next firing times after a moment, at most `SHOWN`."""
        return list(islice(self.after(moment), SHOWN))

    def newest(self, after: int, until: int, most: int) -> list[int]:
        """Return the newest firing times after one moment and up to another, at most so many, in order.

        A long time takes no longer than a short one: the search begins near the end.
        """
        found: list[int] = []
        for window in (*_WINDOWS, until - after):
            start = max(after, until - window)
            found = []
            for firing in self.after(start):
                if firing > until:
                    break
                found.append(firing)
            if len(found) >= most or start == after:
                break
        return found[-most:]


def timing(cron: str | None, every: str | None, timezone: str, anchor: int) -> Timing:
    """Return when a schedule with these fields fires.

    Raises:
        TimingError: as from `read_period`.
    """
    return Timing(cron, None if every is None else read_period(every), timezone, anchor)


def read_period(text: str) -> int:
    """Return a period such as `30s` or `6h` in microseconds.

    Raises:
        TimingError: it is not a period, shorter than a second, or longer than 366 days.
    """
    form = _PERIOD.fullmatch(text)
    period = int(form[1]) * _UNITS[form[2]] * SECOND if form else 0
    if not SECOND <= period <= _LONGEST:
        raise TimingError(
            "every",
            "every must be a whole number with a unit, from 1s to 366d, such as 30s, 5m, 6h or 1d",
        )
    return period


def check_cron(line: str, timezone: str, now: int) -> None:
    """Check a cron line and a time zone.

    Raises:
        TimingError: one of them is wrong, or the line never fires.
    """
    zone(timezone)
    if len(line) > MAX_CRON or not line.isascii() or len(line.split()) != _FIELDS:
        raise TimingError(
            "cron",
            "cron must have five fields: minute, hour, day of month, month, day of week, such as */5 * * * *",
        )
    problem = _fault(line)
    if problem is not None:
        minute, hour, day, month, weekday = line.split()
        if _fault(f"{minute} {hour} {day} * {weekday}") is None and _fault(f"* * * {month} *") is None:
            raise _never(line)  # none of its months has the day
        raise TimingError("cron", f"cron {line!r} is not valid: {problem}")
    if Timing(line, None, timezone, 0).next(now) is None:
        raise _never(line)


def _fault(line: str) -> str | None:
    try:
        CronSim(line, datetime(2000, 1, 1))  # noqa: DTZ001 - a wall clock
    except (CronSimError, ValueError, AssertionError) as problem:
        return str(problem).replace("Bad", "bad") or "unknown form"
    return None


@lru_cache(maxsize=1000)
def _problem(line: str, timezone: str) -> str | None:
    try:
        zone(timezone)
    except TimingError as problem:
        return str(problem)
    fault = _fault(line)
    return None if fault is None else f"cron {line!r} is not valid: {fault}"


def _never(line: str) -> TimingError:
    return TimingError("cron", f"cron {line!r} never fires: no day of the next 50 years matches it")


@lru_cache(maxsize=200)
def zone(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        TimingError: there is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such zone; not a name; a folder
        pass
    raise TimingError("timezone", f"there is no time zone {name[:60]!r}: use a name such as Europe/Berlin")


def _every(anchor: int, period: int, moment: int) -> Iterator[int]:
    firing = anchor + max(1, (moment - anchor) // period + 1) * period
    while True:
        yield firing
        firing += period


def _cron(line: str, where: ZoneInfo, moment: int) -> Iterator[int]:
    begin = _EPOCH + timedelta(microseconds=moment)
    wall = begin.astimezone(where).replace(tzinfo=None)
    # A day on which the offset changes is searched as a whole: its wall clock goes back, or jumps.
    begin_of_day = datetime.combine(wall.date(), time())
    start = begin_of_day if _changes(begin_of_day, where) else wall
    once = not any(field.startswith("*") for field in line.split()[:2])
    last = moment
    for firing in _instants(line, start - _MINUTE, where, once=once):
        if firing > last:
            yield firing
            last = firing


def _instants(line: str, start: datetime, where: ZoneInfo, *, once: bool) -> Iterator[int]:
    """Yield the firing times of the days from `start` on, in order. A time may come twice."""
    day, changes, waiting = start.date() - _DAY, False, list[int]()
    for wall in CronSim(line, start):
        if wall.date() != day:
            yield from sorted(waiting)
            waiting.clear()
            if wall.year > _LAST_YEAR:
                return
            day = wall.date()
            changes = _changes(datetime.combine(day, time()), where)
        if changes:
            waiting += _all_of(wall, where, once=once)
        else:
            yield _instant(wall, where)
    yield from sorted(waiting)


def _all_of(wall: datetime, where: ZoneInfo, *, once: bool) -> list[int]:
    """Return the firing times of one wall-clock time on a day on which the offset changes."""
    first, second = _instant(wall, where), _instant(wall, where, fold=1)
    if first == second:
        return [first]
    if first < second:  # it comes twice
        return [first] if once else [first, second]
    return [_end_of_gap(wall, where)] if once else []


def _end_of_gap(wall: datetime, where: ZoneInfo) -> int:
    """Return the moment at which the wall clock jumps over a time."""
    before, after = _instant(wall, where, fold=1), _instant(wall, where)
    offset = (_EPOCH + timedelta(microseconds=before)).astimezone(where).utcoffset()
    while after - before > SECOND:
        middle = (before + after) // (2 * SECOND) * SECOND
        if (_EPOCH + timedelta(microseconds=middle)).astimezone(where).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after


def _instant(wall: datetime, where: ZoneInfo, fold: int = 0) -> int:
    moment = wall.replace(tzinfo=where, fold=fold).astimezone(UTC) - _EPOCH
    return moment // timedelta(microseconds=1)


def _changes(day: datetime, where: ZoneInfo) -> bool:
    """Return whether the offset of a zone changes on the day that begins at `day`."""
    return day.replace(tzinfo=where).utcoffset() != (day + _DAY).replace(tzinfo=where).utcoffset()
