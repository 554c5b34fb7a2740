"""When schedules fire, compared with a clock that ticks minute by minute."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from busway.domain.firing import TimingError, check_cron, read_period, timing
from busway.domain.times import SECOND, from_text, to_text

MINUTE, DAY = 60 * SECOND, 86_400 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour
    "America/Havana",  # at midnight
    "Asia/Beirut",  # at midnight, into the day before
    "Africa/Casablanca",  # back for a month
    "Pacific/Chatham",  # at a quarter to
    "UTC",
)
LINES = (
    "*/15 * * * *",
    "30 2 * * *",
    "30 1 * * *",
    "0 0 * * *",
    "*/10 3 * * *",
    "15,45 1-3 * * *",
    "0 */2 * * *",
    "5 0-23/3 * * *",
    "30 0 * * 0",
    "0 2 1-7 3,10 *",
    "20 * * * 0",
)


def members(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        start = low if span == "*" else int(first)
        end = high if span == "*" else int(last or first)
        found |= set(range(start, end + 1, int(step or 1)))
    return found


class Line:
    """A cron line, read again and in the plainest way."""

    def __init__(self, line: str) -> None:
        fields = line.split()
        limits = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
        self.minutes, self.hours, self.days, self.months, self.weekdays = (
            members(field, *limit) for field, limit in zip(fields, limits, strict=True)
        )
        self.weekdays = {each % 7 for each in self.weekdays}
        self.both = fields[2].startswith("*") or fields[4].startswith("*")
        self.once = not (fields[0].startswith("*") or fields[1].startswith("*"))

    def matches(self, wall: datetime) -> bool:
        day = wall.day in self.days
        weekday = wall.isoweekday() % 7 in self.weekdays
        of_day = wall.minute in self.minutes and wall.hour in self.hours and wall.month in self.months
        return of_day and (day and weekday if self.both else day or weekday)


def walls_of(zone: str, start: int, end: int) -> list[datetime]:
    """What the wall clock shows in each minute."""
    where = ZoneInfo(zone)
    return [
        (EPOCH + timedelta(minutes=minute)).astimezone(where).replace(tzinfo=None)
        for minute in range(start // MINUTE, end // MINUTE + 1)
    ]


def ticked(line: str, walls: list[datetime], start: int) -> list[int]:
    """The firings of a line after `start`, found by looking at the wall clock once a minute."""
    rule, found, highest = Line(line), [], walls[0]
    for minute, wall in enumerate(walls):
        reached = rule.matches(wall) and not rule.once
        while rule.once and highest < wall:  # the clock may jump over a time, or go back
            highest += timedelta(minutes=1)
            reached |= rule.matches(highest)
        if reached and minute:
            found.append(start + minute * MINUTE)
    return found


def changes_of(zone: str, year: int) -> list[int]:
    """The days of a year on which the offset of a zone changes, in microseconds since 1970."""
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(366)]
    offsets = [day.astimezone(ZoneInfo(zone)).utcoffset() for day in days]
    return [
        (day - EPOCH) // timedelta(microseconds=1)
        for day, (before, after) in zip(days, itertools.pairwise(offsets), strict=False)
        if before != after
    ]


@pytest.mark.parametrize("zone", ZONES)
def test_cron_fires_as_the_wall_clock_says_around_each_change_of_the_offset(zone: str) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    year = chance.choice((2024, 2025, 2026, 2027))
    for day in changes_of(zone, year) or [from_text(f"{year}-03-01T00:00:00Z")]:
        start, end = day - DAY, day + 2 * DAY
        walls = walls_of(zone, start, end)
        for line in LINES:
            expected, when = ticked(line, walls, start), timing(line, None, zone, 0)
            why = f"{line} in {zone} from {to_text(start)}, seed {seed}"
            assert until(end, when.after(start)) == expected, why
            between = start + chance.randrange(3 * DAY)
            rest = [firing for firing in expected if firing > between]
            assert until(end, when.after(between)) == rest, why
            assert when.newest(start, end, 5) == expected[-5:], why


def until(end: int, firings: Iterator[int]) -> list[int]:
    return list(itertools.takewhile(lambda firing: firing <= end, firings))


def shown(line: str, zone: str, after: str, last: str) -> list[str]:
    firings = until(from_text(last), timing(line, None, zone, 0).after(from_text(after)))
    return [to_text(firing)[11:16] for firing in firings]


def test_a_time_that_is_missing_fires_when_the_clock_jumps_over_it() -> None:
    day = ("2026-03-28T22:00:00Z", "2026-03-29T21:59:00Z")  # 29 March in Berlin, without 02:00 to 03:00
    assert shown("30 2 * * *", "Europe/Berlin", *day) == ["01:00"]  # 03:00 there
    assert shown("0,30 2 * * *", "Europe/Berlin", *day) == ["01:00"]
    assert shown("*/30 1-3 * * *", "Europe/Berlin", *day) == ["00:00", "00:30", "01:00", "01:30"]


def test_a_time_that_comes_twice_fires_once_and_an_interval_goes_on() -> None:
    day = ("2026-10-24T22:00:00Z", "2026-10-25T22:59:00Z")  # 25 October in Berlin, with 02:00 to 03:00 twice
    assert shown("30 2 * * *", "Europe/Berlin", *day) == ["00:30"]
    assert shown("*/30 2 * * *", "Europe/Berlin", *day) == ["00:00", "00:30", "01:00", "01:30"]


def test_every_counts_elapsed_time_from_its_anchor() -> None:
    anchor = from_text("2026-03-28T12:00:00.000007Z")
    when = timing(None, "1d", "Europe/Berlin", anchor)
    assert when.next(anchor - 5 * DAY) == when.next(anchor) == anchor + DAY
    assert when.next(anchor + DAY) == anchor + 2 * DAY  # 13:00 of the wall clock by then
    late = anchor + 1_000_000 * DAY + 17  # however late it is asked
    assert when.upcoming(late) == [anchor + (1_000_001 + n) * DAY for n in range(5)]
    assert when.newest(anchor, anchor + 100 * DAY, 2) == [anchor + 99 * DAY, anchor + 100 * DAY]
    assert when.newest(anchor, anchor + DAY - 1, 2) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("5m", 300), ("6h", 21_600), ("2w", 1_209_600), ("366d", 31_622_400)],
)
def test_periods(text: str, seconds: int) -> None:
    assert read_period(text) == seconds * SECOND


@pytest.mark.parametrize(
    "text", ["", "0s", "30", "1.5s", "-1s", "s", "367d", "1y", "9999999999s", "1 s", "\uff11s"]
)
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(TimingError, match="from 1s to 366d"):
        read_period(text)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("@daily", "five fields"),
        ("* * * * ünd", "five fields"),
        ("0" * 250 + " * * * *", "five fields"),
        ("60 * * * *", "bad minute"),
        ("*/0 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * 31 13 *", "bad day-of-month|bad month"),
        ("* * * * 8", "bad day-of-week"),
        ("1#2/3 * * * *", "bad minute"),
        ("0 0 31 2 *", "never fires"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
    ],
)
def test_what_is_no_cron_line(line: str, why: str) -> None:
    with pytest.raises(TimingError, match=why) as problem:
        check_cron(line, "UTC", 0)
    assert problem.value.field == "cron"


def test_a_rare_cron_line_fires() -> None:
    check_cron("0 0 29 2 *", "Europe/Berlin", from_text("2026-01-01T00:00:00Z"))
    found = timing("0 0 29 2 *", None, "UTC", 0).upcoming(from_text("2092-03-01T00:00:00Z"))
    assert [to_text(firing)[:4] for firing in found] == ["2096", "2104", "2108", "2112", "2116"]


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "UTC\n", "\0", "Europe"]
)
def test_what_is_no_time_zone(zone: str) -> None:
    with pytest.raises(TimingError, match="no time zone") as problem:
        check_cron("* * * * *", zone, 0)
    assert problem.value.field == "timezone"


@pytest.mark.parametrize(
    ("cron", "zone"), [("", "UTC"), ("whenever", "UTC"), ("* * * * *", "Europe/Nowhere")]
)
def test_what_was_stored_and_cannot_be_read_never_fires(cron: str, zone: str) -> None:
    """Such as a zone that newer data has not. Other schedules go on."""
    stored = timing(cron, None, zone, 0)
    assert stored.problem
    assert (stored.next(0), stored.upcoming(0), stored.newest(0, 10**15, 5)) == (None, [], [])
    assert timing("* * * * *", None, "UTC", 0).problem is None
    assert timing(None, "1s", zone, 0).problem is None
