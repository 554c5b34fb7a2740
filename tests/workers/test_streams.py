"""`sys.stdout` and `sys.stderr` of handlers have what the streams of Python have, and are kept apart."""

from __future__ import annotations

import json

import pytest
import workers_kit as kit
from busway.domain.run import Outcome

CODE = """
    import asyncio, faulthandler, io, logging, multiprocessing, os, pdb, subprocess, sys, threading, time
    import click
    from busway import Context

    logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
    logging.info("at import")
    own = logging.getLogger("own")
    own.propagate = False
    own.addHandler(logging.StreamHandler(sys.stdout))

    def attributes(event):
        found = []
        for stream in (sys.stdout, sys.stderr):
            binary = stream.buffer
            found.append([
                isinstance(stream, io.TextIOWrapper), isinstance(binary, io.BufferedIOBase),
                stream.name, stream.mode, stream.encoding, stream.errors, stream.newlines,
                stream.line_buffering, stream.isatty(), stream.fileno(), stream.closed,
                stream.readable(), stream.writable(), stream.seekable(), binary.mode, binary.name,
                binary.raw.fileno(), binary.isatty(), binary.closed, binary.writable(), stream.write("x"),
                stream.flush(), binary.flush(), stream.close(), binary.close(), stream.closed,
            ])
            stream.writelines(["a", "b"])
            binary.writelines([b"c", memoryview(b"d")])
            binary.raw.write(bytearray(b"e"))
        return found

    def refuses(event):
        found = []
        for name in ("detach", "readline", "seek", "tell", "truncate", "__next__"):
            for stream in (sys.stdout, sys.stdout.buffer):
                if hasattr(stream, name):
                    try:
                        getattr(stream, name)(*([0] if name == "seek" else []))
                    except io.UnsupportedOperation:
                        found.append(name)
                    except (OSError, ValueError) as problem:
                        found.append(f"{name}: {problem!r}")
        print("still there")
        return sorted(set(found))

    def reconfigures(event):
        sys.stdout.reconfigure(encoding="ascii", errors="strict", line_buffering=False, write_through=True)
        print("é")
        found = [sys.stdout.encoding, sys.stdout.errors]
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
        print("ü")
        return found

    def wraps(event):
        before = sys.stdout
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        print("wrapped é")
        if event.data == "put back":
            sys.stdout.flush()
            sys.stdout = before

    def breaks(event):
        before = sys.stdout
        if event.data == "deletes":
            del sys.stdout
        elif event.data == "none":
            sys.stdout = None
        else:
            class Broken:
                __eq__ = __getattr__ = flush = write = lambda *_: 1 / 0
            sys.stdout = Broken()
        threading.Timer(0, setattr, (sys, "stdout", before)).start() if event.data == "later" else None

    def mends(event):
        sys.stdout = sys.__stdout__
        print("mended")

    def logs(event):
        logging.info("to the root, %d", event.data)
        own.warning("to my own")
        logging.getLogger("child").error("to a child")

    def libraries(event):
        click.echo("click é")
        click.secho("styled", fg="red", err=True)
        faulthandler.dump_traceback(sys.stdout)
        try:
            pdb.Pdb(stdin=io.StringIO("p 6 * 7\\nc\\n"), stdout=sys.stdout).set_trace()
        except Exception as problem:
            print("pdb", problem)
        subprocess.run([sys.executable, "-c", "print('by a program')"], stdout=sys.stdout, check=True)
        print("over", file=sys.stderr, flush=True)

    def forks(event, ctx: Context):
        pid = os.fork()
        if not pid:
            print("print of a fork", event.data)
            ctx.log.warning("log of a fork %s", event.data)
            logging.info("logging of a fork %s", event.data)
            sys.stdout.buffer.write(b"bytes of a fork " + event.data.encode() + b"\\n")
            os._exit(0)
        os.waitpid(pid, 0)
        print("the parent")

    def multiprocesses(event):
        process = multiprocessing.get_context("fork").Process(target=print, args=("multi", event.data))
        process.start()
        process.join()

    RELEASED = threading.Event()
    def leaves_a_thread(event, ctx: Context):
        def later():
            RELEASED.wait()
            print("left thread", event.data)
            ctx.log.warning("left log %s", event.data)
            ctx.progress(0.5, "too late")
        threading.Thread(target=later).start()
        print("first")

    def releases(event):
        print("second")
        RELEASED.set()
        while any("later" in thread.name for thread in threading.enumerate()):
            time.sleep(0.005)
        RELEASED.clear()

    TASKS = []
    async def leaves_a_task(event):
        async def later():
            while not RELEASED.is_set():
                await asyncio.sleep(0.005)
            print("left task", event.data)
        TASKS.append(asyncio.create_task(later()))
        print("first")

    async def releases_task(event):
        print("second")
        RELEASED.set()
        await TASKS.pop()
        RELEASED.clear()

    from concurrent.futures import ThreadPoolExecutor
    def in_a_pool(event):
        global POOL
        POOL = globals().get("POOL") or ThreadPoolExecutor(1)
        POOL.submit(print, "pool", event.data).result()

    def in_a_thread(event):
        thread = threading.Thread(target=print, args=("thread", event.data))
        thread.start()
        thread.join()
"""


@pytest.fixture(scope="module")
def drive(folder):
    shared = kit.Shared(folder, processes=1)

    def drive(scenario, pool):
        async def checked(bench):
            assert [file.error for file in bench.catalog] == [None]
            await scenario(bench)

        shared.drive(checked, pool)

    yield drive
    shared.close()


async def succeeded(bench, target, data=None):
    ended = await bench.run(f"t:{target}", data)
    assert ended.outcome is Outcome.SUCCEEDED, ended.error
    return ended


def test_they_have_what_a_text_stream_has(drive, pool):
    async def scenario(bench):
        ended = await succeeded(bench, "attributes")
        for number, found in enumerate(json.loads(ended.data), 1):
            name = ["", "<stdout>", "<stderr>"][number]
            assert found == [
                True, True, name, "w", "utf-8", "backslashreplace", None, True, False, number, False,
                False, True, False, "wb", name, number, False, False, True, 1, None, None, None, None, False,
            ]  # fmt: skip
        assert ended.log == "xabcde" * 2
        ended = await succeeded(bench, "refuses")
        assert json.loads(ended.data) == ["__next__", "detach", "readline", "seek", "tell", "truncate"]
        assert ended.log == "still there\n"

    drive(scenario, pool)


def test_reconfiguring_and_wrapping_them_loses_nothing(drive, pool):
    async def scenario(bench):
        ended = await succeeded(bench, "reconfigures")
        assert (ended.log, ended.data) == ("é\nü\n", b'["ascii","strict"]')
        for data in ("put back", "left"):
            assert (await succeeded(bench, "wraps", data)).log == "wrapped é\n"
        for data in ("deletes", "none", "broken"):
            await succeeded(bench, "breaks", data)
            assert (await succeeded(bench, "mends")).log == "mended\n"

    drive(scenario, pool)


def test_loggers_that_were_set_up_at_import_write_into_the_attempts_log(drive, pool):
    async def scenario(bench):
        for n in range(3):
            log = (await succeeded(bench, "logs", n)).log
            assert log == f"INFO to the root, {n}\nto my own\nERROR to a child\n"

    drive(scenario, pool)


def test_libraries_that_write_to_them_work(drive, pool):
    async def scenario(bench):
        log = (await succeeded(bench, "libraries")).log
        assert log.startswith("click é\nstyled\n")
        assert "42\n" in log
        assert log.endswith("over\n")

    drive(scenario, pool)


async def logged(bench, caplog, *lines):
    await bench.until(lambda: all(line in caplog.text for line in lines))


def test_what_a_fork_prints_is_in_the_gateways_log(drive, pool, caplog):
    caplog.set_level("INFO")

    async def scenario(bench):
        assert (await succeeded(bench, "forks", pool)).log == "the parent\n"
        await logged(
            bench, caplog, f"print of a fork {pool}", f"WARNING forks: log of a fork {pool}",
            f"INFO logging of a fork {pool}", f"bytes of a fork {pool}",
        )  # fmt: skip
        await succeeded(bench, "multiprocesses", pool)
        await logged(bench, caplog, f"multi {pool}")

    drive(scenario, pool)


def test_what_outlives_its_attempt_prints_to_the_gateways_log(drive, pool, caplog):
    caplog.set_level("INFO")

    async def scenario(bench):
        assert (await succeeded(bench, "leaves_a_thread", pool)).log.startswith("first\n")
        assert (await succeeded(bench, "releases")).log == "second\n"
        await logged(bench, caplog, f"left thread {pool}", f"WARNING leaves_a_thread: left log {pool}")
        assert (await succeeded(bench, "leaves_a_task", pool)).log == "first\n"
        assert (await succeeded(bench, "releases_task")).log == "second\n"
        await logged(bench, caplog, f"left task {pool}")

    drive(scenario, pool)


def test_threads_that_work_for_an_attempt_print_into_its_log_where_it_is_alone(drive):
    async def scenario(bench):
        for n in range(3):
            assert (await succeeded(bench, "in_a_pool", n)).log == f"pool {n}\n"
            assert (await succeeded(bench, "in_a_thread", n)).log == f"thread {n}\n"

    drive(scenario, "process")
