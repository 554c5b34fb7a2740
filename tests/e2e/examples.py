"""`make run` in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from .service import Service, clean_environment

ROOT = Path(__file__).parents[2]


class MakeRun(Service):
    """`make run` as in a fresh clone that has its environment already.

    Args:
        words: other variables of make.
    """

    prepares = False

    def __init__(self, folder: Path, *words: str, **options: Any) -> None:
        super().__init__(folder, handlers=ROOT / "examples" / "handlers", **options)
        self.words = words
        for name in ("Makefile", "examples", "requirements.lock", "pyproject.toml", ".venv"):
            (folder / name).symlink_to(ROOT / name)

    def launch(self) -> subprocess.Popen[str]:
        """Run make. It replaces itself by the gateway, which gets the signals."""
        words = ["make", "--silent", "run", f"PORT={self.options['port']}", "WORKERS=2", *self.words]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                words,
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=clean_environment(),
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill make and the gateway, which share a process group."""
        os.killpg(self.pid, signal.SIGKILL)
        self._reap()
