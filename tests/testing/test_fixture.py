"""The fixture `busway_gateway` where something is wrong, and with what a project sets."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from tests.marks import few

from .test_how_to import run_pytest

HANDLER = """
import os
from busway import handler

@handler("t")
def told(event, ctx):
    import sys
    sys.stderr.flush()
    return [os.getcwd(), os.environ.get("BUSWAY_POOL"), os.environ.get("SHOP"), ctx.secrets.get("TOKEN")]
"""
TEST = """
def test_it(busway_gateway):
    (result,) = busway_gateway.client.wait("t").results
    print(result.data)
    assert result.data is None
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers/told.py").write_text(HANDLER, encoding="utf-8")
    (tmp_path / "test_it.py").write_text(TEST, encoding="utf-8")
    return tmp_path


@pytest.mark.long
def test_the_projects_own_settings_do_not_choose_the_database_or_the_address(project: Path) -> None:
    """Handlers run in the root directory without variables of Busway. A test that fails shows the log."""
    env = "BUSWAY_DATABASE_URL=sqlite:///precious.db\nBUSWAY_HOST=0.0.0.0\nBUSWAY_PORT=1\n"
    (project / ".env").write_text(env, encoding="utf-8")
    given = {"BUSWAY_POOL": "thread", "SHOP": "open", "BUSWAY_SECRET_TOKEN": "given to handlers"}
    said = run_pytest(project, BUSWAY_DATABASE_URL="sqlite:///precious.db", **given)
    assert f"['{project}', None, 'open', 'given to handlers']" in said.stdout
    assert list(project.glob("*.db*")) == []
    assert "Captured stderr teardown" in said.stdout
    assert "draining" in said.stdout


@pytest.mark.long
def test_a_file_that_does_not_import_fails_the_test_with_its_traceback(project: Path) -> None:
    (project / "handlers/bad.py").write_text("1 / 0\n", encoding="utf-8")
    said = run_pytest(project)
    assert said.returncode == 1
    assert "bad.py does not import" in said.stdout
    assert "ZeroDivisionError" in said.stdout
    assert "pytest_plugin.py" not in said.stdout


@pytest.mark.long
def test_a_folder_that_is_not_there_is_one_line(project: Path) -> None:
    (project / "handlers").rename(project / "jobs")
    said = run_pytest(project)
    assert said.returncode == 1
    assert "did not start: busway: --handlers: there is no handlers folder 'handlers'" in said.stdout
    (project / "pytest.ini").write_text("[pytest]\nbusway_options = --handlers jobs\n", encoding="utf-8")
    assert f"['{project}', None, None, None]" in run_pytest(project).stdout


def test_a_scope_that_is_none_is_named(project: Path) -> None:
    said = run_pytest(project, "-o", "busway_scope=forever")
    assert said.returncode == pytest.ExitCode.USAGE_ERROR
    assert "busway_scope must be one of function, class, module, package, session, not" in said.stderr


@pytest.mark.long
@pytest.mark.parametrize(("scope", "databases"), few([("function", 2), ("session", 1)], ("function", 2)))
def test_the_scope_says_how_long_a_gateway_serves(project: Path, scope: str, databases: int) -> None:
    test = """
def test_one(busway_gateway): print(busway_gateway.log.parent, "pid", busway_gateway._process.pid)
def test_two(busway_gateway): print(busway_gateway.log.parent, "pid", busway_gateway._process.pid)
"""
    (project / "test_it.py").write_text(test, encoding="utf-8")
    said = run_pytest(project, "-s", "-o", f"busway_scope={scope}")
    assert said.returncode == 0, said.stdout
    told = {line.lstrip(".") for line in said.stdout.splitlines() if " pid " in line}
    assert len(told) == databases
    assert not any(psutil.pid_exists(int(line.split()[-1])) for line in told)


def test_it_can_be_left_out_and_loads_little(project: Path) -> None:
    said = run_pytest(project, "-p", "no:busway")
    assert "fixture 'busway_gateway' not found" in said.stdout
    test = "import json, sys\ndef test_it(): print(json.dumps(sorted(sys.modules)))\n"
    (project / "test_it.py").write_text(test, encoding="utf-8")
    loaded = json.loads(run_pytest(project, "-s").stdout.splitlines()[0])
    assert "busway.pytest_plugin" in loaded
    assert not [n for n in loaded if n.startswith(("busway.gateway", "busway.client", "httpx"))]
