"""How exceptions and values are reported whose class, attributes and methods raise, lie or have odd types.

Each attempt fails by itself, with its own exception, and its worker runs the next one.
"""

from __future__ import annotations

import pytest
import workers_kit as kit
from busway.domain.callables import ASYNC
from busway.domain.run import Outcome

CODE = """
    import asyncio, errno, json, sys
    import busway
    from busway import Context

    def raising(name):
        def read(self):
            raise RuntimeError(f"{name} cannot be read")
        return property(read)

    class Busy(busway.Retry):
        def __init__(self):
            pass

    class BusyProperty(busway.Retry):
        after = property(lambda self: raising_now(), lambda self, value: None)

    def raising_now():
        raise SystemExit("no delay")

    class Hostile:
        def __float__(self):
            raise KeyboardInterrupt
        __le__ = __ge__ = __lt__ = __gt__ = __repr__ = __float__

    class Number(OSError):
        errno = raising("errno")

    class Equal:
        def __eq__(self, other):
            raise RuntimeError("equal to nothing")
        __hash__ = None

    class Meta(type):
        @property
        def __name__(cls):
            raise RuntimeError("no name")
        __module__ = __name__
        def __getattribute__(cls, name):
            raise RuntimeError("no attributes")

    class Nameless(Exception, metaclass=Meta):
        pass

    class NamelessRetry(busway.Retry, metaclass=Meta):
        pass

    class NoClass(Exception):
        __class__ = raising("__class__")

    class Liar(Exception):
        __class__ = busway.Fail

    class Hides(Exception):
        __cause__ = raising("__cause__")
        __context__ = raising("__context__")
        __traceback__ = raising("__traceback__")
        __suppress_context__ = raising("__suppress_context__")
        __notes__ = raising("__notes__")
        __dict__ = raising("__dict__")
        args = raising("args")

    class Lies(Exception):
        __cause__ = __context__ = __traceback__ = __notes__ = __suppress_context__ = 7
        __module__ = 5
        __doc__ = b"x"

    class Text(str):
        def encode(self, *_):
            raise RuntimeError("no bytes")
        __len__ = __getitem__ = __format__ = __str__ = __repr__ = encode

    class Speaks(Exception):
        def __init__(self, says):
            self.says = says
        def __str__(self):
            return self.says() if callable(self.says) else self.says

    class Selfish(Exception):
        def __str__(self):
            raise self

    class BrokenSyntax(SyntaxError):
        lineno = filename = text = offset = end_offset = property(lambda self: Hostile())

    class Everything(Hides, Nameless, Number):
        __str__ = __repr__ = __getattribute__ = __reduce__ = Hostile.__float__

    def renamed(name):
        class Some(Exception):
            pass
        type.__dict__["__name__"].__set__(Some, name)
        return Some

    def looped():
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        return first

    def nested(depth):
        problem = ValueError("core")
        for _ in range(depth):
            problem = ExceptionGroup("group", [problem, KeyError(1)])
        return problem

    def chained(length):
        problem = ValueError("first")
        for n in range(length):
            after = ValueError(n)
            after.__cause__ = problem
            problem = after
        return problem

    PROBLEMS = {
        "Busy": Busy,
        "BusyProperty": BusyProperty,
        "Number": lambda: Number(errno.EMFILE, "too many"),
        "OSError": lambda: OSError(Equal(), "equal"),
        "Nameless": Nameless,
        "NamelessRetry": lambda: NamelessRetry(3),
        "NoClass": NoClass,
        "Liar": Liar,
        "Hides": Hides,
        "Lies": Lies,
        "Selfish": Selfish,
        "Everything": Everything,
        "BrokenSyntax": BrokenSyntax,
        "Text": lambda: renamed(Text("Text"))("named"),
        "Surrogate": lambda: renamed("Surrogate")("\\udc80\\ud800"),
        "Long": lambda: renamed("L" * 10_000_000)("huge"),
        "Huge": lambda: Speaks("x" * 50_000_000),
        "SpeaksText": lambda: Speaks(Text("text")),
        "SpeaksBytes": lambda: Speaks(b"bytes"),
        "SpeaksMemory": lambda: Speaks(lambda: 1 / 0),
        "ExceptionGroup": lambda: nested(3),
        "BaseExceptionGroup": lambda: BaseExceptionGroup("base", [KeyboardInterrupt(), SystemExit(3)]),
        "deep ExceptionGroup": lambda: nested(2000),
        "looped ValueError": looped,
        "chained ValueError": lambda: chained(3000),
        "KeyboardInterrupt": KeyboardInterrupt,
        "SystemExit": lambda: SystemExit(Hostile()),
        "GeneratorExit": GeneratorExit,
        "StopIteration": lambda: StopIteration(1),
        "CancelledError": asyncio.CancelledError,
        "MemoryError": lambda: bytearray(1 << 62),
        "JSON": lambda: json.loads("{"),
    }

    def raises(event):
        raise PROBLEMS[event.data]()

    def raises_in_a_generator(event):
        yield 1
        raise PROBLEMS[event.data]()

    def raises_in_close(event):
        try:
            yield object()
        finally:
            raise PROBLEMS[event.data]()

    async def raises_async(event):
        await asyncio.sleep(0)
        raise PROBLEMS[event.data]()

    async def raises_in_aclose(event):
        try:
            yield object()
        finally:
            raise PROBLEMS[event.data]()

    def retries(event):
        problem = busway.Retry(7)
        problem.after = {"hostile": Hostile(), "huge": 10 ** 400, "text": "x", "bytes": b"7"}[event.data]
        raise problem

    def retries_badly(event):
        given = {"nan": float("nan"), "huge": 10 ** 400, "text": "x", "list": []}
        raise busway.Retry(after=given.get(event.data, event.data))

    def recurses(event):
        def ping():
            pong()
        def pong():
            ping()
        ping()

    def fills_memory(event):
        held = [bytearray(1 << 20)]
        raise MemoryError("all of it is held")

    class Odd:
        __class__ = raising("__class__")

    class Members(dict):
        def items(self):
            raise StopIteration
        values = items

    class Whole(int):
        def __int__(self):
            raise RuntimeError("no int")
        __index__ = __str__ = __repr__ = __int__

    class Real(float):
        def __float__(self):
            return float("nan")

    VALUES = {
        "odd": Odd(), "nameless": Nameless("x"), "class": Nameless, "nested odd": [{"a": Odd()}],
        "members": Members(a=1), "key": {Odd: 1}, "lambda": lambda: 1, "module": json,
    }

    def returns(event):
        return VALUES[event.data]

    async def returns_async(event):
        return VALUES[event.data]

    def yields(event):
        yield VALUES[event.data]

    async def yields_async(event):
        yield VALUES[event.data]

    def publishes(event, ctx: Context):
        ctx.publish("made.it", VALUES[event.data])

    def numbers(event):
        return [Whole(3), Real(1.5)]

    def prints_text(event):
        sys.stdout.write(Text("text"))

    def plain(event):
        return event.data
"""

FAILING = ("raises", "raises_in_a_generator", "raises_in_close", "raises_async", "raises_in_aclose")
TYPES = {
    "SpeaksText": "Speaks",
    "SpeaksBytes": "Speaks",
    "SpeaksMemory": "Speaks",
    "Huge": "Speaks",
    "deep ExceptionGroup": "ExceptionGroup",
    "looped ValueError": "ValueError",
    "chained ValueError": "ValueError",
    "JSON": "JSONDecodeError",
}
PROBLEMS = (
    "Busy", "BusyProperty", "Number", "OSError", "Nameless", "NamelessRetry", "NoClass", "Liar", "Hides",
    "Lies", "Selfish", "Everything", "BrokenSyntax", "Text", "Surrogate", "Long", "Huge", "SpeaksText",
    "SpeaksBytes", "SpeaksMemory", "ExceptionGroup", "BaseExceptionGroup", "deep ExceptionGroup",
    "looped ValueError",
    "chained ValueError", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "StopIteration",
    "CancelledError", "MemoryError", "JSON",
)  # fmt: skip
CONVERTED = {
    # what Python itself makes of them, because a generator or coroutine must not raise them
    ("raises_in_a_generator", "StopIteration"): "RuntimeError",
    ("raises_in_close", "StopIteration"): "RuntimeError",
    ("raises_async", "StopIteration"): "RuntimeError",
    ("raises_in_aclose", "StopIteration"): "RuntimeError",
    ("raises_in_close", "GeneratorExit"): "NotEncodable",  # closing it this way is no failure, the value is
    ("raises_in_aclose", "GeneratorExit"): "NotEncodable",
}


@pytest.fixture(scope="module")
def drive(folder):
    shared = kit.Shared(folder)
    yield shared.drive
    shared.close()


def alive(bench):
    """The workers of the pool, also those of its async targets."""
    return {*bench.pids(), *bench.pids(f"{bench.pool}:async")}


async def replaced(bench, worker, target):
    part = bench.pool
    if part == "process":
        part += ":async" if bench.kind(f"t:{target}") in ASYNC else ""
    count = 2 if bench.pool == "process" else 1
    await bench.until(lambda: worker not in bench.pids(part) and len(bench.pids(part)) == count)


@pytest.mark.parametrize("target", FAILING)
def test_an_exception_is_told_as_itself_whatever_it_does_and_the_worker_lives(drive, pool, target):
    async def scenario(bench):
        found, expected = {}, {}
        for name in PROBLEMS:
            ended = await bench.run(f"t:{target}", name)
            assert ended.worker in alive(bench) or name == "Number", name
            delay = ended.retry_after
            found[name] = (ended.outcome, ended.error.type[:20], delay, ended.fatal, ended.exhausted)
            delay = 3.0 if name == "NamelessRetry" else None
            exhausted = name == "Number"  # its number is there, though its property raises
            type_ = CONVERTED.get((target, name), TYPES.get(name, name))
            if name == "Long":
                type_ = "L" * 20
            expected[name] = (Outcome.FAILED, type_, delay, type_ == "NotEncodable", exhausted)
            assert len(ended.error.message) < 20_000, name
            assert len(ended.error.traceback or "") < 70_000, name
            if exhausted:
                await replaced(bench, ended.worker, target)
        assert found == expected
        assert (await bench.run("t:plain", 1)).outcome is Outcome.SUCCEEDED

    drive(scenario, pool)


@pytest.mark.parametrize(
    ("name", "message", "trace"),
    [
        ("Busy", "", "in raises"),
        ("Number", "[Errno 24] too many", "in raises"),
        ("Hides", "", "in raises"),
        ("Lies", "", "in raises"),
        ("Nameless", "", "in raises"),
        ("Everything", "<its __str__ raised KeyboardInterrupt>", "in raises"),
        ("Selfish", "<its __str__ raised Selfish>", "in raises"),
        ("SpeaksBytes", "<its __str__ raised TypeError>", "in raises"),
        ("Surrogate", r"\udc80\ud800", "in raises"),
        ("SpeaksText", "text", "in raises"),
        ("ExceptionGroup", "group (2 sub-exceptions)", "ValueError: core"),
        ("chained ValueError", "2999", "in raises"),
    ],
)
def test_the_message_and_the_frames_are_told(drive, pool, name, message, trace):
    async def scenario(bench):
        error = (await bench.run("t:raises", name)).error
        assert error.message == message
        assert trace in error.traceback

    drive(scenario, pool)


@pytest.mark.parametrize("after", ["hostile", "huge", "text", "bytes"])
def test_a_retry_without_a_valid_delay_is_left_to_the_backoff(drive, pool, after):
    async def scenario(bench):
        spoilt = await bench.run("t:retries", after)
        assert (spoilt.outcome, spoilt.error.type, spoilt.retry_after) == (Outcome.FAILED, "Retry", None)

    drive(scenario, pool)


@pytest.mark.parametrize(
    ("after", "type_"),
    [
        ("nan", "ValueError"),
        (-1, "ValueError"),
        ("huge", "ValueError"),
        ("text", "TypeError"),
        ("list", "TypeError"),
    ],
)
def test_a_retry_that_cannot_be_made_says_what_is_wrong_with_it(drive, pool, after, type_):
    async def scenario(bench):
        ended = await bench.run("t:retries_badly", after)
        assert (ended.outcome, ended.error.type, ended.retry_after) == (Outcome.FAILED, type_, None)
        assert ended.error.message.startswith("Retry(after=...) must be ")

    drive(scenario, pool)


def test_recursion_and_memory_are_told(drive, pool):
    async def scenario(bench):
        recursion = (await bench.run("t:recurses")).error
        assert recursion.type == "RecursionError"
        assert "in ping" in recursion.traceback
        memory = (await bench.run("t:fills_memory")).error
        assert (memory.type, memory.message) == ("MemoryError", "all of it is held")
        assert "in fills_memory" in memory.traceback

    drive(scenario, pool)


@pytest.mark.parametrize("target", ["returns", "returns_async", "yields", "yields_async", "publishes"])
def test_a_value_of_a_hostile_class_fails_its_attempt_alone(drive, pool, target):
    async def scenario(bench):
        values = ("odd", "nameless", "class", "nested odd", "members", "key", "lambda", "module")
        ended = {value: await bench.run(f"t:{target}", value) for value in values}
        assert {value: report.outcome for value, report in ended.items()} == dict.fromkeys(
            values, Outcome.FAILED
        )
        assert "Nameless" in ended["nameless"].error.message
        assert {report.worker for report in ended.values()} <= alive(bench)

    drive(scenario, pool)


def test_numbers_and_text_are_taken_as_they_are_stored_not_as_their_methods_say(drive, pool):
    async def scenario(bench):
        assert (await bench.run("t:numbers")).data == b"[3,1.5]"
        assert (await bench.run("t:prints_text")).log == "text"

    drive(scenario, pool)


BAD_FILES = {
    "proxies": """
        class Proxy:
            @property
            def __class__(self):
                raise RuntimeError("working outside of a request")
        request = Proxy()
        def works(event): pass
    """,
    "documented": """
        def works(event): pass
        works.__doc__ = "lone \\udc80"
    """,
    "raises": """
        class Hides(ModuleNotFoundError):
            name = property(lambda self: 1 / 0)
            def add_note(self, note):
                raise RuntimeError("no notes")
            __str__ = __repr__ = add_note
        raise Hides("x", name="raises.models")
    """,
    "named": """
        from busway import handler
        @handler("x", name="works")
        def works(event): pass
        globals()["\\udc80"] = works
        del globals()["works"]
    """,
}


def test_a_file_whose_objects_cannot_be_looked_at_is_reported_and_others_work(tmp_path):
    kit.write(tmp_path, good="def works(event): pass", **BAD_FILES)

    async def scenario(bench):
        files = {file.file: file for file in bench.catalog}
        assert [target.target for target in files["good.py"].targets] == ["good:works"]
        assert [target.target for target in files["proxies.py"].targets] == ["proxies:works"]
        assert "UnicodeEncodeError" in files["documented.py"].error
        assert "Hides" in files["raises.py"].error
        assert files["named.py"].error
        assert bench.supervisor.status()["zygote"]["restarts"] == 0
        assert (await bench.run("good:works")).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, tmp_path)
