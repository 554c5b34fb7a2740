"""The pytest fixture `busway_gateway`: a gateway that runs the handlers of the project under test.

pytest loads this module through its entry point. `-p no:busway` disables it. It needs `busway[server]`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from busway.client.sync import SyncClient

__all__ = ["RunningGateway", "busway_gateway"]

_PATIENCE = 30.0  # seconds until the gateway is killed
_SCOPES = ("function", "class", "module", "package", "session")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings `busway_options` and `busway_scope`."""
    parser.addini(
        "busway_options",
        "Options of `busway serve` for the fixture busway_gateway, such as: --handlers jobs --pool thread",
        type="args",
        default=[],
    )
    parser.addini(
        "busway_scope",
        f"Scope of the fixture busway_gateway: {', '.join(_SCOPES)}",
        default="function",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the settings."""
    scope = config.getini("busway_scope")
    if scope not in _SCOPES:
        raise pytest.UsageError(f"busway_scope must be one of {', '.join(_SCOPES)}, not {scope!r}")


class RunningGateway:
    """A gateway in its own process.

    Attributes:
        url: its URL, such as `http://127.0.0.1:43210`. Empty if it did not start.
        log: the file with the standard error of the gateway and the handlers.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self.log = process, log
        line = process.stdout.readline() if process.stdout else ""
        self.url = line.split()[1] if line.startswith("busway http") else ""

    @cached_property
    def client(self) -> SyncClient:
        """A synchronous client. In async tests use `busway.Client(busway_gateway.url)`."""
        from busway.client.sync import SyncClient  # noqa: PLC0415 - most test runs need no client

        return SyncClient(self.url)

    def close(self) -> None:
        """Close the client and stop the gateway. Running handlers finish first."""
        if "client" in vars(self):
            self.client.close()
        with self._process as process:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _scope(fixture_name: str, config: pytest.Config) -> Any:  # noqa: ARG001 - pytest passes both
    return config.getini("busway_scope")


@pytest.fixture(scope=_scope)
def busway_gateway(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A gateway that serves the handlers folder on a free port, with its own database.

    The default folder is `handlers` in pytest's root directory; `busway_options` can change it. `url` is the
    gateway's URL, `client` a `busway.SyncClient`. pytest shows its log when a test fails.
    """
    folder = tmp_path_factory.mktemp("busway")
    gateway = _start(folder, pytestconfig.rootpath, pytestconfig.getini("busway_options"))
    try:
        _check_files(gateway)
        yield gateway
    finally:
        gateway.close()
        sys.stderr.write(_read(gateway.log))


def _start(folder: Path, root: Path, options: list[str]) -> RunningGateway:
    log = folder / "log"
    command = [
        *(sys.executable, "-P", "-m", "busway", "serve"),
        *("--handlers=handlers", "--app-dir=.", "--workers=1", "--drain-timeout=5"),
        *options,
        # A project's .env may name its real database.
        *("--host=127.0.0.1", "--port=0", "--role=all", "--broker-url="),
        f"--database-url=sqlite:///{folder / 'busway.db'}",
    ]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BUSWAY_") or name.startswith("BUSWAY_SECRET_")
    }
    with log.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
        )
    gateway = RunningGateway(process, log)
    if not gateway.url:
        gateway.close()
        pytest.fail(f"the gateway did not start: {_read(log).strip()}", pytrace=False)
    return gateway


def _check_files(gateway: RunningGateway) -> None:
    import httpx  # noqa: PLC0415 - most test runs need no client

    status = httpx.get(f"{gateway.url}/v1/status", timeout=_PATIENCE, trust_env=False).json()
    broken = status["files_that_do_not_import"]
    if broken:
        errors = "\n".join(f"{file['file']} does not import\n{file['error']}" for file in broken)
        pytest.fail(errors, pytrace=False)


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
