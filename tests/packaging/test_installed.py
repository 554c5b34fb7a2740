"""What people install: a wheel with one importable name, from which the gateway runs anywhere."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from .environments import ROOT, Environment, Installed, copy_sources, required, run


def contents(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        return {name for name in opened.namelist() if ".dist-info/" not in name}


def greeted(gateway: Installed) -> None:
    """Publish an event and see its handler's result."""
    seq = gateway.publish("t", 7)["seq"]
    assert gateway.finished(seq)["runs"][0]["state"] == "succeeded"
    (result,) = [item for item in gateway.results() if item["event"]["seq"] == seq]
    assert result["data"] == [7]


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    ours = {path.relative_to(ROOT / "app") for path in (ROOT / "app/busway").rglob("*") if path.is_file()}
    ours |= {
        Path("busway") / path.relative_to(ROOT) for path in (ROOT / "migrations").rglob("*") if path.is_file()
    }
    assert contents(wheel) == {str(path) for path in ours if "__pycache__" not in path.parts}
    assert {"busway/py.typed", "busway/migrations/script.py.mako"} <= contents(wheel)


def test_it_installs_one_importable_name(server: Environment) -> None:
    names = server.names()
    assert {name for name in names if not name.endswith(".dist-info")} == {"busway"}
    assert len(names) == 2


@pytest.mark.long
def test_the_gateway_runs_from_another_folder(gateway: Installed) -> None:
    gateway.start()
    greeted(gateway)
    assert gateway.get("/docs").status_code == 200
    assert gateway.stop() == 0


@pytest.mark.long
@pytest.mark.parametrize("command", ["--version", "serve --help", "openapi"])
def test_commands_run_from_another_folder(server: Environment, elsewhere: Path, command: str) -> None:
    assert run(server.program("busway"), *command.split(), cwd=elsewhere)


@pytest.mark.long
def test_a_wheel_of_the_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")
    program = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", program, cwd=sources)
    (archive,) = tmp_path.glob("*.tar.gz")
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
        *("--wheel-dir", tmp_path, archive),
    )
    (built,) = tmp_path.glob("*.whl")
    assert contents(built) == contents(wheel)


@pytest.mark.long
@pytest.mark.parametrize("form", ["a folder", "a git address"])
def test_it_installs_from(tmp_path: Path, elsewhere: Path, form: str) -> None:
    sources = copy_sources(tmp_path / "sources")
    if form == "a git address":
        git = ("git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-C", sources)
        run(*git, "init", "--quiet")
        run(*git, "add", "--all")
        run(*git, "commit", "--quiet", "--message", "all")
    made = Environment(tmp_path / "env")
    made.link(*required("server"), "setuptools")
    made.install(f"{sources}[server]" if form == "a folder" else f"git+file://{sources}")
    assert {name for name in made.names() if not name.endswith(".dist-info")} == {"busway"}
    assert run(made.program("busway"), "--version", cwd=elsewhere).startswith("busway ")


@pytest.mark.long
def test_an_editable_install_runs_the_gateway_and_offers_no_other_name(
    tmp_path: Path, elsewhere: Path
) -> None:
    sources = copy_sources(tmp_path / "sources")
    editable = Environment(tmp_path / "env")
    editable.link(*required("server"), "setuptools")
    editable.install("--editable", sources)
    program = """
from importlib.util import find_spec
print([find_spec(name) is not None for name in ("busway.migrations", "app", "migrations")])
"""
    assert run(editable.python, "-c", program, cwd=elsewhere) == "[True, False, False]\n"
    gateway = Installed(editable, tmp_path, elsewhere)
    gateway.write(
        "greet.py", "from busway import handler\n@handler('t')\ndef greet(event): return [event.data]\n"
    )
    try:
        gateway.start()
        greeted(gateway)
    finally:
        gateway.close()
