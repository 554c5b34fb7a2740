"""What handler code may spoil of what is told of its attempts harms that attempt, if any, and no other."""

from __future__ import annotations

import pytest
import workers_kit as kit
from busway.domain.run import Outcome

CODE = """
    import decimal, os, socket, time
    import busway
    from busway import Context

    class Name(str):
        pass

    def plain(event):
        return {"got": event.data}

    def publishes_names(event, ctx: Context):
        ctx.publish(Name("made.it"), Name("data"), **{Name("subject"): Name("s")})

    def retries_never(event):
        problem = busway.Retry(7)
        problem.after = event.data
        raise problem

    def writes_what_cannot_be_told(event, ctx: Context):
        ctx._port.published.append(object())

    def writes_to_the_gateway(event):
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                sock = socket.socket(fileno=os.dup(number))
                sock.sendall(b"\\0\\0\\0\\4\\3" + bytes(8) + b"junk")
            except OSError:
                continue
        time.sleep(60)

    def sets_precision(event):
        decimal.getcontext().prec = 4

    async def reads_precision(event):
        return decimal.getcontext().prec
"""


@pytest.fixture(scope="module")
def drive(folder):
    shared = kit.Shared(folder)
    yield shared.drive
    shared.close()


def test_text_of_another_class_is_published_as_text(drive, pool):
    async def scenario(bench):
        [made] = (await bench.run("t:publishes_names")).published
        assert (made.type, made.data, made.attributes) == ("made.it", b'"data"', {"subject": "s"})

    drive(scenario, pool)


def test_what_cannot_be_told_of_an_attempt_fails_that_attempt_alone(drive, pool):
    async def scenario(bench):
        tokens = [bench.hand("t:plain", n) for n in range(300)]  # they are quick, and are told together
        for token in tokens:
            await bench.end(token)
        names = ["t:plain", "t:plain", "t:writes_what_cannot_be_told", "t:plain"]
        ended = [await bench.end(token) for token in [bench.hand(name, 1) for name in names]]
        good, bad = Outcome.SUCCEEDED, Outcome.FAILED
        assert [report.outcome for report in ended] == [good, good, bad, good]
        assert ended[2].error.type == "TypeError"
        assert {report.worker for report in ended} <= set(bench.pids())

    drive(scenario, pool)


def test_what_an_attempt_leaves_in_its_context_is_not_there_for_coroutines(drive, pool):
    async def scenario(bench):
        for _ in range(40):
            await bench.run("t:sets_precision")
            assert (await bench.run("t:reads_precision")).data == b"28"

    drive(scenario, pool)


@pytest.mark.parametrize("after", ["soon", -1, 1e300, None])
def test_a_retry_that_handler_code_spoilt_is_left_to_the_backoff(drive, pool, after):
    async def scenario(bench):
        spoilt = await bench.run("t:retries_never", after)
        assert (spoilt.outcome, spoilt.error.type, spoilt.retry_after) == (Outcome.FAILED, "Retry", None)

    drive(scenario, pool)


def test_a_worker_that_tells_what_cannot_be_read_is_replaced(drive, pool):
    async def scenario(bench):
        ended = await bench.run("t:writes_to_the_gateway")
        assert ended.outcome is Outcome.FAILED
        assert ended.error.type == "WorkerDied"
        assert (await bench.run("t:plain")).outcome is Outcome.SUCCEEDED

    drive(scenario, pool)
