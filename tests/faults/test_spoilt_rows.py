"""Rows that cannot be shown, of an earlier version or written by somebody else: no list is broken by them."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from .house import House

pytestmark = pytest.mark.fault

NO_JSON = [
    b"\xff",
    b'"\xff"',
    b'"\xed\xb2\x80"',
    b'{"a":',
    b"NaN",
    b"",
    b"[1] 2",
    rb'"\q"',
    b'"\n"',
    b"[" * 100_000,
]
NO_TIME = ["4611686018427387904", "-4611686018427387904", "9223372036854775807"]


def write(house: House, *statements: str) -> None:
    connection = sqlite3.connect(house.database, timeout=60)
    with connection:
        for statement in statements:
            assert connection.execute(statement).rowcount, statement
    connection.close()


def lists(house: House) -> dict[str, Any]:
    """Read all that lists and details show of the last event."""
    found: dict[str, Any] = {}
    for name in ("events", "runs", "results"):
        items = house.ok("GET", f"/v1/{name}?limit=1000")["items"]
        assert items
        found[name] = items
    event, run = found["events"][0], found["runs"][0]
    found["event"] = house.ok("GET", f"/v1/events/{event['seq']}")
    found["tree"] = house.ok("GET", f"/v1/events/{event['seq']}/tree")
    found["run"] = house.ok("GET", f"/v1/runs/{run['id']}")
    house.ok("GET", "/v1/handlers")
    house.ok("GET", "/v1/status")
    return found


@pytest.mark.long
@pytest.mark.parametrize("own_house", ["process"], indirect=True)
def test_a_field_that_cannot_be_shown_is_null_and_no_list_breaks(own_house: House) -> None:
    house = own_house
    house.start()
    failed = house.run("fails_often")
    good = house.run("fine", {"good": 1})
    spoilt = [house.run("fine", {"spoilt": n}) for n in range(len(NO_JSON))]
    last = spoilt[-1]

    for run, data in zip(spoilt, NO_JSON, strict=True):
        value = f"X'{data.hex()}'"
        write(house, f"UPDATE results SET data = {value} WHERE run = {run['id']}")
        write(house, f"UPDATE events SET data = {value} WHERE seq = {run['event']}")
    found = lists(house)
    assert {item["run"]: item["data"] for item in found["results"][-len(spoilt) - 1 :]} == {
        good["id"]: {"good": 1},
        **{run["id"]: None for run in spoilt},
    }
    assert [event["data"] for event in found["events"][: len(spoilt) + 1]] == [
        *[None] * len(spoilt),
        {"good": 1},
    ]
    assert (found["event"]["data"], found["tree"]["event"]["data"]) == (None, None)

    times = zip(spoilt[-len(NO_TIME) :], NO_TIME, strict=True)
    for run, time in times:
        write(house, f"UPDATE results SET time = {time} WHERE run = {run['id']}")
        write(house, f"UPDATE events SET time = {time} WHERE seq = {run['event']}")
        write(house, f"UPDATE runs SET finished_at = {time}, started_at = {time} WHERE id = {run['id']}")
        numbers = "cpu_time = 9e999, wall_time = -9e999"
        write(house, f"UPDATE runs SET {numbers} WHERE id = {run['id']}")
        write(
            house,
            f"UPDATE attempts SET finished_at = {time}, started_at = {time}, {numbers} "
            f"WHERE run = {failed['id']} AND attempt = {NO_TIME.index(time) + 1}",
        )
    found = lists(house)
    assert [run["finished_at"] for run in found["runs"][: len(NO_TIME)]] == [None] * len(NO_TIME)
    attempts = house.ok("GET", f"/v1/runs/{failed['id']}")["attempts"] + found["run"]["attempts"]
    assert {(a["finished_at"], a["cpu_time"], a["wall_time"]) for a in attempts} == {(None, None, None)}

    for text in ("CAST(X'FF' AS TEXT)", "'no JSON'", "'[1]'"):
        write(house, f"UPDATE runs SET error = {text} WHERE id = {last['id']}")
        write(
            house, f"UPDATE attempts SET error = {text}, log = CAST(X'FF' AS TEXT) WHERE run = {failed['id']}"
        )
        write(house, f"UPDATE results SET error = {text} WHERE run = {last['id']}")
        write(house, f"UPDATE events SET attributes = {text} WHERE seq = {last['event']}")
        write(house, f"UPDATE last_errors SET error = {text}")
        assert lists(house)["run"]["error"] is None
        shown = house.ok("GET", f"/v1/runs/{failed['id']}")["attempts"]
        assert [(attempt["error"], attempt["log"]) for attempt in shown] == [(None, None)] * 3

    assert house.run("fine", 1)["state"] == "succeeded"
