"""What handler code does to the memory, the socket and the zygote that it shares with the gateway.

The gateway goes on, in bounded memory. The worker or zygote is replaced, its attempt fails with the reason.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import psutil
import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.port import Returned
from busway.gateway.executors.python.host import attempt
from busway.gateway.executors.python.wire import slots

TOOLS = """
    import fcntl, mmap, msgspec, os, select, socket, struct, threading, time

    def frame(kind, number=0, body=b"", size=None):
        return struct.pack("!IBQ", len(body) if size is None else size, kind, number) + body

    def descriptors(kind):
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                if kind in os.readlink(f"/proc/self/fd/{number}"):
                    yield number
            except OSError:
                continue

    def write(data):
        for number in list(descriptors("socket:")):
            try:
                sock = socket.socket(fileno=os.dup(number))
                sock.setblocking(True)
                sock.sendall(data)
            except OSError:
                continue

    def pages():
        for number in list(descriptors("busway-page")):
            size = os.fstat(number).st_size
            yield mmap.mmap(number, size)

    def junk(name, token):
        body = msgspec.msgpack.encode
        return {
            "huge ENDED": frame(3, 0, size=0xFFFFFFF0) + bytes(1 << 16),
            "huge PARTIAL": frame(2, token, size=0xFFFFFFF0),
            "huge unknown": frame(200, 1, size=1 << 20),
            "unknown kind": frame(77),
            "another READY": frame(1, 1),
            "PONG without PING": frame(5),
            "READY that is not UTF-8": frame(1, 1, b"\\xff"),
            "no msgpack": frame(3, 0, b"\\xc1"),
            "another type": frame(3, 0, body({"a": 1})),
            "deep": frame(3, 0, b"\\x91" * 100_000),
            "unknown token ENDED": frame(3, 0, body([[12345, "succeeded", 1, 1, None]])),
            "unknown token PARTIAL": frame(2, 12345, body([0, b"1", False, 1])),
            "unknown token SKIPPED": frame(4, 12345),
            "running SKIPPED": frame(4, token),
            "wrong index": frame(2, token, body([7, b"1", False, 1])),
            "many PARTIALs": b"".join(frame(2, token, body([n, b"1", False, 1])) for n in range(5000)),
            "half a frame, then more": frame(3, 0, b"x" * 100, size=200) + frame(77) * 100,
        }[name]
"""

CODE = """
    from busway import Context
    from tools import *

    def says(event, ctx: Context):
        write(junk(event.data, ctx._port.token))
        time.sleep(600)

    def resizes(event):
        found = []
        for number in list(descriptors("busway-page")):
            size = os.fstat(number).st_size
            for wanted in (0, 100, size - 1, size + 1, size * 1000):
                try:
                    os.ftruncate(number, wanted)
                except OSError as problem:
                    found.append(problem.errno)
            for seals in (0, fcntl.F_SEAL_WRITE):
                try:
                    fcntl.fcntl(number, fcntl.F_ADD_SEALS, seals)
                except OSError as problem:
                    found.append(problem.errno)
        return found

    def spoils(event):
        for page in pages():
            page[:] = event.data.encode() * len(page)
        for number in list(descriptors("busway-page")):
            os.lseek(number, 1 << 40, os.SEEK_SET)
        time.sleep(600)

    def hides_its_start_and_exits(event):
        for page in pages():
            page[:] = bytes(len(page))
        os._exit(0)

    def claims_to_have_returned(event, ctx: Context):
        for page in pages():
            words = memoryview(page).cast("Q")
            words[ctx._port.call.seat * 16 + 2] = ctx._port.token
        time.sleep(600)

    def claims_to_start_later(event, ctx: Context):
        for page in pages():
            words = memoryview(page).cast("Q")
            words[ctx._port.call.seat * 16 + 1] = (1 << 64) - 1
        time.sleep(600)

    def claims_to_have_had_all_memory_before(event, ctx: Context):
        for page in pages():
            words = memoryview(page).cast("Q")
            words[ctx._port.call.seat * 16 + 9] = 1 << 60
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 10) * (1 << 10)))
            time.sleep(0.005)

    def yields_much(event):
        for page in pages():
            words = memoryview(page).cast("Q")
            for at in range(0, 64 * 16):
                words[at] = (1 << 64) - 1 if at % 16 in (5, 6) else words[at]
        for n in range(10):
            yield n

    def plain(event):
        return event.data

    def waits(event):
        while not os.path.exists(event.data):
            time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handlers")
    kit.write(folder, tools=TOOLS, t=CODE)
    return folder


@pytest.fixture(scope="module")
def drive(folder):
    shared = kit.Shared(folder)
    yield shared.drive
    shared.close()


def said(says):
    return pytest.mark.parametrize("says", says)


@said(
    [
        "huge ENDED", "huge PARTIAL", "huge unknown", "unknown kind", "another READY", "PONG without PING",
        "READY that is not UTF-8", "no msgpack", "another type", "deep", "unknown token ENDED",
        "unknown token PARTIAL", "unknown token SKIPPED", "running SKIPPED", "wrong index", "many PARTIALs",
        "half a frame, then more",
    ]
)  # fmt: skip
def test_a_worker_that_speaks_nonsense_is_replaced_and_its_attempt_fails_with_the_reason(drive, pool, says):
    async def scenario(bench):
        bench.credits = False
        before = psutil.Process().memory_info().rss
        ended = await bench.run("t:says", says)
        assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "WorkerDied")
        assert "its worker was killed because it broke the protocol: " in ended.error.message
        assert psutil.Process().memory_info().rss - before < 64 << 20
        assert ended.worker not in bench.pids() or await bench.until(lambda: ended.worker not in bench.pids())
        bench.credits = True
        assert (await bench.run("t:plain", 1)).data == b"1"

    drive(scenario, pool)


def test_attempts_beside_the_one_that_speaks_nonsense_start_again(drive, tmp_path):
    async def scenario(bench):
        sign = tmp_path / "sign"
        beside = [bench.hand("t:waits", str(sign)) for _ in range(3)]
        for token in beside:
            await bench.started(token)
        bench.hand("t:says", "unknown kind")
        ended = [await bench.end(token) for token in beside]
        assert {(report.outcome, report.alone) for report in ended} == {(Outcome.LOST, True)}
        assert {"protocol" in report.error.message for report in ended} == {True}

    drive(scenario, "thread")


def test_the_shared_memory_keeps_its_size(drive, pool):
    async def scenario(bench):
        refused = json.loads((await bench.run("t:resizes")).data)
        assert len(refused) >= 7
        assert set(refused) == {errno.EPERM}
        assert (await bench.run("t:plain", 1)).data == b"1"

    drive(scenario, pool)


@pytest.mark.parametrize("target", ["spoils", "claims_to_have_returned", "claims_to_start_later"])
def test_what_stands_in_the_shared_memory_does_not_keep_an_attempt_from_its_timeout(
    drive, pool, target, monkeypatch
):
    monkeypatch.setattr(attempt, "_SILENCE", 1_000_000_000)

    async def scenario(bench):
        for data in ("\0", "\x7f") if target == "spoils" else ("",):
            ended = await bench.run(f"t:{target}", data, timeout=0.2)
            assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "Timeout")
            assert 0 <= ended.wall_time < 600
            assert abs(ended.finished_at - ended.started_at - ended.wall_time * 1e6) < 1e6
        assert (await bench.run("t:plain", 1)).data == b"1"

    drive(scenario, pool)


@pytest.mark.parametrize("memory", [None, 64])
def test_an_attempt_that_hides_its_start_and_exits_is_lost_in_a_worker_of_its_own(drive, pool, memory):
    async def scenario(bench):
        options = {"memory": memory, "pool": "process"} if memory else {}
        shared = await bench.end(bench.hand("t:hides_its_start_and_exits", **options))
        assert shared == Returned(token=shared.token, died=True) or shared.outcome is Outcome.FAILED
        alone = await bench.end(bench.hand("t:hides_its_start_and_exits", alone=True, **options))
        assert alone.outcome in {Outcome.LOST, Outcome.FAILED}
        assert "exited with status 0" in alone.error.message

    drive(scenario, pool)


def test_what_stands_in_the_shared_memory_does_not_lift_a_memory_limit(drive):
    async def scenario(bench):
        ended = await bench.run("t:claims_to_have_had_all_memory_before", memory=32)
        assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "MemoryExceeded")

    drive(scenario, "process")


def test_credit_is_counted_by_the_gateway(drive, pool):
    async def scenario(bench):
        token = bench.hand("t:yields_much")
        assert (await bench.end(token)).outcome is Outcome.SUCCEEDED
        assert [partial.data for partial in bench.partials(token)] == [b"%d" % n for n in range(10)]

    drive(scenario, pool)


IMPORTS = {
    "huge": "frame(2, 0, size=0xFFFFFFF0)",
    "huge_other": "frame(1, 0, size=1 << 20)",
    "unknown": "frame(99)",
    "no_msgpack": r'frame(2, 0, b"\xc1")',
    "wrong_type": "frame(2, 0, msgspec.msgpack.encode({}))",
    "bad_fields": 'frame(2, 0, msgspec.msgpack.encode([[["a.py", "", [], [["a", {"name": "a"}]]]], "fork"]))',
    "no_pidfd": 'frame(3, 1, b"1")',
    "refuses": 'frame(4, 1, b"no")',
    "no_number": 'frame(5, 1, b"one")',
    "no_utf8": r'frame(1, 0, b"\xff")',
    "many": "frame(6, 0, b'/') * 20_000",
}


def test_a_file_that_writes_to_the_zygotes_socket_is_skipped_and_named(tmp_path):
    files = {f"a_{name}": f"from tools import *\nwrite({said})" for name, said in IMPORTS.items()}
    kit.write(tmp_path, tools=TOOLS, good="def works(event): pass", **files)

    async def scenario(bench):
        errors = {file.file: file.error for file in bench.catalog}
        assert {
            name: "broke the protocol" in (errors[f"a_{name}.py"] or "") for name in IMPORTS
        } == dict.fromkeys(IMPORTS, True)
        assert errors["good.py"] is None
        assert (await bench.run("good:works")).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, tmp_path)


LATER = """
    from tools import *

    def speak():
        while True:
            time.sleep(0.01)
            try:
                os.unlink(SIGN)
            except OSError:
                continue
            write(SAYS)

    if "child.zygote" in open("/proc/self/cmdline").read():
        threading.Thread(target=speak, daemon=True).start()

    def works(event): pass
"""


@pytest.mark.parametrize(
    "says", ['frame(5, os.getpid(), b"0")', "frame(2, 0, size=0xFFFFFFF0)", "frame(2)", 'frame(3, 1, b"1")']
)
def test_a_zygote_that_speaks_nonsense_later_is_replaced(tmp_path, says):
    sign = tmp_path / "sign"
    if "getpid" in says:  # that one of its workers has ended, which has not
        children = 'open(f"/proc/self/task/{os.getpid()}/children").read().split()'
        says = f'b"".join(frame(5, int(pid), b"0") for pid in {children})'
    later = LATER.replace("SIGN", repr(str(sign))).replace("SAYS", says)
    kit.write(tmp_path, tools=TOOLS, later=later)

    async def scenario(bench):
        zygote = bench.zygote()
        assert (await bench.run("later:works")).outcome is Outcome.SUCCEEDED
        sign.touch()
        await bench.until(lambda: bench.zygote() not in {None, zygote})
        assert (await bench.run("later:works")).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, tmp_path, processes=1)


def test_without_anonymous_memory_a_page_is_a_file_without_a_name(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "not in this sandbox")

    monkeypatch.setattr(os, "memfd_create", refuse)
    descriptor = slots.create(4)
    assert "(deleted)" in Path(f"/proc/self/fd/{descriptor}").readlink().name
    assert os.get_inheritable(descriptor) is False
    worker, gateway = slots.Page(os.dup(descriptor), 4), slots.Page(descriptor, 4)
    assert worker.begin(2, 77, 5, 6)
    worker.print(2, b"printed")
    assert (gateway.started(2, 77), gateway.since(2), gateway.printed(2)) == (True, 5, "printed")
    os.write(worker.descriptor, b"stacks")
    assert (gateway.dump_size(), gateway.dumped()) == (6, "stacks")
    worker.close()
    gateway.close()


def test_stacks_make_room_for_newer_ones():
    descriptor = slots.create(1)
    page = slots.Page(descriptor, 1)
    for n in range(100):
        page.make_room()
        os.write(descriptor, f"dump {n} {'x' * 10_000}".encode())
    assert "dump 99 " in page.dumped()
    size = os.fstat(descriptor).st_size
    assert os.write(descriptor, bytes(1 << 20)) < 1 << 20
    assert os.fstat(descriptor).st_size == size
    page.make_room()
    assert page.dump_size() == 0
    page.close()
