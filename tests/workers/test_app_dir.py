"""`--app-dir`: handlers import the user's own project, in both pools, and a reload imports it anew."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import pytest
import workers_kit as kit

TWO = ["process", "thread"]

HANDLER = """
    from app.models import Order
    def total(event): return Order(event.data).total()
"""
MODELS = """
    class Order:
        def __init__(self, amount): self.amount = amount
        def total(self): return self.amount * {0}
"""


@pytest.fixture
def project(tmp_path):
    """The root of a project with packages `app` and `migrations`, and a handlers folder in it."""
    for name in ("app", "migrations", "handlers"):
        (tmp_path / name).mkdir()
    for name in ("app", "migrations"):
        (tmp_path / name / "__init__.py").touch()
    kit.write(tmp_path / "app", models=MODELS.format(2))
    kit.write(tmp_path / "handlers", orders=HANDLER)
    return tmp_path


def drive(scenario, project, pool="process", **options):
    """Run a scenario that is also given the catalogs that were handed up."""
    told = []

    async def on_catalog(catalog):
        told.append(catalog)

    async def with_catalogs(bench):
        await scenario(bench, told)

    options = {"app_dir": project, "on_catalog": on_catalog, **options}
    kit.drive(with_catalogs, project / "handlers", pool, **options)


async def until(bench, target, wanted, data=None):
    while (await bench.run(target, data)).data != wanted:
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("pool", TWO)
def test_handlers_import_the_project(project, pool):
    kit.write(
        project / "handlers",
        later="def imports(event):\n    import migrations.first\n    return migrations.first.VALUE",
        asynchronous="import app.models\nasync def f(event): return app.models.Order(event.data).total()",
    )
    kit.write(project / "migrations", first="VALUE = 'first'")

    async def scenario(bench, told):
        assert [file.error for file in bench.catalog] == [None, None, None]
        assert (await bench.run("orders:total", 21)).data == b"42"
        assert (await bench.run("asynchronous:f", 4)).data == b"8"
        assert (await bench.run("later:imports")).data == b'"first"'

    drive(scenario, project, pool)


def test_the_project_comes_last_on_the_path_behind_the_folder_and_hides_nothing(project):
    kit.write(project, msgspec="1 / 0", both="def where(): return 'project'", typing="1 / 0")
    kit.write(
        project / "handlers",
        both="def where(): return 'folder'",
        f="import sys, msgspec, typing, both\npath = list(sys.path)\n"
        "def f(event): return [path[-2:], both.where(), hasattr(msgspec, 'json')]",
    )

    async def scenario(bench, told):
        assert [file.error for file in bench.catalog] == [None] * 3
        found = json.loads((await bench.run("f:f")).data)
        assert found == [[str(project / "handlers"), str(project)], "folder", True]

    drive(scenario, project)


def test_without_it_the_project_is_not_importable(project):
    async def scenario(bench, told):
        assert "No module named 'app'" in bench.catalog[0].error

    drive(scenario, project, app_dir=None)


def test_a_file_that_hides_a_package_of_the_project_is_told_so(project):
    kit.write(project / "handlers", app="from app.models import Order\ndef f(event): return 1")

    async def scenario(bench, told):
        hiding = next(file for file in bench.catalog if file.file == "app.py")
        assert "app.py hides the package 'app' of your project: rename the file" in hiding.error

    drive(scenario, project)


@pytest.mark.parametrize("pool", TWO)
def test_a_change_of_the_project_is_loaded_and_makes_no_new_revision(project, pool):
    async def scenario(bench, told):
        await until(bench, "orders:total", b"20", 10)
        for factor in (3, 4, 5):  # of the same size, and often within one second
            kit.write(project / "app", models=MODELS.format(factor))
            await until(bench, "orders:total", b"%d0" % factor, 10)
        assert told == []

    drive(scenario, project, pool, reload=True)


@pytest.mark.parametrize("pool", TWO)
def test_a_module_that_was_missing_or_broken_is_loaded_once_it_is_there(project, pool):
    kit.write(project / "handlers", orders="from app.money import VALUE\ndef f(event): return VALUE")

    async def scenario(bench, told):
        assert "No module named 'app.money'" in bench.catalog[0].error
        kit.write(project / "app", money="VALUE = 1 / 0")
        await bench.until(lambda: told and "ZeroDivisionError" in told[-1][0].error)
        kit.write(project / "app", money="VALUE = 7")
        await bench.until(lambda: told[-1][0].error is None)
        assert (await bench.run("orders:f")).data == b"7"
        (project / "app" / "deep").mkdir()
        kit.write(project / "app" / "deep", __init__="")
        kit.write(project / "app" / "deep", down="VALUE = 8")
        kit.write(project / "app", money="from app.deep.down import VALUE")
        await until(bench, "orders:f", b"8")
        kit.write(project / "app" / "deep", down="VALUE = 9")
        await until(bench, "orders:f", b"9")

    drive(scenario, project, pool, reload=True)


@pytest.mark.long
def test_a_file_whose_import_hung_in_the_project_is_tried_again_when_that_has_changed(project):
    kit.write(project / "app", models="import time\ntime.sleep(1000)")

    async def scenario(bench, told):
        assert "did not end within 3 s" in bench.catalog[0].error
        kit.write(project / "app", models=MODELS.format(6))
        await bench.until(lambda: told and told[-1][0].error is None)
        assert (await bench.run("orders:total", 10)).data == b"60"

    drive(scenario, project, reload=True, import_timeout=3.0)


def test_only_directories_that_imports_search_are_watched(project):
    (project / "web").mkdir()
    (project / ".venv").mkdir()

    async def scenario(bench, told):
        for folder in ("web", ".venv", "migrations"):
            kit.write(project / folder, other="VALUE = 1")
        (project / "made-by-a-handler").mkdir()
        await asyncio.sleep(1.0)
        assert bench.supervisor.status()["zygote"]["restarts"] == 0
        kit.write(project, beside="VALUE = 1")
        await bench.until(lambda: bench.supervisor.status()["zygote"]["restarts"] == 1)

    drive(scenario, project, reload=True)


@pytest.mark.parametrize("pool", TWO)
def test_workers_that_import_by_themselves_find_it_too(project, pool):
    kit.write(
        project / "handlers",
        orders=HANDLER + "\n    import threading, time\n"
        "    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
    )

    async def scenario(bench, told):
        assert bench.supervisor.status()["zygote"]["starts_workers_by"] == "exec"
        assert (await bench.run("orders:total", 21)).data == b"42"
        kit.write(project / "app", models=MODELS.format(3))
        await until(bench, "orders:total", b"63", 21)

    drive(scenario, project, pool, reload=True)


IMPORT = """
import json, sys
from busway.gateway.executors.python.child.importing import extend_path
entered = []
extend_path(sys.argv[1] + "/handlers", sys.argv[1], entered.append)
import xmlrpc.client, app.models, installed.inner, mine.inner
print(json.dumps([entered, mine.__file__]))
"""


def test_what_is_installed_below_the_project_is_not_of_it_but_what_the_path_names_is(project):
    site = project / "venv/lib/python3/site-packages"
    for folder in (site / "installed", project / "src/mine"):
        folder.mkdir(parents=True)
        kit.write(folder, __init__="", inner="")
    path = os.pathsep.join([str(site), str(project / "src"), str(project)])
    said = subprocess.check_output(
        [sys.executable, "-P", "-c", IMPORT, project], text=True, env={**os.environ, "PYTHONPATH": path}
    )
    entered, mine = json.loads(said)
    assert mine == str(project / "src/mine/__init__.py")
    assert set(entered) == {str(project / name) for name in ("", "app", "src", "src/mine")}


def test_compiled_files_are_used_but_for_what_was_just_saved(project):
    models = project / "app" / "models.py"
    cached = project / "app" / "__pycache__"
    program = f"""
import sys
from busway.gateway.executors.python.child.importing import extend_path
extend_path({str(project / "handlers")!r}, {str(project)!r}, print)
import app.models
"""
    command, environment = (
        [sys.executable, "-P", "-c", program],
        {**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )
    ahead = time.time() + 60  # however slow this machine is
    os.utime(models, (ahead, ahead))
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert not list(cached.glob("models.*"))
    os.utime(models, (ahead - 3600, ahead - 3600))
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert list(cached.glob("models.*"))
