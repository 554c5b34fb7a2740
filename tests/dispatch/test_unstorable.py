"""An outcome that the store can never take ends as a failed attempt, which counts, and harms no other."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from busway.domain.run import Outcome
from busway.gateway.attempts import recorder
from busway.gateway.executors.port import Ended, Partial, Published

from tests.dispatch.kit import Hands, gateway, until
from tests.dispatch.test_publishing import published, running

pytestmark = pytest.mark.fault

SPOILT = b'"spoilt"'
HANDLER = {"events": ["one.**"], "max_attempts": 3, "backoff": {"initial": 0.001, "jitter": 0}}
REFUSED = f"""
    CREATE TRIGGER refused BEFORE INSERT ON results WHEN NEW.data = X'{SPOILT.hex()}'
    BEGIN SELECT RAISE(ABORT, 'not this one'); END
"""
ALL_REFUSED = """
    CREATE TRIGGER refused BEFORE UPDATE OF state ON runs
    BEGIN SELECT RAISE(ABORT, 'none of them'); END
"""


def drive(path, scenario, room=4, **fields):
    async def main():
        hands = Hands(room)
        async with gateway(path, hands, one=HANDLER | fields) as made:
            await scenario(made, hands)

    asyncio.run(main())


def execute(path, statement):
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as foreign:
        foreign.execute(statement)


async def ended(made, hands, run, spoil):
    """Spoil each attempt of a run until it is over. Return the run and its attempts."""
    while True:
        record, attempts = await made.reader.run(run)
        if record.state in {"dead", "succeeded"}:
            return record, attempts
        made.tick(1)
        for assignment in list(hands.taken.values()):
            spoil(assignment)
        made.dispatcher.wake()
        await asyncio.sleep(0.005)


def failures(caplog):
    return [record for record in caplog.records if "InvalidReport" in record.message]


@pytest.mark.parametrize("marked", [False, True], ids=["unmarked", "marked"])
def test_what_the_store_refuses_fails_the_attempt_and_counts(tmp_path, caplog, marked):
    path = tmp_path / "busway.db"

    async def scenario(made, hands):
        assignment = await running(made, hands)
        execute(path, REFUSED)

        def spoil(assignment):
            if marked:
                made.mark(assignment)
            made.end(assignment, data=SPOILT, published=published(2))

        record, attempts = await ended(made, hands, assignment.run, spoil)
        assert (record.state, record.attempt, len(hands.history)) == ("dead", 3, 3)
        assert [(a.outcome, a.error.type) for a in attempts] == [("failed", "InvalidReport")] * 3
        assert "not this one" in record.error.message
        assert len(failures(caplog)) == 3
        assert not any("was not stored" in message for message in caplog.messages)
        await until(lambda: not made.in_flight.runs)
        assert (made.in_flight.live, made.recorder._failing) == ({}, {})

    drive(path, scenario)


def test_others_of_its_batch_are_stored(tmp_path):
    path = tmp_path / "busway.db"

    async def scenario(made, hands):
        await made.publish(*[made.event("one") for _ in range(9)])
        await until(lambda: len(hands.taken) == 9)
        execute(path, REFUSED)
        spoilt, *good = list(hands.taken.values())
        for assignment in (*good[:4], spoilt, *good[4:]):
            made.end(assignment, data=SPOILT if assignment is spoilt else b"1")
        await until(lambda: not made.in_flight.runs)
        for assignment in good:
            assert (await made.reader.run(assignment.run))[0].state == "succeeded"
        assert (await made.reader.run(spoilt.run))[0].state == "dead"

    drive(path, scenario, room=9, max_attempts=1)


def test_a_partial_that_the_store_refuses_fails_the_attempt(tmp_path):
    path = tmp_path / "busway.db"

    async def scenario(made, hands):
        assignment = await running(made, hands)
        execute(path, REFUSED)

        def spoil(assignment):
            data = [b"1", SPOILT, SPOILT]
            for index, value in enumerate(data):
                token, time = assignment.token, made.now
                made.report(Partial(token=token, index=index, data=value, binary=False, time=time))

        record, _ = await ended(made, hands, assignment.run, spoil)
        assert (record.state, record.attempt) == ("dead", 3)
        assert "a partial result: not this one" in record.error.message
        assert hands.cancelled == [assignment.run] * 3
        assert made.in_flight.lingering == {}

    drive(path, scenario)


def test_no_attempt_follows_one_whose_failure_the_store_refuses_too(tmp_path, caplog, monkeypatch):
    path = tmp_path / "busway.db"
    monkeypatch.setattr(recorder, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(recorder, "LONGEST_DELAY", 0.01)

    async def scenario(made, hands):
        assignment = await running(made, hands)
        execute(path, ALL_REFUSED)
        made.end(assignment, data=b"1")
        counts, before = made.commits.stats.sizes.counts, sum(made.commits.stats.sizes.counts)
        await until(lambda: sum(counts) >= before + 5)  # it is sent again and again
        assert len(hands.history) == 1
        assert sum("cannot be stored either" in message for message in caplog.messages) == 1
        execute(path, "DROP TRIGGER refused")
        await until(lambda: not made.in_flight.runs)
        record, _ = await made.reader.run(assignment.run)
        assert (record.state, record.error.type) == ("dead", "InvalidReport")
        assert made.recorder._failing == {}

    drive(path, scenario, max_attempts=1)


BEYOND = {
    "cannot be encoded": {"log": "\ud800"},
    "no committer can read it": {"worker": "seven"},
    "no integer of the database": {"peak_memory": 1 << 63},
    "its event cannot be built": {"published": [Published("a.b", 7, False, {})]},
    "its events cannot be built": {"published": [Published("a.b", 7, False, {})] * 60},
}


@pytest.mark.parametrize("what", BEYOND)
def test_what_no_worker_reports_fails_the_attempt_and_counts(tmp_path, caplog, what):
    """The boundary of the workers lets none of this pass; this is what is left if it fails."""
    path = tmp_path / "busway.db"

    async def scenario(made, hands):
        await made.publish(*[made.event("one") for _ in range(5)])
        await until(lambda: len(hands.taken) == 5)
        spoilt, *good = list(hands.taken.values())
        reports = [report(made, assignment) for assignment in good]
        reports.insert(2, report(made, spoilt, **BEYOND[what]))
        hands.taken.clear()
        made.report(*reports)
        await until(lambda: not made.in_flight.runs)
        assert made.commits.healthy
        for assignment in good:
            assert (await made.reader.run(assignment.run))[0].state == "succeeded"
        record, [attempt] = await made.reader.run(spoilt.run)
        assert (record.state, attempt.outcome, record.error.type) == ("dead", "failed", "InvalidReport")
        assert len(failures(caplog)) == 1
        await made.recorder.prepared()

    drive(path, scenario, room=5, max_attempts=1)


def report(made, assignment, **fields):
    known = {"started_at": made.now, "finished_at": made.now, "worker": 1, "data": b"1"}
    return Ended(token=assignment.token, outcome=Outcome.SUCCEEDED, **known | fields)
