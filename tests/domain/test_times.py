"""Times as RFC 3339 has them."""

from __future__ import annotations

import os
import random

import pytest
from busway.domain import times


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("1985-04-12T23:20:50.52Z", "1985-04-12T23:20:50.520000Z"),  # the examples of section 5.8
        ("1996-12-19T16:39:57-08:00", "1996-12-20T00:39:57.000000Z"),
        ("1990-12-31T23:59:60Z", "1991-01-01T00:00:00.000000Z"),
        ("1990-12-31T15:59:60-08:00", "1991-01-01T00:00:00.000000Z"),
        ("1937-01-01T12:00:27.87+00:20", "1937-01-01T11:40:27.870000Z"),
        ("2026-01-31t12:00:00z", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31 12:00:00Z", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31T12:00:00-00:00", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31T12:00:00+23:59", "2026-01-30T12:01:00.000000Z"),
        ("2026-01-31T12:00:00.1Z", "2026-01-31T12:00:00.100000Z"),
        ("2026-01-31T12:00:00.1234567899999Z", "2026-01-31T12:00:00.123456Z"),
        ("2026-01-31T12:00:00." + "0" * 1000 + "9Z", "2026-01-31T12:00:00.000000Z"),
        ("2016-12-31T23:59:60.5Z", "2017-01-01T00:00:00.500000Z"),
        ("1969-12-31T23:59:59.9Z", "1969-12-31T23:59:59.900000Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_time_is_read(text: str, same: str) -> None:
    assert times.to_text(times.from_text(text)) == same


@pytest.mark.parametrize(
    "text",
    [
        "", "Z", "2026-01-31", "2026-01-31T12:00Z", "2026-01-31T12:00:00", "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00,5Z", "2026-01-31T24:00:00Z", "2026-01-31T12:60:00Z", "2026-01-31T12:00:61Z",
        "2026-02-29T12:00:00Z", "2026-13-01T12:00:00Z", "2026-00-01T12:00:00Z", "0000-01-01T00:00:00Z",
        "2026-01-31T12:00:00+24:00", "2026-01-31T12:00:00+01:60", "2026-01-31T12:00:00+0100",
        "2026-01-31T12:00:00+01", "2026-W05-6T12:00:00Z", "20260131T120000Z", "2026-01-31T12:00:00Z ",
        " 2026-01-31T12:00:00Z", "2026-01-31T12:00:00UTC", "\u0662026-01-31T12:00:00Z", "2026-1-31T12:00:00Z",
        "9999-12-31T23:59:60Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-00:01",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"RFC 3339|offset|outside the years"):
        times.from_text(text)


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match="RFC 3339") as raised:
        times.from_text("9" * 100_000)
    assert len(str(raised.value)) < 200


def test_what_is_written_is_read_again() -> None:
    seed = int(os.environ.get("BUSWAY_TEST_SEED", random.randrange(1 << 32)))
    print(f"BUSWAY_TEST_SEED={seed}")
    chance = random.Random(seed)
    first, last = times.from_text("0001-01-01T00:00:00Z"), times.from_text("9999-12-31T23:59:59Z")
    for us in (first, -1, 0, 1, last, *(chance.randint(first, last) for _ in range(1000))):
        assert times.from_text(times.to_text(us)) == us
