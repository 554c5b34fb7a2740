"""What a worker reports is checked before it is stored: values are JSON, times and numbers can be true."""

from __future__ import annotations

import time

import pytest
import workers_kit as kit
from busway.domain.event_fields import MAX_PUBLISHED
from busway.domain.run import Outcome

CODE = r"""
    import json, math, msgspec, os, resource, struct, time
    from busway import Context
    from busway.domain.run import Error, Outcome
    from busway.gateway.executors.port import Published

    def spoils(event, ctx: Context):
        outbox = ctx._port.shared.outbox
        name = event.data

        def ended(report, size):
            del outbox.ended
            for field, value in SPOILT[name].items():
                setattr(report, field, value)
            outbox.ended(report, size)

        outbox.ended = ended
        time.sleep(0.002)
        return {"good": 1}

    SPOILT = {
        "past": {"started_at": 0, "finished_at": 1},
        "future": {"started_at": 1 << 52, "finished_at": (1 << 52) + 1},
        "started later": {"started_at": 1 << 52},
        "started earlier": {"started_at": 0},
        "long": {"wall_time": 1e7, "cpu_time": 1e7, "starved": 1e7},
        "worker": {"worker": 1},
        "negative time": {"finished_at": -1},
        "huge time": {"started_at": 1 << 62},
        "too huge time": {"finished_at": (1 << 64) - 1},
        "negative": {"wall_time": -1.0},
        "nan": {"wall_time": math.nan},
        "cpu nan": {"cpu_time": math.nan},
        "cpu inf": {"cpu_time": math.inf},
        "starved": {"starved": -math.inf},
        "memory": {"peak_memory": 1 << 63},
        "text": {"wall_time": "long"},
        "delay nan": {"outcome": Outcome.FAILED, "data": None, "retry_after": math.nan},
        "delay": {"outcome": Outcome.FAILED, "data": None, "retry_after": 1e300},
        "log": {"log": "x" * 200_000},
        "lost": {"outcome": Outcome.LOST},
        "cancelled": {"outcome": Outcome.CANCELLED},
        "lingers": {"lingers": True},
        "alone": {"alone": True},
        "many events": {"published": [Published("t", None, False, {})] * 200_000},
        "data large": {"data": b'"' + b"x" * (1 << 20) + b'"'},
        "binary large": {"data": bytes((1 << 20) + 1), "binary": True},
        "data NaN": {"data": b"NaN"},
        "data not UTF-8": {"data": b'"\xff"'},
        "data half": {"data": b'{"a":'},
        "data empty": {"data": b""},
        "data more": {"data": b"1 2"},
        "data huge number": {"data": b"1e999"},
        "data huge integer": {"data": b"1" * 400},
        "data deep": {"data": b"[" * 200 + b"]" * 200},
        "data very deep": {"data": b"[" * 100_000 + b"]" * 100_000},
        "data long": {"data": b'"' + b"x" * 300_000 + b'\xff"'},
        "data long half": {"data": b"[" + b"1," * 200_000},
        "event NaN": {"published": [Published("t", b"NaN", False, {})]},
        "event UTF-8": {"published": [Published("t", b'"\xff"', False, {})]},
        "event base64": {"published": [Published("t", None, False, {"data_base64": "/w=="})]},
        "event data": {"published": [Published("t", None, False, {"data": "x"})]},
        "error": {"outcome": Outcome.FAILED, "data": None, "error": Error("E", "m" * 500_000, "t" * 500_000)},
    }

    def yields_junk(event):
        import busway.gateway.executors.python.child.invocation as invocation
        before = invocation.encode_result
        invocation.encode_result = lambda *_: (b'"\xff"', False)
        try:
            yield 1
            time.sleep(600)
        finally:
            invocation.encode_result = before

    def plain(event):
        return event.data

    def replaces_all(event):
        def broken(*_, **__):
            raise RuntimeError("replaced")
        for name in ("time", "time_ns", "monotonic_ns", "thread_time", "perf_counter", "sleep"):
            setattr(time, name, broken)
        for module in (json, msgspec.json, msgspec.msgpack):
            for name in ("encode", "decode", "dumps", "loads", "Encoder", "Decoder"):
                if hasattr(module, name):
                    setattr(module, name, broken)
        for name in ("open", "read", "close", "pread", "write", "getpid", "_exit"):
            setattr(os, name, broken)
        struct.pack = struct.unpack = resource.getrusage = broken

    def publishes_many(event, ctx: Context):
        for n in range(event.data):
            ctx.publish("t")

    def publishes_much(event, ctx: Context):
        for n in range(event.data):
            ctx.publish("t", "x" * 100_000, extra="é" * 100_000)

    def freezes(event):
        import busway.gateway.executors.python.child.invocation as invocation
        for module in (invocation, time):
            module.time_ns = lambda: 1
            module.monotonic_ns = lambda: 7

    def progresses(event, ctx: Context):
        for n in range(3):
            ctx.progress(n)
            yield event.data
        print("printed")
        return "done"
"""

CORRECTED = ("past", "future", "started later", "started earlier", "long", "worker")
REFUSED = ("data large", "binary large",
           "data NaN", "data not UTF-8", "data half", "data empty", "data more", "data huge number",
           "data huge integer", "data deep", "data very deep", "data long", "data long half",
           "event NaN", "event UTF-8", "event base64", "event data")  # fmt: skip
BROKEN = ("negative time", "huge time", "too huge time", "negative", "nan", "cpu nan", "cpu inf", "starved",
          "memory", "text", "delay nan", "delay", "log", "lost", "cancelled", "lingers", "alone",
          "many events")  # fmt: skip


@pytest.fixture(scope="module")
def drive(folder):
    shared = kit.Shared(folder)

    def drive(scenario, pool):
        async def checked(bench):
            assert [file.error for file in bench.catalog] == [None]
            await scenario(bench)

        shared.drive(checked, pool)

    yield drive
    shared.close()


def plausible(ended, began):
    """Tell whether an attempt that began after that time ended as its report says."""
    now = time.time_ns() // 1000
    return (
        began <= ended.started_at <= ended.finished_at <= now
        and 0 <= ended.starved <= ended.wall_time
        and 0 <= ended.cpu_time <= ended.wall_time <= (now - began) / 1e6
    )


def test_times_that_cannot_be_true_are_corrected(drive, pool):
    async def scenario(bench):
        workers = bench.pids()
        for name in CORRECTED:
            began = time.time_ns() // 1000
            ended = await bench.run("t:spoils", name)
            assert (ended.outcome, ended.data) == (Outcome.SUCCEEDED, b'{"good":1}'), name
            assert plausible(ended, began), (name, ended)
            assert ended.worker in workers, name

    drive(scenario, pool)


def test_a_value_that_cannot_be_stored_fails_its_attempt_alone(drive, pool):
    async def scenario(bench):
        workers = bench.pids()
        for name in REFUSED:
            ended = await bench.run("t:spoils", name)
            assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "InvalidReport"), name
            assert (ended.data, ended.published) == (None, []), name
            assert ended.worker in workers, name
        error = (await bench.run("t:spoils", "error")).error
        assert (len(error.message), len(error.traceback)) < (150_000, 150_000)
        assert (await bench.run("t:plain", 1)).data == b"1"

    drive(scenario, pool)


@pytest.mark.parametrize("name", BROKEN)
def test_what_no_worker_reports_ends_it_and_fails_the_attempt(drive, pool, name):
    async def scenario(bench):
        ended = await bench.run("t:spoils", name)
        assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "WorkerDied")
        assert "broke the protocol" in ended.error.message
        assert (await bench.run("t:plain", 1)).data == b"1"

    drive(scenario, pool)


def test_a_partial_that_is_not_json_ends_its_worker(drive, pool):
    async def scenario(bench):
        token = bench.hand("t:yields_junk")
        ended = await bench.end(token)
        assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "WorkerDied")
        assert "partial 0 is not JSON" in ended.error.message
        assert bench.partials(token) == []

    drive(scenario, pool)


@pytest.mark.parametrize(
    ("target", "fits", "more", "says"),
    [
        ("publishes_many", MAX_PUBLISHED, MAX_PUBLISHED + 1, f"{MAX_PUBLISHED} events"),
        ("publishes_much", 3, 4, "1048576 bytes in all"),
    ],
)
def test_what_an_attempt_publishes_has_a_total(drive, pool, target, fits, more, says):
    async def scenario(bench):
        ended = await bench.run(f"t:{target}", fits)
        assert (ended.outcome, len(ended.published)) == (Outcome.SUCCEEDED, fits)
        refused = await bench.run(f"t:{target}", more)
        assert (refused.outcome, refused.error.type, refused.published) == (Outcome.FAILED, "ValueError", [])
        assert says in refused.error.message

    drive(scenario, pool)


@pytest.mark.parametrize("breaks", ["replaces_all", "freezes"])
def test_a_handler_that_replaces_clocks_and_encoders_harms_no_attempt(folder, pool, breaks):
    async def scenario(bench):
        for _ in range(3):
            assert (await bench.run(f"t:{breaks}")).outcome is Outcome.SUCCEEDED
            began = time.time_ns() // 1000
            token = bench.hand("t:progresses", {"n": 1})
            ended = await bench.end(token)
            assert (ended.outcome, ended.data, ended.log) == (
                Outcome.SUCCEEDED,
                b'"done"',
                "printed\n",
            )
            assert plausible(ended, began), ended
            partials = bench.partials(token)
            assert [partial.index for partial in partials] == list(range(6))
            assert all(began <= partial.time <= time.time_ns() // 1000 for partial in partials)

    kit.drive(scenario, folder, pool, processes=1)
