"""`pip install busway`: clients, handler code and the client commands, without the gateway's packages."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from busway.gateway.cli.options import SERVER as NEEDED

from tests.e2e.service import clean_environment
from tests.marks import few
from tests.test_project import SERVER, modules
from tests.testing.test_how_to import run_pytest

from .environments import GREET, Environment, Installed, required, run

NEED_THE_SERVER = [
    "serve",
    "keys list",
    "keys create me",
    "keys revoke 1",
    "migrate",
    "backup copy.db",
    "openapi",
]


def test_the_command_knows_what_the_extra_brings() -> None:
    assert set(NEEDED) == modules(SERVER)


@pytest.mark.long
def test_none_of_it_is_installed_but_what_a_client_needs_too(bare: Environment) -> None:
    program = f"from importlib.util import find_spec; print(*[n for n in {NEEDED} if find_spec(n)])"
    assert set(run(bare.python, "-c", program).split()) <= required()
    assert {"fastapi", "sqlalchemy", "uvicorn"}.isdisjoint(required())


@pytest.mark.parametrize("command", NEED_THE_SERVER)
def test_commands_of_the_gateway_say_in_one_line_what_to_install(
    bare: Environment, elsewhere: Path, command: str
) -> None:
    said = subprocess.run(
        [bare.program("busway"), *command.split()],
        cwd=elsewhere, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (said.returncode, said.stdout) == (2, "")
    (line,) = said.stderr.splitlines()
    assert line.endswith("pip install 'busway[server]'")
    assert list(elsewhere.iterdir()) == []


@pytest.fixture(scope="module")
def running(server: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The installed gateway."""
    folder = tmp_path_factory.mktemp("running")
    made = Installed(server, folder, folder)
    made.write("greet.py", GREET)
    yield made.start()
    made.close()


@pytest.mark.long
def test_publish_handlers_and_tail_work(running: Installed, bare: Environment, elsewhere: Path) -> None:
    gateway = running
    busway, url = bare.program("busway"), {"BUSWAY_URL": gateway.url}
    receipt = json.loads(run(busway, "publish", "t", "--data", "7", cwd=elsewhere, **url))
    assert receipt["runs"] == 1
    for command in ("handlers", "runs", "run 1", "status", "tail -n 1 --help", "publish t --wait -d 7"):
        assert run(busway, *command.split(), cwd=elsewhere, **url)
    tail = subprocess.Popen(
        [busway, "tail", "t", "--after", "earliest", "--json"],
        cwd=elsewhere, env={**clean_environment(), **url}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with tail:
        assert tail.stdout is not None
        assert json.loads(tail.stdout.readline())["data"] == [7]
        tail.terminate()


HELP = """
import contextlib, io, sys
from busway.gateway.cli import main

for command in sys.argv[1:]:
    sys.argv[1:] = [command, "--help"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main()
    assert "Usage: " in printed.getvalue(), command
"""
"""All in one process: most of the time of a command is its start."""


@pytest.mark.long
def test_help_and_completion_need_no_gateway(bare: Environment, elsewhere: Path) -> None:
    busway = bare.program("busway")
    commands = re.findall(r"^  ([a-z]+) {2,}", run(busway, "--help").partition("Commands:")[2], re.MULTILINE)
    assert {"serve", "keys", "runs"} <= set(commands)
    run(bare.python, "-c", HELP, *commands, cwd=elsewhere)
    asked = {"_BUSWAY_COMPLETE": "complete_bash", "COMP_WORDS": "busway ke", "COMP_CWORD": "1"}
    assert run(busway, **asked).split() == ["keys"]
    asked |= {"COMP_WORDS": "busway serve --pool", "COMP_CWORD": "2"}
    assert run(busway, **asked).split() == ["--pool"]


TEST = """
from busway.testing import event, run

def test_a_function(): assert run(lambda event: [event.data], event("t", 7)) == [7]
def test_together(busway_gateway): assert busway_gateway.client.wait("t", 7).results[0].data == [7]
"""


@pytest.mark.long
@pytest.mark.parametrize(("extra", "passed"), few([("", 1), ("server", 2)], ("", 1)))
def test_handlers_are_tested_with_pytest(
    bare: Environment, gateway: Installed, tmp_path: Path, extra: str, passed: int
) -> None:
    made = Environment(tmp_path / "env")
    made.link(*required(extra), "pytest", "iniconfig", "pluggy", "packaging")
    made.link_installed(bare)
    (tmp_path / "test_it.py").write_text(TEST, encoding="utf-8")
    said = run_pytest(tmp_path, python=made.python)
    assert f"{passed} passed" in said.stdout, said.stdout + said.stderr
    assert ("pip install 'busway[server]'" in said.stdout) is (extra == "")


@pytest.mark.long
@pytest.mark.parametrize("client", ["Client", "SyncClient"])
def test_the_clients_work(running: Installed, bare: Environment, elsewhere: Path, client: str) -> None:
    gateway = running
    program = {
        "SyncClient": f"""
import busway
with busway.SyncClient({gateway.url!r}) as client:
    print(client.wait("t", 7).results[0].data)
""",
        "Client": f"""
import asyncio, busway
async def main():
    async with busway.Client({gateway.url!r}) as client:
        print((await client.wait("t", 7)).results[0].data)
asyncio.run(main())
""",
    }[client]
    assert run(bare.python, "-c", program, cwd=elsewhere) == "[7]\n"
