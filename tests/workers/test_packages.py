"""Packages of the handlers folder, declared functions of the project, and what is not loaded."""

from __future__ import annotations

import asyncio
import json
import textwrap

import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.python.host.watching import Watched
from busway.gateway.executors.python.wire import folder

HANDLER = "from busway import handler\n"
RAISES = "raise RuntimeError('this file must not be imported')\n"

FILES = {
    # the project
    "app/__init__.py": "",
    "app/models.py": "PRICE = 3\n",
    "app/jobs.py": """
        import asyncio
        from busway import handler
        from app.models import PRICE
        loops = []
        async def setup():
            loops.append(asyncio.get_running_loop())
        @handler("order.billed")
        async def bill(event):
            import orders
            return [PRICE, loops == [asyncio.get_running_loop()], orders.ready]
        @handler("order.sent")
        def send(event): return len(loops)
        def plain(event): ...
        def make():
            @handler("a.b", name="inner")
            def inner(event): ...
        make()
    """,
    "app/others.py": HANDLER + "@handler('a.b')\ndef unused(event): ...\n",
    "env/lib/python3/site-packages/lib.py": HANDLER + "@handler('a.b')\ndef charge(event): ...\n",
    "vendor/other.py": HANDLER + "@handler('a.b')\ndef refund(event): ...\n",
    "vendor/other-1.0.dist-info/RECORD": "",
    # the handlers
    "handlers/orders.py": """
        import sys
        from pathlib import Path
        root = Path(__file__).parents[1]
        sys.path += [str(root / "env/lib/python3/site-packages"), str(root / "vendor")]
        from app.jobs import bill, plain
        import lib, other
        import shop.jobs
        ready = []
        def setup(): ready.append("orders")
        def take(event): return shop.jobs.__name__
    """,
    "handlers/shop/__init__.py": """
        from contextvars import ContextVar
        from .jobs import pack
        said = []
        who = ContextVar("who", default="nobody")
        def setup():
            said.append("shop")
            who.set("shop")
    """,
    "handlers/shop/jobs.py": """
        from busway import handler
        from . import helpers
        from .deep.prices import PRICE
        import shop
        async def setup(): shop.said.append("jobs")
        @handler("shop.pack")
        def pack(event):
            '''Pack it.'''
            return [PRICE, helpers.NAME, shop.said, shop.who.get()]
        async def apack(event): return [shop.said, shop.who.get()]
    """,
    "handlers/shop/helpers.py": "NAME = __name__\n",
    "handlers/shop/deep/prices.py": "PRICE = 7\ndef price(event): return __name__\n",
    "handlers/plain/tools.py": "def tool(event): return __name__\n",
    "handlers/email/send.py": "from .texts import HELLO\nimport email.message\ndef send(event): return HELLO",
    "handlers/email/texts.py": "HELLO = 'hello'\n",
    "handlers/broken/__init__.py": "1 / 0\n",
    "handlers/broken/jobs.py": RAISES,
    # not loaded
    "handlers/my-pkg/x.py": RAISES,
    "handlers/same.py": "def f(event): return 1\n",
    "handlers/same/x.py": RAISES,
    "handlers/twin.py": RAISES,
    "handlers/twin/__init__.py": "def f(event): return 2\n",
    "handlers/_private.py": HANDLER + "@handler('a.b')\ndef f(event): ...\n" + RAISES,
    "handlers/_helpers.py": RAISES,
    "handlers/_inner/x.py": RAISES,
    "handlers/__init__.py": HANDLER + "@handler('a.b')\ndef g(event): ...\n" + RAISES,
    "handlers/test_orders.py": HANDLER + "@handler('a.b')\ndef h(event): ...\n" + RAISES,
    "handlers/orders_test.py": RAISES,
    "handlers/conftest.py": RAISES,
    "handlers/tests/helpers.py": RAISES,
    "handlers/__pycache__/x.py": RAISES,
    "handlers/.hidden/x.py": RAISES,
    "handlers/venv/pyvenv.cfg": "",
    "handlers/venv/x.py": RAISES,
    "handlers/notes.py": """
        import functools
        from busway import handler
        def outer():
            @handler("a.b")
            def nested(event): ...
        outer()
        class Thing:
            @handler("a.b")
            def method(self, event): ...
        @handler("a.b", name="first")
        def twice(event): ...
        @handler("a.b", name="second")
        def twice(event): ...
        def bare(function):
            def wrapper(event): return function(event)
            return wrapper
        @bare
        @handler("a.b")
        def replaced(event): ...
        @functools.cache
        @handler("a.b")
        def cached(event): ...
        def kept(function):
            @functools.wraps(function)
            def wrapper(event): return ["kept", function(event)]
            return wrapper
        @kept
        @handler("a.b")
        def wrapped(event): return 1
        @handler("a.b")
        @kept
        def inside(event): return 2
        named = handler("a.b", name="anonymous")(lambda event: 3)
    """,
}


def put(root, files):
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(textwrap.dedent(source))
        new.replace(path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project").resolve()
    put(root, FILES)
    (root / "handlers/shop/loop").symlink_to("..")
    (root / "handlers/again").symlink_to("shop")
    (root / "handlers/itself").symlink_to("itself")
    (root / "handlers/nothing.py").symlink_to("nowhere")
    return root


@pytest.fixture(scope="module")
def drive(project):
    shared = kit.Shared(project / "handlers", app_dir=project, processes=1)
    yield shared.drive
    shared.close()


def test_modules_of_packages_and_declared_functions_of_the_project_are_targets(drive):
    async def scenario(bench):
        assert [target.target for file in bench.catalog for target in file.targets] == [
            "notes:twice", "notes:bare", "notes:replaced", "notes:kept", "notes:wrapped",
            "notes:inside", "notes:named", "orders:take", "same:f", "email.send:send", "plain.tools:tool",
            "shop.jobs:pack", "shop.jobs:apack", "shop.deep.prices:price", "twin:f", "app.jobs:bill",
            "app.jobs:send",
        ]  # fmt: skip
        declared = {d.name: d.fields["target"] for file in bench.catalog for d in file.declarations}
        assert declared == {
            "pack": "shop.jobs:pack", "bill": "app.jobs:bill", "send": "app.jobs:send",
            "second": "notes:twice", "wrapped": "notes:wrapped", "inside": "notes:inside",
            "anonymous": "notes:named",
        }  # fmt: skip
        files = {file.file: file for file in bench.catalog}
        assert files["app/jobs.py"].module == "app.jobs"
        assert len({file.digest for file in files.values() if file.targets}) > 5

    drive(scenario)


def test_what_is_not_loaded_is_named_with_the_reason(drive):
    async def scenario(bench):
        broken = {file.file: file.error for file in bench.catalog if file.error}
        assert list(broken) == ["broken/__init__.py", "broken/jobs.py"]
        assert "ZeroDivisionError" in broken["broken/__init__.py"]
        assert broken["broken/jobs.py"] == "its package does not import: see broken/__init__.py"
        notes = {file.file: file.notes for file in bench.catalog if file.notes}
        top = "move it to the top level of its module"
        outside = "is not defined in the handlers folder or in the project (--app-dir)"
        assert {note for each in ("notes.py", "orders.py", "app/jobs.py") for note in notes.pop(each)} == {
            f"{name}() has @handler, but is not loaded: it {why}"
            for name, why in {
                "outer.<locals>.nested": f"is defined inside a function: {top}",
                "make.<locals>.inner": f"is defined inside a function: {top}",
                "Thing.method": f"is defined in a class: {top}",
                "charge": outside,
                "refund": outside,
            }.items()
        } | {
            f"{name}() has @handler, but is not loaded: {why}"
            for name, why in {
                "twice": "its module defines the name again further down: give one of them another name",
                "replaced": "another decorator replaced it: put @handler above that one",
                "cached": "another decorator made it a _lru_cache_wrapper: a target must be a function",
            }.items()
        }
        assert notes == {
            "my-pkg/": ["it is not a valid package name: rename it to letters, digits and '_'"],
            "same/": ["same.py has the same name: rename one of them"],
            "twin.py": ["the package twin/ has the same name: rename one of them"],
            "_private.py": ["it declares handlers, but its name or that of its folder begins with '_'"],
            "__init__.py": ["it declares handlers, but the handlers folder itself is no package"],
            "again/": ["the folder is a link to shop/, which is loaded already"],
            "shop/loop/": ["the folder is a link to ., which is loaded already"],
        }

    drive(scenario)


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_they_run_with_the_setup_of_their_packages_and_importers(drive, pool):
    async def scenario(bench):
        async def value(target):
            ended = await bench.run(target)
            assert ended.outcome is Outcome.SUCCEEDED, ended.error
            return json.loads(ended.data)

        assert await value("shop.jobs:pack") == [7, "shop.helpers", ["shop", "jobs"], "shop"]
        assert await value("shop.jobs:apack") == [["shop", "jobs"], "shop"]
        assert await value("shop.deep.prices:price") == "shop.deep.prices"
        assert await value("plain.tools:tool") == "plain.tools"
        assert await value("email.send:send") == "hello"
        assert await value("orders:take") == "shop.jobs"
        assert await value("app.jobs:bill") == [3, True, ["orders"]]
        assert await value("app.jobs:send") == 1
        assert await value("notes:wrapped") == ["kept", 1]

    drive(scenario, pool)


@pytest.mark.long
def test_a_folder_in_circles_and_one_with_too_many_files_are_walked_to_an_end(tmp_path):
    deep = tmp_path / "deep"
    for _ in range(40):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "x.py").touch()
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for other in ("a", "b", "c"):
            (tmp_path / name / other).symlink_to(tmp_path / other)
    (tmp_path / "many").mkdir()
    for number in range(folder.MOST):
        (tmp_path / "many" / f"{number}.txt").touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.py").touch()
    (tmp_path / "a" / "x.py").touch()
    (tmp_path / "y.py").touch()
    refused = {}
    found = [path for path, _ in folder.walk(str(tmp_path), refused.__setitem__)]
    assert found == ["y.py", "a/x.py"]
    assert refused == {
        "deep/" + "d/" * 32: f"the folder is more than {folder.DEEPEST} folders deep",
        "many/": f"the handlers folder has more than {folder.MOST} files and folders",
    }
    Watched(tmp_path).snapshot()
    assert [path for path, _ in folder.walk(str(tmp_path / "missing"), refused.__setitem__)] == []
    assert len(refused) == 2


@pytest.mark.fault
def test_a_module_of_a_package_that_hangs_or_kills_its_importer_is_set_aside(tmp_path):
    put(
        tmp_path,
        {
            "shop/__init__.py": "",
            "shop/bad.py": "import os; os._exit(7)",
            "shop/good.py": "def f(event): return 1",
            "worse/__init__.py": "import os; os._exit(8)",
            "worse/good.py": RAISES,
        },
    )

    async def scenario(bench):
        errors = {file.file: file.error for file in bench.catalog if file.error}
        assert "exited with status 7" in errors.pop("shop/bad.py")
        assert "exited with status 8" in errors.pop("worse/__init__.py")
        assert errors == {"worse/good.py": "its package does not import: see worse/__init__.py"}
        assert (await bench.run("shop.good:f")).data == b"1"

    kit.drive(scenario, tmp_path)


def test_two_files_that_declare_one_name_are_both_named(tmp_path):
    source = HANDLER + "@handler('a.b', name='same')\ndef f(event): ...\n"
    put(
        tmp_path,
        {
            "handlers/one.py": source + "import app.jobs\n",
            "handlers/shop/two.py": source,
            "app/jobs.py": source,
        },
    )

    async def scenario(bench):
        assert {file.file: file.error for file in bench.catalog} == {
            "one.py": None,
            **{
                file: f"{file}: f() declares the handler 'same', which one.py already declares: give one of "
                "them another name="
                for file in ("shop/two.py", "app/jobs.py")
            },
        }

    kit.drive(scenario, tmp_path / "handlers", app_dir=tmp_path)


def test_a_change_of_a_package_or_of_the_project_is_loaded(tmp_path):
    told = []

    async def on_catalog(catalog):
        told.append({file.file: file.digest for file in catalog})

    put(
        tmp_path,
        {
            "handlers/all.py": "import app.jobs\n",
            "handlers/shop/deep/jobs.py": "def f(event): return 1\n",
            "handlers/_own/value.py": "VALUE = 1\n",
            "handlers/uses.py": "from _own.value import VALUE\ndef f(event): return VALUE\n",
            "app/jobs.py": HANDLER + "@handler('a.b')\ndef job(event): return 1\n",
        },
    )

    async def scenario(bench):
        first = {file.file: file.digest for file in bench.catalog}
        assert list(first) == ["all.py", "uses.py", "shop/deep/jobs.py", "app/jobs.py"]
        changes = {
            "shop.deep.jobs:f": ("handlers/shop/deep/jobs.py", "shop/deep/jobs.py"),
            "app.jobs:job": ("app/jobs.py", "app/jobs.py"),
        }
        for target, (file, name) in changes.items():
            put(tmp_path, {file: (tmp_path / file).read_text().replace("return 1", "return 2")})
            await bench.until(lambda name=name: told and told[-1][name] != first[name])
            assert (await bench.run(target)).data == b"2"
        put(tmp_path, {"handlers/_own/value.py": "VALUE = 2\n"})
        while (await bench.run("uses:f")).data != b"2":
            await asyncio.sleep(0.02)
        put(tmp_path, {"handlers/new/jobs.py": "def f(event): return 3\n"})
        await bench.until(lambda: "new/jobs.py" in told[-1])
        assert (await bench.run("new.jobs:f")).data == b"3"

    kit.drive(scenario, tmp_path / "handlers", app_dir=tmp_path, reload=True, on_catalog=on_catalog)
