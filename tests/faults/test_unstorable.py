"""Outcomes that the database refuses for what they contain: their attempts fail, and the runs end."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from .house import House

pytestmark = pytest.mark.fault

CODE = """
from busway import handler

@handler("spoilt.result", max_attempts=3, backoff={"initial": 0.01, "jitter": 0})
def returns(event):
    return "spoilt"

@handler("spoilt.partial", max_attempts=3, backoff={"initial": 0.01, "jitter": 0})
def yields(event):
    yield 1
    yield "spoilt"
    while True:
        yield 2
"""
REFUSED = """
    CREATE TRIGGER refused BEFORE INSERT ON results WHEN NEW.data = CAST('"spoilt"' AS BLOB)
    BEGIN SELECT RAISE(ABORT, 'not this one'); END
"""


@pytest.mark.long
@pytest.mark.parametrize("own_house", ["process", "thread"], indirect=True)
def test_what_the_database_refuses_fails_the_attempt_and_counts(own_house: House) -> None:
    house = own_house
    house.write("spoilt.py", CODE)
    house.start()
    with closing(sqlite3.connect(house.database, timeout=60, isolation_level=None)) as foreign:
        foreign.execute(REFUSED)
    for type_ in ("spoilt.result", "spoilt.partial"):
        run = house.run_of(house.publish(type_)["seq"])
        assert (run["state"], run["attempt"]) == ("dead", 3)
        assert {(a["outcome"], a["error"]["type"]) for a in run["attempts"]} == {("failed", "InvalidReport")}
        assert house.finals_of(run["id"]) == ["dead"]
    assert house.run("fine", 1)["state"] == "succeeded"
    assert house.stop() == 0
