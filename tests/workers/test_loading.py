"""What the handlers folder offers, and what its files cannot do to the gateway or to one another."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.python.child.loading import load


def catalog(folder, **options):
    found = {}

    async def scenario(bench):
        found.update({file.file: file for file in bench.catalog})

    kit.drive(scenario, folder, **options)
    return found


def test_plain_functions_of_a_file_are_targets_with_kind_and_doc(tmp_path):
    kit.write(
        tmp_path,
        shop='''
        def sell(event):
            """Sell one.

            More.
            """
        async def wait(event): ...
        def many(event): yield
        async def stream(event, ctx): yield
        def _hidden(event): ...
        def setup(): ...
        def teardown(): ...
        def helper(a, b, c): ...
        def nothing(): ...
        class Thing:
            def method(self, event): ...
        value = 5
    ''',
    )
    (tmp_path / "_private.py").write_text("def f(event): ...")
    (tmp_path / ".hidden.py").write_text("def f(event): ...")
    (tmp_path / "notes.txt").write_text("no")
    files = catalog(tmp_path)
    assert list(files) == ["shop.py"]
    assert [(t.target, t.kind, t.doc) for t in files["shop.py"].targets] == [
        ("shop:sell", "function", "Sell one."),
        ("shop:wait", "coroutine", ""),
        ("shop:many", "generator", ""),
        ("shop:stream", "async_generator", ""),
    ]
    assert files["shop.py"].digest == hashlib.sha256((tmp_path / "shop.py").read_bytes()).hexdigest()


def test_imported_names_are_no_targets(tmp_path):
    kit.write(
        tmp_path,
        a="from os import system\nfrom b import shared\nfrom json import dumps\ndef own(event): ...",
        b="def shared(event): return 'from b'",
    )
    files = catalog(tmp_path)
    assert [t.target for t in files["a.py"].targets] == ["a:own"]
    assert [t.target for t in files["b.py"].targets] == ["b:shared"]


def test_files_import_one_another_as_the_same_module(tmp_path):
    kit.write(
        tmp_path,
        counter="hits = []\ndef hit(event):\n    hits.append(1)\n    return len(hits)",
        reader="import counter\ndef read(event):\n    return len(counter.hits)",
    )

    async def scenario(bench):
        await bench.run("counter:hit")
        assert (await bench.run("reader:read")).data == b"1"

    kit.drive(scenario, tmp_path, processes=1)


def test_a_file_named_like_a_library_hides_none(tmp_path):
    kit.write(
        tmp_path,
        json="from json import dumps\ndef f(event): return dumps([1])",
        app="def f(event): return __name__",
        msgspec="def f(event): return 'mine'",
        uses="import json, msgspec\ndef f(event): return [json.loads('[2]'), msgspec.json.decode(b'3')]",
    )

    async def scenario(bench):
        assert all(file.error is None for file in bench.catalog)
        assert [t.target for f in bench.catalog for t in f.targets] == [
            "app:f",
            "json:f",
            "msgspec:f",
            "uses:f",
        ]
        assert (await bench.run("json:f")).data == b'"[1]"'
        assert (await bench.run("msgspec:f")).data == b'"mine"'
        assert (await bench.run("uses:f")).data == b"[[2],3]"

    kit.drive(scenario, tmp_path)


def test_the_folder_comes_last_on_the_path_and_nothing_of_ours_stands_before_it(tmp_path):
    kit.write(tmp_path, a="import sys\npath = list(sys.path)\ndef f(event): return path")

    async def scenario(bench):
        path = json.loads((await bench.run("a:f")).data)
        assert path[-1] == str(tmp_path)
        assert str(Path.cwd()) not in path[:-1]
        assert "" not in path

    kit.drive(scenario, tmp_path)


def test_declarations_carry_their_fields_and_defaults(tmp_path):
    kit.write(
        tmp_path,
        shop='''
        from busway import handler

        @handler(
            "order.created", "order.*", pool="thread", timeout=2.5, max_attempts=3, backoff={"initial": 2}
        )
        def invoice(event):
            """Write an invoice.

            Slowly.
            """

        @handler("a.b", name="first")
        @handler("c.d", name="second", description="told")
        def twice(event, ctx): ...
    ''',
    )
    declared = {d.name: d.fields for d in catalog(tmp_path)["shop.py"].declarations}
    assert declared["invoice"] == {
        "name": "invoice", "target": "shop:invoice", "events": ["order.created", "order.*"], "pool": "thread",
        "timeout": 2.5, "max_attempts": 3, "backoff": {"initial": 2}, "description": "Write an invoice.",
    }  # fmt: skip
    assert declared["first"] == {"name": "first", "target": "shop:twice", "events": ["a.b"]}
    assert declared["second"]["description"] == "told"


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import nowhere", ["No module named 'nowhere'", 'bad.py", line 1']),
        ("def f(:", ["SyntaxError", "bad.py"]),
        ("raise SystemExit(3)", ["SystemExit: 3"]),
        ("raise KeyboardInterrupt", ["KeyboardInterrupt"]),
        ('from busway import handler\n@handler("a", timeout=-1)\ndef f(event): ...', ["f()", "timeout"]),
        ('from busway import handler\n@handler("a.**.b")\ndef f(event): ...', ["f()", "events", "a.**.b"]),
        ('from busway import handler\n@handler("a")\ndef Upper(event): ...', ["Upper()", "name", "name="]),
        (
            'from busway import handler\n@handler("a", filter={"a": 1})\ndef f(event): ...',
            ["f()", "filter", "dialect 'a'"],
        ),
        ('from busway import handler\n@handler("a", color=1)\ndef f(event): ...', ["color"]),
        ("from busway import handler\n@handler\ndef f(event): ...", ["needs one or more event types"]),
        (
            'from busway import handler\n@handler("a")\ndef f(a, b, c): ...',
            ["f()", "(event) or (event, ctx)"],
        ),
        (
            'from busway import handler\n@handler("a", name="f")\ndef setup(event): ...',
            ["setup()", "cannot be a target"],
        ),
        ('from busway import handler\n@handler("a")\n@handler("b")\ndef f(event): ...', ["'f'", "bad.py"]),
        ('from busway import handler\n@handler("a")\nclass Thing: ...', ["TypeError", "Thing is none"]),
        ("\xff", ["SyntaxError"]),
    ],
)
def test_a_file_that_cannot_be_used_is_reported_and_the_others_are_not_touched(tmp_path, source, parts):
    (tmp_path / "bad.py").write_bytes(source.encode("latin-1"))
    kit.write(tmp_path, good="def f(event): return 1")

    async def scenario(bench):
        bad, good = bench.catalog
        assert (bad.targets, bad.declarations) == ([], [])
        assert all(part in bad.error for part in parts), bad.error
        assert "busway/gateway" not in bad.error
        assert good.error is None
        assert (await bench.run("good:f")).outcome is Outcome.SUCCEEDED
        assert (await bench.run("bad:f")).error.type == "LookupError"

    kit.drive(scenario, tmp_path)


def test_a_handler_whose_name_begins_with_an_underscore_is_reported_and_its_file_loaded(tmp_path):
    kit.write(
        tmp_path,
        shop="""
        from busway import handler

        @handler("a.b")
        def _private(event): ...

        @handler("a.b", name="named")
        def _named(event): ...

        @handler("a.b")
        def _renamed(event): ...

        public = _renamed
        del _renamed

        @handler("a.b")
        def good(event): return 1
        """,
    )
    shop = catalog(tmp_path)["shop.py"]
    assert shop.error is None
    assert {d.name: d.fields["target"] for d in shop.declarations} == {
        "good": "shop:good",
        "renamed": "shop:public",
    }
    assert shop.notes == [
        f"{name}() has @handler, but is not loaded: its name begins with '_': rename it"
        for name in ("_private", "_named")
    ]


def test_functions_of_a_module_whose_import_fails_are_not_reported_for_themselves(tmp_path):
    kit.write(
        tmp_path,
        shop="""
        from busway import handler

        @handler("a.b")
        def good(event): ...

        1 / 0
        """,
    )
    shop = catalog(tmp_path)["shop.py"]
    assert "ZeroDivisionError" in shop.error
    assert shop.notes == []


def test_a_name_that_two_files_declare_is_an_error_of_the_later(tmp_path):
    source = 'from busway import handler\n@handler("a.b", name="same")\ndef f(event): ...'
    kit.write(tmp_path, one=source, two=source)
    files = catalog(tmp_path)
    assert files["one.py"].error is None
    assert "one.py" in files["two.py"].error
    assert "two.py" in files["two.py"].error
    assert "'same'" in files["two.py"].error


def test_a_file_name_that_no_target_can_have_is_reported(tmp_path):
    (tmp_path / "my-file.py").write_text("def f(event): ...")
    assert "rename it" in catalog(tmp_path)["my-file.py"].error


@pytest.mark.fault
@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("import time\ntime.sleep(1000)", "did not end within"),
        ("while True:\n    pass", 'bad.py", line'),
        ("import os\nos._exit(7)", "exited with status 7"),
        ("import ctypes\nctypes.string_at(0)", "killed by SIGSEGV"),
        ("import os\nos.closerange(3, 256)", "ended the importing process"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
    ],
)
def test_a_file_that_hangs_or_kills_its_importer_is_set_aside(tmp_path, source, part):
    kit.write(tmp_path, a="def f(event): return 1", bad=source, c="def f(event): return 2")

    async def scenario(bench):
        _, bad, _ = bench.catalog
        assert part in bad.error
        assert (await bench.run("a:f")).data == b"1"
        assert (await bench.run("c:f")).data == b"2"

    kit.drive(scenario, tmp_path, import_timeout=3.0)


@pytest.mark.fault
@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize(
    "source",
    [
        "import os\nfor number in (0, 1, 2): os.close(number)",
        "import os\nos.close(0)",
        "import sys\nsys.stdout = sys.stderr = None",
        "import socket\nsocket.socket.sendall = socket.socket.recv = None",
    ],
)
def test_a_file_that_breaks_what_all_share_at_import_harms_no_attempt(tmp_path, pool, source):
    kit.write(tmp_path, a="def f(event): return 1", bad=source + "\ndef g(event): print('heard'); return 2")

    async def scenario(bench):
        assert [file.error for file in bench.catalog] == [None, None]
        assert (await bench.run("a:f")).data == b"1"
        ended = await bench.run("bad:g")
        assert (ended.data, ended.log) == (b"2", "heard\n")
        assert (await bench.run("a:f")).data == b"1"

    kit.drive(scenario, tmp_path, pool)


@pytest.mark.fault
def test_after_the_zygotes_death_a_file_set_aside_stays_so(tmp_path):
    kit.write(tmp_path, a="def f(event): return 1", bad="import os\nos._exit(7)")

    async def scenario(bench):
        zygote = bench.zygote()
        os.kill(zygote, 9)
        await bench.until(lambda: bench.zygote() not in (None, zygote))
        assert (await bench.run("a:f")).data == b"1"

    kit.drive(scenario, tmp_path)


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_workers_are_executed_when_imports_started_threads(tmp_path, pool):
    kit.write(
        tmp_path,
        a="""
        import threading, time
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        def f(event): return threading.active_count() > 1
        def dies(event):
            import os
            os._exit(4)
    """,
    )

    async def scenario(bench):
        assert bench.supervisor.status()["zygote"]["starts_workers_by"] == "exec"
        assert (await bench.run("a:f")).data == b"true", "the module runs whole in the worker, its thread too"
        assert (await bench.run("a:dies")).error.message == "exited with status 4"
        assert (await bench.run("a:f")).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, tmp_path, pool)


def test_what_an_import_prints_is_logged_and_not_written_again_by_workers(tmp_path, caplog):
    caplog.set_level("INFO", "busway.workers.output")
    kit.write(tmp_path, a="import sys\nsys.stdout.write('loading a')\ndef f(event): return 1")

    async def scenario(bench):
        await bench.run("a:f")

    kit.drive(scenario, tmp_path)
    assert caplog.messages.count("handlers folder: a.py: loading a") == 1
    assert sum("loading a" in text for text in caplog.messages) == 1


@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("target", ["f", "g"])
def test_setup_runs_once_in_each_worker_before_its_first_attempt_and_teardown_after_its_last(
    tmp_path, pool, target
):
    folder = tmp_path / "handlers"
    folder.mkdir()
    kit.write(
        folder,
        a=f"""
        import os, threading, time
        def note(what):
            with open({str(tmp_path / "notes")!r}, "a") as file:
                file.write(f"{{what}} {{os.getpid()}}\\n")
        def setup():
            time.sleep(0.05)
            note("setup")
        def teardown(): note("teardown")
        def f(event): note("run")
        async def g(event): note("run")
    """,
        unused=f"def setup(): open({str(tmp_path / 'unused')!r}, 'w')\ndef f(event): ...",
    )

    async def scenario(bench):
        for token in [bench.hand(f"a:{target}") for _ in range(8)]:
            assert (await bench.end(token)).outcome is Outcome.SUCCEEDED
        await bench.supervisor.drain(kit.PATIENCE)

    kit.drive(scenario, folder, pool)
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    for pid in {pid for _, pid in notes}:
        mine = [what for what, its in notes if its == pid]
        assert mine == ["setup", *["run"] * (len(mine) - 2), "teardown"]
    assert sum(what == "run" for what, _ in notes) == 8
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("target", ["f", "g"])
def test_async_setup_and_teardown_run_on_the_workers_loop(tmp_path, pool, target):
    kit.write(
        tmp_path,
        a="""
        import asyncio
        state = []
        async def setup():
            await asyncio.sleep(0)
            state.append(1)
        def f(event): return state
        async def g(event): return state
    """,
    )

    async def scenario(bench):
        assert (await bench.run(f"a:{target}")).data == b"[1]"
        assert (await bench.run(f"a:{target}")).data == b"[1]"

    kit.drive(scenario, tmp_path, pool, processes=1)


@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("target", ["f", "g"])
def test_a_setup_that_fails_fails_the_attempt_and_says_so(tmp_path, pool, target):
    kit.write(
        tmp_path,
        a="def setup(): raise OSError('no database')\ndef f(event): ...\nasync def g(event): ...",
    )

    async def scenario(bench):
        error = (await bench.run(f"a:{target}")).error
        assert (error.type, error.message) == ("OSError", "setup() of a.py failed: no database")
        assert "in setup" in error.traceback

    kit.drive(scenario, tmp_path, pool)


def test_handler_code_is_never_imported_here(tmp_path):
    kit.write(tmp_path, only_in_children="def f(event): return 1")

    async def scenario(bench):
        await bench.run("only_in_children:f")

    kit.drive(scenario, tmp_path)
    assert "only_in_children" not in sys.modules
    assert str(tmp_path) not in sys.path
    assert load.__module__ == "busway.gateway.executors.python.child.loading"


def test_a_worker_imports_nothing_of_the_gateway(tmp_path):
    kit.write(
        tmp_path,
        a="import busway, sys\ndef f(event): return sorted({n.partition('.')[0] for n in sys.modules})",
    )

    async def scenario(bench):
        modules = set(json.loads((await bench.run("a:f")).data))
        heavy = {
            "fastapi",
            "starlette",
            "sqlalchemy",
            "pydantic",
            "httpx",
            "websockets",
            "uvloop",
            "uvicorn",
        }
        assert not modules & heavy

    kit.drive(scenario, tmp_path)


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_file_that_changes_while_the_folder_is_imported_is_described_as_it_runs(tmp_path, pool):
    old = "def f(event): return 1\n"
    kit.write(
        tmp_path, z=old, a="import pathlib, z; pathlib.Path(z.__file__).write_text('def f(event): return 2')"
    )

    async def scenario(bench):
        file = next(file for file in bench.catalog if file.file == "z.py")
        assert (file.digest, file.source) == (hashlib.sha256(old.encode()).hexdigest(), old.encode())
        assert (await bench.run("z:f")).data == b"1"

    kit.drive(scenario, tmp_path, pool)
