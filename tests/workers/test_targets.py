"""What targets can be and do; the same in both pools."""

from __future__ import annotations

import json

import pytest
import uvloop
import workers_kit as kit
from busway.domain.run import Outcome

CODE = """
    import asyncio, logging, os, sys, threading, time
    from datetime import datetime, UTC
    import busway
    from busway import Context, handler

    def plain(event):
        return {"got": event.data}

    def nothing(event):
        pass

    def attributes(event, ctx):
        return [event.id, event.type, event.source, event.subject, event.time.isoformat(),
                event.attributes, ctx.run > 0, ctx.attempt, ctx.handler, ctx.revision, ctx.cancelled]

    def binary(event):
        return event.data[::-1]

    async def waits(event, ctx):
        await asyncio.sleep(0.001)
        return {"got": event.data, "attempt": ctx.attempt}

    def generates(event):
        yield {"page": 1}
        yield b"raw"
        return "done"

    async def generates_async(event, ctx):
        for n in range(3):
            yield n
            await asyncio.sleep(0)

    def progresses(event, ctx):
        ctx.progress(0.5, "half")
        yield 1
        ctx.progress(1)

    def publishes(event, ctx):
        ctx.publish("made.it", {"n": 7}, subject="s", partitionkey="k", time=datetime(2026, 1, 1, tzinfo=UTC))
        ctx.publish("raw.it", b"raw")
        ctx.publish("bare.it")

    def publishes_and_fails(event, ctx):
        ctx.publish("made.it", 1)
        raise RuntimeError("no")

    def publishes_badly(event, ctx):
        errors = []
        for type_, attributes in event.data:
            try:
                ctx.publish(type_, None, **attributes)
            except ValueError as problem:
                errors.append(str(problem))
        return errors

    def prints(event, ctx):
        print("out")
        print("err", file=sys.stderr)
        sys.stdout.buffer.write(b"bytes\\n")
        ctx.log.info("info %d", 5)
        try:
            1 / 0
        except ZeroDivisionError:
            ctx.log.exception("caught")

    async def prints_async(event):
        for _ in range(3):
            print(event.data)
            await asyncio.sleep(0.002)

    def prints_slowly(event):
        for _ in range(3):
            print(event.data)
            time.sleep(0.002)

    def floods(event):
        for _ in range(100_000):
            print("é" * 50)

    def raises(event):
        inner(event)

    def inner(event):
        raise LookupError("gone")

    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no text either")

    def raises_broken(event):
        raise Broken()

    def exits(event):
        sys.exit(3)

    def interrupts(event):
        raise KeyboardInterrupt

    async def exits_async(event):
        raise SystemExit(3)

    async def raises_async(event):
        raise LookupError("gone")

    def surrogate(event):
        raise ValueError("\\udc80 text")

    def retries(event):
        raise busway.Retry(after=7.5)

    def gives_up(event):
        raise busway.Fail("never mind")

    def returns(event):
        return eval(event.data)

    def yields(event):
        yield eval(event.data)

    def tells(event, ctx):
        ctx.publish("t", eval(event.data))

    def big(event):
        return "x" * event.data

    def endless(event, ctx):
        n = 0
        while True:
            yield n
            n += 1

    async def endless_async(event, ctx):
        n = 0
        while True:
            yield n
            n += 1

    def large_pieces(event):
        for n in range(8):
            yield "x" * 700_000
"""


@pytest.fixture(scope="module")
def drive(folder):
    shared = kit.Shared(folder, grace=10)
    yield shared.drive
    shared.close()


def test_a_function_returns_json(drive, pool):
    async def scenario(bench):
        ended = await bench.run("t:plain", {"n": [1, None, "å"]})
        assert ended.outcome is Outcome.SUCCEEDED
        assert json.loads(ended.data) == {"got": {"n": [1, None, "å"]}}
        assert ended.worker in bench.pids()
        assert ended.started_at <= ended.finished_at
        assert ended.wall_time >= 0
        assert 0 <= ended.cpu_time <= ended.wall_time
        assert ended.log is None

    drive(scenario, pool)


def test_the_same_under_uvloop(folder, pool):
    async def main():
        async with kit.bench(folder, pool) as bench:
            tokens = [bench.hand("t:plain", n) for n in range(200)] + [
                bench.hand("t:waits", n) for n in range(50)
            ]
            for token in tokens:
                assert (await bench.end(token)).outcome is Outcome.SUCCEEDED

    uvloop.run(main())


def test_what_returns_nothing_gives_null(drive, pool):
    async def scenario(bench):
        assert (await bench.run("t:nothing")).data == b"null"

    drive(scenario, pool)


def test_the_event_and_the_context_tell_what_they_are(drive, pool):
    async def scenario(bench):
        ended = await bench.run("t:attributes", subject="sub", attributes={"color": "red", "n": 3})
        assert json.loads(ended.data) == [
            "e1", "test.happened", "/test", "sub", "2023-11-14T22:13:20+00:00",
            {"color": "red", "n": 3, "correlationid": "e1"}, True, 1, "attributes", 1, False,
        ]  # fmt: skip

    drive(scenario, pool)


def test_bytes_stay_bytes(drive, pool):
    async def scenario(bench):
        token = bench.hand("t:binary", binary=True)
        ended = await bench.end(token)
        assert (ended.data, ended.binary) == (b"llun", True)

    drive(scenario, pool)


def test_a_coroutine_is_awaited_and_many_run_at_once(drive, pool):
    async def scenario(bench):
        tokens = [bench.hand("t:waits", n) for n in range(60)]
        values = [json.loads((await bench.end(token)).data) for token in tokens]
        assert values == [{"got": n, "attempt": 1} for n in range(60)]

    drive(scenario, pool)


@pytest.mark.parametrize(
    ("target", "pieces", "final"),
    [("generates", [b'{"page":1}', b"raw"], b'"done"'), ("generates_async", [b"0", b"1", b"2"], b"null")],
)
def test_a_generator_sends_what_it_yields_with_an_index(drive, pool, target, pieces, final):
    async def scenario(bench):
        ended = await bench.run(f"t:{target}")
        partials = bench.partials(ended.token)
        assert [p.index for p in partials] == list(range(len(pieces)))
        assert [p.data for p in partials] == pieces
        assert [p.binary for p in partials] == [piece == b"raw" for piece in pieces]
        assert ended.data == final
        assert bench.told.index(partials[-1]) < bench.told.index(ended)

    drive(scenario, pool)


def test_progress_is_a_partial_among_the_others(drive, pool):
    async def scenario(bench):
        ended = await bench.run("t:progresses")
        assert [json.loads(p.data) for p in bench.partials(ended.token)] == [
            {"progress": 0.5, "note": "half"},
            1,
            {"progress": 1, "note": None},
        ]

    drive(scenario, pool)


def test_published_events_come_with_success(drive, pool):
    async def scenario(bench):
        made, raw, bare = (await bench.run("t:publishes")).published
        assert (made.type, made.data, made.binary) == ("made.it", b'{"n":7}', False)
        assert made.attributes == {"subject": "s", "partitionkey": "k", "time": "2026-01-01T00:00:00Z"}
        assert (raw.data, raw.binary) == (b"raw", True)
        assert (bare.data, bare.binary) == (None, False)

    drive(scenario, pool)


def test_a_failed_attempt_publishes_nothing(drive, pool):
    async def scenario(bench):
        assert (await bench.run("t:publishes_and_fails")).published == []

    drive(scenario, pool)


def test_bad_publishing_fails_at_its_line_and_says_why(drive):
    bad = [
        ["", {}], ["a b", {}], ["a.*", {}], ["x", {"Upper": 1}], ["x", {"deliverat": "soon"}],
        ["x", {"priority": 10}], ["x", {"subject": ""}], ["x", {"half": 0.5}], ["x", {"id": "a\nb"}],
    ]  # fmt: skip

    async def scenario(bench):
        errors = json.loads((await bench.run("t:publishes_badly", bad)).data)
        assert len(errors) == len(bad)
        assert "priority: priority must be an integer from 0 to 9 (9 runs first)" in errors

    drive(scenario)


def test_output_and_log_lines_are_kept_with_the_attempt(drive, pool):
    async def scenario(bench):
        log = (await bench.run("t:prints")).log
        assert log.startswith("out\nerr\nbytes\nINFO prints: info 5\nERROR prints: caught\n    Traceback")
        assert "ZeroDivisionError" in log

    drive(scenario, pool)


@pytest.mark.parametrize("target", ["prints_async", "prints_slowly"])
def test_attempts_that_share_a_worker_keep_their_output_apart(drive, pool, target):
    async def scenario(bench):
        tokens = [bench.hand(f"t:{target}", f"line {n}") for n in range(16)]
        logs = [(await bench.end(token)).log for token in tokens]
        assert logs == [f"line {n}\n" * 3 for n in range(16)]

    drive(scenario, pool)


def test_a_flood_of_output_is_cut_at_64_kib_with_a_note(drive, pool):
    async def scenario(bench):
        log = (await bench.run("t:floods")).log
        assert 60_000 < len(log.encode()) <= 65_536
        assert log.endswith("left out\n")

    drive(scenario, pool)


@pytest.mark.parametrize("target", ["raises", "raises_async"])
def test_an_exception_fails_the_attempt_with_the_users_frames(drive, folder, pool, target):
    async def scenario(bench):
        ended = await bench.run(f"t:{target}")
        assert ended.outcome is Outcome.FAILED
        assert (ended.error.type, ended.error.message) == ("LookupError", "gone")
        frames = [line for line in ended.error.traceback.splitlines() if line.startswith('  File "')]
        assert all(str(folder / "t.py") in frame for frame in frames)
        assert (ended.retry_after, ended.fatal) == (None, False)

    drive(scenario, pool)


@pytest.mark.parametrize(
    ("target", "type_"),
    [("exits", "SystemExit"), ("exits_async", "SystemExit"), ("interrupts", "KeyboardInterrupt"),
     ("raises_broken", "Broken"), ("surrogate", "ValueError")],
)  # fmt: skip
def test_whatever_is_raised_fails_the_attempt_and_the_worker_lives(drive, pool, target, type_):
    async def scenario(bench):
        ended = await bench.run(f"t:{target}")
        assert (ended.outcome, ended.error.type) == (Outcome.FAILED, type_)
        await bench.until(lambda: len(bench.pids()) == (2 if pool == "process" else 1))
        assert ended.worker in [*bench.pids(), *bench.pids("process:async")]
        assert (await bench.run("t:plain")).outcome is Outcome.SUCCEEDED

    drive(scenario, pool)


def test_retry_asks_for_a_later_attempt_and_fail_for_none(drive, pool):
    async def scenario(bench):
        retry, fail = await bench.run("t:retries"), await bench.run("t:gives_up")
        assert (retry.outcome, retry.retry_after, retry.fatal) == (Outcome.FAILED, 7.5, False)
        assert (fail.outcome, fail.retry_after, fail.fatal) == (Outcome.FAILED, None, True)
        assert fail.error.message == "never mind"

    drive(scenario, pool)


WHAT = {
    "returns": "the returned value",
    "yields": "the yielded value",
    "tells": "the data published as 't'",
}


@pytest.mark.parametrize("target", WHAT)
@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("float('nan')", " is a float with the value nan"),
        ("{'a': [float('inf')]}", ": .a[0] is a float with the value inf"),
        ("[object()]", ": [0] is an object"),
        ("[b'x']", ": [0] is a bytes"),
        ("10**400", " is an int that does not fit in a double"),
        ("'\\ud800'", " is a str with a lone surrogate"),
    ],
)
def test_what_has_no_json_form_ends_the_run_by_type_and_place(drive, target, value, part):
    async def scenario(bench):
        ended = await bench.run(f"t:{target}", value)
        assert (ended.outcome, ended.error.type, ended.fatal) == (Outcome.FAILED, "NotEncodable", True)
        assert ended.error.message.startswith(WHAT[target] + part)

    drive(scenario)


def test_a_result_over_the_limit_fails_and_one_at_it_arrives(drive, pool):
    async def scenario(bench):
        assert len((await bench.run("t:big", (1 << 20) - 2)).data) == 1 << 20
        ended = await bench.run("t:big", (1 << 20) - 1)
        assert ended.error.type == "ValueError"
        assert "--max-result-bytes" in ended.error.message

    drive(scenario, pool)


@pytest.mark.parametrize("target", ["endless", "endless_async"])
def test_an_endless_generator_is_slowed_until_its_partials_are_stored(drive, pool, target):
    async def scenario(bench):
        bench.credits = False
        token = bench.hand(f"t:{target}")
        await bench.until(lambda: len(bench.partials(token)) == 64)
        await bench.started(token)
        assert len(bench.partials(token)) == 64
        for partial in bench.partials(token)[:10]:
            bench.supervisor.credit(token, len(partial.data))
        await bench.until(lambda: len(bench.partials(token)) == 74)
        assert [json.loads(p.data) for p in bench.partials(token)] == list(range(74))
        before = set(bench.pids())
        bench.supervisor.cancel(token)
        await bench.until(lambda: bench.supervisor.status()["pools"][pool]["running"] == 0)
        assert set(bench.pids()) >= before, "it was left at a yield: no worker had to die"

    drive(scenario, pool)


def test_large_pieces_are_bounded_by_bytes(drive, pool):
    async def scenario(bench):
        bench.credits = False
        token = bench.hand("t:large_pieces")
        await bench.started(token)
        await bench.until(lambda: len(bench.partials(token)) == 2)
        bench.credits = True
        for partial in bench.partials(token):
            bench.supervisor.credit(token, len(partial.data))
        assert (await bench.end(token)).outcome is Outcome.SUCCEEDED
        assert len(bench.partials(token)) == 8

    drive(scenario, pool)


def test_an_unknown_target_fails_by_name(drive, pool):
    async def scenario(bench):
        ended = await bench.run("t:nowhere")
        assert ended.error.type == "LookupError"
        assert "'t:nowhere'" in ended.error.message

    drive(scenario, pool)


def test_both_pools_run_at_once(drive):
    async def scenario(bench):
        tokens = [bench.hand("t:plain", n, pool=pool) for n in range(20) for pool in ("process", "thread")]
        workers = {(await bench.end(token)).worker for token in tokens}
        assert workers & set(bench.pids("process"))
        assert workers & set(bench.pids("thread"))

    drive(scenario)


def test_an_attempt_of_unknown_pace_never_waits_behind_another(drive):
    async def scenario(bench):
        tokens = [bench.hand("t:prints_slowly", 1) for _ in range(3)]
        assert len(bench.waiting) == 1, "one a worker"
        for token in tokens:
            await bench.end(token)

    drive(scenario)
