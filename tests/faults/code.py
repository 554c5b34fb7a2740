"""The handlers of the fault suite: each does one thing that handler code should not."""

CODE = r"""
import asyncio, ctypes, json, os, pathlib, re, resource, signal, subprocess, sys, threading, time
from busway import Context, Retry, handler

SOON = {"initial": 0.01, "max": 0.05}


def faulty(**fields):
    # The pool is the one that the gateway was started with.
    def declare(function):
        given = {"max_attempts": 1, "backoff": SOON, "timeout": 30, **fields}
        return handler(f"faulty.{function.__name__}", **given)(function)
    return declare


@handler("bystander", pool="process", timeout=60)
def bystander(event):
    return event.data["n"]


@handler("bystander", pool="thread", timeout=60)
def bystander_thread(event):
    time.sleep(0.003)
    return event.data["n"]


@handler("bystander", pool="process", timeout=60)
async def bystander_async(event):
    await asyncio.sleep(0.003)
    return event.data["n"]


@faulty()
def fine(event):
    return event.data


@faulty()
def exits(event, ctx):
    print("about to exit")
    ctx.log.warning("with %d", event.data)
    os._exit(event.data)


@faulty()
def hides_its_start_and_exits(event):
    import mmap
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if "busway-page" in os.readlink(f"/proc/self/fd/{number}"):
                page = mmap.mmap(number, os.fstat(number).st_size)
                page[:] = bytes(len(page))
        except OSError:
            continue
    os._exit(0)


@faulty()
def exits_politely(event):
    sys.exit(event.data)


@faulty()
def segfaults(event):
    print("about to read what is not there")
    follow(None)


def follow(pointer):
    ctypes.string_at(pointer or 0)


@faulty()
def fails_deep(event):
    print("painting")
    paint({})


def paint(car):
    return car["colour"]


@faulty()
def floods_and_dies(event):
    for n in range(100_000):
        print("line", n)
    os._exit(4)


@faulty()
def kills_itself(event):
    print("about to be killed")
    os.kill(os.getpid(), event.data)
    time.sleep(20)  # another thread may be the one that takes it


@faulty(max_attempts=3)
def poison(event):
    if event.data == "poison":
        os._exit(7)
    return "harmless"


@faulty(max_attempts=5, timeout=600)
def waits_for(event):
    # Returns when the file is there, and as many bytes as it says.
    path = pathlib.Path(event.data)
    while not path.exists():
        time.sleep(0.005)
    size = int(path.read_text() or "1")
    path.with_suffix(".seen").touch()
    return "x" * size


@faulty(max_attempts=5)
def measures(event):
    return len(event.data)


@faulty(timeout=0.3)
def spins_in_c(event):
    print("matching")
    re.match(r"(a+)+$", "a" * 60 + "b")  # holds the interpreter for ages


@faulty(timeout=0.3)
def waits_in_c(event):
    print("waiting")
    ctypes.PyDLL(None).usleep(20_000_000)  # holds the interpreter; a signal ends it


@faulty(timeout=600)
def spins_in_c_for_long(event):
    time.sleep(0.3)  # until it is known to run
    re.match(r"(a+)+$", "a" * 60 + "b")


@faulty(timeout=600)
def swallows_for_long(event):
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


@faulty()
def daemonizes(event):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.05)
        os._exit(0)
    os.wait()


@faulty(timeout=0.3)
def swallows(event):
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


@faulty(timeout=0.3)
async def swallows_async(event):
    while True:
        try:
            await asyncio.sleep(0.01)
        except BaseException:
            pass


@faulty(timeout=0.3)
def stands_still(event):
    print("standing still")
    standing()


def standing():
    time.sleep(1000)


@faulty(timeout=600)
def spins_in_threads(event, ctx):
    def spin():
        while not ctx.cancelled:
            pass
    threads = [threading.Thread(target=spin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@faulty(timeout=600)
def bimodal(event):
    # Quick, unless it is told to wait for a file.
    while event.data and not os.path.exists(event.data):
        time.sleep(0.005)


@faulty()
def quick(event, ctx):
    early = ctx.cancelled
    for _ in range(event.data):
        time.sleep(0.0005)
    if early or ctx.cancelled:
        raise RuntimeError("cancelled")
    return "uncancelled"


@faulty(max_attempts=2)
def hits_or_misses(event, ctx):
    for _ in range(event.data):
        time.sleep(0.0005)
    if ctx.cancelled:
        print("cancelled")
    return ctx.attempt


@faulty()
def leaves_children(event):
    wait = [sys.executable, "-c", "import time; time.sleep(1000)"]
    return [subprocess.Popen(wait).pid, subprocess.Popen(wait, start_new_session=True).pid, os.getpid()]


@faulty()
def unencodable(event):
    return {"a": [object()]} if event.data is None else float(event.data)


class Busy(Retry):
    def __init__(self):
        pass


class Meta(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")


class Nameless(OSError, metaclass=Meta):
    @property
    def errno(self):
        raise RuntimeError("no number")


@faulty(max_attempts=2)
def raises_hostile(event):
    raise {"Busy": Busy, "Nameless": Nameless}[event.data]()


class Broken(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


@faulty()
def raises_broken(event):
    raise Broken


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__("one of two \udc80")
        self.lock = threading.Lock()


@faulty()
def raises_unpicklable(event):
    raise Unpicklable(1, 2)


@faulty()
def recurses(event):
    recurses(event)


@faulty()
def prints(event, ctx):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    sys.stdout.buffer.write(b"bytes\n")
    ctx.log.info("to the log")
    return "printed"


@faulty()
def prints_in_c(event):
    libc = ctypes.CDLL(None)
    libc.printf(b"%s from C\n", event.data.encode())
    return "printed"


@faulty()
def prints_in_c_and_aborts(event):
    libc = ctypes.CDLL(None)
    libc.printf(b"%s from C\n", b"last words")
    libc.abort()


@faulty()
def closes_descriptors(event):
    for descriptor in (0, 1, 2):
        try:
            os.close(descriptor)
        except OSError:
            pass
    print("into the void")
    ctypes.CDLL(None).puts(b"into the void")
    return "closed"


@faulty()
def leaks_descriptors(event):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    for _ in range(1000):
        os.open("/dev/null", os.O_RDONLY)


@faulty(max_attempts=2)
def yields_and_crashes(event):
    for n in range(event.data):
        yield n
    os._exit(9)


@faulty(timeout=600)
def never_ends(event):
    n = 0
    while True:
        n += 1
        yield "x" * 4096


@faulty(timeout=600)
async def never_ends_async(event):
    while True:
        yield "x" * 4096


@faulty(timeout=600)
def reports_fast(event, ctx):
    for n in range(5000):
        ctx.progress(n)
    while not os.path.exists(event.data):
        time.sleep(0.005)
    ctx.progress(5000)


@faulty(timeout=600)
def cleans_up(event):
    try:
        while True:
            yield "more"
            time.sleep(0.005)
    finally:
        pathlib.Path(event.data).touch()


@faulty(max_attempts=3)
def fails_often(event, ctx):
    if ctx.attempt < 3:
        raise ValueError(f"attempt {ctx.attempt}")
    return ctx.attempt


@faulty(max_attempts=3, timeout=60, backoff={"initial": 1, "max": 1})
def fails_once(event, ctx):
    if ctx.attempt == 1:
        raise ValueError("once")
    return ctx.attempt


@faulty(max_attempts=50)
def remembers(event):
    with open(event.data["file"], "a") as file:
        file.write(f"{event.data['n']}\n")
    time.sleep(0.005)
    return event.data["n"]
"""
